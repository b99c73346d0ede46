"""What a report is made of: the files of runs, ensembles and evaluations, read and checked."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn.metrics

from hf_deepfake.data.corruptions import SEVERITIES
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import load_results
from hf_deepfake.evaluation.metrics import INTERVALS
from hf_deepfake.evaluation.predictions import load_predictions
from hf_deepfake.printing import first_line, printable
from hf_deepfake.recipe import load_recipe

_LEVELS = {
    "metrics": 1,
    "comparison": 2,
    "calibration": 2,
    "operating_points": 1,
    "sources": 2,
    "leave_one_source_out": 2,
    "robustness": 3,
    "adversarial": 2,
    "data": 1,
    "uncertain": 0,
    "ensemble": 0,
    "training": 0,
    "environment": 0,
}
"""Keys of results.json and how many names lead from each to a table of figures."""

_NUMBERS = {f"{name}{end}" for name in (*INTERVALS, "flipped", "coverage") for end in ("", "_low", "_high")}

_SHAPES = {"confusion_matrix": (2, 2), "band": (2,)}


@dataclass(frozen=True)
class Run:
    """One model's figures and what they were made from."""

    name: str
    folder: Path
    results: dict[str, Any]
    predictions: dict[str, pd.DataFrame]
    history: list[dict[str, Any]]
    recipe: dict[str, Any]

    @property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """Figures by benchmark."""
        metrics: dict[str, dict[str, Any]] = self.results["metrics"]
        return metrics

    @property
    def band(self) -> list[float] | None:
        """Probabilities between which no verdict is given."""
        band: list[float] | None = self.results.get("uncertain", {}).get("band")
        return band

    def threshold(self, benchmark: str) -> float:
        """Probability from which the verdict on a benchmark's images is fake."""
        return float(self.metrics[benchmark].get("threshold", 0.5))


def read_runs(folders: Sequence[Path]) -> tuple[list[Run], dict[str, list[dict[str, Any]]]]:
    """Read folders with a results.json, or with one in each folder below.

    Args:
        folders: Run directories, ensembles, evaluations of one or of several models.

    Returns:
        The runs, no two of one name, and the paired comparisons of comparison.json by benchmark, in those names.

    Raises:
        InputError: If there is no results.json, a file is damaged, or predictions are not those of the figures.
    """
    pairs: dict[str, list[dict[str, Any]]] = {}
    runs: dict[Path, Run] = {}
    compared: dict[Path, dict[str, Any]] = {}
    for folder in folders:
        for part in _parts(folder):
            runs.setdefault(part.resolve(), _read_run(part.resolve(), part))
        if (folder / "comparison.json").is_file():
            compared[folder.resolve()] = _read_comparison(folder / "comparison.json")
    named = _distinct(list(runs.values()))
    for folder, comparison in compared.items():
        names = {run.folder.name: run.name for run in named if run.folder.parent == folder}
        for benchmark, rows in comparison.items():
            pairs.setdefault(benchmark, []).extend(
                row | {end: names.get(row[end], row[end]) for end in ("first", "second")} for row in rows
            )
    return named, pairs


def _parts(folder: Path) -> list[Path]:
    if (folder / "results.json").is_file():
        return [folder]
    parts = sorted(file.parent for file in folder.glob("*/results.json"))
    if not parts:
        raise InputError(
            f"{folder}: holds no results.json, nor does a folder in it; name what hf-deepfake train, ensemble or "
            "evaluate wrote."
        )
    return parts


def _read_run(folder: Path, given: Path) -> Run:
    results = load_results(given)
    path = given / "results.json"
    if not isinstance(results, dict) or not results.get("metrics"):
        raise InputError(f"{path}: holds no metrics; measure the model again.")
    for key, levels in _LEVELS.items():
        _check(results.get(key, {}), levels, f"{path}: {key}")
    severities = {
        severity
        for corruptions in results.get("robustness", {}).values()
        for parts in corruptions.values()
        for severity in parts
    }
    if odd := sorted(severities - set(map(str, SEVERITIES))):
        raise InputError(f"{path}: robustness: is damaged: {odd[0]!r} is no severity; measure the model again.")
    recipe = given / "recipe.yaml"
    predictions = {}
    for benchmark, metrics in results["metrics"].items():
        table = given / "predictions" / f"{benchmark}.parquet"
        if table.is_file():
            predictions[benchmark] = _read_predictions(table, metrics)
    return Run(
        name=printable(str(results.get("model") or folder.name)),
        folder=folder,
        results=results,
        predictions=predictions,
        history=_read_history(given / "trainer_state.json"),
        recipe=load_recipe(recipe) if recipe.is_file() else {},
    )


def _check(value: Any, levels: int, where: str) -> None:
    if levels and isinstance(value, list):
        value = dict(enumerate(value))
    if not isinstance(value, dict):
        raise InputError(f"{where}: is damaged: {value!r:.60} stands where figures should; measure the model again.")
    for name, part in value.items():
        if levels:
            _check(part, levels - 1, f"{where}.{name}")
        elif name in _NUMBERS and not (part is None or isinstance(part, int | float)):
            raise InputError(f"{where}.{name}: is damaged: {part!r:.60} is no number; measure the model again.")
        elif name in _SHAPES and np.shape(part) != _SHAPES[name]:
            raise InputError(f"{where}.{name}: is damaged: {part!r:.60}; measure the model again.")


def _read_predictions(path: Path, metrics: dict[str, Any]) -> pd.DataFrame:
    table = load_predictions(path)
    if "threshold" in metrics and "confusion_matrix" in metrics:
        verdicts = table["prob_fake"] >= metrics["threshold"]
        counted = sklearn.metrics.confusion_matrix(table["label"], verdicts, labels=[0, 1]).tolist()
        if counted != metrics["confusion_matrix"]:
            raise InputError(
                f"{path}: gives the confusion matrix {counted}, results.json has {metrics['confusion_matrix']}; "
                "they are of different measurements. Measure the model again."
            )
    return table


def _read_history(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        history: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["log_history"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
    return history


def _read_comparison(path: Path) -> dict[str, Any]:
    try:
        comparison: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        whole = all({"first", "second"} <= row.keys() for rows in comparison.values() for row in rows)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: cannot be read: {first_line(error)}") from error
    if not whole:
        raise InputError(f"{path}: is damaged: a comparison names no two models; run hf-deepfake evaluate again.")
    return comparison


def _distinct(runs: list[Run]) -> list[Run]:
    """Runs of one name get as much of their folder as tells them apart."""
    named = []
    counts = Counter(run.name for run in runs)
    for run in runs:
        alike = [other.folder.parts for other in runs if other.name == run.name and other is not run]
        depth = 1
        while any(parts[-depth:] == run.folder.parts[-depth:] for parts in alike):
            depth += 1
        tail = printable("/".join(run.folder.parts[-depth:]))
        named.append(replace(run, name=f"{run.name} ({tail})") if counts[run.name] > 1 else run)
    return named
