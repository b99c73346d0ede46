"""Streams of local shards and of data sets on the Hub, by split."""

import glob
import logging
import os
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import (
    ClassLabel,
    Dataset,
    DatasetInfo,
    Features,
    Image,
    IterableDataset,
    Value,
    concatenate_datasets,
    load_dataset,
)
from tqdm.auto import tqdm

from hf_deepfake import labels
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.tables import LABEL_COLUMNS, load_hub
from hf_deepfake.errors import InputError
from hf_deepfake.printing import first_line

_BUILDERS = {".tar": "webdataset", ".parquet": "parquet"}
_IMAGE_FIELDS = "jpg jpeg png webp JPG JPEG PNG WEBP".split()

logger = logging.getLogger(__name__)


def open_streams(data: DataArguments) -> dict[str, IterableDataset]:
    """Undecoded rows by split, none of them read yet; those of a WebDataset have one column of images.

    Raises:
        InputError: If there are no shards and no such Hub data set, or they cannot be streamed.
    """
    shards = _shards(data.dataset_name)
    try:
        loaded = _load_shards(shards, data) if shards else load_hub(data, streaming=True)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{data.dataset_name}: its shards cannot be read: {first_line(error)}") from error
    streams = defaultdict(list)
    for name, rows in loaded.items():
        split = labels.read_split(name)
        if rows.features is None:
            raise InputError(f"{data.dataset_name}: does not tell its columns; read it without --streaming.")
        if split is not None:
            streams[split].append(_flat(rows, data))
        else:
            logger.warning(
                "%s: split %s is no train, validation or test, so it is passed over", data.dataset_name, name
            )
    return {split: concatenate_datasets(parts) for split, parts in streams.items()}


def _shards(name: str) -> dict[str, list[str]]:
    """Local shards by split."""
    found = Path(name).rglob("*") if os.path.isdir(name) else map(Path, glob.glob(name))
    paths = sorted(path for path in found if path.suffix.lower() in _BUILDERS and path.name[0] != ".")
    kinds = Counter(path.suffix.lower() for path in paths)
    if len(kinds) > 1 or (not kinds and os.path.exists(name)):
        raise InputError(
            f"{name}: only shards are streamed, all .tar or all .parquet; found {dict(kinds)}. "
            "Images in folders and tables are read without --streaming."
        )
    above = Path(name) if os.path.isdir(name) else Path(name).parent  # whose name does not tell a split
    shards = defaultdict(list)
    for path in paths:
        split = labels.read_split(path.stem) or (labels.read_split(path.parent.name) if path.parent != above else None)
        if split is None:
            raise InputError(f"{path}: neither its name nor its folder's tells train, validation or test.")
        shards[split].append(str(path))
    return shards


def _load_shards(shards: dict[str, list[str]], data: DataArguments) -> Any:
    kind = Path(next(iter(shards.values()))[0]).suffix.lower()
    features = None
    if kind == ".tar":  # else told from the first samples of one shard, which need not have what others have
        names = {*LABEL_COLUMNS, "source", "group", data.label_column or "label", data.group_by or "group"}
        features = Features(
            {field: Image(decode=False) for field in _IMAGE_FIELDS}
            | {"cls": Value("int64"), "json": {name: Value("string") for name in sorted(names)}}
            | {"__key__": Value("string"), "__url__": Value("string")}
        )
    else:
        _check_class_names([path for paths in shards.values() for path in paths])
    return load_dataset(_BUILDERS[kind], data_files=shards, features=features, streaming=True)


def _check_class_names(paths: list[str]) -> None:
    """Refuse shards that number their classes differently: `datasets` reads all by the names of the first."""
    first: dict[str, list[str]] = {}
    for path in paths:
        features = Features.from_arrow_schema(pq.read_schema(path))
        names = {column: feature.names for column, feature in features.items() if isinstance(feature, ClassLabel)}
        for column, found in names.items():
            if first.setdefault(column, found) != found:
                raise InputError(
                    f"{path}: the classes of {column} are {found}, but {first[column]} in {paths[0]}; "
                    "write all shards with one list of names."
                )


def _flat(rows: IterableDataset, data: DataArguments) -> IterableDataset:
    """Samples of WebDataset shards as rows: one column of images, and the fields of their `json` as columns."""
    if "__key__" not in rows.column_names or data.image_column is not None:
        return rows
    images = [field for field in _IMAGE_FIELDS if field in rows.column_names]
    for field in images:
        rows = rows.cast_column(field, Image(decode=False))
    told = rows.features["json"] if isinstance(rows.features.get("json"), dict) else {}
    others = {name: rows.features[name] for name in ("cls", "__key__", "__url__") if name in rows.column_names}
    features = Features(told | others | {"image": Image(decode=False)})
    return rows.map(
        partial(_flat_row, images, list(told), list(others)), remove_columns=rows.column_names, features=features
    )


def _flat_row(images: list[str], told: list[str], others: list[str], row: dict[str, Any]) -> dict[str, Any]:
    about = row.get("json") or {}
    columns = {name: about.get(name) for name in told} | {name: row[name] for name in others}
    return columns | {"image": next((row[field] for field in images if row[field] is not None), None)}


def hold(rows: IterableDataset, name: str, source: str) -> Dataset:
    """All rows of a split, undecoded, in memory, without the columns that are empty.

    Raises:
        InputError: If there are none, or they cannot be read to their end.
    """
    batches = rows.with_format("arrow").iter(batch_size=256)
    try:
        tables = list(tqdm(batches, desc=f"Reading {name}", unit="batch", delay=1))
    except Exception as error:
        raise InputError(f"{source}: the {name} split cannot be read: {first_line(error)}") from error
    if not tables:
        raise InputError(f"{source}: the {name} split has no images.")
    table = pa.concat_tables(tables)
    told = [column for column in table.column_names if table[column].null_count < len(table)]
    features = Features({column: rows.features[column] for column in told})
    return Dataset(table.select(told), info=DatasetInfo(features=features))
