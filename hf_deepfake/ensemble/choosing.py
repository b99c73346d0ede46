"""Does weighting the members help? Answered on images that a fit has not seen, and plain voting kept unless it does."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table

from hf_deepfake.ensemble.fitting import Fit, cross_fitted, fit_ensemble, member_logits
from hf_deepfake.ensemble.folds import units_of
from hf_deepfake.ensemble.weighting import WEIGHTINGS
from hf_deepfake.evaluation.comparing import roc_auc_difference
from hf_deepfake.evaluation.metrics import detection_metrics
from hf_deepfake.evaluation.tables import format_metric

_FEWEST = 20
"""Images of each class below which nothing is said about weighting."""

_METRICS = {"roc_auc": "ROC AUC", "balanced_accuracy": "balanced acc.", "log_loss": "log-loss", "ece": "ECE"}


def choose_fit(validation: Mapping[str, pd.DataFrame], choices: Mapping[str, Any]) -> tuple[Fit, dict[str, Any]]:
    """Fit an ensemble; where its kind of voting is open, weight its members only if that is better beyond noise.

    Every way to vote is cross-fitted (units of `units_of` are left out together). Weighted voting is kept where its
    log-loss is below that of soft voting by more than a paired bootstrap over units explains and it ranks no worse.
    Weights given by hand and an explicit soft or hard vote are the user's will and stay.

    Args:
        validation: Predictions by member, of the same images in the same order.
        choices: Of `fit_ensemble`; without `voting`, or with `weighted`, the kind of voting is open.

    Returns:
        The fit, and `choice` of results.json: `asked`, `voting`, `weighting`, `because`, and as far as there are images
        enough `left_out` (`group`, `source` or `image`), `cross_fitted` (metrics by vote) and `difference` (weighted minus
        soft).

    Raises:
        InputError: As `fit_ensemble`.
    """
    logits, labels = member_logits(validation)
    table = next(iter(validation.values()))
    units, left_out = units_of(table)
    asked, weighting = choices.get("voting"), choices.get("weighting") or "stacking"
    choices = {**choices, "voting": asked or "weighted", "weighting": weighting}
    fit = fit_ensemble(logits, labels, units=units, **choices)
    choice: dict[str, Any] = {"asked": asked, "weighting": weighting}
    votes = _cross_fitted_votes(logits, labels, units, choices)
    if votes:
        choice |= {
            "left_out": left_out,
            "cross_fitted": {name: _metrics(labels, *vote) for name, vote in votes.items()},
            "difference": _difference(labels, votes[_weighted(weighting)][0], votes["soft voting"][0], units),
        }
    voting, because = _decide(choice, fit, len(validation), labels)
    return dataclasses.replace(fit, voting=voting), choice | {"voting": voting, "because": because}


def _weighted(weighting: str) -> str:
    return f"weighted voting ({weighting})"


def _cross_fitted_votes(
    logits: NDArray[np.float64], labels: NDArray[np.int64], units: NDArray[np.int64], choices: Mapping[str, Any]
) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Probabilities and thresholds by vote; empty where a class has too few images, or one member leaves no choice."""
    if logits.shape[1] == 1 or np.bincount(labels, minlength=2).min() < _FEWEST:
        return {}
    votes: dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    given = {name: value for name, value in choices.items() if name not in ("weights", "weighting", "target_error")}
    for weighting in WEIGHTINGS:
        if weighting == "manual" and choices["weighting"] != "manual":
            continue
        weights = choices.get("weights") if weighting == "manual" else None
        predicted = cross_fitted(logits, labels, units, **given, weighting=weighting, weights=weights)
        kinds = {"soft": "soft voting", "hard": "hard voting", "weighted": _weighted(weighting)}
        votes |= {name: (predicted[kind], predicted[f"{kind}_threshold"]) for kind, name in kinds.items() if predicted}
    return votes if _weighted(choices["weighting"]) in votes else {}


