"""One loader for folders, tables, `save_to_disk` folders and Hub data sets."""

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
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
from hf_deepfake.data.splitting import check_groups, make_splits
from hf_deepfake.errors import InputError
from hf_deepfake.recipe import DataArguments

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
TABLE_SUFFIXES = frozenset((".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet"))
SPLITS = ("train", "validation", "test")

_IMAGE_COLUMNS = (
    "image img img_name image_name image_path img_path file_name filename file path filepath file_path".split()
)
_LABEL_COLUMNS = "label labels target class class_name y is_fake fake".split()
_SPLIT_COLUMNS = "split subset partition".split()


def load_data(data: DataArguments, labelled: bool = True) -> DatasetDict:
    """Read a data set in any supported layout and give it the columns and splits of this package.

    Folders: `[…/]{train,validation,test}/…/{real,fake}/…/*.jpg` with the aliases of `labels.py`, or without
    split folders. The folder below the label's, where there is one, is the image's `source`. Tables name
    their images relative to `image_root`. No image is opened.

    Args:
        data: What to read and how to split it.
        labelled: False for images to be scored only: labels need not be told, and nothing is split.

    Returns:
        Splits with the columns `image` (undecoded bytes or path), `label` (`ClassLabel` real, fake), `file` (the
        path below the data set's root, or `split/row` for rows of the Hub) and, where known, `source` and `group`.
        Data without any split come back as `train`, `validation` and `test`; data that have a `train` split keep
        their own splits and get what is missing of `validation` (and of `test` if `test_share` is given). Data that
        have only splits to test on keep those.

    Raises:
        InputError: If there is nothing to read, the labels cannot be told, a class is missing, or a group stands
            in two splits.
    """
    rows = _read(data, labelled)
    if labelled:
        _require_both_classes(rows, data.dataset_name)
    if data.group_by is not None and "group" not in rows.column_names:
        rows = rows.add_column("group", _groups(rows["file"], data.group_by, data.dataset_name))
    splits = _by_split(rows)
    if labelled:
        check_groups(splits, data.dataset_name)
    return splits


def load_splits(data: DataArguments) -> DatasetDict:
    """Like `load_data`, with `train` and `validation` (and `test` unless the data rule it out) made where missing."""
    return make_splits(load_data(data), data)


def _read(data: DataArguments, labelled: bool) -> Dataset:
    path = Path(data.dataset_name)
    if path.is_file():
        return _read_tables([path], data, labelled)
    if not path.is_dir():
        return _read_hub(data, labelled)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _standardise(_as_splits(load_from_disk(str(path))), data, labelled)
    images = list(_image_files(path))
    tables = sorted(file for file in path.iterdir() if file.suffix.lower() in TABLE_SUFFIXES and file.is_file())
    if images:
        try:
            return _read_folder(path, images, data, labelled)
        except InputError:
            if not (labelled and tables):
                raise
    if tables:
        return _read_tables(tables, data, labelled)
    raise InputError(
        f"{path}: no images and no table found; looked for {' '.join(sorted(IMAGE_SUFFIXES | TABLE_SUFFIXES))}."
    )


def _image_files(root: Path) -> Iterable[str]:
    """Paths below root, with `/`, in a stable order; links to folders are not followed."""
    for folder, subfolders, files in os.walk(root):
        subfolders.sort()
        for name in sorted(files):
            if Path(name).suffix.lower() in IMAGE_SUFFIXES and not name.startswith("."):
                yield (Path(folder) / name).relative_to(root).as_posix()


