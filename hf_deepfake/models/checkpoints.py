"""Checkpoints of a detector in training, as the stock classes load them."""

from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    TimmWrapperImageProcessor,
)

from hf_deepfake.models.heads import as_ensemble, has_mlp_head, single_detector
from hf_deepfake.models.lora import adapters, merged_state

UNMERGED = "unmerged.safetensors"
"""File of a `checkpoint-N/` with weights and adapters apart; its model file holds them merged."""


def is_plain(detector: PreTrainedModel) -> bool:
    """Whether a detector's own `save_pretrained` makes a checkpoint that loads without our code."""
    return not adapters(detector) and not has_mlp_head(detector)


def save_checkpoint(detector: PreTrainedModel, processor: BaseImageProcessor, folder: Path) -> None:
    """Write a detector and its processor: adapters merged into the weights, one with an MLP head as an ensemble of one."""
    state = {name: tensor.contiguous() for name, tensor in merged_state(detector).items()}
    if has_mlp_head(detector):
        ensemble, views = as_ensemble(detector, processor)
        ensemble.save_pretrained(folder, state_dict={f"members.0.{name}": tensor for name, tensor in state.items()})
        views.save_pretrained(folder)
        return
    detector.save_pretrained(folder, state_dict=state)
    if not isinstance(processor, TimmWrapperImageProcessor):  # whose settings stand in config.json
        processor.save_pretrained(folder)


def load_checkpoint(folder: str | Path) -> PreTrainedModel:
    """The detector of a checkpoint that `save_checkpoint` wrote."""
    return single_detector(AutoModelForImageClassification.from_pretrained(folder))


def save_unmerged(detector: PreTrainedModel, checkpoint: Path) -> None:
    """Write the weights with their adapters apart, from which a training goes on exactly; nothing where there are none."""
    if adapters(detector):
        save_file({name: tensor.contiguous() for name, tensor in detector.state_dict().items()}, checkpoint / UNMERGED)


def load_unmerged(detector: PreTrainedModel, checkpoint: Path) -> None:
    """Go on from a checkpoint with adapters; nothing where there are none."""
    if adapters(detector):
        detector.load_state_dict(load_file(checkpoint / UNMERGED, device=str(detector.device)))