def _metrics(
    labels: NDArray[np.int64], prob_fake: NDArray[np.float64], thresholds: NDArray[np.float64]
) -> dict[str, float]:
    """Metrics of cross-fitted probabilities, each image judged at the threshold of the fit that has not seen it."""
    measured = detection_metrics(labels, prob_fake)
    right = (prob_fake >= thresholds) == (labels == 1)
    balanced = (right[labels == 0].mean() + right[labels == 1].mean()) / 2
    return {name: measured[name] for name in _METRICS} | {"balanced_accuracy": float(balanced)}


def _difference(
    labels: NDArray[np.int64],
    weighted: NDArray[np.float64],
    soft: NDArray[np.float64],
    units: NDArray[np.int64],
    resamples: int = 1000,
) -> dict[str, float]:
    """Weighted minus soft, each with its 95 % interval: log-loss by a paired bootstrap over units, ROC AUC by DeLong."""
    of_truth = [np.where(labels == 1, probs, 1 - probs).clip(1e-7) for probs in (weighted, soft)]
    differences = np.log(of_truth[1]) - np.log(of_truth[0])
    sums, sizes = np.bincount(units, weights=differences), np.bincount(units)
    generator = np.random.default_rng(0)
    draws = (generator.integers(len(sums), size=len(sums)) for _ in range(resamples))
    low, high = np.percentile([sums[drawn].sum() / sizes[drawn].sum() for drawn in draws], (2.5, 97.5))
    log_loss = {"log_loss": float(differences.mean()), "log_loss_low": float(low), "log_loss_high": float(high)}
    ranking, _ = roc_auc_difference(labels == 1, weighted, soft, units.tolist())
    return log_loss | {name.replace("_difference", ""): value for name, value in ranking.items()}


def _decide(choice: Mapping[str, Any], fit: Fit, members: int, labels: NDArray[np.int64]) -> tuple[str, str]:
    """Kind of voting, and why in a sentence."""
    if choice["asked"] in ("soft", "hard"):
        return fit.voting, f"{fit.voting} voting was asked for"
    if choice["weighting"] == "manual":
        return "weighted", "the weights were given by hand"
    if members == 1:
        return "soft", "one member leaves nothing to weight"
    if "difference" not in choice:
        real, fake = np.bincount(labels, minlength=2)
        return (
            "soft",
            f"{real} real and {fake} fake images are too few to tell whether weights help (needs {_FEWEST} each)",
        )
    difference = choice["difference"]
    measured = (
        f"cross-fitted log-loss {difference['log_loss']:+.4f} "
        f"[{difference['log_loss_low']:+.4f}, {difference['log_loss_high']:+.4f}], ROC AUC {difference['roc_auc']:+.4f}"
    )
    if difference["log_loss_high"] < 0 <= difference["roc_auc"]:
        return "weighted", f"{choice['weighting']} weights beat soft voting beyond noise: {measured}"
    return "soft", f"{choice['weighting']} weights do not beat soft voting beyond noise: {measured}"


def choice_table(choice: Mapping[str, Any]) -> Table:
    """Every way to vote, cross-fitted, for a terminal of 80 columns."""
    table = Table(
        title=f"ways to vote, cross-fitted by {choice['left_out']}",
        caption="each image judged by a fit that has not seen it",
    )
    table.add_column("vote")
    for title in _METRICS.values():
        table.add_column(title.replace(" ", "\n"), justify="right")
    for name, metrics in choice["cross_fitted"].items():
        table.add_row(name, *(format_metric(metrics, metric) for metric in _METRICS))
    return table


def choice_lines(results: Mapping[str, Any]) -> list[str]:
    """The choice and the votes that it was made among, for a model card; nothing where results hold none."""
    choice = results.get("choice")
    if choice is None:
        return []
    lines = [f"Why {choice['voting']} voting: {choice['because']}.", ""]
    if "cross_fitted" in choice:
        lines += [
            f"| vote, cross-fitted by {choice['left_out']} | {' | '.join(_METRICS.values())} |",
            "|---" * (len(_METRICS) + 1) + "|",
            *(
                f"| {name} | {' | '.join(format_metric(metrics, metric) for metric in _METRICS)} |"
                for name, metrics in choice["cross_fitted"].items()
            ),
            "",
        ]
    return lines
