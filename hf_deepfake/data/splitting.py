"""Stratified, seeded splits that keep a group on one side."""

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets

from hf_deepfake.arguments import DataArguments
from hf_deepfake.errors import InputError

logger = logging.getLogger(__name__)


def assign_splits(
    labels: Sequence[int], groups: Sequence[str] | None, shares: dict[str, float], seed: int
) -> list[str]:
    """Give every row a split, stratified by label, groups kept whole.

    Groups (single rows where `groups` is None) are taken in random order, the largest first, and each goes to the
    split that then lacks most of what it was to get of that group's labels. The last groups of a label are kept for
    the splits that have none of it yet, so that three groups are enough for three splits.

    Args:
        labels: One label a row.
        groups: One group a row, or None.
        shares: Share of the rows that each split is to get; they sum to 1.
        seed: Seed of the order.

    Returns:
        One name of a split a row.

    Example:
        >>> splits = assign_splits([0, 0, 1, 1], None, {"train": 0.5, "test": 0.5}, seed=0)
        >>> sorted(splits[:2]), sorted(splits[2:])
        (['test', 'train'], ['test', 'train'])
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups if groups is not None else map(str, range(len(labels)))):
        members[group].append(row)
    order = np.random.default_rng(seed).permutation(sorted(members))
    totals = Counter(labels)
    wanted = {
        split: {label: share * totals[label] for label in totals} for split, share in shares.items() if share > 0
    }
    contents = {group: Counter(labels[row] for row in rows) for group, rows in members.items()}
    groups_left = Counter(label for content in contents.values() for label in content)
    filled: dict[int, set[str]] = {label: set() for label in totals}
    assigned = [""] * len(labels)
    for group in sorted(order, key=lambda name: -len(members[name])):
        content = contents[group]
        scarce = [label for label in content if groups_left[label] <= len(wanted) - len(filled[label])]
        waiting = [split for split in wanted if any(split not in filled[label] for label in scarce)]
        split = max(
            waiting or wanted, key=lambda name: sum(wanted[name][label] * count for label, count in content.items())
        )
        for row in members[group]:
            assigned[row] = split
        for label, count in content.items():
            wanted[split][label] -= count
            filled[label].add(split)
            groups_left[label] -= 1
    return assigned


def make_splits(splits: DatasetDict, data: DataArguments, both_classes: bool = True) -> DatasetDict:
    """Make `train`, `validation` and `test` of what is there; existing splits stay as they are.

    Raises:
        InputError: If there are only splits to test on, a share is impossible, or a split lacks a class, or any image
            where `both_classes` is False.
    """
    if "all" not in splits and "train" not in splits:
        raise InputError(f"{data.dataset_name}: nothing to train on; its splits are {list(splits)}.")
    unsplit = "all" in splits
    test_share = data.test_share if data.test_share is not None else 0.15 * unsplit
    shares = {
        "validation": 0.0 if "validation" in splits else data.validation_share,
        "test": 0.0 if "test" in splits else test_share,
    }
    shares["train"] = 1 - sum(shares.values())
    if min(shares.values()) < 0 or shares["train"] <= 0:
        raise InputError(f"{data.dataset_name}: these shares leave nothing to train on: {shares}.")
    rows = splits["all" if unsplit else "train"]
    groups = rows["group"][:] if "group" in rows.column_names else None
    if groups is None and shares["train"] < 1:
        logger.warning(
            "%s is split image by image; where several images show one person or video, pass --group_by, "
            "or its figures come from a leak",
            data.dataset_name,
        )
    assigned = np.array(assign_splits(rows["label"][:], groups, shares, data.split_seed))
    made = {name: rows.select(np.flatnonzero(assigned == name)) for name, share in shares.items() if share > 0}
    result = DatasetDict({name: made.get(name, splits.get(name)) for name in ("train", "validation", "test")})
    result = DatasetDict({name: part for name, part in result.items() if part is not None})
    check_classes(result, data.dataset_name, both_classes)
    return result


def check_classes(splits: DatasetDict, source: str, both_classes: bool = True) -> None:
    """Refuse splits that lack a class, or any image where `both_classes` is False.

    Raises:
        InputError: If there is such a split.
    """
    for name, part in splits.items():
        if len(set(part["label"][:])) < 1 + both_classes:
            raise InputError(
                f"{source}: the {name} split has {len(part)} images{' and not both classes' * both_classes}; "
                "give it more images or groups, or other shares."
            )


def check_groups(splits: DatasetDict, source: str) -> None:
    """Refuse data in which one group stands in two splits.

    Raises:
        InputError: If there is such a group.
    """
    seen: dict[str, str] = {}
    for name, part in splits.items():
        if "group" not in part.column_names:
            return
        for group in sorted(set(part["group"][:])):
            if seen.setdefault(group, name) != name:
                raise InputError(
                    f"{source}: group {group!r} stands in {seen[group]} and in {name}, which is a leak; "
                    "keep each group in one split."
                )


def everything(splits: DatasetDict) -> Dataset:
    """All rows, whatever their split."""
    return concatenate_datasets(list(splits.values()))
