"""Temperatures, weights and thresholds of an ensemble, from its members' validation predictions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import logit
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import VOTINGS
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import VOTE_SETTINGS, member_probabilities, vote
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.calibration import fit_calibration, fit_threshold
from hf_deepfake.evaluation.selective import fit_band

WEIGHTINGS = ("metric", "logloss", "manual")


@dataclasses.dataclass(frozen=True)
class Fit:
    """What an ensemble's config holds of its members' calibration and vote, under the names of `EnsembleConfig`."""

    voting: str
    temperatures: list[float]
    weights: list[float]
    member_thresholds: list[float]
    thresholds: dict[str, float]
    biases: list[float] | None = None
    isotonic: list[list[list[float]] | None] | None = None
    vote_calibrations: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    uncertain_bands: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    def member_probs(self, member_logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each member's calibrated probability of fake, shape `(images, members)`."""
        probs = member_probabilities(
            torch.from_numpy(member_logits),
            temperatures=self.temperatures,
            biases=self.biases,
            isotonic=self.isotonic,
        )
        return np.asarray(probs, dtype=np.float64)

    def prob_fake(
        self, member_logits: NDArray[np.float64], voting: str | None = None, calibrated: bool = True
    ) -> NDArray[np.float64]:
        """Voted probability of fake, shape `(images,)`, from logits of shape `(images, members, 2)`.

        Without `calibrated`, the vote of the calibrated members before it is calibrated itself.
        """
        settings = {name: getattr(self, name) for name in VOTE_SETTINGS}
        settings |= {} if calibrated else {"vote_calibrations": {}}
        voted = vote(torch.from_numpy(member_logits), voting=voting or self.voting, **settings)
        return np.asarray(voted, dtype=np.float64)


def fit_ensemble(
    member_logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    voting: str = "soft",
    weighting: str = "logloss",
    weights: Sequence[float] | None = None,
    calibration: str = "temperature",
    threshold: str = "youden",
    target_error: float | None = None,
) -> Fit:
    """Fit how members vote, on validation predictions only.

    Args:
        member_logits: Shape `(images, members, 2)`, columns real and fake.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        voting: `soft`, `hard` or `weighted`; thresholds are fitted for all three.
        weighting: Of the weighted vote: `metric` (how far a member's ROC AUC is above chance), `logloss` (the point on
            the simplex with the least log-loss) or `manual` (`weights`).
        weights: One a member, for `manual`.
        calibration: Of each member, and once more of the soft and the weighted vote; see `fit_calibration`.
        threshold: Purpose of the thresholds, see `fit_threshold`. The hard vote's own is always a majority.
        target_error: Share of wrong verdicts to stay below by calling images `uncertain`, see `fit_band`; None for a verdict
            on every image.

    Raises:
        InputError: If a choice is unknown, the weights do not fit the members, or images of one class are missing.
    """
    members = member_logits.shape[1]
    if len(np.unique(labels)) < 2:
        raise InputError(f"an ensemble is fitted on real and fake images; these {len(labels)} are all of one class.")
    if voting not in VOTINGS:
        raise InputError(f"--voting {voting}: must be one of {', '.join(VOTINGS)}.")
    if target_error is not None and voting == "hard":
        raise InputError("--target_error: a share of hard votes has no band; take --voting soft or weighted.")
    log_odds = member_logits[..., 1] - member_logits[..., 0]
    calibrations = [fit_calibration(log_odds[:, member], labels, calibration) for member in range(members)]
    fit = Fit(
        voting=voting,
        temperatures=[found["temperature"] for found in calibrations],
        biases=[found["bias"] for found in calibrations],
        isotonic=[found["isotonic"] for found in calibrations],
        weights=[1.0] * members,
        member_thresholds=[0.5] * members,
        thresholds=dict.fromkeys(VOTINGS, 0.5),
    )
    member_probs = fit.member_probs(member_logits)
    fit = dataclasses.replace(
        fit,
        weights=_fit_weights(member_probs, labels, weighting, weights),
        member_thresholds=[fit_threshold(labels, member_probs[:, member], threshold) for member in range(members)],
    )
    pooled = {kind: logit(fit.prob_fake(member_logits, kind).clip(1e-7, 1 - 1e-7)) for kind in ("soft", "weighted")}
    if calibration != "none":
        again = {kind: fit_calibration(values, labels, calibration) for kind, values in pooled.items()}
        fit = dataclasses.replace(fit, vote_calibrations=again)
    voted = {kind: fit.prob_fake(member_logits, kind) for kind in pooled}
    thresholds = {"hard": 0.5} | {kind: fit_threshold(labels, voted[kind], threshold) for kind in pooled}
    bands: dict[str, list[float]] = {}
    if target_error is not None:
        bands = {kind: list(fit_band(labels, voted[kind], thresholds[kind], target_error)) for kind in pooled}
    return dataclasses.replace(fit, thresholds=thresholds, uncertain_bands=bands)


def cross_fitted(
    member_logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    groups: Sequence[str] | None = None,
    folds: int = 5,
    **choices: Any,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of each image by a fit that has not seen it, nor its group: what calibration is worth elsewhere.

    Args:
        member_logits: Shape `(images, members, 2)`.
        labels: Shape `(images,)`.
        groups: One an image; a group's images stay together.
        folds: Parts, each predicted by a fit on the others; fewer where a class or the groups are fewer.
        choices: Of `fit_ensemble`.

    Returns:
        `members`, shape `(images, members)`, `pooled` (the vote of the calibrated members) and `vote` (calibrated once
        more), shape `(images,)`; empty where there are too few images or groups to leave any out.
    """
    units = np.arange(len(labels)) if groups is None else np.unique(np.asarray(groups, str), return_inverse=True)[1]
    folds = min(folds, *(len(np.unique(units[labels == label])) for label in (0, 1)))
    if folds < 2:
        return {}
    predicted = {
        "members": np.zeros(member_logits.shape[:2]),
        "pooled": np.zeros(len(labels)),
        "vote": np.zeros(len(labels)),
    }
    for rest, part in StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(labels, labels, units):
        if len(np.unique(labels[rest])) < 2:
            return {}
        try:
            fit = fit_ensemble(member_logits[rest], labels[rest], **choices)
        except InputError:  # no member of this part is above chance, say
            return {}
        predicted["members"][part] = fit.member_probs(member_logits[part])
        predicted["pooled"][part] = fit.prob_fake(member_logits[part], calibrated=False)
        predicted["vote"][part] = fit.prob_fake(member_logits[part])
    return predicted


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
