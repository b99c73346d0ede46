"""Charts of a report: each is a PNG, a description in words, and the numbers that were drawn."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from scipy.special import expit

from hf_deepfake.evaluation.metrics import expected_calibration_error
from hf_deepfake.evaluation.plots import (
    FAKE_COLOR,
    MARKERS,
    PALETTE,
    REAL_COLOR,
    draw_confusion,
    draw_reliability,
    reliability_bins,
)
from hf_deepfake.evaluation.report.runs import Run
from hf_deepfake.evaluation.report.tables import Value, benchmarks, finite, value
from hf_deepfake.evaluation.selective import risk_coverage
from hf_deepfake.labels import NAMES

Styles = dict[str, tuple[str, str]]
"""Colour and marker by model."""

_History = dict[str, dict[str, list[tuple[float, float]]]]


@dataclass(frozen=True)
class Chart:
    """A picture with what it shows in words (`alt`) and in numbers; its width in inches."""

    name: str
    alt: str
    content: bytes
    numbers: dict[str, Any]
    width: float


def chart(
    name: str, alt: str, draw: Callable[..., dict[str, Any]], *drawn: Any, width: float = 4.6, height: float = 4.0
) -> Chart:
    """Draw a chart.

    Args:
        name: Of its files, which need not be fit for one yet.
        alt: What it shows, in words.
        draw: Takes an empty figure and `drawn`, and gives the numbers that it drew.
        drawn: What is drawn.
        width: Inches.
        height: Inches.
    """
    figure = Figure(figsize=(width, height), dpi=140, layout="constrained")
    buffer = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # names are no formulas, whatever they hold
        numbers = draw(figure, *drawn)
        FigureCanvasAgg(figure).print_png(buffer)  # savefig draws twice
    return Chart(name, alt, buffer.getvalue(), {"shows": alt} | numbers, width)


def styles_of(runs: list[Run]) -> Styles:
    """Colour and marker of each model, the same in all charts."""
    return dict(zip((run.name for run in runs), cycle(zip(PALETTE, MARKERS, strict=True)), strict=False))


def finish(axes: Axes, title: str, x: str, y: str) -> None:
    """Words, a grid, and a legend below the axes, where it hides nothing."""
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", fontsize="small")


def training_charts(runs: list[Run]) -> list[Chart]:
    """Loss, ranking and learning rate of all trainings over their epochs."""
    drawn = (
        ("training_loss", "Loss", {"loss": "training", "eval_validation_loss": "validation"}),
        ("training_roc_auc", "Validation ROC AUC", {"eval_validation_roc_auc": ""}),
        ("training_learning_rate", "Learning rate", {"learning_rate": ""}),
    )
    charts = []
    for name, title, keys in drawn:
        models = {run.name: {part: _points(run.history, key) for key, part in keys.items()} for run in runs}
        curves = {name: parts for name, parts in models.items() if any(parts.values())}
        if curves:
            ends = ", ".join(
                f"{model} {part} {points[-1][1]:.3g}".replace("  ", " ")
                for model, parts in curves.items()
                for part, points in parts.items()
                if points
            )
            alt = f"{title} over the epochs; at the end: {ends}."
            height = 3.4 + 0.2 * len(curves) * len(keys)
            charts.append(chart(name, alt, _draw_training, curves, styles_of(runs), title, height=height))
    return charts


def _points(history: list[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    numbers = [(finite(entry.get("epoch")), finite(entry.get(key))) for entry in history]
    return [(epoch, number) for epoch, number in numbers if epoch is not None and number is not None]


def _draw_training(figure: Figure, curves: _History, styles: Styles, title: str) -> dict[str, Any]:
    axes = figure.subplots()
    for model, parts in curves.items():
        color, marker = styles[model]
        for part, points in parts.items():
            line = "--" if part == "training" else "-"
            label = f"{model}, {part}" if part else model
            if points:
                axes.plot(*zip(*points, strict=True), line, color=color, marker=marker, markersize=3, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    finish(axes, title, "epoch", "")
    return {"models": curves, "points": "epoch and value"}


def confusion_charts(runs: list[Run]) -> list[Chart]:
    """A confusion matrix of each model and benchmark."""
    charts = []
    for benchmark in benchmarks(runs):
        for run in runs:
            matrix = run.metrics.get(benchmark, {}).get("confusion_matrix")
            if matrix:
                (right, alarms), (missed, found) = matrix
                alt = (
                    f"{run.name} on {benchmark}, threshold {run.threshold(benchmark):.3f}: of {right + alarms} real "
                    f"photographs {alarms} are called fake, of {missed + found} fakes {missed} are called real."
                )
                title = f"{run.name}\non {benchmark}"
                name = f"confusion_{benchmark}_{run.name}"
                charts.append(chart(name, alt, _draw_confusion, matrix, title, width=3.2, height=3.2))
    return charts


def _draw_confusion(figure: Figure, matrix: list[list[int]], title: str) -> dict[str, Any]:
    axes = figure.subplots()
    draw_confusion(axes, matrix)
    axes.set_title(title, fontsize="medium")
    return {"confusion_matrix": matrix, "rows": "truth real, fake", "columns": "verdict real, fake"}


def f1_chart(runs: list[Run]) -> Chart | None:
    """F1 of each model on each benchmark of both classes, as bars with their intervals."""
    measured = {
        benchmark: {run.name: score for run in runs if (score := _f1(run.metrics.get(benchmark, {})))}
        for benchmark in benchmarks(runs)
    }
    bars = {benchmark: models for benchmark, models in measured.items() if models}
    if not bars:
        return None
    told = "; ".join(
        f"{name} on {benchmark} {score}" for benchmark, part in bars.items() for name, score in part.items()
    )
    height = 1.5 + 0.2 * len(runs) + 0.34 * sum(len(models) + 0.7 for models in bars.values())
    return chart("f1", f"F1 of the class fake: {told}.", _draw_f1, bars, styles_of(runs), width=5.6, height=height)


def _f1(figures: dict[str, Any]) -> Value | None:
    return value(figures, "f1") if value(figures, "roc_auc") else None


def _draw_f1(figure: Figure, bars: dict[str, dict[str, Value]], styles: Styles) -> dict[str, Any]:
    axes = figure.subplots()
    position, ticks, labelled = 0.0, {}, set()
    for benchmark, models in bars.items():
        ticks[benchmark] = position + (len(models) - 1) / 2
        for name, score in models.items():
            ends = (score.value if end is None else end for end in (score.low, score.high))
            errors = [[abs(end - score.value)] for end in ends]
            label = None if name in labelled else name
            axes.barh(
                position, score.value, 0.85, xerr=errors, color=styles[name][0], alpha=0.8, capsize=3, label=label
            )
            labelled.add(name)
            position += 1
        position += 0.7
    axes.set_yticks(list(ticks.values()), list(ticks))
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    finish(axes, "F1 with 95 % intervals", "F1 of the class fake", "")
    return {
        "benchmarks": {
            benchmark: {
                name: {"f1": score.value, "low": score.low, "high": score.high} for name, score in part.items()
            }
            for benchmark, part in bars.items()
        }
    }


def score_charts(runs: list[Run]) -> list[Chart]:
    """Histogram of each model's scores on each benchmark, by class, with threshold and band."""
    charts = []
    for benchmark, run in _scored(runs):
        table, threshold = run.predictions[benchmark], run.threshold(benchmark)
        medians = table.groupby("label")["prob_fake"].median()
        told = ", ".join(f"{NAMES[int(label)]} images {median:.3f}" for label, median in medians.items())
        alt = f"Scores of {run.name} on {benchmark}; median of {told}; threshold {threshold:.3f}."
        title = f"{run.name} on {benchmark}"
        name = f"scores_{benchmark}_{run.name}"
        charts.append(chart(name, alt, _draw_scores, table, threshold, run.band, title, width=4.4, height=3.3))
    return charts


