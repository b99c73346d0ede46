"""What of a run directory or an ensemble is published, without what is nobody else's business."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import pandas as pd
import yaml

from hf_deepfake.data.fingerprints import TRAINING_IMAGES, load_training_images
from hf_deepfake.errors import InputError
from hf_deepfake.publishing.card import Publication, model_card
from hf_deepfake.publishing.recipes import published_recipes

CHECKPOINT = (
    "config.json",
    "preprocessor_config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "*_deepfake_ensemble.py",
)
"""Files of a checkpoint, with its code; optimizer states, `training_args.bin` and folders are none."""

_PUBLISHED = (*CHECKPOINT, "results.json", "plots/*.png")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}")


def contents(
    folder: Path,
    results: dict[str, Any],
    publication: Publication,
    evaluations: Mapping[str, Path],
    predictions: bool = False,
) -> dict[str, Path | bytes]:
    """Files to upload by their path in the repository: as they are, or as they are published.

    Only what is named here is published. Recipes lose their folders, the list of training images its file names, so
    that the hashes still tell an evaluation what it shares with the training; the card is printed anew.

    Args:
        folder: A run directory or an ensemble.
        results: Its results.json.
        publication: What its card says besides.
        evaluations: Folders that `publication.evaluations` were read from.
        predictions: Whether predictions are published too, which name the image files.

    Raises:
        InputError: If a file would publish a token or a path of this machine, or cannot be read.
    """
    files: dict[str, Path | bytes] = {"README.md": model_card(results, folder, publication).encode()}
    for pattern in (*_PUBLISHED, "predictions/*.parquet") if predictions else _PUBLISHED:
        files |= {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(pattern)) if path.is_file()}
    for name, recipe in published_recipes(folder).items():
        files[name] = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    if (seen := load_training_images(folder)) is not None:
        files[TRAINING_IMAGES] = _parquet(seen.drop(columns="image", errors="ignore"))
    for name, evaluation in evaluations.items():
        for path in (evaluation / "results.json", *sorted(evaluation.glob("plots/*.png"))):
            files[f"{name}/{path.relative_to(evaluation).as_posix()}"] = path
    for name, content in files.items():
        _check_private(name, content)
    return files


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _check_private(name: str, content: Path | bytes) -> None:
    """Refuse a text with a token, the home folder or, in JSON, any absolute path."""
    if not name.endswith((".json", ".yaml", ".md")):
        return
    text = (content if isinstance(content, bytes) else content.read_bytes()).decode()
    if _TOKEN.search(text):
        raise InputError(f"{name}: holds a token of the Hub; take it out, and revoke it on the Hub's settings page.")
    home = str(Path.home())
    paths = [value for value in _strings(json.loads(text)) if _is_absolute(value)] if name.endswith(".json") else []
    if len(home) > 1 and home in text:
        paths.insert(0, home)
    if paths:
        raise InputError(f"{name}: would publish {paths[0]!r}, a path of this machine; take it out of that file.")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for part in value:
            yield from _strings(part)
    elif isinstance(value, str):
        yield value


def _is_absolute(text: str) -> bool:
    return len(text) > 1 and (PurePosixPath(text).is_absolute() or PureWindowsPath(text).is_absolute())
