"""Metrics by source: which camera is accused, which generator passes, and what a verdict is worth on a new one."""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import benchmark_metrics
from hf_deepfake.evaluation.calibration import fit_temperature, fit_threshold
from hf_deepfake.evaluation.metrics import INTERVALS
from hf_deepfake.labels import NAMES

OF_BOTH_CLASSES = (
    "average_precision",
    "balanced_accuracy",
    "eer",
    "f1",
    "pr_auc",
    "precision",
    "roc_auc",
    "tpr_at_fpr_1pct",
)
"""Metrics that need real and fake images side by side, or say little without."""


def by_source(table: pd.DataFrame, threshold: float, trained_on: set[str] | None = None) -> dict[str, dict[str, Any]]:
    """Metrics of each source with their 95 % intervals, by group where the table has groups.

    A source is often of one class: a generator has fakes only, a camera real images only. Its metrics of both classes
    (`OF_BOTH_CLASSES`: ranking, precision and the like) are then measured together with all images of the other class,
    whatever their source; every other metric, and `images`, is of its own images only.

    Args:
        table: Predictions with a column `source`; rows without a source count as images of the other class only.
        threshold: Probability from which the verdict is fake.
        trained_on: Sources that the model was trained on, where that is known.

    Returns:
        For each source the keys of `detection_metrics` with `{metric}_low` and `{metric}_high`; `others`, the number of
        images of the other class that were added; and `unseen`, whether no training image was of it, if that is known.

    Raises:
        InputError: If the table has no column `source`.
    """
    measured = {}
    for source in _sources(table):
        own = table[table["source"] == source]
        metrics = _measure(own, _others(table, own), threshold)
        measured[source] = metrics if trained_on is None else metrics | {"unseen": source not in trained_on}
    return measured


def leave_one_source_out(table: pd.DataFrame, purpose: str = "youden", seed: int = 0) -> dict[str, dict[str, Any]]:
    """Metrics of each source with a temperature and a threshold that were fitted on the other sources only.

    It says what a *verdict* is worth on a source that calibration has never seen. The detector itself is not trained
    again: if it was trained on the source, its ranking here is that of a source it knows. The images of a benchmark
    serve for fitting here, so no figure of this function may choose a model or a threshold.

    For a source of one class the images of the other class are halved, once for all sources and by group where the
    table has groups: one half for fitting, the other to measure with (see `by_source`).

    Args:
        table: Predictions with a column `source`.
        purpose: Of the threshold, see `fit_threshold`.
        seed: Of the halves.

    Returns:
        For each source what `by_source` returns and the fitted `temperature`; or, where the other sources have no
        images of one class, `images` and `undefined` alone.

    Raises:
        InputError: If the table has no column `source`, or the purpose is unknown.
    """
    table = table.reset_index(drop=True)
    for_fitting = _half(table, seed)
    measured: dict[str, dict[str, Any]] = {}
    for source in _sources(table):
        own = table[table["source"] == source]
        others = _others(table, own)
        others = others[~for_fitting[others.index]]
        rest = table.drop(index=own.index.union(others.index))
        missing = [name for label, name in enumerate(NAMES) if not (rest["label"] == label).any()]
        if missing:
            reason = f"no {' and no '.join(missing)} image of another source is left to fit on"
            measured[source] = {"images": len(own), "undefined": dict.fromkeys(INTERVALS, reason)}
            continue
        temperature = fit_temperature(_logits(rest), rest["label"].to_numpy())
        threshold = fit_threshold(rest["label"].to_numpy(), _calibrated(rest, temperature), purpose)
        own, others = (rows.assign(prob_fake=_calibrated(rows, temperature)) for rows in (own, others))
        measured[source] = _measure(own, others, threshold) | {"temperature": temperature}
    return measured


def _sources(table: pd.DataFrame) -> list[str]:
    if "source" not in table:
        raise InputError(
            f"the predictions have no column source (found {list(table.columns)}); name the sources of the images in a "
            "column source of their table."
        )
    return sorted(table["source"].dropna().unique())


def _others(table: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """Images of the class that a source lacks; none where it has both."""
    lacking = {0, 1} - set(own["label"])
    return table[table["label"].isin(lacking)]


def _measure(own: pd.DataFrame, others: pd.DataFrame, threshold: float) -> dict[str, Any]:
    metrics = benchmark_metrics(own, threshold)
    if len(others):
        together = benchmark_metrics(pd.concat([own, others]), threshold)
        names = [f"{name}{end}" for name in OF_BOTH_CLASSES for end in ("", "_low", "_high")]
        metrics = {name: value for name, value in metrics.items() if name not in names}
        metrics |= {name: together[name] for name in names if name in together}
        undefined = {name: reason for name, reason in metrics["undefined"].items() if name not in OF_BOTH_CLASSES}
        undefined |= {name: reason for name, reason in together["undefined"].items() if name in OF_BOTH_CLASSES}
        metrics["undefined"] = undefined
    return metrics | {"others": len(others)}


def _half(table: pd.DataFrame, seed: int) -> pd.Series:
    """For each row whether it is in the half for fitting: half of the groups, or images, of each class."""
    generator = np.random.default_rng(seed)
    units = table["group"].astype(str) if "group" in table else pd.Series(table.index, index=table.index)
    chosen = pd.Series(False, index=table.index)
    for label in (0, 1):
        of_class = units[table["label"] == label]
        names = np.sort(of_class.unique())
        chosen[of_class.index] = of_class.isin(generator.permutation(names)[: len(names) // 2])
    return chosen


def _logits(table: pd.DataFrame) -> NDArray[np.float64]:
    return np.asarray(table[["logit_real", "logit_fake"]].to_numpy(dtype=np.float64))


def _calibrated(table: pd.DataFrame, temperature: float) -> NDArray[np.float64]:
    logits = _logits(table)
    return np.asarray(expit((logits[:, 1] - logits[:, 0]) / temperature))
