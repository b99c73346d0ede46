"""Heads with hidden layers, and how checkpoints that have one are kept.

Neither timm's nor transformers' networks can be told to have such a head, so that a checkpoint of theirs with one would load
with a random classifier wherever our code is not. It is therefore saved as an ensemble of one, whose code travels with it.
"""

from typing import Any

import torch
from torch import nn
from transformers import BaseImageProcessor, PreTrainedModel, TimmWrapperImageProcessor

from hf_deepfake import labels
from hf_deepfake.arguments import ModelArguments
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor
from hf_deepfake.ensemble.hub.members_deepfake_ensemble import put_mlp_head
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.errors import InputError


def new_head(detector: PreTrainedModel, arguments: ModelArguments) -> None:
    """Give a detector the new MLP head that the flags ask for, if they do; its last layer starts at zero.

    Raises:
        InputError: If the flags do not go together, or the classifier is no linear layer.
    """
    layers, dropout = arguments.head_layers, arguments.head_dropout
    if arguments.head == "linear":
        given = [name for name in ("head_layers", "head_dropout", "head_batch_norm") if getattr(arguments, name)]
        if given:
            raise InputError(f"--{given[0]}: does nothing without --head mlp.")
        return
    if arguments.head != "mlp":
        raise InputError(f"--head {arguments.head}: must be linear or mlp.")
    if not layers or min(layers) < 1:
        raise InputError(f"--head mlp: needs --head_layers, the units of each hidden layer; found {layers}.")
    if dropout and (len(dropout) != len(layers) or not all(0 <= share < 1 for share in dropout)):
        raise InputError(
            f"--head_dropout {dropout}: needs {len(layers)} values from 0 to below 1, one a layer of --head_layers."
        )
    settings = {
        "layers": layers,
        "dropout": dropout or [0.0] * len(layers),
        "batch_norm": arguments.head_batch_norm,
    }
    if has_mlp_head(detector):
        raise InputError(
            f"{arguments.model_name_or_path}: has an MLP head already, which is kept; leave --head mlp out."
        )
    try:
        head = put_mlp_head(detector, settings)
    except ValueError as error:
        raise InputError(f"{arguments.model_name_or_path}: cannot have an MLP head: {error}.") from error
    for parameter in head[-1].parameters():
        nn.init.zeros_(parameter)
    detector.config.mlp_head = settings


def has_mlp_head(detector: PreTrainedModel) -> bool:
    """Whether a detector has hidden layers in its head."""
    return hasattr(detector.config, "mlp_head")


def as_ensemble(
    detector: PreTrainedModel, processor: BaseImageProcessor, fake_column: int = labels.FAKE
) -> tuple[EnsembleForImageClassification, EnsembleImageProcessor]:
    """An ensemble of this one detector, without calibration: the form in which one with an MLP head is saved."""
    settings = detector.config.to_dict()
    settings.pop("_name_or_path", None)  # the maker's own folder is nobody else's business
    config = EnsembleConfig(members=[settings], member_names=["detector"], fake_columns=[fake_column])
    with torch.device("meta"):
        ensemble = EnsembleForImageClassification(config)
    ensemble.members[0] = detector
    return ensemble, EnsembleImageProcessor(views=[view_settings(detector, processor)])


def single_detector(model: PreTrainedModel) -> PreTrainedModel:
    """The detector in an ensemble that `as_ensemble` made; any other model as it is."""
    if isinstance(model, EnsembleForImageClassification):
        config = model.config
        made_here = config.temperatures == [1.0] and not config.vote_calibrations and "mlp_head" in config.members[0]
        return model.members[0] if made_here else model  # type: ignore[return-value]
    return model


def view_settings(member: PreTrainedModel, processor: BaseImageProcessor) -> dict[str, Any]:
    """Settings from which the ensemble's processor rebuilds how a member reads images and its own processor."""
    reading = {"reading": member.config.reading} if getattr(member.config, "reading", None) else {}
    if isinstance(processor, TimmWrapperImageProcessor):
        resolved = processor.data_config  # what timm's transform depends on, without names and addresses
        pretrained_cfg = {name: list(value) if isinstance(value, tuple) else value for name, value in resolved.items()}
        return reading | {"image_processor_type": "TimmWrapperImageProcessor", "pretrained_cfg": pretrained_cfg}
    settings: dict[str, Any] = processor.to_dict()
    kept = {name: value for name, value in settings.items() if name != "auto_map" and not name.startswith("_")}
    return reading | kept
