"""Scores of images as a table, and the table as a file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from scipy.special import expit
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor, PreTrainedModel

from hf_deepfake import labels
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import (
    ImageReader,
    UnreadableImageError,
    reader_of,
)
from hf_deepfake.errors import InputError
from hf_deepfake.writing import whole


def predictions_table(rows: Dataset, logits: NDArray[np.floating[Any]]) -> pd.DataFrame:
    """Table of the contract: `image, label, prob_fake, logit_real, logit_fake` and, where known, `source, group`.

    Args:
        rows: The images, in the order of the logits.
        logits: Shape `(images, 2)`, columns real and fake.

    Raises:
        InputError: If a logit is infinite or not a number.
    """
    if not np.isfinite(logits).all():
        broken = int((~np.isfinite(logits).all(axis=1)).argmax())
        raise InputError(f"{rows['file'][broken]}: the model gives {logits[broken]}; it diverged in training.")
    logits = logits.astype(np.float64)
    columns: dict[str, Any] = {"image": list(rows["file"])}
    if "label" in rows.column_names:
        columns["label"] = list(rows["label"])
    columns |= {
        "prob_fake": expit(logits[:, 1] - logits[:, 0]),
        "logit_real": logits[:, 0],
        "logit_fake": logits[:, 1],
    }
    columns |= {name: list(rows[name]) for name in ("source", "group") if name in rows.column_names}
    return pd.DataFrame(columns)


def save_predictions(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet, whole or not at all."""
    with whole(path) as partial:
        table.to_parquet(partial, index=False)


def load_predictions(path: Path) -> pd.DataFrame:
    """Read a table of predictions.

    Raises:
        InputError: If the file is missing, damaged or lacks a column.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such table of predictions; hf-deepfake train and evaluate write them.")
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as Parquet: {error}") from error
    missing = [name for name in ("image", "label", "prob_fake", "logit_real", "logit_fake") if name not in table]
    if missing:
        raise InputError(f"{path}: columns {missing} are missing; found {list(table.columns)}.")
    return table


class _Views(torch.utils.data.Dataset[dict[str, Any]]):
    """Preprocesses an image, or every face of it, or says why it cannot be read."""

    def __init__(
        self, images: Sequence[Any], processor: BaseImageProcessor, reader: ImageReader | None, every_face: bool
    ) -> None:
        self.images, self.processor, self.reader, self.every_face = images, processor, reader, every_face

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        try:
            image = self.images[index]
            read = self.reader.crops(image, self.every_face) if self.reader else [image]
            return {"index": index, "views": dict(self.processor(read, return_tensors="pt"))}
        except UnreadableImageError as error:
            return {"index": index, "error": str(error)}


def _collate_readable(
    items: list[dict[str, Any]],
) -> tuple[list[int], list[int], dict[str, torch.Tensor], dict[int, str]]:
    """Indices of the readable images, views of each, all views in one batch, and what is wrong with the others."""
    readable = [item for item in items if "views" in item]
    counts = [len(next(iter(item["views"].values()))) for item in readable]
    views = (
        {name: torch.cat([item["views"][name] for item in readable]) for name in readable[0]["views"]}
        if readable
        else {}
    )
    errors = {item["index"]: item["error"] for item in items if "error" in item}
    return [item["index"] for item in readable], counts, views, errors


def score_images(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Sequence[Any],
    fake_column: int = labels.FAKE,
    batch_size: int = 16,
    num_workers: int = 0,
    every_face: bool = False,
) -> Iterator[tuple[list[int], NDArray[np.float64], dict[int, str]]]:
    """Score images batch by batch; one that cannot be read costs its row, not the run.

    Args:
        model: A detector or an ensemble, in evaluation mode.
        processor: Its image processor.
        images: Anything that `open_rgb` takes.
        fake_column: Index of the model's logit that means fake.
        batch_size: Images a forward pass.
        num_workers: Processes that decode.
        every_face: For a detector that reads faces: score every face of an image, and let the one that is most likely
            fake speak for it.

    Yields:
        Indices of the scored images, their logits of shape `(scored, 2)` with columns real and fake, and
        for each unreadable image of the batch the reason by index.
    """
    loader = DataLoader(
        _Views(images, processor, reader_of(model.config), every_face),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate_readable,
    )
    for indices, counts, views, errors in loader:
        logits = np.zeros((0, 2))
        if indices:
            views = {name: tensor.to(model.device, model.dtype) for name, tensor in views.items()}
            with torch.inference_mode():
                logits = model(**views).logits.double().cpu().numpy()
        logits = logits if fake_column == labels.FAKE else logits[:, ::-1]
        yield indices, _most_likely_fake(logits, counts), errors


def _most_likely_fake(logits: NDArray[np.float64], counts: list[int]) -> NDArray[np.float64]:
    """Of each image's rows, as many as `counts` says, the one with the largest margin."""
    if len(logits) == len(counts):
        return logits
    parts = np.split(logits, np.cumsum(counts)[:-1])
    return np.stack([part[np.argmax(part[:, 1] - part[:, 0])] for part in parts])
