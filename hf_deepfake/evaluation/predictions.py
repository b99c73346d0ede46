"""Scores of images as a table, and the table as a file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit, log_softmax, logsumexp
from torch.utils.data import DataLoader
from transformers import BaseImageProcessor, PreTrainedModel

from hf_deepfake import labels
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import (
    EnsembleImageProcessor,
    UnreadableImageError,
    in_threads,
    jittered,
    open_rgb,
    reader_of,
)
from hf_deepfake.ensemble.hub.running_deepfake_ensemble import run_within_memory
from hf_deepfake.errors import InputError
from hf_deepfake.models.detector import LoadedDetector
from hf_deepfake.printing import printable
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
        InputError: If the file is missing, damaged or lacks a column, a score is not a number or a label not 0 or 1.
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
    scores = table[["prob_fake", "logit_real", "logit_fake"]].to_numpy(dtype=np.float64)
    broken = ~(np.isfinite(scores).all(axis=1) & table["prob_fake"].between(0, 1) & table["label"].isin((0, 1)))
    if broken.any():
        row = int(broken.argmax())
        raise InputError(
            f"{path}: row {row} ({printable(str(table['image'][row]))}) has the label {table['label'][row]} and the scores "
            f"{scores[row].tolist()}, {broken.sum()} such rows in all; score these images again or leave them out."
        )
    return table


Change = Callable[[Image.Image], Image.Image]
"""Makes of an image what is scored instead of it."""

Run = Callable[..., Mapping[str, torch.Tensor | None]]
"""Makes of a batch of views what holds their `logits`."""


_Cut = Mapping[tuple[int, str], torch.Tensor]
"""What the views of one image are made of, see `EnsembleImageProcessor.cut`."""


class _Views:
    """Makes batches: decodes an image once and preprocesses each change of it for each detector, in threads."""

    def __init__(
        self,
        images: Sequence[Any],
        detectors: Sequence[LoadedDetector],
        changes: Sequence[Change | None],
        every_face: bool,
    ) -> None:
        self.images, self.changes, self.every_face = images, changes, every_face
        keys = [_reading_key(detector) for detector in detectors]
        self.eyes = [keys.index(key) for key in keys]  # of each detector, the first that reads and preprocesses alike
        self.readers = {eye: reader_of(detectors[eye].model.config) for eye in self.eyes}
        self.processors = {eye: EnsembleImageProcessor.of(detectors[eye].processor) for eye in self.eyes}
        self.finds_faces = any(processor.finds_faces for processor in self.processors.values()) or any(
            reader is not None and reader.cropper for reader in self.readers.values()
        )

    def batch(self, indices: list[int]) -> "_Batch":
        """Views of the images that can be read, and the reasons of the others."""
        read = dict(zip(indices, in_threads(self._cuts, indices, alone=self.finds_faces), strict=True))
        readable = {index: cuts for index, cuts in read.items() if not isinstance(cuts, str)}
        counts = [len(next(iter(cuts.values()))) for cuts in readable.values()]
        views = {
            eye: processor.finish([cut for cuts in readable.values() for cut in cuts[eye]])
            for eye, processor in self.processors.items()
            if readable
        }
        errors = {index: reason for index, reason in read.items() if isinstance(reason, str)}
        return _Batch(list(readable), counts, views, errors)

    def _cuts(self, index: int) -> dict[int, list[_Cut]] | str:
        """For each eye what it sees of an image, or why it sees nothing."""
        try:
            image = self.images[index]
            alone = len(self.readers) == 1 and self.changes == [None]
            opened = image if alone else open_rgb(image)
            changed = [change(opened) if change is not None else None for change in self.changes]
            return {eye: self._seen(eye, image, opened, changed) for eye in self.readers}
        except UnreadableImageError as error:
            return str(error)

    def _seen(self, eye: int, image: Any, opened: Any, changed: list[Image.Image | None]) -> list[_Cut]:
        reader, processor = self.readers[eye], self.processors[eye]
        scales = reader.smallest_side if reader is not None else processor.scales_in_decoding
        itself = image if scales else opened
        read = [itself if change is None else change for change in changed]
        if reader is not None:
            read = [crop for item in read for crop in reader.crops(item, self.every_face)]
        return [processor.cut(item) for item in read]


def _reading_key(detector: LoadedDetector) -> str:
    """Equal for detectors that read and preprocess an image alike."""
    processor: Any = detector.processor
    settings = getattr(processor, "data_config", None) or processor.to_dict()
    return repr([type(processor).__name__, settings, getattr(detector.model.config, "reading", None)])


class _Batch(NamedTuple):
    indices: list[int]
    counts: list[int]  # views of each image
    views: dict[int, dict[str, torch.Tensor]]
    errors: dict[int, str]


def _batches(views: _Views, batch_size: int, num_workers: int) -> Iterator[_Batch]:
    indices: Any = range(len(views.images))
    return iter(DataLoader(indices, batch_size=batch_size, num_workers=num_workers, collate_fn=views.batch))


def _logits(
    detector: LoadedDetector, views: dict[str, torch.Tensor], batch_size: int, run: Run | None = None
) -> NDArray[np.float64]:
    """Logits of all views, columns real and fake."""
    model, parts = detector.model, []
    for start in range(0, len(next(iter(views.values()))), batch_size):
        part = {
            name: tensor[start : start + batch_size].to(model.device, model.dtype) for name, tensor in views.items()
        }
        with torch.inference_mode():
            parts.append(run_within_memory(run or model, part)["logits"].double().cpu().numpy())
    logits = np.concatenate(parts)
    return logits if detector.fake_column == labels.FAKE else logits[:, ::-1]


def score_images(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    images: Sequence[Any],
    fake_column: int = labels.FAKE,
    batch_size: int = 16,
    num_workers: int = 0,
    every_face: bool = False,
    tta: int = 1,
    run: Run | None = None,
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
        tta: Views of an image to average its probability over; 1 for the image alone. Not together with `every_face`.
        run: What scores a batch, such as a cascade; the model itself by default.

    Yields:
        Indices of the scored images, their logits of shape `(scored, 2)` with columns real and fake, and
        for each unreadable image of the batch the reason by index.
    """
    detector = LoadedDetector(model, processor, fake_column)
    views = _Views(images, [detector], jitters(tta), every_face)
    for batch in _batches(views, max(1, batch_size // tta), num_workers):
        logits = _logits(detector, batch.views[0], batch_size, run) if batch.indices else np.zeros((0, 2))
        scored = average_views(logits.reshape(-1, tta, 2)) if tta > 1 else _most_likely_fake(logits, batch.counts)
        yield batch.indices, scored, batch.errors


def score_changes(
    detectors: Sequence[LoadedDetector],
    images: Sequence[Any],
    changes: Sequence[Change | None],
    batch_size: int = 16,
    num_workers: int = 0,
) -> Iterator[tuple[list[int], NDArray[np.float64], dict[int, str]]]:
    """Score every change of every image with every detector; each image is decoded once.

    Args:
        detectors: They may read and preprocess differently.
        images: Anything that `open_rgb` takes.
        changes: What to make of each image before it is read; None for the image itself.
        batch_size: Views a forward pass.
        num_workers: Processes that decode, change and preprocess.

    Yields:
        Indices of the scored images, their logits of shape `(detectors, scored, changes, 2)` with columns real and
        fake, and for each unreadable image of the batch the reason by index.
    """
    views = _Views(images, detectors, changes, every_face=False)
    for batch in _batches(views, max(1, batch_size // len(changes)), num_workers):
        logits = np.zeros((len(detectors), 0, len(changes), 2))
        if batch.indices:
            each = [_logits(one, batch.views[eye], batch_size) for one, eye in zip(detectors, views.eyes, strict=True)]
            logits = np.stack(each).reshape(len(detectors), len(batch.indices), len(changes), 2)
        yield batch.indices, logits, batch.errors


def jitters(tta: int) -> list[Change | None]:
    """The image itself and what else `jittered` makes of it, `tta` in all."""
    return [None, *(partial(jittered, number=number) for number in range(1, tta))]


def average_views(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log of the mean probabilities of an image's views: from `(images, views, 2)` to `(images, 2)`."""
    return np.asarray(logsumexp(log_softmax(logits, axis=2), axis=1) - np.log(logits.shape[1]))


def _most_likely_fake(logits: NDArray[np.float64], counts: list[int]) -> NDArray[np.float64]:
    """Of each image's rows, as many as `counts` says, the one with the largest margin."""
    if len(logits) == len(counts):
        return logits
    parts = np.split(logits, np.cumsum(counts)[:-1])
    return np.stack([part[np.argmax(part[:, 1] - part[:, 0])] for part in parts])
