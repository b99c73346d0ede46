"""The checks of an audit that look at images one by one: what was found, how bad it is, and what to do about it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from hf_deepfake.data.shortcuts import Shortcut, metadata_shortcut, spectrum_shortcut
from hf_deepfake.errors import InputError
from hf_deepfake.labels import NAMES
from hf_deepfake.printing import printable

VERDICTS = ("not measured", "ok", "warning", "fail")
"""From best to worst; the verdict on a data set is that of its worst check."""

BROKEN_SHARE = 0.01
"""From this share of unreadable images on, it is no longer a slip of a few files but a failed copy or download."""

IMBALANCE = 10
"""Images of one class for each of the other; beyond, plain training tends to learn the larger class."""

SMALL_SIDE = 64
"""Pixels; a backbone sees a smaller image enlarged several times, mostly interpolation."""

METADATA_WARNING, METADATA_FAIL = 0.6, 0.75
"""ROC AUC that file properties alone surely exceed (lower end of the interval). They say nothing of what an image
shows, so 0.5 is right. Cropping and saving by one's own hand leaves some trace (0.64 on two public sets); at 0.75 a
network that has learnt nothing else already looks like a detector."""

SPECTRUM_WARNING = 0.75
"""Likewise for colour and spectrum, but never a failure: there the true traces of a generator lie as well."""

FEWEST = 10
"""Readable images of each class below which no shortcut is measured."""


@dataclass(frozen=True)
class Finding:
    """Images that are wrong in the same way or together: their rows, and what is wrong."""

    rows: list[int]
    what: str


@dataclass(frozen=True)
class Check:
    """One question that was put to the data, and its answer."""

    name: str
    verdict: str
    found: str
    advice: str = "Nothing to do."
    findings: list[Finding] = field(default_factory=list)
    numbers: Shortcut | None = None


def worst(checks: Sequence[Check]) -> str:
    """The verdict on the whole data set."""
    return max((check.verdict for check in checks), key=VERDICTS.index)


def check_counts(images: pd.DataFrame) -> Check:
    """Whether both classes are there, in every split, and in comparable numbers."""
    totals = _by_class(images["label"])
    parts = {str(split): _by_class(part) for split, part in images.groupby("split", sort=False)["label"]}
    found = f"{count(len(images), 'image')}: {totals[0]} real and {totals[1]} fake"
    if list(parts) != ["all"]:
        found += "; " + ", ".join(f"{split} {real} and {fake}" for split, (real, fake) in parts.items())
    lacking = [
        f"{split} has no {NAMES[label]}" for split, counts in parts.items() for label in (0, 1) if not counts[label]
    ]
    if min(totals) == 0:
        advice = "One class is enough to measure its error rate or to make self-blended fakes of, not to train on."
        return Check("balance", "warning", f"{found}.", advice)
    if lacking:
        return Check(
            "balance", "warning", f"{found}; {', '.join(lacking)}.", "Give every split images of both classes."
        )
    if max(totals) > IMBALANCE * min(totals):
        advice = "Add images of the smaller class, weight the loss, and read balanced accuracy instead of accuracy."
        return Check("balance", "warning", f"{found}.", advice)
    return Check("balance", "ok", f"{found}.")


def check_readable(images: pd.DataFrame) -> Check:
    """Whether every image decodes to its end."""
    broken = np.flatnonzero(images["error"].notna())
    if not len(broken):
        return Check("unreadable", "ok", "Every image decodes to its end.")
    findings = [Finding([int(row)], str(images["error"].iloc[row])) for row in broken]
    found = f"{count(len(broken), 'image')} of {len(images)} cannot be read, the first {named(images, broken[0])}."
    verdict = "fail" if len(broken) >= BROKEN_SHARE * len(images) else "warning"
    return Check("unreadable", verdict, found, "Fetch them again, or leave them out (--fix).", findings)


def check_sizes(images: pd.DataFrame) -> Check:
    """Whether the images are large enough to hold the traces that a detector looks for."""
    small = np.flatnonzero(images["error"].isna() & (images[["width", "height"]].min(axis=1) < SMALL_SIDE))
    if not len(small):
        return Check("size", "ok", f"No image has a side shorter than {SMALL_SIDE} pixels.")
    findings = [Finding([int(row)], _size(images.iloc[row])) for row in small]
    found = (
        f"{count(len(small), 'image')} with a side shorter than {SMALL_SIDE} pixels, "
        f"the first {named(images, small[0])} ({_size(images.iloc[small[0]])})."
    )
    advice = "Take larger originals where there are any; score images of the same size as those trained on."
    return Check("size", "warning", found, advice, findings)


def check_formats(images: pd.DataFrame) -> Check:
    """Whether every file is what it is called and one upright picture of 8-bit colour or grey."""
    readable = images.loc[images["error"].isna(), ["format", "mode", "frames", "extension_matches"]]
    odd = zip(readable.index, map(_oddities, readable.to_dict("records")), strict=True)
    findings = [Finding([int(row)], "; ".join(oddities)) for row, oddities in odd if oddities]
    if not findings:
        return Check("format", "ok", "Every file is what its name says, one picture in 8-bit colour or grey.")
    first = findings[0]
    found = (
        f"{count(len(findings), 'file')} with an odd mode, several frames or another format than the name says, "
        f"the first {named(images, first.rows[0])} ({first.what})."
    )
    advice = "They are read as their first frame without transparency: harmless unless one class has more of them."
    return Check("format", "warning", found, advice, findings)


def _oddities(image: dict[str, Any]) -> list[str]:
    frames = image["frames"] if image["format"] != "MPO" else 1  # a camera's JPEG with a preview in it
    oddities = {
        f"mode {image['mode']}": image["mode"] not in ("RGB", "L"),
        f"{frames} frames": frames > 1,
        f"a {image['format']}, by its name not": not image["extension_matches"],
    }
    return [oddity for oddity, there in oddities.items() if there]


def check_metadata(images: pd.DataFrame) -> Check:
    """Whether file properties alone tell real from fake."""
    return _check_shortcut(
        "metadata",
        metadata_shortcut,
        images,
        (METADATA_WARNING, METADATA_FAIL),
        "File properties alone (size, compression, format)",
        "Save both classes alike (size, format, JPEG quality), or a detector learns the file instead of the picture.",
    )


def check_spectrum(images: pd.DataFrame) -> Check:
    """Whether mean colour and the radial spectrum alone tell real from fake."""
    return _check_shortcut(
        "spectrum",
        spectrum_shortcut,
        images,
        (SPECTRUM_WARNING, np.inf),
        "Colour and spectrum alone",
        "Traces of the generator, or of other resizing, compression or lighting of one class: measure on images that "
        "came another way.",
    )


def _check_shortcut(
    name: str,
    measure: Callable[..., Shortcut],
    images: pd.DataFrame,
    thresholds: tuple[float, float],
    what: str,
    advice: str,
) -> Check:
    readable = images[images["error"].isna()]
    if min(_by_class(readable["label"])) < FEWEST:
        return Check(name, "not measured", f"It takes at least {FEWEST} readable images of each class.")
    groups = readable["group"].tolist() if "group" in readable else None
    try:
        shortcut = measure(readable, readable["label"].to_numpy(), groups)
    except InputError as error:  # enough images, but of too few groups
        return Check(name, "not measured", str(error))
    found = (
        f"{what} reach a ROC AUC of {shortcut.roc_auc:.2f} "
        f"[{shortcut.roc_auc_low:.2f}, {shortcut.roc_auc_high:.2f}], 0.5 being chance; "
        f"the strongest is {shortcut.strongest} ({shortcut.strongest_roc_auc:.2f} alone)."
    )
    warning, fail = thresholds
    verdict = VERDICTS[1 + (shortcut.roc_auc_low > warning) + (shortcut.roc_auc_low > fail)]
    return Check(name, verdict, found, Check.advice if verdict == "ok" else advice, numbers=shortcut)


def _by_class(labels: pd.Series) -> tuple[int, int]:
    return int((labels == 0).sum()), int((labels == 1).sum())


def count(number: int, noun: str) -> str:
    """A number with its noun: `1 image`, `2 images`."""
    return f"{number} {noun}{'s' * (number != 1)}"


def named(images: pd.DataFrame, row: int) -> str:
    """The name of a row's file, in quotes."""
    return f"'{printable(images['file'].iloc[row])}'"


def _size(image: pd.Series) -> str:
    return f"{int(image['width'])} by {int(image['height'])}"
