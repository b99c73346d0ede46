"""How much each member counts in the weighted vote, from calibrated validation predictions."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from hf_deepfake.ensemble.folds import splits
from hf_deepfake.errors import InputError

WEIGHTINGS = ("stacking", "greedy", "logloss", "metric", "manual")

_STRENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
_BAGS, _ROUNDS = 20, 25


def pooling_of(weighting: str) -> str:
    """What a vote with such weights averages: stacking lives on log-odds, all others on probabilities."""
    return "log_odds" if weighting == "stacking" else "probability"


def fit_weights(
    member_probs: NDArray[np.float64],
    labels: NDArray[np.int64],
    weighting: str,
    weights: Sequence[float] | None = None,
    units: NDArray[np.int64] | None = None,
) -> list[float]:
    """Weights of the members, not negative and of sum 1.

    Args:
        member_probs: Calibrated probabilities of fake; shape `(images, members)`.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        weighting: `metric` (how far a member's ROC AUC is above chance), `logloss` (the point on the simplex with the least
            log-loss of the mean), `stacking` (logistic regression on log-odds, see `_stacked`), `greedy` (selection with
            replacement, see `_selected`) or `manual`.
        weights: One a member, for `manual`.
        units: What is independent of each other, see `units_of`; shape `(images,)`. Stacking leaves them out together.

    Raises:
        InputError: If there is no such weighting, no member is above chance, or the weights do not fit the members.
    """
    members = member_probs.shape[1]
    if weighting == "manual":
        if weights is None or len(weights) != members or min(weights) < 0 or sum(weights) <= 0:
            raise InputError(
                f"--weights {list(weights or [])}: manual weighting needs {members} weights, one a member, none negative "
                "and not all zero."
            )
        found = np.array(weights, dtype=np.float64)
    elif weights is not None:
        raise InputError("--weights goes with --weighting manual.")
    elif weighting == "metric":
        found = np.array([max(0.0, roc_auc_score(labels, probs) - 0.5) for probs in member_probs.T])
    elif weighting == "logloss":
        found = _least_log_loss(member_probs, labels)
    elif weighting == "stacking":
        found = _stacked(logit(member_probs.clip(1e-7, 1 - 1e-7)), labels, units)
    elif weighting == "greedy":
        found = _selected(member_probs, labels)
    else:
        raise InputError(f"--weighting {weighting}: must be one of {', '.join(WEIGHTINGS)}.")
    if found.sum() == 0:
        raise InputError("no member ranks validation images better than chance; there is nothing to weight by.")
    return [float(weight) for weight in found / found.sum()]


def _of_truth(member_probs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability that each member gives to the true class."""
    return np.asarray(np.where(labels[:, None] == 1, member_probs, 1 - member_probs).clip(1e-7, 1))


def _least_log_loss(member_probs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights on the simplex with the least log-loss of the weighted mean; a convex problem."""
    members = member_probs.shape[1]
    of_truth = _of_truth(member_probs, labels)

    def log_loss(weights: NDArray[np.float64]) -> float:
        return float(-np.log((of_truth @ weights).clip(1e-7)).mean())

    def gradient(weights: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(-(of_truth / (of_truth @ weights).clip(1e-7)[:, None]).mean(axis=0))

    solution = minimize(
        log_loss,
        np.full(members, 1 / members),
        jac=gradient,
        method="SLSQP",
        bounds=[(0, 1)] * members,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like},
        options={"ftol": 1e-10, "maxiter": 1000},
    )
    return np.asarray(solution.x).clip(0).round(6)


def _stacked(
    log_odds: NDArray[np.float64], labels: NDArray[np.int64], units: NDArray[np.int64] | None
) -> NDArray[np.float64]:
    """Coefficients of a ridge logistic regression on the members' log-odds (Wolpert, Neural Networks 1992), none negative.

    Its strength is the one with the least log-loss on parts that are left out; without such parts the strongest. Only the
    ratio of the coefficients counts: the calibration of the vote finds its own scale and bias.
    """
    parts = list(splits(labels, units))
    if not parts:
        return _regression(log_odds, labels, _STRENGTHS[-1])[:-1]

    def held_out(strength: float) -> float:
        total = 0.0
        for rest, part in parts:
            *coefficients, bias = _regression(log_odds[rest], labels[rest], strength)
            margin = log_odds[part] @ np.array(coefficients) + bias
            total += float(np.logaddexp(0, np.where(labels[part] == 1, -margin, margin)).sum())
        return total

    return _regression(log_odds, labels, min(_STRENGTHS, key=held_out))[:-1]


def _regression(log_odds: NDArray[np.float64], labels: NDArray[np.int64], strength: float) -> NDArray[np.float64]:
    """Coefficients and, last, the bias."""
    members = log_odds.shape[1]

    def penalised(solution: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        coefficients, bias = solution[:-1], solution[-1]
        margin = log_odds @ coefficients + bias
        gap = (expit(margin) - labels) / len(labels)
        loss = (np.logaddexp(0, margin) - labels * margin).mean() + strength * (coefficients @ coefficients) / 2
        return float(loss), np.append(log_odds.T @ gap + strength * coefficients, gap.sum())

    start = np.append(np.full(members, 1 / members), 0.0)
    bounds = [(0, None)] * members + [(None, None)]
    return np.asarray(minimize(penalised, start, jac=True, bounds=bounds, method="L-BFGS-B").x)


def _selected(member_probs: NDArray[np.float64], labels: NDArray[np.int64], seed: int = 0) -> NDArray[np.float64]:
    """How often each member is taken when the one that lowers the log-loss of the mean the most is taken, again and again.

    Caruana et al., Ensemble Selection from Libraries of Models, ICML 2004: with replacement (section 2.1), and in bags
    against overfitting (section 2.3). Theirs draw from thousands of members; a few cannot spare any, so these draw images.
    """
    generator = np.random.default_rng(seed)
    of_truth, members = _of_truth(member_probs, labels), member_probs.shape[1]
    counts = np.zeros(members)
    for _ in range(_BAGS):
        images = of_truth[generator.integers(len(labels), size=len(labels))]
        total = np.zeros((len(labels), 1))
        for taken in range(1, _ROUNDS + 1):
            best = int(np.log((total + images) / taken).sum(axis=0).argmax())
            counts[best] += 1
            total += images[:, [best]]
    return counts
