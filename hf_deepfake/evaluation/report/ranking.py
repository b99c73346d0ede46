"""ROC, DET and precision-recall curves of a report: all models of a benchmark on one axes."""

from typing import Any

import numpy as np
import pandas as pd
import sklearn.metrics
from matplotlib.figure import Figure
from scipy.stats import norm

from hf_deepfake.evaluation.report.plots import Chart, Styles, chart, finish, styles_of
from hf_deepfake.evaluation.report.runs import Run
from hf_deepfake.evaluation.report.tables import benchmarks, value

_TICKS = np.array([0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999])


def ranking_charts(runs: list[Run]) -> list[Chart]:
    """Three charts for each benchmark on which a model has predictions of both classes."""
    charts = []
    for benchmark in benchmarks(runs):
        tables = {
            run.name: (run.predictions[benchmark], run.metrics[benchmark])
            for run in runs
            if benchmark in run.predictions and run.predictions[benchmark]["label"].nunique() == 2
        }
        for name, title, metric, draw in (
            ("roc", "ROC", "roc_auc", _draw_roc),
            ("det", "DET", "eer", _draw_det),
            ("pr", "Precision and recall", "average_precision", _draw_precision_recall),
        ):
            short = {"roc_auc": "AUC", "eer": "EER", "average_precision": "AP"}[metric]
            curves = {
                f"{model}, {short} {value(figures, metric) or 'unknown'}": (model, table)
                for model, (table, figures) in tables.items()
            }
            if curves:
                alt = f"{title} on {benchmark}: {'; '.join(curves)}."
                drawn = (curves, styles_of(runs), f"{title} on {benchmark}")
                charts.append(chart(f"{name}_{benchmark}", alt, draw, *drawn, height=4.0 + 0.2 * len(curves)))
    return charts


_Curves = dict[str, tuple[str, pd.DataFrame]]


def _draw_roc(figure: Figure, curves: _Curves, styles: Styles, title: str) -> dict[str, Any]:
    axes, numbers = figure.subplots(), {}
    for label, (model, table) in curves.items():
        false_rate, true_rate, _ = sklearn.metrics.roc_curve(table["label"], table["prob_fake"])
        axes.plot(false_rate, true_rate, color=styles[model][0], label=label)
        numbers[model] = {"false_positive_rate": false_rate.tolist(), "true_positive_rate": true_rate.tolist()}
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="guessing")
    finish(axes, title, "real photographs called fake", "fakes found")
    return {"models": numbers}


def _draw_det(figure: Figure, curves: _Curves, styles: Styles, title: str) -> dict[str, Any]:
    """Both errors in normal deviates: Martin et al., The DET curve in assessment of detection performance, 1997."""
    axes, numbers = figure.subplots(), {}
    rarest = min(0.5 / table["label"].value_counts().max() for _, table in curves.values())
    edge = float(np.clip(rarest, 1e-4, 0.01))  # a rate of 0 lies at infinity; half an image is drawn instead
    for label, (model, table) in curves.items():
        false_rate, true_rate, _ = sklearn.metrics.roc_curve(table["label"], table["prob_fake"])
        both = np.array([false_rate, 1 - true_rate])
        axes.plot(*norm.ppf(both.clip(edge, 1 - edge)), color=styles[model][0], label=label)
        numbers[model] = {"false_positive_rate": both[0].tolist(), "false_negative_rate": both[1].tolist()}
    limits = norm.ppf([edge, 1 - edge])
    axes.plot(limits, -limits, color="grey", linestyle=":", label="guessing")
    ticks = _TICKS[(edge <= _TICKS) & (1 - edge >= _TICKS)]
    names = [f"{100 * tick:g}" for tick in ticks]
    axes.set_xticks(norm.ppf(ticks), names)
    axes.set_yticks(norm.ppf(ticks), names)
    axes.set(xlim=limits, ylim=limits)
    finish(axes, title, "real photographs called fake, %", "fakes missed, %")
    return {"models": numbers, "scale": "normal deviates of the rates"}


def _draw_precision_recall(figure: Figure, curves: _Curves, styles: Styles, title: str) -> dict[str, Any]:
    axes, numbers = figure.subplots(), {}
    for label, (model, table) in curves.items():
        precision, recall, _ = sklearn.metrics.precision_recall_curve(
            table["label"], table["prob_fake"], drop_intermediate=True
        )
        axes.plot(recall, precision, color=styles[model][0], drawstyle="steps-post", label=label)
        numbers[model] = {"recall": recall.tolist(), "precision": precision.tolist()}
    share = np.mean([table["label"].mean() for _, table in curves.values()])
    axes.axhline(share, color="grey", linestyle=":", label="guessing")
    axes.set_ylim(-0.02, 1.02)
    finish(axes, title, "fakes found (recall)", "fakes among those called fake (precision)")
    return {"models": numbers}