def _scored(runs: list[Run]) -> list[tuple[str, Run]]:
    return [(benchmark, run) for benchmark in benchmarks(runs) for run in runs if benchmark in run.predictions]


def _draw_scores(
    figure: Figure, table: pd.DataFrame, threshold: float, band: list[float] | None, title: str
) -> dict[str, Any]:
    axes = figure.subplots()
    edges = np.linspace(0, 1, 31)
    numbers: dict[str, Any] = {"edges": edges.tolist(), "threshold": threshold, "band": band}
    if band:
        axes.axvspan(*band, color="grey", alpha=0.25, linewidth=0, label="uncertain")
    for label, color in enumerate((REAL_COLOR, FAKE_COLOR)):
        images = np.histogram(table["prob_fake"][table["label"] == label], edges)[0]
        axes.stairs(images, edges, fill=True, alpha=0.6, color=color, label=NAMES[label])
        numbers[NAMES[label]] = images.tolist()
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
    axes.set_title(title, fontsize="medium")
    axes.set(xlabel="probability of fake", ylabel="images")
    figure.legend(loc="outside lower center", fontsize="small", ncols=4)
    return numbers


def reliability_charts(runs: list[Run]) -> list[Chart]:
    """Reliability of each model on each benchmark of both classes; before calibration too where the logits tell."""
    charts = []
    for benchmark, run in _scored(runs):
        table = run.predictions[benchmark]
        if table["label"].nunique() == 2:
            curves = scores_before_and_after(table)
            errors = ", ".join(
                f"{name} {expected_calibration_error(table['label'], scores):.3f}" for name, scores in curves.items()
            )
            title = f"{run.name} on {benchmark}"
            alt = f"Reliability of {title}; expected calibration error {errors}."
            name = f"reliability_{benchmark}_{run.name}"
            labels = table["label"].to_numpy()
            charts.append(chart(name, alt, _draw_reliability, labels, curves, title, width=4.4, height=4.6))
    return charts


