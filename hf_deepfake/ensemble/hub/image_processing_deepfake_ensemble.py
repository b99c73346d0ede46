"""Decoding of any image file to RGB, and the views that an ensemble's members read."""

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from PIL import Image, ImageOps, UnidentifiedImageError
from transformers import BaseImageProcessor, BatchFeature


class UnreadableImageError(ValueError):
    """An image that is missing, is no image or is damaged."""


def open_rgb(image: Any, timeout: float | None = 30.0) -> Image.Image:
    """Decode an image once to upright 8-bit RGB, whatever its mode.

    The first frame of an animated or multi-page file is taken, the EXIF orientation is
    applied, transparency is dropped, and 16-bit and floating-point greys keep their
    range instead of being clipped to white.

    Args:
        image: A path, an `http(s)://` address, encoded bytes, a PIL image, a NumPy array `(height, width[, 3])` of
            8 bits, or the dictionary with `bytes` and `path` that `datasets` gives for an undecoded image.
        timeout: Seconds to wait for an address.

    Returns:
        A PIL image of mode RGB.

    Raises:
        UnreadableImageError: If there is no such file, it is no image, or it is damaged.
    """
    name = image if isinstance(image, str | os.PathLike) else f"<{type(image).__name__}>"
    if isinstance(image, dict):
        name = image.get("path") or name
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    try:
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            return transformers.image_utils.load_image(image, timeout=timeout)
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        elif isinstance(image, bytes | bytearray | memoryview):
            image = Image.open(io.BytesIO(image))
        elif isinstance(image, str | os.PathLike):
            if not Path(image).is_file():
                raise FileNotFoundError("no such file")
            image = Image.open(image)
        elif not isinstance(image, Image.Image):
            raise TypeError(f"a {type(image).__name__} is no image, path, address or bytes")
        image.load()
        return _to_eight_bits(ImageOps.exif_transpose(image)).convert("RGB")
    except Exception as error:  # decoders raise anything from OSError to struct.error on damaged files
        reason = "not an image, or of an unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImageError(f"{name}: {reason}") from error


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    largest = values.max(initial=0)
    range_of_values = 1 if image.mode == "F" and largest <= 1 else 255 if largest <= 255 else 65535
    scale = 255 / range_of_values
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))


class EnsembleImageProcessor(BaseImageProcessor):
    """Decodes an image once and makes each distinct view (size, crop, normalisation) once.

    Args:
        views: The settings of the members' own image processors, without repetition, each with its
            `image_processor_type`.

    The output holds `pixel_values` for the first view and `pixel_values_1`, `pixel_values_2`, … for
    the others, each of shape `(images, 3, height, width)`.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, views: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.views = views or []
        self._processors = [_build_processor(view) for view in self.views]

    def to_dict(self) -> dict[str, Any]:
        """Settings of the views, without the processors built from them."""
        return {"image_processor_type": type(self).__name__, "views": self.views} | (
            {"auto_map": self.auto_map} if hasattr(self, "auto_map") else {}
        )

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Views of one image or a list of images (anything that `open_rgb` takes)."""
        listed = images if isinstance(images, list | tuple) else [images]
        opened = [open_rgb(image) for image in listed]
        return BatchFeature(
            {
                view_key(index): processor(opened, return_tensors="pt")["pixel_values"]
                for index, processor in enumerate(self._processors)
            }
        )


def view_key(index: int) -> str:
    """Name under which the view of that index is given to the model."""
    return "pixel_values" if index == 0 else f"pixel_values_{index}"


def _build_processor(view: dict[str, Any]) -> BaseImageProcessor:
    settings = dict(view)
    name = settings.pop("image_processor_type")
    if not name.isidentifier() or "ImageProcessor" not in name or not hasattr(transformers, name):
        raise ValueError(f"preprocessor_config.json: transformers {transformers.__version__} has no {name!r}.")
    processor: BaseImageProcessor = getattr(transformers, name)(**settings)
    return processor


EnsembleImageProcessor.register_for_auto_class()
