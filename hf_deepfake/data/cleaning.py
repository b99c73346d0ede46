"""The `--fix` of an audit: a table of the images to keep, each in one split. No image is touched."""

import itertools
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from datasets import Dataset

from hf_deepfake.data.duplicates import connected
from hf_deepfake.data.repeats import contrary_files, same_picture_sets
from hf_deepfake.labels import NAMES
from hf_deepfake.writing import whole

_FIRST_KEPT = ("test", "validation", "train", "all")
"""A training set loses nothing by one image less, while a test set is what others measure on too."""


def decide(images: pd.DataFrame, near: Iterable[tuple[int, int]]) -> pd.DataFrame:
    """Decide what becomes of each image.

    Unreadable images go. A file that is called real and fake goes in all its copies, as nobody knows which label is
    right. Of the other copies of a picture in one class that one stays which stands in the first of `test`,
    `validation` and `train`, and there the one with most pixels, then bytes. The same picture as real and as fake in
    different files stays, since an edited photograph is a fake to learn from, but like a group it is brought together
    in the split that holds most of it.

    Args:
        images: As in `check_images`.
        near: Pairs of rows that show the same picture.

    Returns:
        One row an image: `removed` (why, or None), `split` (where it is to be) and `group` (what must share a split;
        the first file of it where no group was known).
    """
    sets = same_picture_sets(images, near)
    removed = _removed(images, sets)
    kept = np.array([reason is None for reason in removed])
    together = [[row for row in rows if kept[row]] for rows in sets]
    if "group" in images:
        together += [np.flatnonzero(kept)[rows].tolist() for rows in images[kept].groupby("group").indices.values()]
    pairs = [pair for rows in together for pair in itertools.pairwise(rows)]
    split = images["split"].to_numpy(dtype=object, copy=True)
    group = images["group" if "group" in images else "file"].to_numpy(dtype=object, copy=True)
    for rows in connected(pairs, len(images)):
        counts = Counter(split[rows])
        split[rows] = max(counts, key=lambda name: (counts[name], -_FIRST_KEPT.index(name)))
        group[rows] = group[min(rows)]
    return pd.DataFrame({"removed": pd.Series(removed, dtype=object), "split": split, "group": group})


def _removed(images: pd.DataFrame, sets: list[list[int]]) -> list[str | None]:
    """Why each row goes, or None."""
    content, labels, files = (images[name].tolist() for name in ("sha256", "label", "file"))
    removed = [f"unreadable: {error}" if isinstance(error, str) else None for error in images["error"]]
    contrary = contrary_files(images)
    place = {row: number for number, row in enumerate(_best_first(images))}
    for rows in sets:
        stays: dict[int, int] = {}  # the row of each class
        for row in sorted(rows, key=place.__getitem__):
            kept = stays.get(labels[row])
            if content[row] in contrary:
                removed[row] = "the same file is called real and fake"
            elif kept is None:
                stays[labels[row]] = row
            else:
                removed[row] = f"same {'file' if content[row] == content[kept] else 'picture'} as {files[kept]}"
    return removed


def _best_first(images: pd.DataFrame) -> list[int]:
    keys = pd.DataFrame(
        {
            "split": images["split"].map(_FIRST_KEPT.index),
            "pixels": -(images["width"].astype(float) * images["height"].astype(float)),
            "bytes": -images["bytes"].astype(float),
        }
    )
    order: list[int] = keys.sort_values(list(keys), kind="stable").index.tolist()
    return order


def save_cleaned(rows: Dataset, images: pd.DataFrame, decisions: pd.DataFrame, path: Path) -> None:
    """Write the kept images as a Parquet table that the loader reads: `image`, `label` and what else is known.

    Files are named by their absolute paths. Images that a Parquet file or the Hub holds are written into the
    table, which then needs nothing else. Parquet and not CSV, because it holds both and any file name.
    """
    kept = np.flatnonzero(decisions["removed"].isna())
    columns = {}
    if set(images["split"]) != {"all"}:
        columns["split"] = decisions["split"].iloc[kept].tolist()
    if "source" in images:
        columns["source"] = images["source"].iloc[kept].tolist()
    if "mask" in rows.column_names:
        columns["mask"] = [os.path.abspath(mask) if mask else "" for mask in rows.select(kept)["mask"]]
    if "group" in images or decisions["group"].iloc[kept].duplicated().any():
        columns["group"] = decisions["group"].iloc[kept].tolist()
    contents = [pc.struct_field(chunk, "bytes") for chunk in rows.data["image"].chunks]
    embedded = any(chunk.null_count < len(chunk) for chunk in contents)
    with whole(path) as partial:
        if embedded:
            table = rows.select(kept).select_columns(["image", "label"])
            for name, values in columns.items():
                table = table.add_column(name, values)
            table.to_parquet(partial)
        else:
            paths = [os.path.abspath(image["path"]) for image in rows.select(kept)["image"]]
            labels = [NAMES[label] for label in images["label"].iloc[kept]]
            pd.DataFrame({"image": paths, "label": labels} | columns).to_parquet(partial, index=False)
