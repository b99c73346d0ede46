"""What an ensemble's fit is worth: every member and vote, before and after calibration, at every purpose's threshold."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from hf_deepfake.ensemble.diversity import member_diversity, plot_diversity
from hf_deepfake.ensemble.fitting import Fit, cross_fitted, member_logits
from hf_deepfake.ensemble.folds import units_of
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import VOTINGS
from hf_deepfake.evaluation.benchmark import benchmark_metrics
from hf_deepfake.evaluation.calibration import PURPOSES, ece_of_chance, fit_threshold
from hf_deepfake.evaluation.metrics import detection_metrics
from hf_deepfake.evaluation.plots import plot_benchmark, plot_comparison, plot_reliability
from hf_deepfake.evaluation.predictions import save_predictions
from hf_deepfake.evaluation.selective import band_rates

Tables = Mapping[str, Mapping[str, pd.DataFrame]]
"""Predictions by split and member."""

_CALIBRATION_METRICS = ("ece", "brier", "log_loss")
_RATES = [f"{rate}{end}" for rate in ("false_positive_rate", "false_negative_rate") for end in ("", "_low", "_high")]


MEMBER_COLUMN = "log_odds_"
"""Start of the columns of saved predictions that hold each member's uncalibrated log-odds of fake."""


def measure_fit(tables: Tables, fit: Fit, choices: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Everything that results.json says of a fit; predictions and plots are saved in `folder`.

    Args:
        tables: Predictions by split (`validation`, on which the fit was made, and perhaps `test`) and member.
        fit: Of these members.
        choices: That the fit was made with, of `fit_ensemble`.
        folder: Gets `predictions/` and `plots/`.
    """
    choices = {**choices, "voting": fit.voting}
    results = {
        **measure_votes(tables, fit, folder),
        "calibration": measure_calibration(tables["validation"], choices, folder),
        **measure_thresholds(tables, fit, choices),
        "choices": choices,
        "ensemble": {"members": list(tables["validation"])} | dataclasses.asdict(fit),
    }
    return results | ({"diversity": measure_diversity(tables, fit, folder)} if len(fit.weights) > 1 else {})


def measure_diversity(tables: Tables, fit: Fit, folder: Path) -> dict[str, Any]:
    """How differently the members err, on test images where there are any."""
    split = "test" if "test" in tables else "validation"
    logits, labels = member_logits(tables[split])
    names = list(tables[split])
    diversity = member_diversity(names, labels, fit.member_probs(logits), fit.member_thresholds)
    plot_diversity(diversity, folder / "plots" / "diversity.png")
    return diversity | {"split": split}


def measure_votes(tables: Tables, fit: Fit, folder: Path) -> dict[str, Any]:
    """Vote on every split, save and draw it, and compare members (uncalibrated, at 0.5) with votings.

    Returns:
        `metrics` and `comparison` of results.json.
    """
    metrics, comparison = {}, {}
    for benchmark, members in tables.items():
        logits, _ = member_logits(members)
        rows = {name: benchmark_metrics(table) for name, table in members.items()}
        for voting in VOTINGS:
            table = _voted_table(members, fit.prob_fake(logits, voting))
            rows[f"{voting} voting"] = benchmark_metrics(table, fit.thresholds[voting])
            if voting == fit.voting:
                metrics[benchmark] = rows[f"{voting} voting"]
                save_predictions(table, folder / "predictions" / f"{benchmark}.parquet")
                plot_benchmark(table, benchmark, folder / "plots", fit.thresholds[voting])
        plot_comparison(rows, benchmark, folder / "plots" / f"comparison_{benchmark}.png")
        comparison[benchmark] = rows
    return {"metrics": metrics, "comparison": comparison}


def measure_calibration(
    validation: Mapping[str, pd.DataFrame], choices: Mapping[str, Any], folder: Path
) -> dict[str, Any]:
    """Calibration of each member and of the vote, before and after, on validation images that each fit has not seen.

    Returns:
        `ece`, `brier` and `log_loss` by member (and `vote`) and `before` or `after`, and for `after` what chance alone
        makes of `ece` on so many images (`ece_of_chance`); empty where there are too few images.
    """
    logits, labels = member_logits(validation)
    first = next(iter(validation.values()))
    after = cross_fitted(logits, labels, units_of(first)[0], **choices)
    if not after:
        return {}
    pairs = {
        name: (table["prob_fake"].to_numpy(), after["members"][:, member])
        for member, (name, table) in enumerate(validation.items())
    }
    if choices["voting"] != "hard":  # whose share of votes is no probability
        pairs["vote"] = after["pooled"], after[choices["voting"]]
        curves = dict(
            zip(("before: vote of calibrated members", "after: calibrated once more"), pairs["vote"], strict=True)
        )
        plot_reliability(labels, curves, "Reliability of the vote, cross-fitted", folder / "plots" / "calibration.png")
    return {
        name: {
            "before": _calibration_metrics(labels, before),
            "after": _calibration_metrics(labels, calibrated) | {"ece_of_chance": ece_of_chance(calibrated)},
        }
        for name, (before, calibrated) in pairs.items()
    }


def _calibration_metrics(labels: NDArray[np.int64], prob_fake: NDArray[np.float64]) -> dict[str, float]:
    metrics = detection_metrics(labels, prob_fake)
    return {name: metrics[name] for name in _CALIBRATION_METRICS}


def measure_thresholds(tables: Tables, fit: Fit, choices: Mapping[str, Any]) -> dict[str, Any]:
    """Error rates at the threshold of every purpose, each fitted on validation and measured on all splits.

    Returns:
        `operating_points` of results.json, and `uncertain` where the fit has a band.
    """
    voted = {
        split: _voted_table(members, fit.prob_fake(member_logits(members)[0])) for split, members in tables.items()
    }
    labels, prob_fake = (voted["validation"][column].to_numpy() for column in ("label", "prob_fake"))
    points: dict[str, Any] = {}
    purposes = (choices.get("threshold", "youden"), *PURPOSES) if fit.voting != "hard" else ("fixed",)  # a majority
    for purpose in dict.fromkeys(purposes):
        threshold = fit_threshold(labels, prob_fake, purpose)
        points[purpose] = {"threshold": threshold} | {
            split: {name: value for name, value in benchmark_metrics(table, threshold).items() if name in _RATES}
            for split, table in voted.items()
        }
    band = fit.uncertain_bands.get(fit.voting)
    if band is None:
        return {"operating_points": points}
    threshold = fit.thresholds[fit.voting]
    rates = {
        split: band_rates(table["label"].to_numpy(), table["prob_fake"].to_numpy(), threshold, band)
        for split, table in voted.items()
    }
    uncertain = {"target_error": choices["target_error"], "band": band, "rates": rates}
    return {"operating_points": points, "uncertain": uncertain}


def _voted_table(members: Mapping[str, pd.DataFrame], prob_fake: NDArray[np.float64]) -> pd.DataFrame:
    """The vote in the columns of a detector, and each member's log-odds, so that the vote can be fitted again."""
    bounded = np.clip(prob_fake, 1e-7, 1 - 1e-7)
    voted = {"prob_fake": prob_fake, "logit_real": np.log(1 - bounded), "logit_fake": np.log(bounded)}
    log_odds = {f"{MEMBER_COLUMN}{name}": table["logit_fake"] - table["logit_real"] for name, table in members.items()}
    return next(iter(members.values())).assign(**voted, **log_odds)
