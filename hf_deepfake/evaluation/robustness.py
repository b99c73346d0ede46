"""What is left of the scores after images have gone their way: corruptions by name and severity."""

import zlib
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from hf_deepfake.data.corruptions import CORRUPTIONS, SEVERITIES, check_corruption, corrupt
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.predictions import Change

METRICS = ("roc_auc", "accuracy", "balanced_accuracy", "false_positive_rate", "false_negative_rate")
"""What is told of every corruption and severity, beside `images` and `flipped`."""

_RESAMPLES = 300
"""Of the intervals: a quarter of the usual ones, since there are so many of them."""


def corruption_changes(names: Sequence[str], severities: Sequence[int]) -> dict[str, Change]:
    """The data stage's corruptions as changes of an image, by `NAME-SEVERITY`.

    Noise, places and signs depend on the image's content alone, so that a score can be reproduced one by one.

    Args:
        names: Of corruptions; `all` for every one.
        severities: Some of 1 to 5.

    Raises:
        InputError: If there is no such corruption or severity.
    """
    wanted = list(CORRUPTIONS) if "all" in names else list(dict.fromkeys(names))
    for name in wanted:
        for severity in severities:
            check_corruption(name, severity)
    return {
        f"{name}-{severity}": partial(_corrupted, name=name, severity=severity)
        for name in wanted
        for severity in sorted(set(severities))
    }


def _corrupted(image: Image.Image, name: str, severity: int) -> Image.Image:
    pixels = np.array(image)
    seed = zlib.crc32(pixels.tobytes(), zlib.crc32(f"{name}-{severity}".encode()))
    generator = torch.Generator().manual_seed(seed)
    changed = corrupt(torch.from_numpy(pixels).permute(2, 0, 1), name, severity, generator)
    return Image.fromarray(changed.permute(1, 2, 0).contiguous().numpy())


def parse_severities(text: str) -> list[int]:
    """`3`, `1-5` or `1,3,5` as a list.

    Raises:
        InputError: If it is none of these, or holds anything but 1 to 5.

    Example:
        >>> parse_severities("1-3"), parse_severities("5,2")
        ([1, 2, 3], [5, 2])
    """
    low, dash, high = text.partition("-")
    try:
        found = list(range(int(low), int(high) + 1)) if dash else [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not set(found) <= set(SEVERITIES):
        raise InputError(f"--severities {text}: must be one of 1 to 5, several (1,3,5) or a range (1-5).")
    return found


def corrupted_metrics(clean: pd.DataFrame, prob_fake: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Metrics of a corrupted benchmark, with `flipped`: the share of verdicts that the corruption changed.

    Args:
        clean: Predictions of the images as they are.
        prob_fake: Of the same images after the corruption; shape `(images,)`.
        threshold: Probability from which the verdict is fake.
    """
    labels, groups = clean["label"].to_numpy(), clean["group"].tolist() if "group" in clean else None
    metrics = detection_metrics(labels, prob_fake, threshold)
    metrics |= bootstrap_intervals(labels, prob_fake, threshold, groups, _RESAMPLES)
    kept = {f"{name}{end}" for name in METRICS for end in ("", "_low", "_high")}
    flipped = (clean["prob_fake"].to_numpy() >= threshold) != (prob_fake >= threshold)
    return {"images": len(clean), "flipped": float(flipped.mean())} | {
        name: value for name, value in metrics.items() if name in kept
    }


def robustness_rows(robustness: dict[str, Any]) -> Iterable[dict[str, Any]]:
    """The nested results as rows for a table: benchmark, corruption, severity and what was measured."""
    for benchmark, corruptions in robustness.items():
        for corruption, severities in corruptions.items():
            for severity, metrics in severities.items():
                yield {"benchmark": benchmark, "corruption": corruption, "severity": int(severity)} | metrics
