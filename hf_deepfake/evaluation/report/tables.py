"""Tables of a report: figures with their intervals, printed on the page and kept as numbers."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn.metrics

from hf_deepfake.evaluation.report.runs import Run
from hf_deepfake.labels import NAMES
from hf_deepfake.printing import printable

SPACE = "\u00a0"  # keeps a number and its sign on one line


@dataclass(frozen=True)
class Value:
    """A figure with its 95 % interval, where there is one; `share` is printed in per cent."""

    value: float
    low: float | None = None
    high: float | None = None
    share: bool = False

    def __str__(self) -> str:
        return f"{self.number} {self.interval}".rstrip(" ")

    @property
    def number(self) -> str:
        """The figure alone."""
        return f"{self._digits(self.value)}{SPACE + '%' if self.share else ''}"

    @property
    def interval(self) -> str:
        """Its interval in brackets, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"[{self._digits(self.low)},{SPACE}{self._digits(self.high)}]"

    def _digits(self, number: float) -> str:
        return f"{100 * number:.1f}" if self.share else f"{number:.3f}"


@dataclass(frozen=True)
class Mark:
    """Words in the colour of a verdict: `ok`, `warning`, `fail` or `soft`."""

    text: str
    kind: str

    def __str__(self) -> str:
        return self.text


Cell = str | int | Value | Mark | dict[str, Value] | None


@dataclass(frozen=True)
class Table:
    """What a table of the page holds; None is printed as not defined.

    With `grouped` 1 the first column is printed as a line above the rows that share it.
    """

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""
    grouped: int = 0

    def numeric(self) -> list[bool]:
        """Which columns hold figures."""
        figures = (int, Value)
        return [any(isinstance(row[index], figures) for row in self.rows) for index in range(len(self.columns))]


_SHARES = frozenset(
    "accuracy balanced_accuracy false_positive_rate false_negative_rate flipped coverage error_rate "
    "tpr_at_fpr_1pct".split()
)
_COLUMNS = {
    "roc_auc": "ROC AUC",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "false_positive_rate": "real called fake",
    "false_negative_rate": "fakes missed",
    "f1": "F1",
    "eer": "EER",
    "ece": "ECE",
}


def value(figures: dict[str, Any], metric: str) -> Value | None:
    """A metric of a table of figures, or None where it is not defined.

    Figures of before `false_negative_rate` was one of the metrics have it in `recall`.

    Example:
        >>> str(value({"eer": 0.1, "eer_low": 0.05, "eer_high": 0.2}, "eer")).replace(SPACE, " ")
        '0.100 [0.050, 0.200]'
        >>> str(value({"recall": 0.75}, "false_negative_rate")).replace(SPACE, " ")
        '25.0 %'
    """
    if metric == "false_negative_rate" and metric not in figures:
        found = [finite(figures.get(f"recall{end}")) for end in ("", "_high", "_low")]
        number, low, high = (None if rate is None else 1 - rate for rate in found)
    else:
        number, low, high = (finite(figures.get(f"{metric}{end}")) for end in ("", "_low", "_high"))
    return None if number is None else Value(number, low, high, share=metric in _SHARES)


def finite(number: Any) -> float | None:
    """A number, or None for what is none or not finite."""
    return float(number) if isinstance(number, int | float) and math.isfinite(number) else None


def counts(figures: dict[str, Any]) -> tuple[int, int] | None:
    """Real and fake images that figures were measured on."""
    matrix = figures.get("confusion_matrix")
    return (sum(matrix[0]), sum(matrix[1])) if matrix else None


def benchmarks(runs: Iterable[Run]) -> list[str]:
    """Names of all benchmarks, those that picked something last."""
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    return sorted(names, key=lambda name: name == "validation")


