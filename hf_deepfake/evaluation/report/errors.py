"""The surest mistakes of a model, with their pictures where the images can be found."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from scipy.special import logit

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.audit_page import thumbnail
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.report.runs import Run
from hf_deepfake.evaluation.report.tables import benchmarks
from hf_deepfake.labels import NAMES
from hf_deepfake.printing import printable

ERRORS_SHOWN = 12
"""A model and benchmark."""

_RECIPE_KEYS = "dataset_name image_root image_column label_column fake_label follow_links".split()


@dataclass(frozen=True)
class Pictures:
    """Images of one data set, found by name and label; for one benchmark, or for any."""

    name: str
    benchmark: str | None
    images: Dataset
    rows: dict[tuple[str, int], int]

    def known(self, table: pd.DataFrame) -> int:
        """How many of the images that were scored are here."""
        return sum(key in self.rows for key in zip(table["image"], table["label"], strict=True))


@dataclass(frozen=True)
class Gallery:
    """The surest mistakes of a model on a benchmark, and what is missing of their pictures."""

    title: str
    errors: list[dict[str, Any]]
    note: str
    pictures: bool


def given_pictures(items: Iterable[str], names: Sequence[str], **options: Any) -> list[Pictures]:
    """Read `[NAME=]DATA` of the command line.

    Args:
        items: NAME is a benchmark's; without one the data are looked through for all benchmarks.
        names: The benchmarks.
        options: Other fields of `DataArguments`.

    Raises:
        InputError: If NAME is no benchmark, or the data cannot be loaded.
    """
    pictures = []
    for item in items:  # os.path.exists, unlike Path.exists, is False also of a name that is too long
        name, separator, source = item.partition("=")
        if not separator or os.path.exists(item):
            pictures.append(_read(DataArguments(dataset_name=item, **options), None))
        elif name not in names:
            raise InputError(f"--data {item}: {name!r} is none of the benchmarks {', '.join(names)}.")
        else:
            pictures.append(_read(DataArguments(dataset_name=source, **options), name))
    return pictures


def recipe_pictures(runs: Iterable[Run]) -> list[Pictures]:
    """Read the data that runs were trained on, where their recipes name files that are still there."""
    pictures = {}
    for run in runs:
        options = {key: run.recipe[key] for key in _RECIPE_KEYS if run.recipe.get(key) is not None}
        source = str(options.get("dataset_name", ""))
        if source and source not in pictures and os.path.exists(source):
            try:
                pictures[source] = _read(DataArguments(**options), None)
            except (InputError, OSError):  # what was there for the training may have changed; nobody asked for it here
                continue
    return list(pictures.values())


def _read(data: DataArguments, benchmark: str | None) -> Pictures:
    images = everything(load_data(data, both_classes=False, leaks=True))
    keys = zip(images["file"][:], images["label"][:], strict=True)
    rows = {key: row for row, key in enumerate(keys)}
    return Pictures(printable(Path(data.dataset_name).name), benchmark, images.select_columns("image"), rows)


def galleries(runs: list[Run], pictures: list[Pictures]) -> list[Gallery]:
    """The surest mistakes of each model on each benchmark that has predictions."""
    return [
        _gallery(run, benchmark, pictures)
        for benchmark in benchmarks(runs)
        for run in runs
        if benchmark in run.predictions
    ]


def surest_errors(table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """Rows whose verdict is wrong, the surest first; sure is a score far from the threshold in log-odds."""
    bounded = table["prob_fake"].clip(1e-12, 1 - 1e-12)
    distance = (logit(bounded) - logit(min(max(threshold, 1e-12), 1 - 1e-12))).abs()
    wrong = (table["prob_fake"] >= threshold) != (table["label"] == 1)
    return table[wrong].assign(distance=distance[wrong]).sort_values("distance", ascending=False, kind="stable")


def _gallery(run: Run, benchmark: str, pictures: list[Pictures]) -> Gallery:
    table = run.predictions[benchmark]
    errors = surest_errors(table, run.threshold(benchmark))
    title = f"{run.name} on {benchmark}: {len(errors)} of {len(table)} images judged wrongly"
    found, note = _choose(benchmark, table, pictures)
    shown = [_shown(row, run.band, found) for row in errors.head(ERRORS_SHOWN).to_dict("records")]
    unread = [error["file"] for error in shown if not error["address"]]
    if found and unread:
        note = f"No picture of {', '.join(unread)}: missing in {found.name}, or unreadable."
    return Gallery(title, shown, note if shown else "", pictures=found is not None)


def _choose(benchmark: str, table: pd.DataFrame, pictures: list[Pictures]) -> tuple[Pictures | None, str]:
    """The data set that has most of a benchmark's images; none where two have equally many."""
    named = [part for part in pictures if part.benchmark == benchmark]
    counted = sorted(
        ((part.known(table), part) for part in named or pictures if part.benchmark in (benchmark, None)),
        key=lambda pair: -pair[0],
    )
    if not counted or counted[0][0] == 0:
        return None, f"Pass --data {_quoted(benchmark)}=DATA with the images that were measured to see their pictures."
    if len(counted) > 1 and counted[1][0] == counted[0][0]:
        names = " and ".join(part.name for _, part in counted[:2])
        return None, f"{names} hold images of these names; say which with --data {_quoted(benchmark)}=DATA."
    return counted[0][1], ""


def _quoted(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]+", name) else f'"{name}"'


def _shown(error: dict[str, Any], band: list[float] | None, pictures: Pictures | None) -> dict[str, Any]:
    label, score = int(error["label"]), float(error["prob_fake"])
    row = pictures.rows.get((error["image"], label)) if pictures else None
    address = thumbnail(pictures.images[row]["image"]) if pictures and row is not None else None
    return {
        "file": printable(str(error["image"])),
        "label": NAMES[label],
        "prob_fake": score,
        "stated": "below 0.001" if score < 0.0005 else "above 0.999" if score >= 0.9995 else f"{score:.3f}",
        "uncertain": bool(band and band[0] < score < band[1]),
        "address": address,
    }
