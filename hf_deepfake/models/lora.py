"""Low-rank adapters in a frozen backbone, and their merging into plain weights."""

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_deepfake.errors import InputError
from hf_deepfake.models.blocks import parameter_blocks

ADAPTER = ".lora_"
"""What only the names of adapters' parameters have in them."""


def add_adapters(detector: PreTrainedModel, rank: int, alpha: int, pixel_values: torch.Tensor) -> None:
    """Add low-rank adapters (Hu et al., LoRA, ICLR 2022) to the linear layers and ungrouped convolutions of all blocks.

    Those are the projections of transformers and the pointwise and dense convolutions of convolutional networks, where
    nearly all weights are. Two kinds of layers have none: those that change their weights before they use them, as by
    weight standardisation, into which nothing can be merged, and those whose weights the network multiplies by itself (the
    attention of BEiT, EVA and Swin V2), past what stands in the layer's place. An adapter starts at zero: at first the
    detector gives what it gave before.

    Args:
        detector: Changed in place.
        rank: Of each adapter.
        alpha: An adapter's output is multiplied by `alpha / rank`.
        pixel_values: Any image as the detector reads it, shape `(1, 3, height, width)`.

    Raises:
        InputError: If peft is not installed, or there is no such layer.
    """
    if importlib.util.find_spec("peft") is None:
        raise InputError("--train lora: needs peft; pip install 'hf_deepfake[lora]'")
    from peft import LoraConfig, inject_adapter_in_model

    _, *blocks, _ = parameter_blocks(detector)
    weights = {name.removesuffix(".weight") for names in blocks for name in names}
    layers = {
        name: module
        for name, module in detector.named_modules()
        if name in weights and (type(module) is nn.Linear or (type(module) is nn.Conv2d and module.groups == 1))
    }
    called = _called(detector, layers, pixel_values)
    targets = [name for name in layers if name in called]
    if not targets:
        raise InputError(
            "--train lora: this network has no layer that an adapter could be merged into; train head+N or full."
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets), detector)


def _called(detector: PreTrainedModel, layers: Mapping[str, nn.Module], pixel_values: torch.Tensor) -> set[str]:
    """Names of the layers that an image goes through."""
    called: set[str] = set()
    hooks = [
        layer.register_forward_pre_hook(lambda *given, name=name: called.add(name)) for name, layer in layers.items()
    ]
    training = detector.training
    with torch.no_grad():
        detector.eval()(pixel_values=pixel_values)
    detector.train(training)
    for hook in hooks:
        hook.remove()
    return called


def adapters(detector: nn.Module) -> dict[str, Any]:
    """The layers that have an adapter, by name."""
    return {name: module for name, module in detector.named_modules() if hasattr(module, "lora_A")}


def merged_state(detector: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The state of a detector as it would be had its weights been trained and not adapters of them."""
    state = {name: value for name, value in detector.state_dict().items() if ADAPTER not in name}
    for name, layer in adapters(detector).items():
        for part in layer.base_layer.state_dict():
            state[f"{name}.{part}"] = state.pop(f"{name}.base_layer.{part}")
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight + layer.get_delta_weight("default").to(weight)
    return state


def merge_adapters(detector: PreTrainedModel) -> None:
    """Put the plain layers back in place, with what their adapters have learnt."""
    state = merged_state(detector)
    for name, layer in adapters(detector).items():
        parent, _, child = name.rpartition(".")
        setattr(detector.get_submodule(parent), child, layer.base_layer)
    detector.load_state_dict(state)