def _draw_reliability(
    figure: Figure, labels: NDArray[np.int64], curves: dict[str, NDArray[np.float64]], title: str
) -> dict[str, Any]:
    draw_reliability(figure, labels, curves, title)
    return {"bins": {name: reliability_bins(labels, scores).to_dict("list") for name, scores in curves.items()}}


def scores_before_and_after(table: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
    """Scores as they are judged, and those of the logits alone where calibration made a difference."""
    judged = table["prob_fake"].to_numpy()
    plain = expit((table["logit_fake"] - table["logit_real"]).to_numpy())
    return {"as judged": judged} if np.allclose(plain, judged, atol=1e-4) else {"before": plain, "after": judged}


def risk_charts(runs: list[Run]) -> list[Chart]:
    """Error rate among the surest images over their share, all models of a benchmark on one axes."""
    charts = []
    for benchmark in benchmarks(runs):
        scored = [run for run in runs if benchmark in run.predictions]
        if scored:
            areas = ", ".join(
                f"{run.name} AURC {value(run.metrics[benchmark], 'aurc') or 'unknown'}" for run in scored
            )
            alt = f"Error rate among the surest images on {benchmark}, over the share of images judged; {areas}."
            height = 3.4 + 0.22 * len(scored) * (1 + any(map(_chosen, scored, [benchmark] * len(scored))))
            name = f"risk_coverage_{benchmark}"
            charts.append(chart(name, alt, _draw_risk, scored, benchmark, styles_of(runs), height=height))
    return charts


def _chosen(run: Run, benchmark: str) -> dict[str, float] | None:
    """Coverage and error rate that the uncertain band leaves."""
    part = run.results.get("uncertain", {}).get("rates", {}).get(benchmark)
    there = isinstance(part, dict) and None not in (finite(part.get("coverage")), finite(part.get("error_rate")))
    return part if there else None


def _draw_risk(figure: Figure, runs: list[Run], benchmark: str, styles: Styles) -> dict[str, Any]:
    axes, numbers = figure.subplots(), {}
    for run in runs:
        color, marker = styles[run.name]
        table = run.predictions[benchmark]
        coverage, risk = risk_coverage(
            table["label"].to_numpy(), table["prob_fake"].to_numpy(), run.threshold(benchmark)
        )
        area = value(run.metrics[benchmark], "aurc")
        axes.plot(coverage, risk, color=color, label=f"{run.name}{f', AURC {area}' if area else ''}")
        numbers[run.name] = {"coverage": coverage.tolist(), "risk": risk.tolist()}
        if chosen := _chosen(run, benchmark):
            place = [chosen["coverage"]], [chosen["error_rate"]]
            label = f"{run.name}, outside its band"
            axes.scatter(*place, s=80, marker=marker, color=color, edgecolors="black", label=label, zorder=3)
            numbers[run.name] |= {"band": chosen}
    axes.set_xlim(0, 1.02)
    highest = max(0.05, axes.get_ylim()[1])
    axes.set_ylim(-0.03 * highest, highest)  # a curve without errors lies above the frame, not on it
    finish(axes, f"Risk and coverage on {benchmark}", "share of images judged, the surest first", "errors among them")
    return {"models": numbers}
