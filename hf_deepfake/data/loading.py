"""One loader for folders, tables, `save_to_disk` folders and Hub data sets."""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_deepfake import labels
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.splitting import check_groups, make_splits
from hf_deepfake.data.tables import TABLE_SUFFIXES, UNKNOWN_SOURCE, read_hub, read_saved, read_tables, rows_of
from hf_deepfake.data.walking import IMAGE_SUFFIXES, find_images
from hf_deepfake.errors import InputError

SPLITS = ("train", "validation", "test")


def load_data(
    data: DataArguments, labelled: bool = True, both_classes: bool = True, leaks: bool = False
) -> DatasetDict:
    """Read a data set in any supported layout and give it the columns and splits of this package.

    Folders: `[…/]{train,validation,test}/…/{real,fake}/…/*.jpg` with the aliases of `labels.py`, or without
    split folders. The folder below the label's, where there is one, is the image's `source`. Tables name
    their images relative to `image_root`, or hold them (Parquet). No image is opened. Links that lead out of a
    folder are followed only with `follow_links`; what else is passed over there is said in a warning.

    Args:
        data: What to read and how to split it.
        labelled: False for images to be scored only: labels need not be told, and nothing is split.
        both_classes: False where images of one class will do, as in a benchmark of real photographs only.
        leaks: True where a group may stand in two splits, as in an audit, which reports it.

    Returns:
        Splits with the columns `image` (undecoded bytes or path), `label` (`ClassLabel` real, fake), `file` (the
        path below the data set's root, or `split/row` for rows of the Hub) and, where known, `source`, `group` and
        `mask` (path of an image of what was altered, empty for a real one).
        Splits keep their names; data without any come back as `all`, which `load_splits` divides.

    Raises:
        InputError: If there is nothing to read, the labels cannot be told, a class is missing, or a group stands
            in two splits.
    """
    rows = _read(data, labelled)
    if not labelled:
        return DatasetDict(all=rows)
    if both_classes:
        _require_both_classes(rows, data.dataset_name)
    return in_splits(rows, data, leaks)


def load_splits(data: DataArguments, both_classes: bool = True) -> DatasetDict:
    """Like `load_data`, ready to train on.

    Data without splits are divided into `train`, `validation` and `test`. Data with a `train` split keep their
    own, and a missing `validation` (and `test`, if `test_share` is given) is cut off from `train`. With
    `both_classes` False real photographs alone will do, in every split.
    """
    return make_splits(load_data(data, both_classes=both_classes), data, both_classes)


def _read(data: DataArguments, labelled: bool) -> Dataset:
    path = Path(data.dataset_name)
    if os.path.isfile(path):  # unlike Path.is_file, False also where the name is too long or may not be looked up
        return read_tables([path], data, labelled)
    if not os.path.isdir(path):
        return read_hub(data, labelled)
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return read_saved(path, data, labelled)
    images, links_out = find_images(path, data.follow_links)
    tables = sorted(
        file
        for file in path.iterdir()
        if file.suffix.lower() in TABLE_SUFFIXES and file.is_file() and not file.name.startswith(".")
    )
    if tables and (data.image_root is not None or not images):
        return read_tables(tables, data, labelled)
    if not images:
        looked_for = " ".join(sorted(IMAGE_SUFFIXES | TABLE_SUFFIXES))
        links = f" {links_out} links lead out of it; --follow_links follows them." if links_out else ""
        raise InputError(f"{path}: no images and no table found; looked for {looked_for}.{links}")
    try:
        return _read_folder(path, images, data, labelled)
    except InputError as error:
        if not tables:
            raise
        return _read_tables_instead(tables, data, labelled, error)


def _read_tables_instead(tables: list[Path], data: DataArguments, labelled: bool, why: InputError) -> Dataset:
    try:
        return read_tables(tables, data, labelled)
    except InputError as error:
        raise InputError(f"{why} Its tables do not help: {error}") from error


