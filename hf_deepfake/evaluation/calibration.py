"""Calibrations and thresholds, fitted on validation predictions only."""

from typing import Any

import numpy as np
import sklearn.metrics
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import expected_calibration_error

CALIBRATIONS = ("temperature", "platt", "isotonic", "none")

PURPOSES = ("youden", "eer", "f1", "fpr=0.01", "fixed")
"""Purposes of a threshold that are shown beside one another; `fpr` takes any rate."""

_SMALLEST, _LARGEST = 0.05, 20.0


def fit_calibration(log_odds: NDArray[np.float64], labels: NDArray[np.int64], method: str) -> dict[str, Any]:
    """What turns log-odds into calibrated probabilities.

    Args:
        log_odds: Of fake against real; shape `(images,)`.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        method: `temperature`, `platt` (Platt 1999, with his smoothed labels), `isotonic` (Zadrozny and Elkan 2002; it
            needs hundreds of images of each class) or `none`.

    Returns:
        `temperature`, `bias` and `isotonic` as `calibrated` in the ensemble's code takes them.

    Raises:
        InputError: If there is no such method.
    """
    found: dict[str, Any] = {"temperature": 1.0, "bias": 0.0, "isotonic": None}
    if method == "temperature":
        return found | {"temperature": fit_temperature(np.stack([0 * log_odds, log_odds], axis=1), labels)}
    if method == "platt":
        return found | _fit_platt(log_odds, labels)
    if method == "isotonic":
        return found | {"isotonic": _fit_isotonic(log_odds, labels)}
    if method == "none":
        return found
    raise InputError(f"--calibration {method}: must be one of {', '.join(CALIBRATIONS)}.")


def _fit_platt(log_odds: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, float]:
    fakes, reals = (labels == 1).sum(), (labels == 0).sum()
    targets = np.where(labels == 1, (fakes + 1) / (fakes + 2), 1 / (reals + 2))

    def log_loss(scale_and_bias: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margin = scale_and_bias[0] * log_odds + scale_and_bias[1]
        gap = (expit(margin) - targets) / len(labels)
        return float((np.logaddexp(0, margin) - targets * margin).mean()), np.array([gap @ log_odds, gap.sum()])

    bounds = [(1 / _LARGEST, 1 / _SMALLEST), (None, None)]  # a detector that ranks backwards is not turned round
    scale, bias = minimize(log_loss, np.array([1.0, 0.0]), jac=True, bounds=bounds, method="L-BFGS-B").x
    return {"temperature": float(1 / scale), "bias": float(bias)}


def _fit_isotonic(log_odds: NDArray[np.float64], labels: NDArray[np.int64]) -> list[list[float]]:
    """The corners of the curve; no image is certain, so it ends as far from 0 and 1 as Laplace's rule says."""
    edge = 1 / (len(labels) + 2)
    curve = IsotonicRegression(y_min=edge, y_max=1 - edge, out_of_bounds="clip").fit(log_odds, labels)
    places, values = curve.X_thresholds_.tolist(), curve.y_thresholds_.tolist()
    if len(places) == 1:  # every image has one score
        places, values = [places[0] - 1, places[0]], values * 2
    return [places, values]


def fit_temperature(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """Temperature that minimises the log-loss of `softmax(logits / T)`.

    Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2. It is kept within
    0.05 and 20: on perfectly separated images the best temperature would be 0.

    Args:
        logits: Shape `(images, 2)`, columns real and fake.
        labels: 0 for real, 1 for fake; shape `(images,)`.

    Example:
        >>> logits = np.log([[0.9, 0.1]] * 4)
        >>> round(fit_temperature(logits, np.array([0, 0, 0, 1])), 3)  # log(9) / log(3)
        2.0
    """
    margin = logits[:, 1] - logits[:, 0]
    signed = np.where(labels == 1, margin, -margin)

    def log_loss(log_temperature: float) -> float:
        return float(np.logaddexp(0, -signed / np.exp(log_temperature)).mean())

    bounds = (np.log(_SMALLEST), np.log(_LARGEST))
    return float(np.exp(minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6}).x))


def ece_of_chance(prob_fake: NDArray[np.float64], draws: int = 200, seed: int = 0) -> float:
    """Expected calibration error that these probabilities would show if they were perfect.

    Bins of few images are off by chance, so no calibration reaches 0: the mean over labels drawn from the
    probabilities themselves is what a measured error has to be compared with.

    Args:
        prob_fake: Probability of fake; shape `(images,)`.
        draws: Of labels for all images.
        seed: Of the labels.
    """
    generator = np.random.default_rng(seed)
    errors = [
        expected_calibration_error(generator.random(len(prob_fake)) < prob_fake, prob_fake) for _ in range(draws)
    ]
    return float(np.mean(errors))


def fit_threshold(labels: NDArray[np.int64], prob_fake: NDArray[np.float64], purpose: str) -> float:
    """Probability from which the verdict is fake, chosen for a purpose.

    The threshold is put half way between the two neighbouring scores, so that it does not hang on one image. A score
    of exactly 1 is called fake at every threshold.

    Args:
        labels: 0 for real, 1 for fake; shape `(images,)`.
        prob_fake: Calibrated probability of fake; shape `(images,)`.
        purpose: `fixed` (0.5), `youden` (largest true minus false-positive rate, Youden 1950), `eer` (false alarms and
            misses equally frequent), `f1` (best F1), or `fpr=RATE` (at most that share of real images called fake).

    Raises:
        InputError: If the purpose is none of these.

    Example:
        >>> round(fit_threshold(np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9]), "youden"), 3)
        0.4
    """
    if purpose == "fixed":
        return 0.5
    false_rate, true_rate, thresholds = sklearn.metrics.roc_curve(labels, prob_fake, drop_intermediate=False)
    if purpose == "youden":
        best = int(np.argmax(true_rate - false_rate))
    elif purpose == "eer":
        best = int(np.argmin(np.abs(false_rate - (1 - true_rate))))
    elif purpose == "f1":
        hits, alarms = true_rate * (labels == 1).sum(), false_rate * (labels == 0).sum()
        best = int(np.argmax(2 * hits / ((labels == 1).sum() + hits + alarms)))
    elif purpose.startswith("fpr=") and _rate(purpose) is not None:
        best = int(np.flatnonzero(false_rate <= _rate(purpose))[-1])
    else:
        raise InputError(f"--threshold {purpose}: must be fixed, youden, eer, f1 or fpr=RATE (for example fpr=0.01).")
    scores = np.unique(prob_fake)
    below = scores[scores < thresholds[best]]
    lower = below[-1] if len(below) else 0.0
    upper = min(thresholds[best], 1.0)
    return float((lower + upper) / 2)


def _rate(purpose: str) -> float | None:
    try:
        rate = float(purpose.removeprefix("fpr="))
    except ValueError:
        return None
    return rate if 0 <= rate < 1 else None
