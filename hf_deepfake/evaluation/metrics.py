"""All detection metrics in one `evaluate.Metric`, which `evaluate.load(__file__)` loads without the Hub.

The curves are computed here and agree with scikit-learn's to rounding: its checks of every call's input cost
5 ms, and each table of predictions is measured a thousand times for its intervals.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import ArrayLike, NDArray

_DESCRIPTION = "Metrics of a detector of fake images from labels and probabilities of fake."

LOWER_IS_BETTER = frozenset(("aurc", "brier", "ece", "eer", "false_negative_rate", "false_positive_rate", "log_loss"))

INTERVALS = (
    "accuracy",
    "aurc",
    "average_precision",
    "balanced_accuracy",
    "brier",
    "ece",
    "eer",
    "f1",
    "false_negative_rate",
    "false_positive_rate",
    "log_loss",
    "pr_auc",
    "precision",
    "recall",
    "roc_auc",
    "tpr_at_fpr_1pct",
)
"""Metrics that are one number, for each of which an interval can be given."""


def detection_metrics(labels: ArrayLike, prob_fake: ArrayLike, threshold: float = 0.5) -> dict[str, Any]:
    """Every metric that these labels can answer.

    Args:
        labels: 0 for real, 1 for fake; shape `(images,)`.
        prob_fake: Probability of the fake class, in [0, 1]; shape `(images,)`.
        threshold: Probability from which the verdict is fake.

    Returns:
        Keys of `INTERVALS`, `confusion_matrix` (rows true real and fake, columns verdicts real and fake), `images`,
        `threshold`, and `undefined`: for each metric that cannot be answered, why. `false_positive_rate` is the
        share of real images called fake, `false_negative_rate` that of fake images called real; `pr_auc` the
        trapezoidal area, `average_precision` the step-wise one; `aurc` the mean of `selective_risks`.

    Raises:
        ValueError: If shapes differ, nothing is given, or a value is no label or no probability.

    Example:
        >>> metrics = detection_metrics([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
        >>> metrics["roc_auc"], metrics["accuracy"], metrics["false_positive_rate"], metrics["confusion_matrix"]
        (0.75, 0.5, 0.5, [[1, 1], [1, 1]])
    """
    labels = np.asarray(labels)
    prob_fake = np.asarray(prob_fake, dtype=np.float64)
    _check(labels, prob_fake)
    return _measure(labels == 1, prob_fake, threshold, _ranks(prob_fake), confidence_ranks(prob_fake, threshold))


def _measure(
    fake: NDArray[np.bool_],
    prob_fake: NDArray[np.float64],
    threshold: float,
    score_ranks: NDArray[np.int64],
    ranks: NDArray[np.int64],
) -> dict[str, Any]:
    verdicts = prob_fake >= threshold
    true_positives, false_positives = int((verdicts & fake).sum()), int((verdicts & ~fake).sum())
    fakes = int(fake.sum())
    reals = len(fake) - fakes
    false_negatives, true_negatives = fakes - true_positives, reals - false_positives
    bounded = np.clip(prob_fake, 1e-7, 1 - 1e-7)
    metrics: dict[str, Any] = {
        "images": len(fake),
        "threshold": float(threshold),
        "confusion_matrix": [[true_negatives, false_positives], [false_negatives, true_positives]],
        "accuracy": (true_negatives + true_positives) / len(fake),
        "aurc": float(selective_risks(verdicts != fake, ranks).mean()),
        "brier": float(np.mean((prob_fake - fake) ** 2)),
        "log_loss": float(-np.mean(np.log(np.where(fake, bounded, 1 - bounded)))),
        "ece": expected_calibration_error(fake, prob_fake),
    }
    undefined: dict[str, str] = {}
    _answer(metrics, undefined, "recall", true_positives, fakes, "there is no fake image")
    _answer(metrics, undefined, "false_negative_rate", false_negatives, fakes, "there is no fake image")
    _answer(metrics, undefined, "false_positive_rate", false_positives, reals, "there is no real image")
    _answer(
        metrics, undefined, "precision", true_positives, true_positives + false_positives, "no image is called fake"
    )
    _answer(
        metrics,
        undefined,
        "f1",
        2 * true_positives,
        2 * true_positives + false_positives + false_negatives,
        "there is no fake image and none is called fake",
    )
    if reals and fakes:
        metrics["balanced_accuracy"] = (true_negatives / reals + true_positives / fakes) / 2
        metrics |= _ranking(fake, score_ranks)
    else:
        reason = f"only {'real' if reals else 'fake'} images: needs both classes"
        undefined |= {name: reason for name in INTERVALS if name not in metrics and name not in undefined}
    return metrics | {"undefined": undefined}


def _check(labels: NDArray[Any], prob_fake: NDArray[np.float64]) -> None:
    if labels.ndim != 1 or labels.shape != prob_fake.shape:
        raise ValueError(f"labels and prob_fake need one shape (images,); found {labels.shape} and {prob_fake.shape}.")
    if len(labels) == 0:
        raise ValueError("there are no images to measure.")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 (real) or 1 (fake); found {np.unique(labels)[:5].tolist()}.")
    outside = ~((prob_fake >= 0) & (prob_fake <= 1))
    if outside.any():
        row = int(outside.argmax())
        raise ValueError(f"prob_fake must be in [0, 1]; found {prob_fake[row]} in row {row}, {outside.sum()} in all.")


def _answer(
    metrics: dict[str, Any], undefined: dict[str, str], name: str, numerator: int, denominator: int, reason: str
) -> None:
    if denominator:
        metrics[name] = numerator / denominator
    else:
        undefined[name] = reason


def _ranks(scores: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rank of each score, 0 for the highest; equal scores share one. A drawn sample keeps them: no sorting a draw."""
    return np.asarray(np.unique(-scores, return_inverse=True)[1])


def _ranking(fake: NDArray[np.bool_], ranks: NDArray[np.int64]) -> dict[str, float]:
    """Metrics of the order of the scores, all from one ROC curve with one point a distinct score."""
    images = np.bincount(ranks)
    drawn = images > 0
    hits = np.append(0, np.bincount(ranks, weights=fake)[drawn].cumsum())
    called = np.append(0, images[drawn].cumsum())
    false_rate, true_rate = (called - hits) / (~fake).sum(), hits / fake.sum()
    precision = np.append(1.0, hits[1:] / called[1:])
    return {
        "roc_auc": _area(false_rate, true_rate),
        "pr_auc": _area(true_rate, precision),
        "average_precision": float(np.sum(np.diff(true_rate) * precision[1:])),
        "eer": _crossing(false_rate, true_rate),
        "tpr_at_fpr_1pct": float(true_rate[false_rate <= 0.01].max()),
    }


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1])) / 2)


