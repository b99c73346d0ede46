"""The page of an audit: one HTML file that holds its own pictures."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from datasets import Dataset
from matplotlib.axes import Axes
from PIL import Image

from hf_deepfake.data.verdicts import Check, worst
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.labels import NAMES
from hf_deepfake.pages import data_address, save_rendered, small_chart
from hf_deepfake.printing import printable

FINDINGS_SHOWN, PICTURES_SHOWN, GALLERY = 12, 6, 18
"""Findings a check, pictures a finding and random pictures a class: some 2 MB, however many there are."""

ROWS_SHOWN = 30
"""Lines of a table of sources or formats."""

THUMBNAIL = 144
"""Pixels of a picture's longer side."""

COLORS = ("#0072B2", "#D55E00")  # Okabe and Ito, told apart by colour-blind readers


def save_page(
    name: str, checks: Sequence[Check], images: pd.DataFrame, rows: Dataset, path: Path, seed: int = 0
) -> None:
    """Write the page: verdicts, counts, charts, the pictures of what was found and random ones of each class.

    It needs no network and no other file, and shows the first findings of each check, whose complete lists are in
    audit.json. Whatever a file is called, its name is text.

    Args:
        name: What the data set is called.
        checks: The answers, in their order.
        images: As in `check_images`.
        rows: The images themselves, in the same order.
        path: The HTML file.
        seed: Of the random pictures.
    """
    pictures = rows.select_columns("image")
    save_rendered(
        Path(__file__).with_name("audit.html.j2"),
        path,
        name=printable(name),
        verdict=worst(checks),
        checks=[_shown_check(check, images, pictures) for check in checks],
        tables=_tables(images),
        charts=draw_charts(images),
        gallery=[_random_pictures(images, pictures, label, seed) for label in range(len(NAMES))],
    )


def _shown_check(check: Check, images: pd.DataFrame, pictures: Dataset) -> dict[str, Any]:
    """A check with its first findings; findings of one image each are shown side by side."""
    if all(len(finding.rows) == 1 for finding in check.findings):
        shown = check.findings[: FINDINGS_SHOWN * PICTURES_SHOWN // 2]
        singles = [
            _shown_picture(finding.rows[0], images, pictures) | {"what": printable(finding.what)} for finding in shown
        ]
        return {"check": check, "singles": singles, "sets": [], "more": len(check.findings) - len(shown)}
    shown = check.findings[:FINDINGS_SHOWN]
    sets = [
        {
            "what": f"{printable(finding.what)}, {len(finding.rows)} images",
            "pictures": [_shown_picture(row, images, pictures) for row in _first_of_each(finding.rows, images)],
            "more": max(0, len(finding.rows) - PICTURES_SHOWN),
        }
        for finding in shown
    ]
    return {"check": check, "singles": [], "sets": sets, "more": len(check.findings) - len(shown)}


def _first_of_each(rows: list[int], images: pd.DataFrame) -> list[int]:
    """Rows to show: the first of each class and split, then the second of each, and so on."""
    rank = images.loc[rows].groupby(["split", "label"]).cumcount()
    shown: list[int] = rank.sort_values(kind="stable").index[:PICTURES_SHOWN].tolist()
    return shown


def _random_pictures(images: pd.DataFrame, pictures: Dataset, label: int, seed: int) -> dict[str, Any]:
    there = np.flatnonzero((images["label"] == label) & images["error"].isna())
    taken = np.random.default_rng([seed, label]).choice(there, min(GALLERY, len(there)), replace=False)
    return {
        "label": NAMES[label],
        "pictures": [_shown_picture(row, images, pictures) for row in sorted(taken.tolist())],
    }


def _shown_picture(row: int, images: pd.DataFrame, pictures: Dataset) -> dict[str, Any]:
    file, label, split, error = images.loc[row, ["file", "label", "split", "error"]]
    return {
        "file": printable(file),
        "label": NAMES[label],
        "split": split if split != "all" else "",
        "address": thumbnail(pictures[row]["image"]) if pd.isna(error) else None,
    }


def thumbnail(image: Any) -> str | None:
    """A small JPEG of an image as a `data:` address, or None where it cannot be read."""
    content = image["bytes"]
    try:
        with Image.open(io.BytesIO(content) if content is not None else image["path"]) as opened:
            opened.draft("RGB", (THUMBNAIL, THUMBNAIL))  # large photographs are decoded at a fraction of their size
            small = open_rgb(opened)
    except (OSError, UnreadableImageError):
        return None
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return data_address(buffer.getvalue(), "jpeg")


def _tables(images: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """Images of each class by what else is known of them: splits in their order, of all else the largest first."""
    readable = images[images["error"].isna()]
    tables = {}
    for column, part in {"split": images, "source": images, "format": readable, "mode": readable}.items():
        if column in part:
            counts = pd.crosstab(part[column], part["label"]).reindex(columns=range(len(NAMES)), fill_value=0)
            frequent = part[column].unique() if column == "split" else part[column].value_counts().index
            lines = [(printable(str(value)), *counts.loc[value].tolist()) for value in frequent[:ROWS_SHOWN]]
            tables[column] = {"lines": lines, "more": len(counts) - len(lines)}
    return tables


def draw_charts(images: pd.DataFrame) -> list[dict[str, str]]:
    """Distributions of what a file tells and the mean spectrum of each class, as PNG; those that have values."""
    readable = images[images["error"].isna()]
    parts = [readable[readable["label"] == label] for label in range(len(NAMES))]
    spectrum = [column for column in images if str(column).startswith("spectrum_")]
    charts = [
        ("Shorter side", "pixels", [part[["width", "height"]].min(axis=1) for part in parts]),
        ("File size", "kB", [part["bytes"] / 1000 for part in parts]),
        ("Compression", "bits a pixel", [part["bits_per_pixel"] for part in parts]),
        ("JPEG quality", "quality, from the file's tables", [part["jpeg_quality"].dropna() for part in parts]),
    ]
    drawn = [
        small_chart(title, f"{title} of real and of fake images, a histogram.", _draw_histogram, unit, values)
        for title, unit, values in charts
        if any(len(part) for part in values)
    ]
    if len(readable):
        alt = "Mean radial power spectrum of real and of fake images."
        drawn.append(small_chart("Spectrum", alt, _draw_spectrum, [part[spectrum] for part in parts]))
    return drawn


def _draw_histogram(axes: Axes, unit: str, parts: list[pd.Series]) -> None:
    together = np.concatenate(parts)
    wide = together.min() > 0 and together.max() > 20 * together.min()
    low, high = together.min(), together.max()
    edges = np.geomspace(low, high, 41) if wide else np.histogram_bin_edges(together, 40, (low, high))
    for values, name, color in zip(parts, NAMES, COLORS, strict=True):
        if len(values):
            shares = np.histogram(values, edges)[0] / len(values)
            axes.stairs(shares, edges, fill=True, alpha=0.6, color=color, label=name)
    if wide:
        axes.set_xscale("log")
    axes.set(xlabel=unit, ylabel="share of the class")


def _draw_spectrum(axes: Axes, parts: list[pd.DataFrame]) -> None:
    for values, name, color in zip(parts, NAMES, COLORS, strict=True):
        if len(values):
            frequency = (np.arange(values.shape[1]) + 0.5) / (2 * values.shape[1])
            axes.plot(frequency, values.mean(), color=color, label=name)
            low, high = values.quantile(0.1), values.quantile(0.9)
            axes.fill_between(frequency, low, high, color=color, alpha=0.2, linewidth=0)
    axes.set(xlabel="cycles a pixel", ylabel="log power, mean and 10 to 90 %")
