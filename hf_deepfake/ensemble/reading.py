"""Detectors' scores from plain tables, one row an image in the same order for all of them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.special import expit

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.tables import LABEL_COLUMNS, UNKNOWN_SOURCE, find_columns, read_labels, read_table
from hf_deepfake.errors import InputError
from hf_deepfake.labels import read_split
from hf_deepfake.printing import printable

_DETECTOR_COLUMNS = ("detector", "member", "model")
_SMALLEST_PROBABILITY = 1e-7


def read_members(tables: Sequence[str], labelled: bool | None = True) -> dict[str, pd.DataFrame]:
    """Read detectors' scores, and put the rows of all in the order of the first.

    Args:
        tables: Files, each `TABLE` or `NAME=TABLE`: CSV, TSV, JSON, JSON Lines or Parquet with `image`, `prob_fake` (or
            `logit_real` and `logit_fake`, which say more), `label` and perhaps `source` and `group`. A table is one
            detector's, called NAME or else like the file without the name of a split (`vit_test.csv` is vit's), or like its
            folder where nothing is left; with a column `detector` (`member`, `model`) it is that of several.
        labelled: Whether labels must be there; None where they may be.

    Returns:
        Tables with `image, prob_fake, logit_real, logit_fake` and, where known, `label, source, group` by detector.

    Raises:
        InputError: If a table or column is missing, a score is no number, an image stands there twice, or the detectors
            were not scored on the same images under the same labels.
    """
    members: dict[str, pd.DataFrame] = {}
    for given in tables:
        name, path = _named(given)
        table = _read(path, labelled)
        parts = table.groupby("detector", sort=False) if "detector" in table else [(name, table)]
        for detector, part in parts:
            if detector in members:
                raise InputError(
                    f"{path}: a second table of the detector {detector}; name it: --predictions NAME={path}."
                )
            members[str(detector)] = part.drop(columns="detector", errors="ignore").reset_index(drop=True)
    if not members:
        raise InputError("--predictions: name at least one table of scores.")
    return _aligned(members)


def _named(given: str) -> tuple[str, Path]:
    name, separator, rest = given.partition("=")
    path = Path(rest if separator and not Path(given).exists() else given)
    if not path.is_file():
        raise InputError(f"{path}: no such table of scores.")
    if path != Path(given):
        return name, path
    folder = path.resolve().parent
    folder = folder.parent if folder.name == "predictions" else folder
    stem = re.sub("[A-Za-z]+", lambda word: "" if read_split(word[0]) else word[0], path.stem).strip("_-. ")
    return (folder.name if stem in ("", "predictions") else stem), path


def _read(path: Path, labelled: bool | None) -> pd.DataFrame:
    """A table in our columns, and `detector` where it has one."""
    rows = read_table(path)
    table = pd.DataFrame({name: rows[name][:] for name in rows.column_names})
    if len(table) == 0:
        raise InputError(f"{path}: has no rows.")
    verdicts = "error" in table or any(name.startswith("prob_fake_") for name in table)
    if labelled and verdicts:
        raise InputError(
            f"{path}: is a table of hf-deepfake predict or ensemble --apply, whose label is a verdict; give one whose label "
            "is the truth."
        )
    if labelled is None:
        labelled = not verdicts and bool({name.lower() for name in table} & set(LABEL_COLUMNS))
    found = find_columns(rows, DataArguments(dataset_name=str(path)), labelled, str(path))
    read = pd.DataFrame({"image": table[found["image"]].astype(str)})
    if labelled:
        values = read_labels(rows, found["label"], None, str(path))
        read["label"] = [values[str(value)] for value in table[found["label"]]]
    absent = {"source": UNKNOWN_SOURCE, "group": read["image"]}  # an image without a group is a group of its own
    for ours in absent.keys() & found.keys():
        told = table[found[ours]]
        read[ours] = told.where(told.notna() & (told.astype(str) != ""), absent[ours]).astype(str)
    detector = next((column for column in _DETECTOR_COLUMNS if column in table), None)
    if detector is not None:
        read["detector"] = table[detector].astype(str)
    return read.join(_scores(table, read["image"], path))


def _scores(table: pd.DataFrame, images: pd.Series, path: Path) -> pd.DataFrame:
    """Logits and probability; a probability of 0 or 1 is taken for as sure as single precision can tell."""
    logits = all(name in table for name in ("logit_real", "logit_fake"))
    if not logits and "prob_fake" not in table:
        raise InputError(f"{path}: no column prob_fake, nor logit_real and logit_fake; found {list(table.columns)}.")
    names = ["logit_real", "logit_fake"] if logits else ["prob_fake"]
    numbers = table[names].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    broken = ~np.isfinite(numbers).all(axis=1)
    if not logits:
        broken |= ~((numbers[:, 0] >= 0) & (numbers[:, 0] <= 1))
    if broken.any():
        row = int(broken.argmax())
        wanted = "two numbers" if logits else "a probability between 0 and 1"
        raise InputError(
            f"{path}: row {row} ({printable(images[row])}) has {' and '.join(names)} {table[names].iloc[row].tolist()}, "
            f"{broken.sum()} such rows in all; {' and '.join(names)} must be {wanted}. Leave such images out of every table."
        )
    if not logits:
        bounded = numbers[:, 0].clip(_SMALLEST_PROBABILITY, 1 - _SMALLEST_PROBABILITY)
        numbers = np.stack([np.log(1 - bounded), np.log(bounded)], axis=1)
    prob_fake = expit(numbers[:, 1] - numbers[:, 0])
    return pd.DataFrame({"prob_fake": prob_fake, "logit_real": numbers[:, 0], "logit_fake": numbers[:, 1]})


def _aligned(members: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Rows of every detector in the order of the first, which alone tells label, source and group."""
    first_name, first = next(iter(members.items()))
    aligned = {}
    for name, table in members.items():
        twice = table["image"].duplicated()
        if twice.any():
            image = printable(table["image"][twice.idxmax()])
            raise InputError(
                f"{name}: {image} has more than one row, {twice.sum()} such rows in all; keep one an image."
            )
        for one, other, absent in (
            (name, first_name, ~first["image"].isin(table["image"])),
            (first_name, name, ~table["image"].isin(first["image"])),
        ):
            if absent.any():
                image = printable((first if other == first_name else table)["image"][absent.idxmax()])
                raise InputError(
                    f"{one} has no score of {image}, which {other} has, {absent.sum()} such images in all; score the same "
                    "images with every detector."
                )
        ordered = table.set_index("image").loc[first["image"]].reset_index()
        for column in ("label", "source", "group"):
            if column not in ordered or column not in first:
                continue
            differs = ordered[column] != first[column]
            if differs.any():
                row = int(differs.to_numpy().argmax())
                raise InputError(
                    f"{name} and {first_name} disagree on {printable(first['image'][row])}: {column} "
                    f"{ordered[column][row]} in one and {first[column][row]} in the other, {differs.sum()} such images."
                )
        known = {column: first[column] for column in ("label", "source", "group") if column in first}
        aligned[name] = ordered.assign(**known)
    return aligned
