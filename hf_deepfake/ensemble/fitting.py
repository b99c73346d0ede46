"""Temperatures, weights and thresholds of an ensemble, from its members' validation predictions."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.special import logit

from hf_deepfake.ensemble.folds import splits
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import VOTINGS
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import VOTE_SETTINGS, member_probabilities, vote
from hf_deepfake.ensemble.weighting import fit_weights, pooling_of
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.calibration import fit_calibration, fit_threshold
from hf_deepfake.evaluation.selective import fit_band


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
    pooling: str = "probability"

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
    weighting: str = "stacking",
    weights: Sequence[float] | None = None,
    calibration: str = "temperature",
    threshold: str = "youden",
    target_error: float | None = None,
    units: NDArray[np.int64] | None = None,
) -> Fit:
    """Fit how members vote, on validation predictions only.

    Args:
        member_logits: Shape `(images, members, 2)`, columns real and fake.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        voting: `soft`, `hard` or `weighted`; thresholds are fitted for all three.
        weighting: Of the weighted vote, see `fit_weights`.
        weights: One a member, for `manual`.
        calibration: Of each member, and once more of the soft and the weighted vote; see `fit_calibration`.
        threshold: Purpose of the thresholds, see `fit_threshold`. The hard vote's own is always a majority.
        target_error: Share of wrong verdicts to stay below by calling images `uncertain`, see `fit_band`; None for a verdict
            on every image.
        units: What of the images is independent of each other, see `units_of`; each image by default.

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
        weights=fit_weights(member_probs, labels, weighting, weights, units),
        pooling=pooling_of(weighting),
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
    units: NDArray[np.int64] | None = None,
    **choices: Any,
) -> dict[str, NDArray[np.float64]]:
    """Probabilities of each image by a fit that has not seen it, nor its unit: what the fit is worth elsewhere.

    Args:
        member_logits: Shape `(images, members, 2)`.
        labels: Shape `(images,)`.
        units: What is left out together, see `units_of`; each image by default.
        choices: Of `fit_ensemble`.

    Returns:
        `members`, shape `(images, members)`; `pooled`, the chosen vote of calibrated members before it is calibrated once
        more; under the name of each kind of voting its calibrated vote, and under that name with `_threshold` the threshold
        of that fit, all of shape `(images,)`. Empty where there are too few images or units to leave any out.
    """
    predicted = {
        name: np.zeros(len(labels)) for name in ("pooled", *VOTINGS, *(f"{kind}_threshold" for kind in VOTINGS))
    }
    predicted["members"] = np.zeros(member_logits.shape[:2])
    parts = list(splits(labels, units))
    for rest, part in parts:
        try:
            of_rest = None if units is None else np.unique(units[rest], return_inverse=True)[1]
            fit = fit_ensemble(member_logits[rest], labels[rest], units=of_rest, **choices)
        except InputError:  # no member of this part is above chance, say
            return {}
        predicted["members"][part] = fit.member_probs(member_logits[part])
        predicted["pooled"][part] = fit.prob_fake(member_logits[part], calibrated=False)
        for kind in VOTINGS:
            predicted[kind][part] = fit.prob_fake(member_logits[part], kind)
            predicted[f"{kind}_threshold"][part] = fit.thresholds[kind]
    return predicted if sum(len(part) for _, part in parts) == len(labels) > 0 else {}


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
    return stack_logits(tables), first["label"].to_numpy(dtype=np.int64)


def stack_logits(tables: Mapping[str, pd.DataFrame]) -> NDArray[np.float64]:
    """Logits of members that were scored on the same rows, shape `(images, members, 2)`."""
    logits = [table[["logit_real", "logit_fake"]].to_numpy(dtype=np.float64) for table in tables.values()]
    return np.stack(logits, axis=1)
