"""Scores by image content, kept on disk: no image is scored twice by one model, and an interrupted evaluation goes on."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from numpy.typing import NDArray
from tqdm.auto import tqdm

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.predictions import Change, score_changes
from hf_deepfake.models.detector import LoadedDetector
from hf_deepfake.printing import first_line
from hf_deepfake.writing import whole

_SECONDS_BETWEEN_SAVES = 30


class ScoreStore:
    """Logits of one model, found by an image's content hash and the name of what was done to it.

    Args:
        path: A Parquet file.
        fingerprint: Of the model.

    Raises:
        InputError: If the file is damaged or holds the scores of another model.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path, self.fingerprint = path, fingerprint
        self._logits: dict[tuple[str, str], tuple[float, float]] = {}
        self._saved, self._last_save = 0, time.monotonic()
        if path.is_file():
            self._load()

    def _load(self) -> None:
        try:
            table = pq.read_table(self.path)
            keys = zip(table["sha256"].to_pylist(), table["change"].to_pylist(), strict=True)
            values = zip(table["logit_real"].to_pylist(), table["logit_fake"].to_pylist(), strict=True)
            self._logits = dict(zip(keys, values, strict=True))
        except (OSError, KeyError, pa.ArrowInvalid) as error:
            raise InputError(f"{self.path}: cannot be read: {first_line(error)}; delete it to score again.") from error
        if (table.schema.metadata or {}).get(b"fingerprint") != self.fingerprint.encode():
            raise InputError(
                f"{self.path}: holds the scores of another model of this name; choose another --output_dir, or delete it "
                "to score again."
            )
        self._saved = len(self._logits)

    def add(self, sha256: str, changes: Sequence[str], logits: NDArray[np.float64]) -> None:
        """Keep an image's logits, one row a change."""
        self._logits |= {(sha256, change): tuple(row) for change, row in zip(changes, logits.tolist(), strict=True)}

    def lacks(self, sha256: str, change: str) -> bool:
        """Whether that was never scored."""
        return (sha256, change) not in self._logits

    def logits(self, hashes: Sequence[str], change: str) -> NDArray[np.float64]:
        """Logits of shape `(images, 2)` of images that were scored."""
        return np.array([self._logits[sha256, change] for sha256 in hashes]).reshape(-1, 2)

    def save_now_and_then(self) -> None:
        """Write what is new if that was long ago."""
        if time.monotonic() - self._last_save > _SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> None:
        """Write what is new, whole or not at all."""
        self._last_save = time.monotonic()
        if len(self._logits) == self._saved:
            return
        keys, values = list(self._logits), np.array(list(self._logits.values()))
        table = pa.table(
            {
                "sha256": [sha256 for sha256, _ in keys],
                "change": [change for _, change in keys],
                "logit_real": values[:, 0],
                "logit_fake": values[:, 1],
            },
            metadata={"fingerprint": self.fingerprint},
        )
        with whole(self.path) as partial:
            pq.write_table(table, partial)
        self._saved = len(self._logits)


def fingerprint(detector: LoadedDetector) -> str:
    """Hash of everything that a detector's scores depend on: weights, configuration and preprocessing."""
    digest = hashlib.sha256()
    config: dict[str, Any] = detector.model.config.to_dict()
    for part in (config, *config.get("members", [])):
        part.pop("_name_or_path", None)  # a folder may be moved
    processor: Any = detector.processor
    settings = [config, getattr(processor, "data_config", None) or processor.to_dict(), detector.fake_column]
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in detector.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def fill_stores(
    stores: Mapping[str, ScoreStore],
    detectors: Mapping[str, LoadedDetector],
    rows: Dataset,
    hashes: Sequence[str],
    changes: Mapping[str, Change | None],
    name: str,
    batch_size: int = 16,
    num_workers: int = 0,
) -> dict[int, str]:
    """Score what the stores lack; models that lack the same share one decoding of each image.

    Args:
        stores: By model.
        detectors: By model.
        rows: The images.
        hashes: Their content hashes.
        changes: What to score of each image, by name.
        name: Of the benchmark, for the progress bar.
        batch_size: Views a forward pass.
        num_workers: Processes that decode, change and preprocess.

    Returns:
        For each image that cannot be read, why.
    """
    # files that are missing have nothing in common
    keys = [sha256 or f"row {row}" for row, sha256 in enumerate(hashes)]
    first_rows = {key: row for row, key in reversed(list(enumerate(keys)))}
    errors: dict[str, str] = {}
    for (lacking, lacked), models in _plans(stores, list(first_rows)[::-1], list(changes)).items():
        missing = [key for key in lacking if key not in errors]
        images = rows.select([first_rows[key] for key in missing])["image"]
        scored = score_changes(
            [detectors[model] for model in models],
            images,
            [changes[change] for change in lacked],
            batch_size,
            num_workers,
        )
        try:
            with tqdm(total=len(missing), desc=f"Scoring {name}", unit="image") as progress:
                for indices, logits, wrong in scored:
                    for model, of_model in zip(models, logits, strict=True):
                        for index, of_image in zip(indices, of_model, strict=True):
                            stores[model].add(missing[index], lacked, of_image)
                        stores[model].save_now_and_then()
                    errors |= {missing[index]: reason for index, reason in wrong.items()}
                    progress.update(len(indices) + len(wrong))
        finally:
            for model in models:
                stores[model].save()
    return {row: errors[key] for row, key in enumerate(keys) if key in errors}


def _plans(
    stores: Mapping[str, ScoreStore], keys: Sequence[str], changes: Sequence[str]
) -> dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]]:
    """The models that lack the same changes of the same images."""
    plans: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
    for model, store in stores.items():
        lacking: dict[tuple[str, ...], list[str]] = {}
        for key in keys:
            lacked = tuple(change for change in changes if store.lacks(key, change))
            if lacked:
                lacking.setdefault(lacked, []).append(key)
        for lacked, missing in lacking.items():
            plans.setdefault((tuple(missing), lacked), []).append(model)
    return plans
