"""Tables, `save_to_disk` folders and Hub data sets, read to the columns of this package."""

import os
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
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
from hf_deepfake.arguments import DataArguments
from hf_deepfake.errors import InputError
from hf_deepfake.printing import first_line

UNKNOWN_SOURCE = "unknown"
"""Of an image whose source is not told where those of others are."""

TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"))

_IMAGE_COLUMNS = (
    "image img img_name image_name image_path img_path file_name filename file path filepath file_path "
    "jpg jpeg png webp".split()  # the last are fields of WebDataset shards, as is cls
)
LABEL_COLUMNS = "label labels target class class_name y is_fake fake cls".split()
_SPLIT_COLUMNS = "split subset partition".split()


def read_tables(tables: list[Path], data: DataArguments, labelled: bool) -> Dataset:
    """Rows of one table, or of several whose names tell their splits (`train.csv`, `valset_label.txt`).

    A text table's columns are told apart by commas, tabs or semicolons, in a `.txt` also by spaces. The columns `source`
    and `group` are kept, and `mask`: the path of an image of what was altered, which starts where the images' names
    do; empty for a real image.
    """
    parts = {}
    for table in tables:
        split = labels.read_split(table.stem) if len(tables) > 1 else None
        parts[table.name] = standardise(
            DatasetDict({split or "all": read_table(table)}), data, labelled, str(table), table.parent
        )
    return _joined(parts, data.dataset_name)


def read_table(path: Path) -> Dataset:
    """The rows of one table as they stand in it."""
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise InputError(f"{path}: is no table of images; a table ends in {' '.join(sorted(TABLE_SUFFIXES))}.")
    try:
        if suffix == ".parquet":
            return Dataset(pq.read_table(path))  # which keeps the names of a ClassLabel; pandas loses them
        if suffix in (".json", ".jsonl"):
            frame = pd.read_json(path, lines=suffix == ".jsonl", dtype=False)
        else:
            frame = _read_text(path)
        return Dataset.from_pandas(frame, preserve_index=False)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a {suffix[1:]} table: {first_line(error)}") from error


def _read_text(path: Path) -> pd.DataFrame:
    """Commas, tabs or semicolons, whichever the first line has most of; else spaces, which a quoted name may hold."""
    with path.open(encoding="utf-8-sig") as file:
        header = file.readline()
    separator = max(",\t;", key=header.count)
    if separator not in header and path.suffix.lower() == ".txt":
        separator = r"\s+"
    with warnings.catch_warnings():
        # a row longer than the header: without these two, pandas drops its end or takes its start for an index
        warnings.simplefilter("error", pd.errors.ParserWarning)
        return pd.read_csv(
            path, sep=separator, index_col=False, dtype=str, keep_default_na=False, skipinitialspace=True
        )


def read_saved(path: Path, data: DataArguments, labelled: bool) -> Dataset:
    """Rows of a folder that `save_to_disk` wrote."""
    try:
        loaded = load_from_disk(str(path))
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a save_to_disk folder: {first_line(error)}") from error
    return standardise(_as_splits(loaded), data, labelled, data.dataset_name)


def read_hub(data: DataArguments, labelled: bool) -> Dataset:
    """Rows of a data set on the Hub."""
    return standardise(_as_splits(load_hub(data)), data, labelled, data.dataset_name)


def load_hub(data: DataArguments, streaming: bool = False) -> Any:
    """A data set on the Hub as `datasets` gives it.

    Raises:
        InputError: If the name is none of a data set, or the Hub does not give it.
    """
    name = data.dataset_name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"{name}: no such file or folder, and no Hub id (USER/NAME).")
    try:
        return load_dataset(name, data.dataset_config_name, revision=data.dataset_revision, streaming=streaming)
    except Exception as error:
        raise InputError(
            f"{name}: no such file or folder here, and the Hub did not give it: {first_line(error)}"
        ) from error


def _as_splits(loaded: Dataset | DatasetDict) -> DatasetDict:
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(all=loaded)


