"""Tables, `save_to_disk` folders and Hub data sets, read to the columns of this package."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Features,
    Image,
    Value,
    concatenate_datasets,
    load_dataset,
    load_from_disk,
)

from hf_deepfake import labels
from hf_deepfake.errors import InputError
from hf_deepfake.recipe import DataArguments

TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"))

_IMAGE_COLUMNS = (
    "image img img_name image_name image_path img_path file_name filename file path filepath file_path".split()
)
_LABEL_COLUMNS = "label labels target class class_name y is_fake fake".split()
_SPLIT_COLUMNS = "split subset partition".split()


def read_tables(tables: list[Path], data: DataArguments, labelled: bool) -> Dataset:
    """Rows of one table, or of several whose names tell their splits (`train.csv`, `valset_label.txt`)."""
    parts = {}
    for table in tables:
        split = labels.read_split(table.stem) if len(tables) > 1 else None
        parts[table.name] = _standardise(
            DatasetDict({split or "all": _table(table)}), data, labelled, str(table), table.parent
        )
    return _joined(parts, data.dataset_name)


def _table(path: Path) -> Dataset:
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: is no table of images; a table ends in {' '.join(sorted(TABLE_SUFFIXES))}.")
    try:
        if suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif suffix in (".json", ".jsonl"):
            frame = pd.read_json(path, lines=suffix == ".jsonl", dtype=False)
        else:
            separator = "\t" if suffix == ".tsv" else ","
            frame = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True)
        return Dataset.from_pandas(frame, preserve_index=False)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a {suffix[1:]} table: {_first_line(error)}") from error


def read_saved(path: Path, data: DataArguments, labelled: bool) -> Dataset:
    """Rows of a folder that `save_to_disk` wrote."""
    try:
        loaded = load_from_disk(str(path))
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a save_to_disk folder: {_first_line(error)}") from error
    return _standardise(_as_splits(loaded), data, labelled, data.dataset_name)


def read_hub(data: DataArguments, labelled: bool) -> Dataset:
    """Rows of a data set on the Hub."""
    name = data.dataset_name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"{name}: no such file or folder, and no Hub id (USER/NAME).")
    try:
        loaded = load_dataset(name, data.dataset_config_name, revision=data.dataset_revision)
    except Exception as error:
        raise InputError(
            f"{name}: no such file or folder here, and the Hub did not give it: {_first_line(error)}"
        ) from error
    return _standardise(_as_splits(loaded), data, labelled, name)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _as_splits(loaded: Dataset | DatasetDict) -> DatasetDict:
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(all=loaded)


def _standardise(
    splits: DatasetDict, data: DataArguments, labelled: bool, source: str, root: Path | None = None
) -> Dataset:
    """Rows of a table or Hub data set with our columns; `root` is the folder of a table, which may name files."""
    parts = {}
    for name, rows in splits.items():
        if len(rows) == 0:
            continue
        image_column = _column(rows, data.image_column, _IMAGE_COLUMNS, "image", source)
        columns: dict[str, list[Any]] = {"file": [f"{name}/{index}" for index in range(len(rows))]}
        images = None
        if root is not None and isinstance(rows.features[image_column], Value):
            files = [str(file).replace("\\", "/") for file in rows[image_column][:]]
            start = _image_root(root, data.image_root, files, labels.read_split(name), source)
            above = f"{start.absolute().as_posix()}/"
            columns["file"] = [file.removeprefix(above) for file in files]
            columns["image"] = [os.path.join(start, file) for file in files]
        else:
            images = rows.select_columns([image_column]).rename_columns({image_column: "image"})
            images = images.cast_column("image", Image(decode=False))
        if labelled:
            label_column = _column(rows, data.label_column, _LABEL_COLUMNS, "label", source)
            columns["label"] = _label_values(rows, label_column, data.fake_label, source)
            columns |= _known_columns(rows, data.group_by)
            split_column = _find(rows, _SPLIT_COLUMNS)
            if split_column is not None or labels.read_split(name) is not None:
                values = [str(value) for value in rows[split_column][:]] if split_column else [name] * len(rows)
                columns["split"] = [labels.read_split(value) for value in values]
                if None in columns["split"]:
                    raise InputError(
                        f"{source}: {split_column} has the value {values[columns['split'].index(None)]!r}; "
                        "name splits train, validation or test."
                    )
        told = rows_of(columns)
        parts[name] = told if images is None else concatenate_datasets([images, told], axis=1)
    return _joined(parts, source)


def _known_columns(rows: Dataset, group_by: str | None) -> dict[str, list[str]]:
    """What a table tells of `source` and `group`; a `group_by` that is no column is searched for in the paths."""
    columns = {"source": _find(rows, ["source"]), "group": _find(rows, ["group"])}
    if group_by is not None:
        columns["group"] = group_by if group_by in rows.column_names else None
    return {name: [str(value) for value in rows[column][:]] for name, column in columns.items() if column is not None}


def _image_root(folder: Path, given: str | None, files: list[str], split: str | None, source: str) -> Path:
    """The folder that image names start from: the given one, else the table's, else its subfolder named as the split.

    Raises:
        InputError: If not one of the files is there.
    """
    root = Path(given) if given is not None else folder
    if any((root / file).is_file() for file in files):
        return root
    below = [Path(path) for path, _, _ in os.walk(root) if any(Path(path, file).is_file() for file in files[:10])]
    if split is not None:
        named = [path for path in below if path.parent == root and labels.read_split(path.name) == split]
        if len(named) == 1:
            return named[0]
    place = str(below[0]) if len(below) == 1 else "FOLDER, which their names start from"
    raise InputError(
        f"{source}: none of its {len(files)} images is in {root}; the first is {files[0]!r}. Pass --image_root {place}."
    )


def _joined(parts: dict[str, Dataset], source: str) -> Dataset:
    if not parts:
        raise InputError(f"{source}: has no rows.")
    columns = {name: sorted(part.column_names) for name, part in parts.items()}
    if len(set(map(tuple, columns.values()))) > 1:
        raise InputError(
            f"{source}: its tables or splits do not tell the same of their images: {columns}. "
            "Give them the same columns and call them train, validation or test, or name one table."
        )
    return concatenate_datasets(list(parts.values()))


def _find(rows: Dataset, candidates: Iterable[str]) -> str | None:
    lower = {column.lower(): column for column in reversed(rows.column_names)}
    return next((lower[name] for name in candidates if name in lower), None)


def _column(rows: Dataset, given: str | None, candidates: list[str], meaning: str, source: str) -> str:
    if given is not None and given not in rows.column_names:
        raise InputError(f"{source}: no column {given!r}; its columns are {rows.column_names}.")
    found = given if given is not None else _find(rows, candidates)
    if found is None:
        raise InputError(
            f"{source}: no {meaning} column found; its columns are {rows.column_names}. Pass --{meaning}_column."
        )
    return found


def _label_values(rows: Dataset, column: str, fake_label: str | None, source: str) -> list[int]:
    feature = rows.features[column]
    names = dict(enumerate(feature.names)) if isinstance(feature, ClassLabel) else {}
    values = [names.get(value, str(value)) for value in rows[column][:]]
    meaning = labels.read_label(column)
    if meaning == labels.REAL and fake_label is None:
        raise InputError(
            f"{source}: column {column!r} reads as the opposite of fake. Pass --fake_label with the value "
            f"that means fake, one of {sorted(set(values))[:10]}."
        )
    if meaning == labels.FAKE and fake_label is None:  # is_fake: true
        values = [{"true": "1", "false": "0"}.get(value.lower(), value) for value in values]
    reader = labels.label_reader(set(values), fake_label, f"{source} ({column})")
    return [reader[value] for value in values]


def rows_of(columns: dict[str, list[Any]]) -> Dataset:
    """A data set of these columns, `image` being paths and `label` our classes."""
    features: dict[str, Any] = {name: Value("string") for name in columns}
    if "label" in columns:
        features["label"] = ClassLabel(names=list(labels.NAMES))
    rows = Dataset(pa.table(columns, schema=Features(features).arrow_schema))  # from_dict encodes value by value
    return rows.cast_column("image", Image(decode=False)) if "image" in columns else rows
