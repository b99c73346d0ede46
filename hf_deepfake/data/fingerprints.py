"""Hashes of image files, by which a benchmark's images are found again among those of a training."""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from tqdm.auto import tqdm
from transformers.utils.hub import cached_file

from hf_deepfake.errors import InputError
from hf_deepfake.writing import whole

TRAINING_IMAGES = "training_images.parquet"
"""File of a checkpoint that lists what it was trained and fitted on: `image`, `split`, `sha256` and, where known, `source`."""


def content_hashes(rows: Dataset, quiet: bool = False) -> list[str]:
    """SHA-256 of each image file as it is encoded; empty where there is no file."""
    hashes: list[str] = []
    with (
        tqdm(total=len(rows), desc="Hashing images", unit="image", disable=quiet, delay=2) as progress,
        ThreadPoolExecutor() as pool,
    ):
        for batch in rows.select_columns("image").iter(batch_size=256):  # embedded images are not all held at once
            hashes += pool.map(_content_hash, batch["image"])
            progress.update(len(batch["image"]))
    return hashes


def _content_hash(image: dict[str, Any]) -> str:
    try:
        content = image["bytes"] if image.get("bytes") is not None else Path(image["path"]).read_bytes()
    except OSError:
        return ""
    return hashlib.sha256(content).hexdigest()


def training_images(splits: Mapping[str, Dataset], quiet: bool = False) -> pd.DataFrame:
    """What a training sees (`train`) and is fitted by (`validation`), as `TRAINING_IMAGES` lists it."""
    parts = []
    for split in ("train", "validation"):
        if split in splits:
            rows = splits[split]
            columns = {"image": rows["file"][:], "split": split, "sha256": content_hashes(rows, quiet)}
            columns |= {"source": rows["source"][:]} if "source" in rows.column_names else {}
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def save_training_images(table: pd.DataFrame, folder: Path) -> None:
    """Write the list beside a checkpoint."""
    with whole(folder / TRAINING_IMAGES) as partial:
        table.to_parquet(partial, index=False)


def load_training_images(name_or_path: str | os.PathLike[str]) -> pd.DataFrame | None:
    """The list of a checkpoint folder or Hub id, or None where it has none.

    Raises:
        InputError: If it is damaged or lacks the hashes.
    """
    path = cached_file(
        name_or_path,
        TRAINING_IMAGES,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return None
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error
    if "sha256" not in table:
        raise InputError(f"{path}: no column sha256; its columns are {list(table.columns)}.")
    return table
