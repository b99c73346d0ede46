"""The page of a comparison of two tables of scores: one HTML file that holds its own pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from hf_deepfake.evaluation.drift import STATISTICS, Floats, principal_components, readable
from hf_deepfake.pages import save_rendered, small_chart
from hf_deepfake.printing import printable

WHICH = ("reference", "current")
COLORS = ("#555555", "#009E73")  # neither that of real nor that of fake; told apart by colour-blind readers

POINTS = 1000
"""Images of a table in the scatter, taken at random."""

_UNITS = {"width": "pixels", "height": "pixels", "file_bytes": "bytes", "sharpness": "variance of the Laplacian"}


def save_page(report: dict[str, Any], reference: pd.DataFrame, current: pd.DataFrame, path: Path) -> None:
    """Write the page: the verdict and what to do, the tests, and what they compared as pictures.

    It needs no network and no other file.

    Args:
        report: What monitor.json holds.
        reference: The scores of the time when all was well.
        current: The scores of now.
        path: The HTML file.
    """
    names = {which: printable(report[which]) for which in WHICH}
    charts = draw_charts(readable(reference), readable(current))
    template = Path(__file__).with_name("monitor.html.j2")
    save_rendered(template, path, report=report, names=names, charts=charts, number=format_number)


def format_number(value: float | None) -> str:
    """A number as short as it can be read.

    Example:
        >>> [format_number(value) for value in (None, 0.00001, 0.25, 3.14159, 11061.6)]
        ['', '<0.001', '0.250', '3.142', '11,062']
    """
    if value is None:
        return ""
    if 0 < value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 10 else f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def draw_charts(reference: pd.DataFrame, current: pd.DataFrame) -> list[dict[str, str]]:
    """Distributions of scores and statistics and the scatter of embeddings, as PNG; what both tables have."""
    tables = (reference, current)
    charts = []
    for column in ("prob_fake", *STATISTICS):
        parts = [table[column].dropna().to_numpy(float) for table in tables if column in table]
        if len(parts) == 2 and all(map(len, parts)):
            title = "score" if column == "prob_fake" else column
            unit = {"prob_fake": "probability of fake"}.get(column, _UNITS.get(column, "grey levels"))
            charts.append(small_chart(title, f"Histogram of {title} in both tables.", _draw_histogram, unit, parts))
    if all("embedding" in table and table["embedding"].notna().any() for table in tables):
        parts = list(principal_components(reference, current, most=2))
        if parts[0].shape[1] == 2:
            alt = "The first two principal components of the embeddings of both tables."
            charts.append(small_chart("embeddings", alt, _draw_scatter, parts))
    return charts


def _draw_histogram(axes: Axes, unit: str, parts: list[Floats]) -> None:
    together = np.concatenate(parts)
    low, high = (0, 1) if unit == "probability of fake" else (together.min(), together.max())
    wide = low > 0 and high > 20 * low
    edges = np.geomspace(low, high, 31) if wide else np.histogram_bin_edges(together, 30, (low, high))
    for values, name, color, fill in zip(parts, WHICH, COLORS, (True, False), strict=True):
        shares = np.histogram(values, edges)[0] / len(values)
        alpha, width = (0.35, 0) if fill else (1, 1.6)
        axes.stairs(shares, edges, fill=fill, alpha=alpha, color=color, linewidth=width, label=name)
    if wide:
        axes.set_xscale("log")
    axes.set(xlabel=unit, ylabel="share of images")


def _draw_scatter(axes: Axes, parts: list[Floats]) -> None:
    generator = np.random.default_rng(0)
    low, high = np.quantile(np.concatenate(parts), [0.01, 0.99], axis=0)  # a few far ones would squeeze the rest
    for values, name, color in zip(parts, WHICH, COLORS, strict=True):
        shown = np.clip(generator.permutation(values)[:POINTS], low, high)
        axes.scatter(shown[:, 0], shown[:, 1], s=12, alpha=0.5, color=color, linewidths=0, label=name)
    axes.set(xlabel="first component, cut off at 1 and 99 %", ylabel="second component")