def models_table(runs: list[Run]) -> Table:
    """Models and benchmarks with 95 % intervals; overlap with the training images is marked."""
    rows: list[list[Cell]] = []
    for benchmark in benchmarks(runs):
        for run in runs:
            if benchmark in run.metrics:
                figures = run.metrics[benchmark]
                real, fake = counts(figures) or (None, None)
                cells = [value(figures, metric) for metric in _COLUMNS]
                threshold = Value(run.threshold(benchmark))
                rows.append([benchmark, run.name, _standing(benchmark, figures), real, fake, threshold, *cells])
    note = (
        "In brackets 95 % bootstrap intervals, by group where groups are known. A share of 0 or 100 % has an empty "
        "interval: with n images, rates up to about 3/n can stand behind it. ROC AUC: 1 is perfect, 0.5 is guessing. "
        "EER: rate at which false alarms and misses are equally frequent. ECE: mean distance between stated "
        "probability and share of fakes."
    )
    columns = ["benchmark", "model", "standing", "real", "fake", "threshold", *_COLUMNS.values()]
    return Table("All figures", columns, rows, note, grouped=1)


def _standing(benchmark: str, figures: dict[str, Any]) -> Mark:
    if figures.get("seen_in_training"):
        return Mark(f"{figures['seen_in_training']} images ALSO IN TRAINING", "fail")
    if benchmark == "validation":
        return Mark("picked settings: optimistic", "warning")
    if "unseen" not in figures:
        return Mark("not in training" if figures.get("seen_in_training") == 0 else "not known", "soft")
    return Mark("unseen sources", "ok") if figures["unseen"] else Mark("sources seen in training", "soft")


_VOTING = "Members as they came out of training, at 0.5; votes calibrated, at their thresholds."


def voting_tables(runs: list[Run]) -> list[Table]:
    """Each ensemble's members and kinds of voting side by side."""
    metrics = ["roc_auc", "accuracy", "false_positive_rate", "false_negative_rate", "ece"]
    columns = ["model", *(_COLUMNS[metric] for metric in metrics)]
    tables = []
    for run in runs:
        for split, models in run.results.get("comparison", {}).items():
            rows: list[list[Cell]] = [
                [printable(name), *(value(figures, metric) for metric in metrics)] for name, figures in models.items()
            ]
            tables.append(Table(f"Members and votes of {run.name} on {split}", columns, rows, _VOTING))
    return tables


def training_table(runs: list[Run]) -> Table | None:
    """Images, steps and time of each training."""
    rows: list[list[Cell]] = []
    for run in runs:
        training, data = run.results.get("training", {}), run.results.get("data", {})
        if training or data:
            images = "; ".join(
                f"{split}: {part.get('real')} real, {part.get('fake')} fake" for split, part in data.items()
            )
            seconds = finite(training.get("seconds"))
            time = None if seconds is None else f"{seconds / 60:.1f}{SPACE}min"
            rows.append([run.name, images, training.get("best_step"), training.get("steps"), time])
    columns = ["model", "images", "best step", "steps", "time"]
    return Table("Images and steps", columns, rows) if rows else None


def calibration_table(runs: list[Run]) -> Table | None:
    """Calibration before and after its fit, on validation."""
    rows: list[list[Cell]] = []
    for run in runs:
        for name, parts in run.results.get("calibration", {}).items():
            cells = [
                value(parts.get(when, {}), key) for key in ("ece", "brier", "log_loss") for when in ("before", "after")
            ]
            chance = value(parts.get("after", {}), "ece_of_chance")
            rows.append([run.name, printable(name), *cells[:2], chance, *cells[2:]])
    columns = [
        "model",
        "scores of",
        "ECE before",
        "ECE after",
        "ECE of chance",
        *(f"{key} {when}" for key in ("Brier", "log-loss") for when in ("before", "after")),
    ]
    note = "On validation images; after: each image's calibration was fitted on the others (cross-fitting). Lower is better. ECE of chance: what perfect probabilities would show on so few images."
    return Table("Before and after calibration", columns, rows, note) if rows else None


def operating_table(runs: list[Run]) -> Table | None:
    """Thresholds by purpose with the two rates of error that go with each."""
    rows: list[list[Cell]] = []
    for run in runs:
        for purpose, point in run.results.get("operating_points", {}).items():
            for split, rates in point.items():
                if isinstance(rates, dict):
                    cells = [value(rates, metric) for metric in ("false_positive_rate", "false_negative_rate")]
                    rows.append([run.name, purpose, value(point, "threshold"), split, *cells])
    note = (
        "youden: most fakes found less real photographs called fake. eer: both errors equally frequent. f1: best F1. "
        "fpr=0.01: at most 1 % of real validation photographs called fake. fixed: 0.5."
    )
    columns = ["model", "purpose", "threshold", "measured on", "real called fake", "fakes missed"]
    return Table("Thresholds by purpose", columns, rows, note) if rows else None


