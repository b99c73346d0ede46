"""Unreadable images are found, listed and left out before training, not in the middle of it."""

import os
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset, DatasetDict
from PIL import Image
from tqdm.auto import tqdm

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.labels import NAMES
from hf_deepfake.printing import printable
from hf_deepfake.writing import whole

Skipped = list[tuple[str, str]]
"""Pairs of an image's `file` and the reason why it could not be read."""


def drop_unreadable(splits: DatasetDict, source: str, quiet: bool = False) -> tuple[DatasetDict, Skipped]:
    """Leave out the images that do not decode to their end.

    Every image is decoded once, JPEGs at an eighth of their size: that reads the whole file,
    and so finds a truncated one, at a fraction of the cost.

    Returns:
        The splits without those rows, and what was left out.

    Raises:
        InputError: If no image of a class can be read in one of the splits.
    """
    kept, skipped = {}, []
    total = sum(len(rows) for rows in splits.values())
    with tqdm(total=total, desc="Checking images", unit="image", disable=quiet, delay=2) as progress:
        for name, rows in splits.items():
            reasons = _reasons(rows, progress)
            wrong = [index for index, reason in enumerate(reasons) if reason is not None]
            _require_readable(rows, reasons, f"{source} ({name})")
            if wrong:
                files = rows.select(wrong)["file"][:]
                skipped += [(file, str(reasons[index])) for file, index in zip(files, wrong, strict=True)]
                rows = rows.select([index for index, reason in enumerate(reasons) if reason is None])
            kept[name] = rows
    return DatasetDict(kept), skipped


def _reasons(rows: Dataset, progress: Any) -> list[str | None]:
    def reason(image: dict[str, Any]) -> str | None:
        try:
            _decode_small(image)
        except UnreadableImageError as error:
            return str(error)
        finally:
            progress.update()
        return None

    reasons: list[str | None] = []
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large, but below what Pillow refuses
        for batch in rows.select_columns("image").iter(batch_size=256):  # embedded images are not all held at once
            reasons += pool.map(reason, batch["image"])
    return reasons


def _require_readable(rows: Dataset, reasons: list[str | None], source: str) -> None:
    table = pd.DataFrame({"label": rows["label"][:], "reason": reasons})
    for label, part in table.groupby("label"):
        if part["reason"].notna().all():
            reason = part["reason"].iloc[0]
            raise InputError(f"{source}: none of the {len(part)} {NAMES[label]} images can be read: {reason}.")


def _decode_small(image: dict[str, Any]) -> None:
    path = image.get("path") if image.get("bytes") is None else None
    if path is not None and path.lower().endswith((".jpg", ".jpeg")) and os.path.isfile(path):  # a pipe never ends
        try:
            with Image.open(path) as opened:
                opened.draft("RGB", (1, 1))
                opened.load()
            return
        except Exception:
            pass  # said better below, or a JPEG that only the draft mode cannot read
    open_rgb(image)


def report_skipped(skipped: Sequence[tuple[str, str]], path: Path | None = None, most: int = 10) -> str:
    """List unreadable images for a person, and whole in a CSV file where a path is given."""
    if path is not None:
        with whole(path) as partial:
            pd.DataFrame(skipped, columns=["file", "reason"]).to_csv(partial, index=False)
    named = [reason if file in reason else f"{file}: {reason}" for file, reason in skipped[:most]]
    lines = [f"{len(skipped)} unreadable images left out:", *(f"  {printable(line)}" for line in named)]
    if len(skipped) > most:
        lines.append(f"  … and {len(skipped) - most} more" + (f", all in {path}" if path else ""))
    return "\n".join(lines)
