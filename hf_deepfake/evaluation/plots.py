"""Figures of a training and of a benchmark, as PNG files."""

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn.metrics
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_deepfake.evaluation.metrics import expected_calibration_error
from hf_deepfake.labels import NAMES
from hf_deepfake.writing import whole

REAL_COLOR, FAKE_COLOR = "#0072B2", "#D55E00"  # Okabe and Ito, told apart by colour-blind readers

PALETTE = (REAL_COLOR, FAKE_COLOR, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Curves of several models: Okabe and Ito, Color Universal Design, 2008, without the yellow that white swallows."""

MARKERS = "osD^vPX"
"""Beside the colours, for readers who tell none apart."""


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
        (
            ranking,
            {
                "eval_validation_roc_auc": "ROC AUC",
                "eval_validation_balanced_accuracy": "balanced accuracy",
                "eval_old_validation_roc_auc": "ROC AUC, old images",
            },
        ),
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
    draw_confusion(axes, sklearn.metrics.confusion_matrix(labels, prob_fake >= threshold, labels=[0, 1]))
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


def draw_confusion(axes: Axes, matrix: Any) -> None:
    """Confusion matrix (rows truth, columns verdict) with the share of each row."""
    confusion = np.asarray(matrix)
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
    points = reliability_bins(labels, prob_fake, bins)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    axes.plot(points["prob_fake"], points["share_fake"], marker="o", color=FAKE_COLOR, label="this model")
    axes.set(title="Reliability", xlabel="probability of fake", ylabel="share of fakes")
    axes.legend()


def reliability_bins(labels: Any, prob_fake: Any, bins: int = 15) -> pd.DataFrame:
    """Points of a reliability diagram: a row a filled bin of equal width, as in `expected_calibration_error`.

    Returns:
        Columns `prob_fake` and `share_fake`, the bin's means, and `images`, its size.
    """
    index = np.minimum((np.asarray(prob_fake) * bins).astype(int), bins - 1)
    images = pd.DataFrame({"prob_fake": prob_fake, "share_fake": labels, "images": 1})
    return images.groupby(index).agg({"prob_fake": "mean", "share_fake": "mean", "images": "sum"})


def draw_reliability(figure: Figure, labels: Any, curves: dict[str, Any], title: str, bins: int = 15) -> None:
    """One reliability diagram with several curves, over the number of images in each bin.

    Args:
        figure: Empty; it gets two panels.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        curves: Name and probability of fake of the same images, for example before and after calibration.
        title: Of the diagram.
        bins: Of equal width, as many as the expected calibration error in the legend is taken over.
    """
    diagram, sizes = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    diagram.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    for (name, prob_fake), color, marker in zip(curves.items(), cycle(PALETTE), cycle(MARKERS)):
        error = expected_calibration_error(labels, prob_fake, bins)
        points = reliability_bins(labels, prob_fake, bins)
        style = {"color": color, "marker": marker, "label": f"{name}, ECE {error:.3f}"}
        diagram.plot(points["prob_fake"], points["share_fake"], alpha=0.8, **style)
        counts = np.histogram(prob_fake, bins, (0, 1))[0]
        sizes.stairs(counts, np.linspace(0, 1, bins + 1), color=color, linewidth=1.5)
    diagram.set(title=title, ylabel="share of fakes", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    diagram.legend(loc="upper left", fontsize="small")
    sizes.set(xlabel="probability of fake", ylabel="images")
    for axes in (diagram, sizes):
        axes.grid(alpha=0.3)


def plot_reliability(labels: Any, curves: dict[str, Any], title: str, path: Path) -> None:
    """Reliability of several sets of scores of the same images (see `draw_reliability`), as a PNG file."""
    figure = Figure(figsize=(5, 5), layout="constrained")
    draw_reliability(figure, labels, curves, title)
    _save(figure, path)


def plot_comparison(rows: dict[str, dict[str, Any]], benchmark: str, path: Path) -> None:
    """ROC AUC of several models with its intervals, one line a model."""
    figure, (axes,) = _figure(6, 0.5 * len(rows) + 1.2)
    for position, (_, metrics) in enumerate(rows.items()):
        value = metrics["roc_auc"]
        errors = [[value - metrics.get("roc_auc_low", value)], [metrics.get("roc_auc_high", value) - value]]
        axes.errorbar(value, position, xerr=np.abs(errors), fmt="o", capsize=4, color=REAL_COLOR)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.grid(alpha=0.3, axis="x")
    axes.set(title=f"Members and votes on {benchmark}", xlabel="ROC AUC, 95 % interval")
    _save(figure, path)
