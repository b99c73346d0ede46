"""Files and folders are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hf_deepfake.errors import InputError

if TYPE_CHECKING:  # the command line imports this file before a command is known
    import pandas as pd

TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet")
"""Kinds of tables that commands write."""


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`, and rename it to `path` when the block ends well.

    The temporary name keeps the suffix, since writers choose their format by it. Whatever an
    interrupted or failed block left there is removed.

    Args:
        path: A file, or a folder that does not exist yet.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    _remove(partial)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        _remove(partial)


def require_empty(output_dir: Path) -> None:
    """Refuse a folder that holds something, or a file; an empty folder makes way for what is written whole.

    Raises:
        InputError: If so.
    """
    if output_dir.is_dir() and not any(output_dir.iterdir()):
        output_dir.rmdir()
    elif output_dir.exists():
        raise InputError(f"{output_dir}: stands there already and is no empty folder; choose another --output_dir.")


def require_table_suffix(path: Path) -> None:
    """Refuse a name that `save_table` cannot write to, before there is anything to lose.

    Raises:
        InputError: If it does not end in one of `TABLE_SUFFIXES`.
    """
    if path.suffix.lower() not in TABLE_SUFFIXES:
        raise InputError(f"{path}: writes {', '.join(TABLE_SUFFIXES)}; found {path.suffix or 'no suffix'}.")


def save_table(table: "pd.DataFrame", path: Path) -> None:
    """Write a table without its index, in the format of its suffix.

    Raises:
        InputError: If it does not end in one of `TABLE_SUFFIXES`.
    """
    require_table_suffix(path)
    with whole(path) as partial:
        if path.suffix.lower() == ".csv":
            table.to_csv(partial, index=False)
        elif path.suffix.lower() == ".jsonl":
            table.to_json(partial, orient="records", lines=True, force_ascii=False)
        else:
            table.to_parquet(partial, index=False)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
