"""Where each parameter of a detector lies on the way from its input to its head."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from timm.models import group_parameters
from torch import nn
from transformers import PreTrainedModel

from hf_deepfake.errors import InputError

_BLOCK = re.compile(r"\.(?:layers?|stages?|blocks?)\.(\d+)(?:\.(?:(?:layers?|blocks?)\.)?(\d+))?\.")
"""A block of a network of transformers: `encoder.layer.3.…`, `encoder.stages.1.layers.0.…`, `encoder.block.2.0.…`."""


def parameter_blocks(detector: PreTrainedModel) -> list[list[str]]:
    """Names of a detector's parameters: of the stem, of each block, and last of the head.

    A block is what timm's own `group_matcher` says, and the innermost numbered layer of a network of transformers. What
    stands between two blocks belongs to the first of them. The head is all that comes after the backbone.

    Raises:
        InputError: If timm does not say.
    """
    timm_model: Any = getattr(detector, "timm_model", None)
    if timm_model is None:
        return _transformers_blocks(detector)
    if not hasattr(timm_model, "group_matcher"):
        raise InputError(
            f"{detector.config.architecture}: timm does not tell its blocks, so it can be trained whole only (--train full, "
            "without --layer_decay and --fourier_weight)."
        )
    groups = group_parameters(timm_model, timm_model.group_matcher(coarse=False))
    return [[f"timm_model.{name}" for name in names] for _, names in sorted(groups.items())]


def _transformers_blocks(detector: PreTrainedModel) -> list[list[str]]:
    names = [name for name, _ in detector.named_parameters()]
    inside = f"{detector.base_model_prefix}."
    backbone = [name for name in names if name.startswith(inside)] or [n for n in names if "classifier" not in n]
    head = [name for name in names if name not in set(backbone)]
    places = {name: match.groups() for name in backbone if (match := _BLOCK.search(name))}
    nested = {stage for stage, block in places.values() if block is not None}
    blocks: list[list[str]] = [[]]
    last = None
    for name in backbone:
        place = places.get(name, last)
        if place is not None and place != last and not (place[1] is None and place[0] in nested):
            blocks.append([])
            last = place
        blocks[-1].append(name)
    return [*(block for block in blocks if block), head]


def block_classes(detector: PreTrainedModel) -> list[str]:
    """Names of the classes that a detector's blocks are of, each of which FSDP makes a shard; none where timm does not tell."""
    try:
        blocks = parameter_blocks(detector)[:-1]
    except InputError:
        return []
    classes = set()
    for names in blocks:
        shared = _shared([name.split(".")[:-1] for name in names])
        block = detector.get_submodule(".".join(shared))
        if any(part.isdigit() for part in shared) and not isinstance(block, nn.Sequential | nn.ModuleList):
            classes.add(type(block).__name__)
    return sorted(classes)


def lower_half(detector: PreTrainedModel) -> list[list[str]]:
    """The first half of `parameter_blocks`."""
    blocks = parameter_blocks(detector)
    return blocks[: (len(blocks) + 1) // 2]


def middle_block(detector: PreTrainedModel) -> nn.Module:
    """The last block of the lower half."""
    names = [name.split(".")[:-1] for name in lower_half(detector)[-1]]
    most = Counter(tuple(name[:2]) for name in names).most_common(1)[0][0]  # without what leads to the next block
    inside = [name for name in names if tuple(name[:2]) == most]
    shared = _shared(inside)
    while shared and not shared[-1].isdigit() and any(part.isdigit() for part in shared):
        shared.pop()  # a part of the block, before it is added to what skips it
    return detector.get_submodule(".".join(shared))


def _shared(paths: Sequence[Sequence[str]]) -> list[str]:
    """How all paths begin."""
    return [parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]
