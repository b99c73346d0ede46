"""Decoding of any image file to RGB, and the views that an ensemble's members read."""

import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers import BaseImageProcessor, BatchFeature

from .face_cropping_deepfake_ensemble import FaceCropper

try:  # transformers asks for what is imported outside of such a block before it runs code from a repository
    import simplejpeg
except ImportError:
    simplejpeg = None


_NORMALISATION = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
"""Settings of a processor of transformers that do not touch the geometry."""


class UnreadableImageError(ValueError):
    """An image that is missing, is no image or is damaged."""


def open_rgb(image: Any, timeout: float | None = 30.0) -> Image.Image:
    """Decode an image once to upright 8-bit RGB, whatever its mode.

    The first frame of an animated or multi-page file is taken, the EXIF orientation is
    applied, transparency is dropped, and 16-bit and floating-point greys keep their
    range instead of being clipped to white. JPEGs are decoded by turbojpeg where the package
    simplejpeg is installed, to the same pixels as by PIL.

    Args:
        image: A path, an `http(s)://` address, encoded bytes, a PIL image, a NumPy array `(height, width[, 3])` of
            8 bits, or the dictionary with `bytes` and `path` that `datasets` gives for an undecoded image.
        timeout: Seconds to wait for an address.

    Returns:
        A PIL image of mode RGB.

    Raises:
        UnreadableImageError: If there is no such file, it is no image, or it is damaged.
    """
    decoded = _decoded(image, timeout)
    return decoded if isinstance(decoded, Image.Image) else Image.fromarray(decoded)


def rgb_pixels(image: Any, smallest_side: int | None = None) -> NDArray[np.uint8]:
    """The pixels of `open_rgb`, shape `(height, width, 3)`, without a detour over PIL where that can be spared.

    Args:
        image: As for `open_rgb`.
        smallest_side: Let turbojpeg decode a JPEG at the smallest of its scales (1/8, 2/8, …) that leaves both sides
            this many pixels long. Faster, but it changes the fine traces that a detector looks for.
    """
    decoded = _decoded(image, smallest_side=smallest_side)
    return np.array(decoded) if isinstance(decoded, Image.Image) else decoded


def _decoded(
    image: Any, timeout: float | None = 30.0, smallest_side: int | None = None
) -> Image.Image | NDArray[np.uint8]:
    name = image if isinstance(image, str | os.PathLike) else f"<{type(image).__name__}>"
    if isinstance(image, dict):
        name = image.get("path") or name
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    try:
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            fetched: Image.Image = transformers.image_utils.load_image(image, timeout=timeout)
            return fetched
        if isinstance(image, str | os.PathLike):
            if not Path(image).is_file():
                raise FileNotFoundError("no such file")
            image = Path(image).read_bytes()
        if isinstance(image, np.ndarray):
            image = Image.fromarray(image)
        elif isinstance(image, bytes | bytearray | memoryview):
            content, image = image, Image.open(io.BytesIO(image))
            decoded = _turbo_decoded(content, image, smallest_side)
            if decoded is not None:
                return decoded
        elif not isinstance(image, Image.Image):
            raise TypeError(f"a {type(image).__name__} is no image, path, address or bytes")
        image.load()
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        return image if image.mode == "RGB" else _to_eight_bits(image).convert("RGB")
    except Exception as error:  # decoders raise anything from OSError to struct.error on damaged files
        reason = "not an image, or of an unknown format" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImageError(f"{name}: {reason}") from error


def _turbo_decoded(
    content: Any, header: Image.Image, smallest_side: int | None
) -> Image.Image | NDArray[np.uint8] | None:
    """A grey or colour JPEG, or None for what PIL is to decode, or to say what is wrong with."""
    if simplejpeg is None or header.format != "JPEG" or header.mode not in ("L", "RGB"):
        return None
    side = min(smallest_side, *header.size) if smallest_side else 0
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(content, min_height=side, min_width=side)
    except ValueError:
        return None
    orientation = header.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation == 1:
        return pixels
    image = Image.fromarray(pixels)
    image.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(image)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image).astype(np.float64)
    largest = values.max(initial=0)
    range_of_values = 1 if image.mode == "F" and largest <= 1 else 255 if largest <= 255 else 65535
    scale = 255 / range_of_values
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))


def jittered(image: Image.Image, number: int, seed: int = 0) -> Image.Image:
    """One of the views of an image over which test-time augmentation averages.

    Number 0 is the image itself and 1 its mirror image. All others are crops of 85 to 100 % of the sides, scaled by 0.75
    to 1.25 and saved as JPEG of quality 70 to 95, every second one mirrored: what happens to pictures on their way anyway.
    A number means the same change for every image.
    """
    if number % 2:
        image = ImageOps.mirror(image)
    if number < 2:
        return image
    generator = np.random.default_rng([seed, number])
    sides = [max(1, round(side * generator.uniform(0.85, 1))) for side in image.size]
    left, top = (int(generator.integers(whole - side + 1)) for whole, side in zip(image.size, sides, strict=True))
    image = image.crop((left, top, left + sides[0], top + sides[1]))
    factor = generator.uniform(0.75, 1.25)
    image = image.resize([max(1, round(side * factor)) for side in sides], Image.Resampling.BICUBIC)
    saved = io.BytesIO()
    image.save(saved, "JPEG", quality=int(generator.integers(70, 96)))
    return Image.open(saved).convert("RGB")