def _read_folder(root: Path, files: list[str], data: DataArguments, labelled: bool) -> Dataset:
    folders = [PurePosixPath(file).parts[:-1] for file in files]
    columns: dict[str, list[Any]] = {"image": [str(root / file) for file in files], "file": files}
    if labelled:
        depths = _label_depths(folders, data.fake_label)
        untold = Counter(
            "/".join(folder) or "." for folder, depth in zip(folders, depths, strict=True) if depth is None
        )
        if untold:
            raise InputError(
                f"{root}: cannot tell which images are real and which fake from these folders: "
                f"{dict(untold.most_common(5))}. Name the folders real and fake, or pass --fake_label FOLDER or a table."
            )
        columns["label"] = [
            _folder_label(folder[depth], data.fake_label)
            for folder, depth in zip(folders, depths, strict=True)
            if depth is not None
        ]
        below = [
            folder[depth + 1] if len(folder) > depth + 1 else None
            for folder, depth in zip(folders, depths, strict=True)
            if depth is not None
        ]
        if any(below):
            columns["source"] = [name or "unknown" for name in below]
    splits = [next((split for split in map(labels.read_split, folder) if split), None) for folder in folders]
    if any(splits):
        outside = Counter("/".join(folder) for folder, split in zip(folders, splits, strict=True) if split is None)
        if outside and labelled:
            raise InputError(
                f"{root}: some folders are splits, but these stand outside of any: {dict(outside.most_common(5))}. "
                "Move them below train, validation or test, or away."
            )
        columns["split"] = [split or "test" for split in splits]
    return _dataset(columns)


def _folder_label(name: str, fake_label: str | None) -> int | None:
    if fake_label is not None:
        return labels.FAKE if name == fake_label else labels.REAL
    return labels.read_label(name)


def _label_depths(folders: list[tuple[str, ...]], fake_label: str | None) -> list[int | None]:
    """For each image, the depth of the folder that says its label.

    Names above the label folder may read as a label too (`deepfake_data/train/real`): the first depth at
    which both classes stand is the one, else the deepest folder that tells.
    """
    if fake_label is not None:
        depths = {folder.index(fake_label) for folder in folders if fake_label in folder}
        depth = min(depths, default=0)
        return [depth if len(folder) > depth else None for folder in folders]
    readings = [[labels.read_label(name) for name in folder] for folder in folders]
    for depth in range(max(map(len, readings), default=0)):
        if {row[depth] for row in readings if len(row) > depth} >= {labels.REAL, labels.FAKE}:
            return [depth if len(row) > depth and row[depth] is not None else None for row in readings]
    return [max((depth for depth, label in enumerate(row) if label is not None), default=None) for row in readings]


def _read_tables(tables: list[Path], data: DataArguments, labelled: bool) -> Dataset:
    parts = []
    for table in tables:
        part = _standardise(DatasetDict(all=_table(table)), data, labelled, root=Path(data.image_root or table.parent))
        split = labels.read_split(table.stem)
        if "split" not in part.column_names and split and len(tables) > 1:
            part = part.add_column("split", [split] * len(part))
        parts.append(part)
    if len({frozenset(part.column_names) for part in parts}) > 1:
        raise InputError(
            f"{data.dataset_name}: its tables have different columns: {[table.name for table in tables]}. Name one."
        )
    return concatenate_datasets(parts)


def _table(path: Path) -> Dataset:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            frame = pd.read_parquet(path)
        elif suffix in (".json", ".jsonl"):
            frame = pd.read_json(path, lines=suffix == ".jsonl", dtype=False)
        else:
            frame = pd.read_csv(path, sep="\t" if suffix == ".tsv" else ",", dtype=str, keep_default_na=False)
    except Exception as error:
        raise InputError(f"{path}: cannot be read as a {suffix[1:]} table: {error}") from error
    if frame.empty:
        raise InputError(f"{path}: the table has no rows.")
    return Dataset.from_pandas(frame, preserve_index=False)


def _read_hub(data: DataArguments, labelled: bool) -> Dataset:
    name = data.dataset_name
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise InputError(f"{name}: no such file or folder, and no Hub id (USER/NAME).")
    try:
        loaded = load_dataset(name, data.dataset_config_name, revision=data.dataset_revision)
    except Exception as error:
        first_line = str(error).strip().splitlines()[0]
        raise InputError(f"{name}: no such file or folder here, and the Hub did not give it: {first_line}") from error
    return _standardise(_as_splits(loaded), data, labelled)


def _as_splits(loaded: Dataset | DatasetDict) -> DatasetDict:
    return loaded if isinstance(loaded, DatasetDict) else DatasetDict(all=loaded)


