"""Verdicts that may be left open: the risk-coverage curve, and a band of uncertain scores for a target error rate.

A verdict is uncertain where `low < prob_fake < high`; the images outside of the band are *covered*.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import confidence_ranks, selective_risks, verdict_confidence


def risk_coverage(
    labels: NDArray[np.int64], prob_fake: NDArray[np.float64], threshold: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Curve of the error rate among the k most confident verdicts over the share k/n of images that they cover.

    Args:
        labels: 0 for real, 1 for fake; shape `(images,)`.
        prob_fake: Calibrated probability of fake; shape `(images,)`.
        threshold: Probability from which the verdict is fake.

    Returns:
        Coverage, from 1/n to 1, and error rate, both of shape `(images,)`. The mean error rate is the metric `aurc`.
    """
    wrong = (prob_fake >= threshold) != (labels == 1)
    coverage = np.arange(1, len(labels) + 1) / len(labels)
    return coverage, selective_risks(wrong, confidence_ranks(prob_fake, threshold))


def fit_band(
    labels: NDArray[np.int64], prob_fake: NDArray[np.float64], threshold: float, target_error: float
) -> tuple[float, float]:
    """Band of uncertain scores that leaves the most images covered at an error rate of at most `target_error`.

    The band is symmetric around the threshold in log-odds. Its edge is put half way between two neighbouring
    confidences, so that it does not hang on one image. Every candidate is judged by the rule of the verdict itself,
    hence these (validation) images keep the target exactly. Other images may miss it, as nothing is added for chance:
    measure the band with `band_rates` on test images.

    Args:
        labels: 0 for real, 1 for fake; shape `(images,)`.
        prob_fake: Calibrated probability of fake; shape `(images,)`.
        threshold: Probability from which the verdict is fake.
        target_error: Error rate allowed among the covered images, between 0 and 1.

    Returns:
        `(low, high)`: `(threshold, threshold)`, which no score lies within, where all images together meet the target;
        `(0, 1)` where no part of them does. A score of exactly 0 or 1 lies within no band.

    Raises:
        InputError: If the target is no rate between 0 and 1.

    Example:
        >>> low, high = fit_band(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.6, 0.9]), 0.5, target_error=0.1)
        >>> round(low, 2), round(high, 2)  # log-odds half way between log(3 / 2) and log(9): the odds of sqrt(13.5)
        (0.21, 0.79)
    """
    if not 0 < target_error < 1:
        raise InputError(f"--target_error {target_error}: must be between 0 and 1, for example 0.05.")
    lows, highs = _candidates(prob_fake, threshold)
    order = np.argsort(prob_fake)
    scores = prob_fake[order]
    errors = np.append(0, np.cumsum((scores >= threshold) != (labels[order] == 1)))
    real_until = np.searchsorted(scores, lows, side="right")
    fake_from = np.maximum(np.searchsorted(scores, highs, side="left"), real_until)  # the empty band counts none twice
    covered = real_until + len(scores) - fake_from
    wrong = errors[real_until] + errors[-1] - errors[fake_from]
    meets = (covered > 0) & (wrong / np.maximum(covered, 1) <= target_error)
    if not meets.any():
        return 0.0, 1.0
    best = int(np.argmax(np.where(meets, covered, 0)))
    return float(lows[best]), float(highs[best])


def _candidates(prob_fake: NDArray[np.float64], threshold: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper ends of bands from the empty one to the one that leaves only the most confident images."""
    confidences = np.unique(np.append(0, verdict_confidence(prob_fake, threshold)))
    widths = (confidences[1:] + confidences[:-1]) / 2
    center = logit(np.clip(threshold, 1e-7, 1 - 1e-7))
    lows, highs = expit(center - widths), expit(center + widths)
    return np.append(threshold, np.minimum(lows, threshold)), np.append(threshold, np.maximum(highs, threshold))


def band_rates(
    labels: NDArray[np.int64], prob_fake: NDArray[np.float64], threshold: float, band: Sequence[float]
) -> dict[str, float]:
    """Share of images with a verdict that is not `uncertain`, and the error rate of those verdicts.

    Returns:
        `coverage`, and `error_rate` unless nothing is covered.
    """
    low, high = band
    covered = ~((low < prob_fake) & (prob_fake < high))
    rates = {"coverage": float(covered.mean())}
    if covered.any():
        wrong = (prob_fake >= threshold) != (labels == 1)
        rates["error_rate"] = float(wrong[covered].mean())
    return rates