def _crossing(false_rate: NDArray[np.float64], true_rate: NDArray[np.float64]) -> float:
    miss_rate = 1 - true_rate
    after = int(np.argmax(false_rate >= miss_rate))
    gap_before = miss_rate[after - 1] - false_rate[after - 1]
    gap_after = miss_rate[after] - false_rate[after]
    share = gap_before / (gap_before - gap_after)
    return float(false_rate[after - 1] + share * (false_rate[after] - false_rate[after - 1]))


def verdict_confidence(prob_fake: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """How far a probability is from the threshold: the distance of their log-odds, shape `(images,)`.

    Probabilities are kept within 1e-7 of 0 and 1, and the distance is rounded, so that 0.4 and 0.6 are
    equally far from 0.5 in floating point too.

    Example:
        >>> verdict_confidence([0.4, 0.6, 0.9], 0.5)  # log(3 / 2), log(3 / 2), log(9)
        array([0.40546511, 0.40546511, 2.19722458])
    """
    probs = np.clip(np.append(np.asarray(prob_fake, dtype=np.float64), threshold), 1e-7, 1 - 1e-7)
    log_odds = np.log(probs) - np.log1p(-probs)
    return np.asarray(np.abs(log_odds[:-1] - log_odds[-1]).round(9))


def confidence_ranks(prob_fake: ArrayLike, threshold: float) -> NDArray[np.int64]:
    """Rank of each verdict's confidence; 0 is the surest, and equally confident verdicts share a rank."""
    return _ranks(verdict_confidence(prob_fake, threshold))


def selective_risks(wrong: NDArray[np.bool_], ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """Error rate among the k most confident verdicts, for k from 1 to all; its mean is the AURC.

    Geifman, Uziel and El-Yaniv, Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers, ICLR 2019.
    Equally confident verdicts stand in random order there; here each gets the error rate of its run, which is the
    expected value over all orders.

    Args:
        wrong: Whether the verdict is an error; shape `(images,)`.
        ranks: Of `confidence_ranks`; shape `(images,)`.

    Example:
        >>> selective_risks(np.array([False, True, False]), np.array([0, 1, 1])).round(3)
        array([0.   , 0.25 , 0.333])
    """
    images = np.bincount(ranks)
    rates = np.bincount(ranks, weights=wrong) / np.maximum(images, 1)
    errors = np.repeat(rates, images).cumsum()
    return np.asarray(errors / np.arange(1, len(ranks) + 1))


def equal_error_rate(labels: ArrayLike, prob_fake: ArrayLike) -> float:
    """Error rate at the threshold where false alarms and misses are equally frequent.

    The ROC curve is piecewise linear, so the crossing is solved on the segment that
    contains it. Taking the nearest ROC point instead moves the rate by 1.5 points on
    average in simulation with 30 real and 20 fake images.

    Args:
        labels: 0 for real, 1 for fake; shape `(images,)`.
        prob_fake: Probability of the fake class, in [0, 1]; shape `(images,)`.

    Returns:
        The rate in [0, 1]; 0 is perfect and 0.5 is chance.

    Raises:
        ValueError: If only one class is present.

    Example:
        >>> equal_error_rate(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.4, 0.9]))
        0.5
    """
    labels, prob_fake = np.asarray(labels), np.asarray(prob_fake, dtype=np.float64)
    _check(labels, prob_fake)
    if len(np.unique(labels)) == 1:
        raise ValueError(f"the equal error rate needs both classes; found {len(labels)} labels, all {labels[0]}.")
    return _ranking(labels == 1, _ranks(prob_fake))["eer"]


def expected_calibration_error(labels: ArrayLike, prob_fake: ArrayLike, bins: int = 15) -> float:
    """Mean distance between probability of fake and share of fakes, over equal-width bins weighted by size.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 3, for the class fake.

    Example:
        >>> expected_calibration_error([0, 1], [0.25, 0.75])
        0.25
    """
    labels = np.asarray(labels, dtype=np.float64)
    prob_fake = np.asarray(prob_fake, dtype=np.float64)
    index = np.minimum((prob_fake * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=prob_fake - labels, minlength=bins)
    return float(np.abs(gaps).sum() / len(labels))


def bootstrap_intervals(
    labels: ArrayLike,
    prob_fake: ArrayLike,
    threshold: float = 0.5,
    groups: Sequence[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, float]:
    """95 % percentile bootstrap interval of every metric.

    Images are drawn with replacement, or whole groups where groups are given (frames of one video are not
    independent). A draw without both classes is left out for the metrics that need both. One image or one group alone
    has no interval: every draw would be the same.

    Returns:
        `{metric}_low` and `{metric}_high` for each metric of `INTERVALS` that can be answered.

    Raises:
        ValueError: As `detection_metrics`, or if there is not one group an image.
    """
    labels, prob_fake = np.asarray(labels), np.asarray(prob_fake, dtype=np.float64)
    _check(labels, prob_fake)
    if groups is not None and len(groups) != len(labels):
        raise ValueError(f"{len(labels)} images need one group each; found {len(groups)} groups.")
    fake, score_ranks, ranks = labels == 1, _ranks(prob_fake), confidence_ranks(prob_fake, threshold)
    generator = np.random.default_rng(seed)
    units = [np.array([row]) for row in range(len(labels))]
    if groups is not None:
        _, inverse = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
        units = [np.flatnonzero(inverse == unit) for unit in range(inverse.max() + 1)]
    if len(units) == 1:
        return {}
    draws: dict[str, list[float]] = {name: [] for name in INTERVALS}
    for _ in range(resamples):
        chosen = generator.integers(len(units), size=len(units))
        rows = chosen if groups is None else np.concatenate([units[unit] for unit in chosen])
        metrics = _measure(fake[rows], prob_fake[rows], threshold, score_ranks[rows], ranks[rows])
        for name in INTERVALS:
            if name in metrics:
                draws[name].append(metrics[name])
    intervals: dict[str, float] = {}
    for name, values in draws.items():
        if len(values) > resamples / 2:
            low, high = np.percentile(values, (2.5, 97.5))
            intervals |= {f"{name}_low": float(low), f"{name}_high": float(high)}
    return intervals


class DetectionMetrics(evaluate.Metric):  # type: ignore[misc]
    """`evaluate` face of `detection_metrics`: `compute(predictions=prob_fake, references=labels, threshold=0.5)`."""

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=detection_metrics.__doc__,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, threshold: float = 0.5) -> dict[str, Any]:
        return detection_metrics(references, predictions, threshold)