class ImageReader:
    """Reads an image as a detector was trained to, up to its image processor.

    The settings stand in the configuration of a detector as `reading`, so that scoring does what training did.

    Args:
        smallest_side: Decode JPEGs at a smaller scale, as `rgb_pixels` does; None for their full size.
        face_crop: Settings of the `FaceCropper` that cuts out the largest face; None for the whole image.
    """

    def __init__(self, smallest_side: int | None = None, face_crop: dict[str, Any] | None = None) -> None:
        self.smallest_side = smallest_side
        self.cropper = FaceCropper(**face_crop) if face_crop is not None else None

    def settings(self) -> dict[str, Any]:
        """What is not the default, as JSON can hold it."""
        settings: dict[str, Any] = {"smallest_side": self.smallest_side} if self.smallest_side else {}
        return settings | ({"face_crop": self.cropper.settings()} if self.cropper else {})

    def __call__(self, image: Any) -> Image.Image:
        """A PIL image of mode RGB, from anything that `open_rgb` takes."""
        return self.crops(image)[0]

    def crops(self, image: Any, every_face: bool = False) -> list[Image.Image]:
        """The largest face or every face; the whole image where none is found or faces are not cut out."""
        opened = Image.fromarray(rgb_pixels(image, self.smallest_side)) if self.smallest_side else open_rgb(image)
        return self.cropper.crops(opened, every_face) if self.cropper else [opened]

    def pixels(self, image: Any) -> NDArray[np.uint8]:
        """The same as an array of shape `(height, width, 3)`."""
        return np.array(self(image)) if self.cropper else rgb_pixels(image, self.smallest_side)


def reader_of(config: Any) -> ImageReader | None:
    """How images are read for a detector with this configuration; None for an ensemble, whose processor reads itself."""
    if hasattr(config, "member_views"):
        return None
    return ImageReader(**getattr(config, "reading", {}))


def check_views(config: Any, processor: Any) -> None:
    """See that an image processor makes each view that a member of an ensemble reads.

    Args:
        config: Of a model; one that is no ensemble reads what its processor makes.
        processor: Its image processor.

    Raises:
        ValueError: If a view is not made.
    """
    made = len(getattr(processor, "views", []))
    without = [
        f"{name} (view {view})"
        for name, view in zip(getattr(config, "member_names", []), getattr(config, "member_views", []), strict=True)
        if view >= made
    ]
    if without:
        raise ValueError(
            f"preprocessor_config.json: it makes {made} views of an image, and none for {', '.join(without)} of "
            "config.json; copy both files again, or build the ensemble with hf-deepfake ensemble."
        )


def in_threads(function: Callable[[Any], Any], items: Sequence[Any], alone: bool = False) -> list[Any]:
    """The function of each item, in as many threads as torch takes: decoders and resizers let go of Python's lock.

    Args:
        function: Its first exception is raised.
        items: What it takes.
        alone: One after the other in this thread instead.
    """
    threads = 1 if alone else min(len(items), torch.get_num_threads())  # 1 in a process of a DataLoader
    if threads <= 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:  # not kept: after a fork its threads would be missing
        return list(pool.map(function, items))


class _Steps(NamedTuple):
    """An image processor as two steps, of which several views may share the first."""

    geometry: str  # equal where `cut` does the same
    cut: Callable[[Image.Image], torch.Tensor]
    finish: Callable[[torch.Tensor], torch.Tensor]


