"""Figures of a training and of a benchmark, as PNG files."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_deepfake.labels import NAMES
from hf_deepfake.writing import whole

REAL_COLOR, FAKE_COLOR = "#0072B2", "#D55E00"  # Okabe and Ito, told apart by colour-blind readers


def _save(figure: Figure, path: Path) -> None:
    with whole(path) as partial:
        figure.savefig(partial, dpi=120)


def _figure(width: float = 5.0, height: float = 4.0, panels: int = 1) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, panels)))


def plot_training(log_history: list[dict[str, Any]], folder: Path) -> None:
    """Loss, ranking and learning rate over the epochs: `training_curves.png`."""
    figure, (losses, ranking, rate) = _figure(panels=3)
    for axes, curves in (
        (losses, {"loss": "training", "eval_validation_loss": "validation"}),
        (ranking, {"eval_validation_roc_auc": "ROC AUC", "eval_validation_balanced_accuracy": "balanced accuracy"}),
        (rate, {"learning_rate": "learning rate"}),
    ):
        for key, name in curves.items():
            points = [(entry["epoch"], entry[key]) for entry in log_history if key in entry]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    losses.set_title("Loss (the training loss includes augmentation)")
    ranking.set_title("Validation")
    rate.set_title("Learning rate")
    _save(figure, folder / "training_curves.png")


def plot_benchmark(table: pd.DataFrame, name: str, folder: Path, threshold: float = 0.5) -> None:
    """Confusion matrix, ROC curve, score histogram and reliability of one table of predictions."""
    labels, prob_fake = table["label"].to_numpy(), table["prob_fake"].to_numpy()
    figure, (axes,) = _figure(4, 3.6)
    _draw_confusion(axes, labels, prob_fake, threshold)
    axes.set_title(f"{name}, threshold {threshold:.3f}")
    _save(figure, folder / f"confusion_matrix_{name}.png")
    figure, (roc, histogram, reliability) = _figure(panels=3)
    if len(np.unique(labels)) == 2:
        false_rate, true_rate, _ = sklearn.metrics.roc_curve(labels, prob_fake)
        roc.plot(
            false_rate, true_rate, color=FAKE_COLOR, label=f"AUC {sklearn.metrics.auc(false_rate, true_rate):.3f}"
        )
        roc.legend(loc="lower right")
    roc.plot([0, 1], [0, 1], color="grey", linestyle=":")
    roc.set(title=f"ROC on {name}", xlabel="real images called fake", ylabel="fake images found")
    bins = np.linspace(0, 1, 31).tolist()
    for label, color in enumerate((REAL_COLOR, FAKE_COLOR)):
        histogram.hist(prob_fake[labels == label], bins, alpha=0.6, color=color, label=NAMES[label])
    histogram.axvline(threshold, color="black", linestyle="--", linewidth=1, label="threshold")
    histogram.set(title="Scores", xlabel="probability of fake", ylabel="images")
    histogram.legend(loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3)  # below, where it hides no bar
    _draw_reliability(reliability, labels, prob_fake)
    _save(figure, folder / f"scores_{name}.png")


def _draw_confusion(axes: Axes, labels: Any, prob_fake: Any, threshold: float) -> None:
    confusion = sklearn.metrics.confusion_matrix(labels, prob_fake >= threshold, labels=[0, 1])
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(2, 2):
        axes.text(
            column,
            row,
            f"{confusion[row, column]}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axes.set(xlabel="verdict", ylabel="truth")
    axes.set_xticks([0, 1], NAMES)
    axes.set_yticks([0, 1], NAMES)


def _draw_reliability(axes: Axes, labels: Any, prob_fake: Any, bins: int = 10) -> None:
    index = np.minimum((prob_fake * bins).astype(int), bins - 1)
    filled = [part for part in (index == number for number in range(bins)) if part.any()]
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    axes.plot(
        [prob_fake[part].mean() for part in filled],
        [labels[part].mean() for part in filled],
        marker="o",
        color=FAKE_COLOR,
        label="this model",
    )
    axes.set(title="Reliability", xlabel="probability of fake", ylabel="share of fakes")
    axes.legend()


def plot_comparison(rows: dict[str, dict[str, Any]], benchmark: str, path: Path, metric: str = "roc_auc") -> None:
    """One metric of several models with its intervals, one line a model."""
    figure, (axes,) = _figure(6, 0.5 * len(rows) + 1.2)
    for position, (_, metrics) in enumerate(rows.items()):
        value = metrics[metric]
        errors = [[value - metrics.get(f"{metric}_low", value)], [metrics.get(f"{metric}_high", value) - value]]
        axes.errorbar(value, position, xerr=np.abs(errors), fmt="o", capsize=4, color=REAL_COLOR)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set(xlabel=f"{metric.replace('_', ' ')} on {benchmark}, 95 % interval")
    _save(figure, path)
