"""From undecoded rows to `pixel_values`: one path for training, evaluation and inference."""

from typing import Any

import torch
from torchvision.transforms import v2
from transformers import BaseImageProcessor

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.recipe import AugmentationArguments


class ImageTransform:
    """Decode to RGB, augment if told to, then the checkpoint's own image processor.

    Used with `Dataset.set_transform`, so images are decoded when their batch is made. Augmentation of
    colour and compression comes before the processor and cropping and erasing after it; without
    `augmentation` nothing but the processor touches the image.

    Args:
        processor: Image processor of the checkpoint.
        augmentation: For training images; None for all others.
    """

    def __init__(self, processor: BaseImageProcessor, augmentation: AugmentationArguments | None = None) -> None:
        self.processor = processor
        self.before, self.after = _augmentations(augmentation) if augmentation else (None, None)

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        """Replace the column `image` of a batch by `pixel_values`, each of shape `(3, height, width)`."""
        images = [open_rgb(image) for image in rows["image"]]
        if self.before is not None:
            images = [self.before(image) for image in images]
        pixel_values = list(self.processor(images, return_tensors="pt")["pixel_values"])
        if self.after is not None:
            pixel_values = [self.after(pixels) for pixels in pixel_values]
        return {"pixel_values": pixel_values, "labels": rows["label"]}


def _augmentations(arguments: AugmentationArguments) -> tuple[v2.Transform | None, v2.Transform | None]:
    before, after = [], []
    if arguments.color_jitter > 0:
        before.append(v2.ColorJitter(*[arguments.color_jitter] * 3))
    if arguments.jpeg_prob > 0:
        before.append(v2.RandomApply([v2.JPEG((50, 95))], p=arguments.jpeg_prob))
    if arguments.train_crop_size is not None:
        after.append(v2.RandomCrop(arguments.train_crop_size, pad_if_needed=True))
    if arguments.flip_prob > 0:
        after.append(v2.RandomHorizontalFlip(arguments.flip_prob))
    if arguments.erase_prob > 0:
        after.append(v2.RandomErasing(arguments.erase_prob))
    return (v2.Compose(before) if before else None, v2.Compose(after) if after else None)


def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack rows to `pixel_values`, shape `(images, 3, height, width)`, and `labels`, shape `(images,)`."""
    return {
        "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
        "labels": torch.tensor([row["labels"] for row in rows]),
    }
