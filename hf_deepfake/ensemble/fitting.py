"""Temperatures, weights and thresholds of an ensemble, from its members' validation predictions."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import softmax
from sklearn.metrics import roc_auc_score

from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import VOTINGS
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import vote
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.calibration import fit_temperature, fit_threshold

WEIGHTINGS = ("metric", "logloss", "manual")


@dataclasses.dataclass(frozen=True)
class Fit:
    """What an ensemble's config holds of its members' calibration and vote."""

    voting: str
    temperatures: list[float]
    weights: list[float]
    member_thresholds: list[float]
    thresholds: dict[str, float]

    def prob_fake(self, member_logits: NDArray[np.float64], voting: str | None = None) -> NDArray[np.float64]:
        """Voted probability of fake, shape `(images,)`, from logits of shape `(images, members, 2)`."""
        voted = vote(
            torch.from_numpy(member_logits),
            temperatures=self.temperatures,
            weights=self.weights,
            member_thresholds=self.member_thresholds,
            voting=voting or self.voting,
        )
        return np.asarray(voted, dtype=np.float64)


def fit_ensemble(
    member_logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    voting: str = "soft",
    weighting: str = "logloss",
    weights: Sequence[float] | None = None,
    calibration: str = "temperature",
    threshold: str = "youden",
) -> Fit:
    """Fit how members vote, on validation predictions only.

    Args:
        member_logits: Shape `(images, members, 2)`, columns real and fake.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        voting: `soft`, `hard` or `weighted`; thresholds are fitted for all three.
        weighting: Of the weighted vote: `metric` (how far a member's ROC AUC is above chance), `logloss` (the point on
            the simplex with the least log-loss) or `manual` (`weights`).
        weights: One a member, for `manual`.
        calibration: `temperature`, or `none` for temperatures of 1.
        threshold: Purpose of the thresholds, see `fit_threshold`. The hard vote's own is always a majority.

    Raises:
        InputError: If a choice is unknown, the weights do not fit the members, or images of one class are missing.
    """
    members = member_logits.shape[1]
    if len(np.unique(labels)) < 2:
        raise InputError(f"an ensemble is fitted on real and fake images; these {len(labels)} are all of one class.")
    if voting not in VOTINGS:
        raise InputError(f"--voting {voting}: must be one of {', '.join(VOTINGS)}.")
    if calibration not in ("temperature", "none"):
        raise InputError(f"--calibration {calibration}: must be temperature or none.")
    temperatures = [
        fit_temperature(member_logits[:, member], labels) if calibration == "temperature" else 1.0
        for member in range(members)
    ]
    member_probs = softmax(member_logits / np.array(temperatures)[:, None], axis=-1)[..., 1]
    fit = Fit(
        voting=voting,
        temperatures=temperatures,
        weights=_fit_weights(member_probs, labels, weighting, weights),
        member_thresholds=[fit_threshold(labels, member_probs[:, member], threshold) for member in range(members)],
        thresholds={"hard": 0.5},
    )
    thresholds = {
        kind: fit_threshold(labels, fit.prob_fake(member_logits, kind), threshold) if kind != "hard" else 0.5
        for kind in VOTINGS
    }
    return dataclasses.replace(fit, thresholds=thresholds)


def _fit_weights(
    member_probs: NDArray[np.float64], labels: NDArray[np.int64], weighting: str, weights: Sequence[float] | None
) -> list[float]:
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
        if found.sum() == 0:
            raise InputError("no member ranks validation images better than chance; there is nothing to weight by.")
    elif weighting == "logloss":
        found = _least_log_loss(member_probs, labels)
    else:
        raise InputError(f"--weighting {weighting}: must be one of {', '.join(WEIGHTINGS)}.")
    return [float(weight) for weight in found / found.sum()]


def _least_log_loss(member_probs: NDArray[np.float64], labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """Weights on the simplex with the least log-loss of the weighted mean; a convex problem."""
    members = member_probs.shape[1]
    of_truth = np.where(labels[:, None] == 1, member_probs, 1 - member_probs).clip(1e-7, 1)

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


def member_logits(tables: Mapping[str, pd.DataFrame]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Stack the members' predictions.

    Args:
        tables: Predictions by member.

    Returns:
        Logits of shape `(images, members, 2)` and labels of shape `(images,)`.

    Raises:
        InputError: If the members were not scored on the same rows.
    """
    first_name, first = next(iter(tables.items()))
    for name, table in tables.items():
        if len(table) != len(first):
            raise InputError(
                f"{name} was scored on {len(table)} images and {first_name} on {len(first)}; "
                "members of an ensemble need the same validation images."
            )
        differs = ((table["image"] != first["image"]) | (table["label"] != first["label"])).to_numpy()
        if differs.any():
            row = int(differs.argmax())
            here, there = (f"{rows['image'][row]} (label {rows['label'][row]})" for rows in (table, first))
            raise InputError(
                f"{name} and {first_name} were scored on different images: row {row} is {here} in one and {there} in the "
                "other. Train members on one data set with one --split_seed."
            )
    logits = [table[["logit_real", "logit_fake"]].to_numpy(dtype=np.float64) for table in tables.values()]
    return np.stack(logits, axis=1), first["label"].to_numpy(dtype=np.int64)