def standardise(
    splits: DatasetDict, data: DataArguments, labelled: bool, source: str, root: Path | None = None
) -> Dataset:
    """Rows of a table or Hub data set with our columns; `root` is the folder of a table, which may name files.

    Raises:
        InputError: If a column is missing, a label or split cannot be told, or the splits tell different things.
    """
    parts = {}
    for name, rows in splits.items():
        if len(rows) == 0:
            continue
        found = find_columns(rows, data, labelled, source)
        image_column = found.pop("image")
        columns: dict[str, list[Any]] = {"file": [f"{name}/{index}" for index in range(len(rows))]}
        if "__key__" in rows.column_names:
            columns["file"] = [name_in_shard(*place) for place in zip(rows["__url__"], rows["__key__"], strict=True)]
        images = None
        if root is not None and isinstance(rows.features[image_column], Value):
            files = [_posix(file) for file in rows[image_column][:]]
            start = _image_root(root, data.image_root, files, labels.read_split(name), source)
            above = f"{start.absolute().as_posix()}/"
            columns["file"] = [file.removeprefix(above) for file in files]
            columns["image"] = [os.path.join(start, file) for file in files]
            mask_column = _find(rows, ["mask"])
            if mask_column is not None:
                columns["mask"] = [os.path.join(start, _posix(mask)) if mask else "" for mask in rows[mask_column][:]]
        else:
            images = rows.select_columns([image_column]).rename_columns({image_column: "image"})
            images = images.cast_column("image", Image(decode=False))
        if labelled:
            label_column = found.pop("label")
            reader = read_labels(rows, label_column, data.fake_label, source)
            columns["label"] = [reader[str(value)] for value in rows[label_column][:]]
            columns |= {ours: _known(rows[theirs][:], ours, columns["file"]) for ours, theirs in found.items()}
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


def _known(values: list[Any], column: str, files: list[str]) -> list[str]:
    """Sources or groups as text. An image without a group is a group of its own, one without a source of `unknown`."""
    absent = files if column == "group" else [UNKNOWN_SOURCE] * len(files)
    return [other if value in (None, "") else str(value) for value, other in zip(values, absent, strict=True)]


def name_in_shard(url: str, key: str) -> str:
    """Name of an image in a WebDataset shard: that of the shard and the image's key."""
    return f"{_posix(url).rsplit('/', 1)[-1]}/{key}"


def _posix(name: Any) -> str:
    return str(name) if str(name).startswith("/") else str(name).replace("\\", "/")


def find_columns(rows: Any, data: DataArguments, labelled: bool, source: str) -> dict[str, str]:
    """Which column is our `image` and, for labelled rows, `label` and where there are any `source` and `group`.

    A `group_by` that is no column is searched for in the paths later on.

    Raises:
        InputError: If there is no such column for the images or labels.
    """
    columns = {"image": _column(rows, data.image_column, _IMAGE_COLUMNS, "image", source)}
    if labelled:
        columns["label"] = _column(rows, data.label_column, LABEL_COLUMNS, "label", source)
        group = data.group_by if data.group_by in rows.column_names else None
        known = {
            "source": _find(rows, ["source"]),
            "group": _find(rows, ["group"]) if data.group_by is None else group,
        }
        columns |= {ours: theirs for ours, theirs in known.items() if theirs is not None}
    return columns


def _image_root(folder: Path, given: str | None, files: list[str], split: str | None, source: str) -> Path:
    """The folder that image names start from: the given one, else the table's, else its subfolder named as the split.

    Raises:
        InputError: If not one of the files is there.
    """
    root = Path(given) if given is not None else folder
    if any(os.path.isfile(root / file) for file in files):
        return root
    below = [
        Path(path) for path, _, _ in os.walk(root) if any(os.path.isfile(Path(path, file)) for file in files[:10])
    ]
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


def read_labels(rows: Dataset, column: str, fake_label: str | None, source: str) -> dict[str, int]:
    """Our label for each value of a label column, written as text; a `ClassLabel` is read by its names.

    Raises:
        InputError: If a value cannot be told.
    """
    feature = rows.features[column]
    names = {str(index): name for index, name in enumerate(getattr(feature, "names", []))}
    values = {str(value): names.get(str(value), str(value)) for value in rows[column][:]}
    meaning = labels.read_label(column)
    if meaning == labels.REAL and fake_label is None:
        raise InputError(
            f"{source}: column {column!r} reads as the opposite of fake. Pass --fake_label with the value "
            f"that means fake, one of {sorted(set(values.values()))[:10]}."
        )
    if meaning == labels.FAKE and fake_label is None:  # is_fake: true
        values = {value: {"true": "1", "false": "0"}.get(name.lower(), name) for value, name in values.items()}
    reader = labels.label_reader(set(values.values()), fake_label, f"{source} ({column})")
    return {value: reader[name] for value, name in values.items()}


def rows_of(columns: dict[str, list[Any]]) -> Dataset:
    """A data set of these columns, `image` being paths and `label` our classes."""
    features: dict[str, Any] = {name: Value("string") for name in columns}
    if "label" in columns:
        features["label"] = ClassLabel(names=list(labels.NAMES))
    rows = Dataset(pa.table(columns, schema=Features(features).arrow_schema))  # from_dict encodes value by value
    return rows.cast_column("image", Image(decode=False)) if "image" in columns else rows
