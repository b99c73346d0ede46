"""The members of an ensemble: how they are built, and that their weights are all there."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import transformers
from torch import nn
from transformers import CONFIG_MAPPING, AutoModelForImageClassification, PreTrainedModel

CURE = "copy the whole folder again, or build it with hf-deepfake ensemble"


class MlpHead(nn.Sequential):
    """Hidden layers in place of a detector's linear classifier: each linear, ReLU, batch norm (the first), dropout.

    Args:
        inputs: Features of an image.
        layers: Units of each hidden layer.
        dropout: After each of them.
        batch_norm: Whether the first of them has one.
    """

    def __init__(self, inputs: int, layers: Sequence[int], dropout: Sequence[float], batch_norm: bool) -> None:
        parts: list[nn.Module] = []
        for index, (units, share) in enumerate(zip(layers, dropout, strict=True)):
            parts += [nn.Linear(inputs, units), nn.ReLU()]
            if batch_norm and index == 0:
                parts.append(nn.BatchNorm1d(units))
            parts.append(nn.Dropout(share))
            inputs = units
        super().__init__(*parts, nn.Linear(inputs, 2))


def put_mlp_head(detector: PreTrainedModel, settings: Mapping[str, Any]) -> MlpHead:
    """Replace the linear classifier of a detector by an `MlpHead` of these settings.

    Raises:
        ValueError: If it has none.
    """
    found = [name for name, part in detector.named_modules() if isinstance(part, nn.Linear) and part.out_features == 2]
    if not found:
        raise ValueError("its classifier is no linear layer")
    parent, _, child = found[-1].rpartition(".")
    classifier: Any = detector.get_submodule(found[-1])
    head = MlpHead(classifier.in_features, **settings)
    setattr(detector.get_submodule(parent), child, head)
    return head


def build_member(name: str, settings: Mapping[str, Any]) -> PreTrainedModel:
    """A member with random weights, from its configuration as a dictionary.

    Raises:
        ValueError: If the libraries that are installed cannot build it.
    """
    kept = {key: value for key, value in settings.items() if key != "dtype"}
    try:
        member: PreTrainedModel = AutoModelForImageClassification.from_config(
            CONFIG_MAPPING[kept["model_type"]].from_dict(kept)
        )
        if "mlp_head" in kept:
            put_mlp_head(member, kept["mlp_head"])
    except Exception as error:  # whatever libraries say to settings that they do not know
        reason = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(
            f"config.json: member {name} cannot be built by transformers {transformers.__version__} ({reason}); "
            f"update transformers and timm, or {CURE}."
        ) from error
    return member


@contextmanager
def without_report() -> Iterator[None]:
    """Hide what transformers says of weights that are missing: that they are new, and to be trained."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_report)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_report)


def _is_no_report(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def refuse_other_weights(names: Sequence[str], info: Mapping[str, Any]) -> None:
    """See that a member got each of its weights, and that none are left.

    Args:
        names: Of the members.
        info: What `from_pretrained(output_loading_info=True)` says.

    Raises:
        ValueError: If some were missing, of another shape or left over.
    """
    found = {
        "missing": info["missing_keys"],
        "misshapen": [key for key, *_ in info["mismatched_keys"]],
        "surplus": info["unexpected_keys"],
    }
    for fault, keys in found.items():
        if keys:
            key = min(keys)
            number = key.removeprefix("members.").split(".")[0]
            known = number.isdigit() and int(number) < len(names)
            member = f"member {names[int(number)]}" if known else f"none of {', '.join(names)}"
            raise ValueError(
                f"model.safetensors and config.json do not belong together: {fault} weights: {len(keys)}, "
                f"such as {key} of {member}; {CURE}."
            )