def _read_folder(root: Path, files: list[str], data: DataArguments, labelled: bool) -> Dataset:
    columns: dict[str, list[Any]] = {"image": [os.path.join(root, file) for file in files], "file": files}
    if not labelled:
        return rows_of(columns)
    folders = [tuple(file.split("/")[:-1]) for file in files]
    images = Counter(folders)
    depths = _label_depths(images, data.fake_label, str(root))
    untold = {"/".join(folder) or ".": count for folder, count in images.most_common() if folder not in depths}
    if untold:
        raise InputError(
            f"{root}: cannot tell which images are real and which fake from these folders: "
            f"{dict(list(untold.items())[:5])}. Name the folders real and fake, or pass --fake_label FOLDER or a table."
        )
    columns["label"] = [_folder_label(folder[depths[folder]], data.fake_label) for folder in folders]
    sources = {
        folder: next((name for name in folder[depth + 1 :] if labels.read_split(name) is None), None)
        for folder, depth in depths.items()
    }
    if any(sources.values()):
        columns["source"] = [sources[folder] or UNKNOWN_SOURCE for folder in folders]
    splits = {folder: next(filter(None, map(labels.read_split, folder)), None) for folder in images}
    if any(splits.values()):
        outside = {"/".join(folder) or ".": images[folder] for folder, split in splits.items() if split is None}
        if outside:
            raise InputError(
                f"{root}: some folders are splits, but these stand outside of any: {dict(list(outside.items())[:5])}. "
                "Move them below train, validation or test, or away."
            )
        columns["split"] = [splits[folder] for folder in folders]
    return rows_of(columns)


def _folder_label(name: str, fake_label: str | None) -> int | None:
    if fake_label is not None:
        return labels.FAKE if name == fake_label else labels.REAL
    return labels.read_label(name)


def _label_depths(
    folders: Collection[tuple[str, ...]], fake_label: str | None, source: str
) -> dict[tuple[str, ...], int]:
    """The depth of the folder that says the label, for each folder of images where one says it.

    Names above the label folder may read as a label too (`deepfake_data/train/real`): the first depth at
    which both classes stand is the one, else the deepest folder that tells.
    """
    if fake_label is not None:
        depth = min((folder.index(fake_label) for folder in folders if fake_label in folder), default=0)
        told = [folder for folder in folders if len(folder) > depth]
        labels.label_reader({folder[depth] for folder in told}, fake_label, source)
        return dict.fromkeys(told, depth)
    readings = {folder: [labels.read_label(name) for name in folder] for folder in folders}
    deepest = max(map(len, folders), default=0)
    at = [{row[depth] for row in readings.values() if len(row) > depth} for depth in range(deepest)]
    both = [depth for depth, found in enumerate(at) if found >= {labels.REAL, labels.FAKE}]
    depths = {}
    for folder, row in readings.items():
        telling = [depth for depth, label in enumerate(row) if label is not None and depth >= min(both, default=0)]
        if telling:
            depths[folder] = telling[0] if both[:1] == telling[:1] else telling[-1]
        if len({row[depth] for depth in both if depth in telling}) > 1:
            raise InputError(
                f"{source}: {'/'.join(folder)} reads as real and as fake, and so do others at both depths; "
                "pass --fake_label with the name of the folders that hold the fakes."
            )
    return depths


def groups_of(files: Iterable[str], group_by: str, source: str) -> list[str]:
    """Group of each file: what the first group of the pattern, or else the whole of it, finds in its path.

    Raises:
        InputError: If it is no regular expression, or finds nothing in a path.
    """
    try:
        pattern = re.compile(group_by)
    except re.error as error:
        raise InputError(
            f"{source}: --group_by {group_by!r} is no column and no regular expression: {error}"
        ) from error
    groups = []
    for file in files:
        match = pattern.search(file)
        group = match and match[1 if pattern.groups else 0]
        if group is None:
            raise InputError(f"{source}: --group_by {group_by!r} is no column, and finds nothing in the path {file}.")
        groups.append(group)
    return groups


def _require_both_classes(rows: Dataset, source: str) -> None:
    found = sorted(set(rows["label"][:]))
    if len(found) < 2:
        raise InputError(
            f"{source}: {len(rows)} images, all of one class ({labels.NAMES[found[0]]}); "
            "real and fake images are both needed."
        )


def in_splits(rows: Dataset, data: DataArguments, leaks: bool = False) -> DatasetDict:
    """Divide rows by their column `split`, the groups found in their paths where `group_by` is no column.

    Raises:
        InputError: If a path has no group, or a group stands in two splits, unless `leaks` are allowed.
    """
    if data.group_by is not None and "group" not in rows.column_names:
        rows = rows.add_column("group", groups_of(rows["file"][:], data.group_by, data.dataset_name))
    splits = DatasetDict(all=rows)
    if "split" in rows.column_names:
        column = np.array(rows["split"][:])
        plain = rows.remove_columns("split")
        splits = DatasetDict(
            {split: plain.select(np.flatnonzero(column == split)) for split in SPLITS if split in column}
        )
    if not leaks:
        check_groups(splits, data.dataset_name)
    return splits