def _standardise(splits: DatasetDict, data: DataArguments, labelled: bool, root: Path | None = None) -> Dataset:
    """Rows of a table or Hub data set with our columns; `root` is given where `image` names files."""
    parts = []
    for name, rows in splits.items():
        image_column = _column(rows, data.image_column, _IMAGE_COLUMNS, "image", data.dataset_name)
        features: dict[str, Any] = {}
        part = rows.select_columns([image_column]).rename_column(image_column, "image")
        if root is not None:
            files = [str(file).replace("\\", "/") for file in part["image"]]
            part = part.remove_columns("image").add_column("file", files)
            part = part.add_column("image", [str(root / file) for file in files])
        else:
            part = part.add_column("file", [f"{name}/{index}" for index in range(len(part))])
        features |= {"image": Image(decode=False), "file": Value("string")}
        if labelled:
            label_column = _column(rows, data.label_column, _LABEL_COLUMNS, "label", data.dataset_name)
            part = part.add_column("label", _label_values(rows, label_column, data))
            features["label"] = ClassLabel(names=list(labels.NAMES))
        for column in {"source", "group", data.group_by or "group"} & set(rows.column_names):
            target = "group" if column == data.group_by else column
            part = part.add_column(target, [str(value) for value in rows[column]])
            features[target] = Value("string")
        split_column = next((c for c in _SPLIT_COLUMNS if c in rows.column_names), None)
        values = [str(value) for value in rows[split_column]] if split_column else [name] * len(part)
        read = [labels.read_split(value) for value in values]
        if split_column or read[0]:
            if None in read:
                raise InputError(
                    f"{data.dataset_name}: {split_column or 'split'} has the value {values[read.index(None)]!r}; "
                    "name splits train, validation or test."
                )
            part = part.add_column("split", read)
            features["split"] = Value("string")
        parts.append(part.cast(Features({column: features[column] for column in part.column_names})))
    return concatenate_datasets(parts)


def _column(rows: Dataset, given: str | None, candidates: list[str], meaning: str, source: str) -> str:
    if given is not None:
        if given not in rows.column_names:
            raise InputError(f"{source}: no column {given!r}; its columns are {rows.column_names}.")
        return given
    lower = {column.lower(): column for column in reversed(rows.column_names)}
    found = next((lower[name] for name in candidates if name in lower), None)
    if found is None:
        raise InputError(
            f"{source}: no {meaning} column found; its columns are {rows.column_names}. Pass --{meaning}_column."
        )
    return found


def _label_values(rows: Dataset, column: str, data: DataArguments) -> list[int]:
    feature = rows.features[column]
    raw = rows[column]
    values = [feature.int2str(value) if isinstance(feature, ClassLabel) else str(value) for value in raw]
    if labels.read_label(column) == labels.REAL and data.fake_label is None:
        raise InputError(
            f"{data.dataset_name}: column {column!r} reads as the opposite of fake. Pass --fake_label with the value "
            f"that means fake, one of {sorted(set(values))[:10]}."
        )
    reader = labels.label_reader(set(values), data.fake_label, f"{data.dataset_name} ({column})")
    return [reader[value] for value in values]


def _dataset(columns: dict[str, list[Any]]) -> Dataset:
    features = {
        name: Image(decode=False)
        if name == "image"
        else ClassLabel(names=list(labels.NAMES))
        if name == "label"
        else Value("string")
        for name in columns
    }
    return Dataset.from_dict(columns, features=Features(features))


def _groups(files: Iterable[str], group_by: str, source: str) -> list[str]:
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"{source}: --group_by {group_by!r} is no column and no regular expression: {error}"
        ) from error
    groups = []
    for file in files:
        match = pattern.search(file)
        if match is None:
            raise InputError(f"{file}: --group_by {group_by!r} finds nothing in this path.")
        groups.append(match.group(1) if pattern.groups else match.group(0))
    return groups


def _require_both_classes(rows: Dataset, source: str) -> None:
    found = set(rows["label"])
    if len(found) < 2:
        present = [labels.NAMES[label] for label in sorted(found)]
        raise InputError(
            f"{source}: {len(rows)} images, all of one class ({', '.join(present) or 'none'}); "
            "real and fake images are both needed."
        )


def _by_split(rows: Dataset) -> DatasetDict:
    if "split" not in rows.column_names:
        return DatasetDict(all=rows)
    column = rows["split"]
    indices = {split: [index for index, value in enumerate(column) if value == split] for split in SPLITS}
    plain = rows.remove_columns("split")
    return DatasetDict({split: plain.select(found) for split, found in indices.items() if found})
