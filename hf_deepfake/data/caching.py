"""Resized images kept on disk, so that large photographs are decoded once and not every epoch."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import datasets
import torch
from datasets import Dataset
from PIL import Image
from torchvision.transforms import v2
from transformers import BaseImageProcessor, TimmWrapperImageProcessor

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import ImageReader
from hf_deepfake.errors import InputError

_FEATURES = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def cache_resized(rows: Dataset, processor: BaseImageProcessor, reader: ImageReader | None) -> Dataset:
    """The same rows, each image read, cropped and resized as the checkpoint does it, stored without loss.

    The processor leaves an image that has its size already as it is, so what a model sees of an image that is not
    augmented is the same to the last bit; augmentation then works on the resized image instead of the original. An
    image of 224 pixels takes 150 kB. The cache stands beside the data sets' own, below `HF_DATASETS_CACHE`, under a name
    made of the files' names, sizes and times of change, and of the view; interrupted, it starts again.

    Raises:
        InputError: If the processor would change its own resized images once more.
    """
    reader = reader or ImageReader()
    if len(rows) > 0:
        _check(processor, reader(rows[0]["image"]))
    view = [type(processor).__name__, json.dumps(processor.to_dict(), sort_keys=True, default=str), reader.settings()]
    key = hashlib.sha256(repr([view, [_state(image) for image in rows["image"]]]).encode()).hexdigest()[:32]
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_deepfake"
    folder.mkdir(parents=True, exist_ok=True)
    return rows.map(
        _Resized(processor, reader),
        features=datasets.Features(rows.features | {"image": datasets.Image(decode=False)}),
        cache_file_name=str(folder / f"resized-{key}.arrow"),
        load_from_cache_file=True,
        new_fingerprint=key,
        writer_batch_size=100,
        desc="Resizing images",
    )


def _state(image: dict[str, Any]) -> Any:
    if image.get("bytes") is not None:
        return hashlib.sha256(image["bytes"]).hexdigest()
    stat = os.stat(image["path"])
    return image["path"], stat.st_size, stat.st_mtime_ns


class _Resized:
    def __init__(self, processor: BaseImageProcessor, reader: ImageReader) -> None:
        self.processor, self.reader = processor, reader

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        image = _resize(self.processor, self.reader(row["image"]))
        encoded = io.BytesIO()
        image.save(encoded, "PPM")
        return {"image": {"bytes": encoded.getvalue(), "path": None}}


def _resize(processor: Any, image: Image.Image) -> Image.Image:
    """What the processor makes of an image before it crops and normalises."""
    if isinstance(processor, TimmWrapperImageProcessor):
        resized: Image.Image = processor.val_transforms.transforms[0](image)
        return resized
    steps_off = {"do_center_crop": False, "do_rescale": False, "do_normalize": False}
    pixels = processor([image], return_tensors="pt", **steps_off)["pixel_values"][0]
    resized = v2.functional.to_pil_image(pixels)
    return resized


def _check(processor: BaseImageProcessor, image: Image.Image) -> None:
    """Refuse a processor that would change a resized image once more."""
    try:
        again = processor([_resize(processor, image)], return_tensors="pt")["pixel_values"]
        same = torch.equal(again, processor([image], return_tensors="pt")["pixel_values"])
    except (TypeError, ValueError):
        same = False
    if not same:
        raise InputError(
            f"--cache_images: {type(processor).__name__} does not resize apart from the rest; leave it out."
        )
