"""From undecoded rows to `pixel_values`: one path for training, evaluation and inference."""

import hashlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from datasets import Dataset, DatasetDict, Features, Value
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor, TimmWrapperImageProcessor

from hf_deepfake.arguments import AugmentationArguments
from hf_deepfake.data.augmentation import augmentation
from hf_deepfake.data.blending import self_blend
from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import ImageReader, open_rgb
from hf_deepfake.labels import FAKE, REAL


class ImageTransform:
    """Decode to RGB, blend and augment if told to, then the checkpoint's own image processor.

    Used with `Dataset.set_transform`, so images are decoded when their batch is made. Without `arguments` nothing but
    the processor touches the image. With them its steps run on 8-bit tensors instead of PIL images, which is about
    twice as fast and within two grey levels of the processor's own result (`benchmarks/input_pipeline.py`).

    Args:
        processor: Image processor of the checkpoint.
        arguments: Augmentation, for training images; None for all others.
        reader: How the checkpoint reads an image before its processor sees it.
        faces: Finds the faces that self-blended fakes are made of; None for the middle of the image.
        others: Makes further views of the augmented image, such as a teacher's, by the name of each.
    """

    def __init__(
        self,
        processor: BaseImageProcessor,
        arguments: AugmentationArguments | None = None,
        reader: ImageReader | None = None,
        faces: FaceCropper | None = None,
        others: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    ) -> None:
        self.processor = processor
        self.others = others or {}
        self.reader = reader or ImageReader()
        self.faces = faces
        self.augmented = arguments is not None
        self.self_blend_prob = arguments.self_blend_prob if arguments else 0.0
        self.augment = augmentation(arguments.transforms, arguments.transforms_strength) if arguments else None
        self.view = tensor_view(processor)
        crop = arguments.train_crop_size if arguments else None
        self.crop = v2.RandomCrop(crop, pad_if_needed=True) if crop is not None else None

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Replace the column `image` of a batch by `pixel_values`, each of shape `(3, height, width)`.

        A row with a `blend_seed` becomes the self-blended fake of that seed. What a teacher says of a row (`teacher_…`)
        stays with it.
        """
        seeds = rows.get("blend_seed", [None] * len(rows["image"]))
        made: dict[str, list[Any]] = {name: [] for name in ("pixel_values", "labels", *self.others)}
        for image, label, seed in zip(rows["image"], rows["label"], seeds, strict=True):
            if label == REAL and self.self_blend_prob > 0 and torch.rand(()) < self.self_blend_prob:
                label, seed = FAKE, int(torch.randint(2**62, ()))
            if seed is not None:
                image = self._blended(image, seed)
            views = self._augmented(image) if self.augmented else {"pixel_values": self._plain(image)}
            for name, value in (views | {"labels": label}).items():
                made[name].append(value)
        said = {name: values for name, values in rows.items() if name.startswith("teacher_")}
        return made | {name: [torch.tensor(value) for value in values] for name, values in said.items()}

    def _plain(self, image: Any) -> torch.Tensor:
        found: torch.Tensor = self.processor([self.reader(image)], return_tensors="pt")["pixel_values"][0]
        return found

    def _augmented(self, image: Any) -> dict[str, torch.Tensor]:
        pixels = torch.from_numpy(self.reader.pixels(image)).permute(2, 0, 1)
        if self.augment is not None:
            pixels = self.augment(pixels)
        view = self.view(pixels)
        others = {name: other(pixels) for name, other in self.others.items()}
        return {"pixel_values": self.crop(view) if self.crop is not None else view} | others

    def _blended(self, image: Any, seed: int) -> Image.Image:
        opened = open_rgb(image)
        faces = self.faces.detect(opened) if self.faces is not None else []
        return self_blend(opened, np.random.default_rng(seed), faces[0].landmarks if faces else None)[0]


def add_blends(splits: DatasetDict, seed: int) -> DatasetDict:
    """Give the splits to measure on that have real photographs only the self-blended fake of each of them.

    The fakes are rows with a `blend_seed`, made of `seed` and the file's name, from which `ImageTransform` makes the same
    fake each time. The training split stays as it is: its fakes are made anew in each epoch.
    """
    return DatasetDict(
        {
            name: rows if name == "train" or FAKE in rows["label"][:] else _doubled(rows, seed)
            for name, rows in splits.items()
        }
    )


def _doubled(rows: Dataset, seed: int) -> Dataset:
    real = rows.with_format("arrow")[:].append_column("blend_seed", pa.nulls(len(rows), pa.int64()))
    files = real["file"].to_pylist()
    digests = [hashlib.sha256(f"{seed}/{file}".encode()).digest() for file in files]
    values = {
        "file": [f"{file} (self-blended)" for file in files],
        "label": [FAKE] * len(files),
        "blend_seed": [int.from_bytes(digest[:7], "big") for digest in digests],
    }
    fakes = real
    for name, column in values.items():
        fakes = fakes.set_column(fakes.column_names.index(name), name, [column])
    schema = Features(rows.features | {"blend_seed": Value("int64")}).arrow_schema
    return Dataset(pa.concat_tables([real, fakes]).cast(schema))


def tensor_view(processor: BaseImageProcessor) -> Callable[[torch.Tensor], torch.Tensor]:
    """What the processor does, for one RGB tensor of shape `(3, height, width)` from 0 to 255.

    Resizing, cropping and normalising in that order, as most processors do, takes torch less time; torchvision
    resizes 8-bit tensors to within one or two grey levels of PIL. A processor that does anything else is called itself.
    Floating-point tensors keep their gradient, and are not rounded.
    """
    view = _timm_view(processor) if isinstance(processor, TimmWrapperImageProcessor) else _transformers_view(processor)
    return view if view is not None else partial(_process, processor)


def _timm_view(processor: TimmWrapperImageProcessor) -> Callable[[torch.Tensor], torch.Tensor] | None:
    steps = processor.val_transforms.transforms
    if [type(step).__name__ for step in steps] != ["Resize", "CenterCrop", "MaybeToTensor", "Normalize"]:
        return None
    resize, crop, _, normalise = steps
    return partial(_view, resize.size, resize.interpolation, crop, normalise.mean, normalise.std)


def _transformers_view(processor: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """None unless it gives what the processor itself makes of an image."""
    noise = torch.randint(256, (3, 97, 131), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    try:
        size, crop_size = _geometry(processor)
        crop = partial(processor.center_crop, size=crop_size) if crop_size else None
        black, white = (_process(processor, torch.full_like(noise, value)).amax((1, 2)) for value in (0, 255))
        std = 1 / (white - black)  # measured, since not every processor normalises once by its mean and deviation
        view = partial(_view, size, processor.resample, crop, -black * std, std)
        same = torch.allclose(view(noise), _process(processor, noise), atol=1e-4)
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None
    return view if same else None


def _geometry(processor: Any) -> tuple[list[int], Any]:
    """What is resized to, and the size of what is cut out of that."""
    size, crop_size = processor.size, processor.crop_size if processor.do_center_crop else None
    edge = size.shortest_edge
    if edge and getattr(processor, "crop_pct", None):  # ConvNeXt, which crops what is small
        square = type(size)(height=edge, width=edge)
        return ([edge, edge], None) if edge >= 384 else ([int(edge / processor.crop_pct)], square)
    return [edge] if edge else [size.height, size.width], crop_size


def _view(
    size: Any, interpolation: Any, crop: Any, mean: torch.Tensor, std: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    resize = _resize_smoothly if pixels.is_floating_point() else functional.resize
    resized = resize(pixels, size, interpolation)
    cropped = crop(resized) if crop is not None else resized
    mean, std = (255 * value.view(3, 1, 1).to(pixels.device) for value in (mean, std))
    view: torch.Tensor = cropped.sub(mean).div_(std)
    return view


def _resize_smoothly(pixels: torch.Tensor, size: Any, interpolation: Any) -> torch.Tensor:
    """Resize floating-point values as 8-bit ones are: one direction after the other, each cut to the range.

    Bicubic weights overshoot at edges, by more than ten grey levels, where nothing cuts them. The half level that
    rounding would take away is left, so that black and white pixels keep their gradient.
    """
    height, width = functional.resize(pixels[:1], size, v2.InterpolationMode.NEAREST).shape[-2:]
    for sides in ([pixels.shape[-2], width], [height, width]):
        pixels = functional.resize(pixels, sides, interpolation).clamp(-0.5, 255.5)
    return pixels


def _process(processor: BaseImageProcessor, pixels: torch.Tensor) -> torch.Tensor:
    timm = isinstance(processor, TimmWrapperImageProcessor)
    image = functional.to_pil_image(pixels) if timm else pixels
    found: torch.Tensor = processor([image], return_tensors="pt")["pixel_values"][0]
    return found


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows to `pixel_values`, shape `(images, 3, height, width)`, and `labels`, shape `(images,)`.

    What a teacher brings (`teacher_…`) is stacked likewise.
    """
    views = [name for name in rows[0] if name == "pixel_values" or name.startswith("teacher_")]
    return {name: torch.stack([row[name] for row in rows]) for name in views} | {
        "labels": torch.tensor([row["labels"] for row in rows])
    }