class EnsembleImageProcessor(BaseImageProcessor):
    """Decodes an image once, and resizes once for all views that differ in normalisation only.

    The images of a batch are read and resized in threads and normalised together, to the same bits as by the members' own
    processors.

    Args:
        views: The settings of the members' own image processors, without repetition, each with its
            `image_processor_type` and, where it has any, those of its `ImageReader` as `reading`.

    The output holds `pixel_values` for the first view and `pixel_values_1`, `pixel_values_2`, … for
    the others, each of shape `(images, 3, height, width)`.
    """

    model_input_names = ["pixel_values"]

    def __init__(self, views: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.views = views or []
        try:
            self._use(
                [_build_processor(view) for view in self.views], [view.get("reading", {}) for view in self.views]
            )
        except ImportError:  # says what is to be installed
            raise
        except Exception as error:  # whatever a processor says to settings that it does not know
            raise ValueError(
                f"preprocessor_config.json: no image processor can be made of its views ({type(error).__name__}: {error}); "
                "undo what was changed in it, or build the ensemble again with hf-deepfake ensemble."
            ) from error

    @classmethod
    def of(cls, processor: BaseImageProcessor) -> "EnsembleImageProcessor":
        """What makes the one view of a single detector as its own processor does; an ensemble's processor itself."""
        if hasattr(processor, "finish"):  # of this class, or of its copy in another saved folder
            return processor  # type: ignore[return-value]
        made = cls()
        made._use([processor], [{}])
        return made

    def _use(self, processors: list[BaseImageProcessor], readings: list[dict[str, Any]]) -> None:
        self.processors = processors
        self._readings = [readings.index(reading) for reading in readings]  # the first view that reads alike
        self._readers = {index: ImageReader(**readings[index]) for index in self._readings}
        self._steps = [_steps(processor) for processor in processors]

    @property
    def scales_in_decoding(self) -> bool:
        """Whether a view has to see the encoded file, since it decodes JPEGs at a smaller scale."""
        return any(reader.smallest_side for reader in self._readers.values())

    @property
    def finds_faces(self) -> bool:
        """Whether a view is cut out around a face: a detector's network is loaded anew in every thread."""
        return any(reader.cropper for reader in self._readers.values())

    def to_dict(self) -> dict[str, Any]:
        """Settings of the views, without the processors built from them."""
        return {"image_processor_type": type(self).__name__, "views": self.views} | (
            {"auto_map": self.auto_map} if hasattr(self, "auto_map") else {}
        )

    def preprocess(self, images: Any, return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Views of one image or a list of images (anything that `open_rgb` takes)."""
        listed = images if isinstance(images, list | tuple) else [images]
        return BatchFeature(self.finish(in_threads(self.cut, listed, alone=self.finds_faces)))

    def cut(self, image: Any) -> dict[tuple[int, str], torch.Tensor]:
        """What an image's views are made of: pixels of shape `(3, height, width)`, mostly of 8 bits.

        Args:
            image: Anything that `open_rgb` takes.
        """
        opened = image if self.scales_in_decoding else open_rgb(image)
        read = {index: reader(opened) for index, reader in self._readers.items()}
        distinct = dict(zip(self._cuts, self._steps, strict=True))
        return {(reading, name): steps.cut(read[reading]) for (reading, name), steps in distinct.items()}

    def finish(self, cuts: Sequence[Mapping[tuple[int, str], torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The views of images that were cut."""
        stacked = {key: torch.stack([cut[key] for cut in cuts]) for key in set(self._cuts)}
        return {
            view_key(index): steps.finish(stacked[key])
            for index, (steps, key) in enumerate(zip(self._steps, self._cuts, strict=True))
        }

    @property
    def _cuts(self) -> list[tuple[int, str]]:
        """How each view's image is read, and the geometry that it is brought to."""
        return [(reading, steps.geometry) for reading, steps in zip(self._readings, self._steps, strict=True)]


def view_key(index: int) -> str:
    """Name under which the view of that index is given to the model."""
    return "pixel_values" if index == 0 else f"pixel_values_{index}"


def _build_processor(view: dict[str, Any]) -> BaseImageProcessor:
    settings = {key: value for key, value in view.items() if key != "reading"}
    name = settings.pop("image_processor_type")
    if not name.isidentifier() or "ImageProcessor" not in name or not hasattr(transformers, name):
        raise ValueError(f"transformers {transformers.__version__} has no {name!r}")
    processor: BaseImageProcessor = getattr(transformers, name)(**settings)
    return processor


def _steps(processor: Any) -> _Steps:
    """The two steps of a processor; where they do not give its very bits on noise, the first does all."""
    noise = Image.fromarray(np.random.default_rng(0).integers(256, size=(97, 131, 3), dtype=np.uint8))
    whole = _Steps(f"{id(processor)}", partial(_processed, processor), _as_it_is)
    try:
        timm = type(processor).__name__ == "TimmWrapperImageProcessor"
        steps = _timm_steps(processor) if timm else _transformers_steps(processor)
        same = torch.equal(steps.finish(steps.cut(noise)[None])[0], whole.cut(noise))
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return whole
    return steps if same else whole


def _timm_steps(processor: Any) -> _Steps:
    *geometry, _, normalise = processor.val_transforms.transforms
    return _Steps(repr(geometry), partial(_resized, geometry), partial(_normalised, normalise))


def _transformers_steps(processor: Any) -> _Steps:
    settings = {name: value for name, value in processor.to_dict().items() if name not in _NORMALISATION}
    normalisation = {name: getattr(processor, name) for name in _NORMALISATION}
    mean, std = tuple(normalisation.pop("image_mean")), tuple(normalisation.pop("image_std"))
    return _Steps(
        repr(settings),
        partial(_processed, processor, do_rescale=False, do_normalize=False),
        partial(processor.rescale_and_normalize, image_mean=mean, image_std=std, **normalisation),
    )


def _resized(geometry: list[Any], image: Image.Image) -> torch.Tensor:
    for step in geometry:
        image = step(image)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _normalised(normalise: Callable[[torch.Tensor], torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    return normalise(pixels.contiguous().float().div_(255))


def _processed(processor: Any, image: Image.Image, **settings: bool) -> torch.Tensor:
    found: torch.Tensor = processor([image], return_tensors="pt", **settings)["pixel_values"][0]
    return found


def _as_it_is(pixels: torch.Tensor) -> torch.Tensor:
    return pixels


EnsembleImageProcessor.register_for_auto_class()