def uncertain_table(runs: list[Run]) -> Table | None:
    """The band without a verdict, and what is left outside of it."""
    rows: list[list[Cell]] = []
    for run in runs:
        uncertain = run.results.get("uncertain", {})
        if run.band:
            band = f"{run.band[0]:.3f} to {run.band[1]:.3f}"
            target = value({"error_rate": uncertain.get("target_error")}, "error_rate")
            for split, part in uncertain.get("rates", {}).items():
                rows.append([run.name, target, band, split, value(part, "coverage"), value(part, "error_rate")])
    columns = [
        "model",
        "error aimed at",
        "no verdict between",
        "measured on",
        "images with a verdict",
        "errors among them",
    ]
    return Table("Uncertain band", columns, rows) if rows else None


def aurc_table(runs: list[Run]) -> Table | None:
    """Area under the risk-coverage curve."""
    rows: list[list[Cell]] = [
        [benchmark, run.name, value(run.metrics[benchmark], "aurc")]
        for benchmark in benchmarks(runs)
        for run in runs
        if "aurc" in run.metrics.get(benchmark, {})
    ]
    note = "AURC: mean error rate over all coverages, the surest images first; lower is better."
    return Table("Area under the risk-coverage curve", ["benchmark", "model", "AURC"], rows, note) if rows else None


def sources_table(runs: list[Run], key: str, title: str, note: str) -> Table | None:
    """Figures of each source: `sources`, or `leave_one_source_out`."""
    rows: list[list[Cell]] = []
    for run in runs:
        for benchmark, sources in run.results.get(key, {}).items():
            for source, figures in sources.items():
                unseen = {True: Mark("unseen", "ok"), False: Mark("seen in training", "soft")}.get(
                    figures.get("unseen"), ""
                )
                cells = [
                    value(figures, name)
                    for name in ("roc_auc", "accuracy", "false_positive_rate", "false_negative_rate")
                ]
                rows.append([run.name, benchmark, printable(source), unseen, figures.get("images"), *cells])
    columns = [
        "model",
        "benchmark",
        "source",
        "standing",
        "images",
        "ROC AUC",
        "accuracy",
        "real called fake",
        "fakes missed",
    ]
    if not any(row[3] for row in rows):
        columns.pop(3)
        rows = [row[:3] + row[4:] for row in rows]
    return Table(title, columns, rows, note) if rows else None


def classification_table(runs: list[Run]) -> Table | None:
    """scikit-learn's classification report of every model and benchmark, from the confusion matrices."""
    rows: list[list[Cell]] = []
    for benchmark in benchmarks(runs):
        for run in runs:
            matrix = run.metrics.get(benchmark, {}).get("confusion_matrix")
            if matrix:
                rows += [[benchmark, run.name, *line] for line in _classification(matrix)]
    columns = ["benchmark", "model", "class", "precision", "recall", "F1", "images"]
    note = "macro: mean of the two classes; weighted: by their images. Not defined where nothing is called so or there is no such image."
    return Table("Precision, recall and F1", columns, rows, note, grouped=1) if rows else None


def _classification(matrix: list[list[int]]) -> list[list[Cell]]:
    truth, verdicts, images = [0, 0, 1, 1], [0, 1, 0, 1], np.ravel(matrix)
    measure: Callable[..., Any] = sklearn.metrics.precision_recall_fscore_support
    options = {"labels": [0, 1], "sample_weight": images, "zero_division": np.nan}
    each = np.array(measure(truth, verdicts, **options)).T
    lines: list[list[Cell]] = [
        [name, *(value({"f1": number}, "f1") for number in numbers[:3]), int(numbers[3])]
        for name, numbers in zip(NAMES, each, strict=True)
    ]
    present = bool(min(sum(row) for row in matrix))
    for average in ("macro", "weighted") if present else ():
        numbers = measure(truth, verdicts, average=average, **options)[:3]
        lines.append([average, *(value({"f1": number}, "f1") for number in numbers), int(images.sum())])
    return lines
