"""The checks of an audit that look for one picture in two places: in a split, in both classes, in two splits."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from hf_deepfake.data.duplicates import connected, exact_duplicates
from hf_deepfake.data.verdicts import Check, Finding, count
from hf_deepfake.printing import printable


def same_picture_sets(images: pd.DataFrame, near: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Sets of rows that show one picture, in the same file or in others, the largest first."""
    readable = np.flatnonzero(images["error"].isna())
    exact = exact_duplicates(images["sha256"].iloc[readable].tolist())
    same = [(int(readable[rows[0]]), int(readable[row])) for rows in exact for row in rows[1:]]
    return sorted((sorted(rows) for rows in connected([*same, *near], len(images))), key=len, reverse=True)


def check_duplicates(images: pd.DataFrame, sets: Sequence[Sequence[int]]) -> Check:
    """Whether a picture stands twice in one class of one split."""
    places = list(zip(images["split"], images["label"], strict=True))
    found_in = [rows for rows in sets if len({places[row] for row in rows}) < len(rows)]
    if not found_in:
        return Check("duplicates", "ok", "No picture stands twice in one class of one split.")
    spare = sum(len(rows) - len({places[row] for row in rows}) for rows in found_in)
    found = f"{count(len(found_in), 'picture')} more than once in a class of a split, {count(spare, 'spare image')}."
    advice = "Keep one of each (--fix)."
    if set(images["split"]) == {"all"} and "group" not in images:
        advice = "Keep one of each (--fix) or name their --group_by: a random split puts copies on both sides."
    return Check("duplicates", "warning", found, advice, _sets_of(images, found_in))


def check_label_conflicts(images: pd.DataFrame, sets: Sequence[Sequence[int]]) -> Check:
    """Whether a picture is called real and fake.

    The same file in both classes is a mistake. The same picture in another file may be one, or the original of
    a locally edited or self-blended fake, which is what a detector should learn from: that is for a person to see.
    """
    labels = images["label"].to_numpy()
    both = [rows for rows in sets if len({labels[row] for row in rows}) == 2]
    if not both:
        return Check("label conflicts", "ok", "No picture is called both real and fake.")
    contrary = contrary_files(images)
    content = images["sha256"].to_numpy()
    same_file = [any(content[row] in contrary for row in rows) for rows in both]
    findings = _sets_of(images, both)
    if not any(same_file):
        found = f"{count(len(both), 'picture')} both as real and as fake, in different files."
        advice = "Right where a fake is an edited photograph, a wrong label where it is a copy: look at them."
        return Check("label conflicts", "warning", found, advice, findings)
    found = f"{count(sum(same_file), 'picture')} in the same file both as real and as fake"
    if not all(same_file):
        found += f", {len(both) - sum(same_file)} more in different files"
    advice = "One of the labels is wrong: correct it, or leave these files out (--fix)."
    findings = [findings[number] for number in np.argsort(np.logical_not(same_file), kind="stable")]
    return Check("label conflicts", "fail", f"{found}.", advice, findings)


def contrary_files(images: pd.DataFrame) -> set[str]:
    """Hashes of the readable files that stand in both classes."""
    classes = images[images["error"].isna()].groupby("sha256")["label"].nunique()
    return set(classes.index[classes == 2])


def check_leaks(images: pd.DataFrame, sets: Sequence[Sequence[int]]) -> Check:
    """Whether a picture stands in two splits."""
    if set(images["split"]) == {"all"}:
        return Check("leaks", "not measured", "The data have no splits yet.")
    split = images["split"].to_numpy()
    leaks = [rows for rows in sets if len({split[row] for row in rows}) > 1]
    if not leaks:
        return Check("leaks", "ok", "No picture stands in two splits.")
    found = f"{count(len(leaks), 'picture')} in more than one split: {_pairs_of_splits(images, leaks)}."
    advice = "Figures on these splits reward remembering: keep each picture in one split (--fix)."
    return Check("leaks", "fail", found, advice, _sets_of(images, leaks))


def check_groups(images: pd.DataFrame) -> Check:
    """Whether a group, one person or one video, stands in two splits."""
    if "group" not in images:
        advice = "Where several images show one person or video, pass --group_by."
        return Check("groups", "not measured", "No groups are known.", advice)
    if set(images["split"]) == {"all"}:
        found = f"{count(images['group'].nunique(), 'group')}, and no splits yet."
        return Check("groups", "not measured", found)
    sets = [
        (str(group), part.index.tolist()) for group, part in images.groupby("group") if part["split"].nunique() > 1
    ]
    if not sets:
        return Check("groups", "ok", f"Each of the {images['group'].nunique()} groups stands in one split.")
    found = f"{count(len(sets), 'group')} in more than one split, the first '{printable(sets[0][0])}'."
    advice = "Keep each in one split (--fix): its images are no test of what was learnt from the others."
    return Check("groups", "fail", found, advice, [Finding(rows, f"group {group}") for group, rows in sets])


def _sets_of(images: pd.DataFrame, sets: Iterable[Sequence[int]]) -> list[Finding]:
    content = images["sha256"].to_numpy()
    return [
        Finding(list(rows), "same file" if len({content[row] for row in rows}) == 1 else "same picture")
        for rows in sets
    ]


def _pairs_of_splits(images: pd.DataFrame, sets: Iterable[Sequence[int]]) -> str:
    split = images["split"].to_numpy()
    order = list(dict.fromkeys(split))
    together = pd.Series([" and ".join(sorted({split[row] for row in rows}, key=order.index)) for rows in sets])
    return ", ".join(f"{number} in {splits}" for splits, number in together.value_counts().items())
