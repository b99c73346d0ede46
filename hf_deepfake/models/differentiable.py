"""What a model sees of an image, as a differentiable function of the image's own pixels."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.v2 import functional
from transformers import BaseImageProcessor

from hf_deepfake.data.transforms import tensor_view
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor, view_key
from hf_deepfake.errors import InputError
from hf_deepfake.printing import first_line

_TOLERANCE = 2.0
"""Grey levels by which a differentiable view may differ from what the processor makes of 8-bit pixels."""


def differentiable_views(processor: BaseImageProcessor) -> Callable[[torch.Tensor], dict[str, torch.Tensor]]:
    """What a processor does, without the rounding to 8 bits that has no gradient.

    Args:
        processor: Of a detector or an ensemble. A part of the image that is cut out before it, such as a detector's
            face crop, is not its work: give the crop.

    Returns:
        A function from RGB in [0, 1], shape `(images, 3, height, width)`, to the keyword arguments of the model,
        `pixel_values` and, for an ensemble with several views, `pixel_values_1`, `pixel_values_2`, ….

    Raises:
        InputError: If the processor, or one of an ensemble's, finds faces or does something without a gradient.
    """
    processors: list[Any] = [processor]
    if isinstance(processor, EnsembleImageProcessor):
        _refuse_faces(processor)
        processors = processor.processors
    parts = [_differentiable_view(part) for part in processors]

    def views(pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {
            view_key(index): torch.stack([part(255 * image) for image in pixels]) for index, part in enumerate(parts)
        }

    return views


def _refuse_faces(processor: EnsembleImageProcessor) -> None:
    for index, view in enumerate(processor.views):
        if "face_crop" in view.get("reading", {}):
            raise InputError(
                f"view {index} of the ensemble reads a face crop, and finding the face has no gradient; "
                "take members that read whole images."
            )


def _differentiable_view(processor: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The tensor view of a processor, tried on a smooth image before anybody relies on it."""
    name, view = type(processor).__name__, tensor_view(processor)
    generator = torch.Generator().manual_seed(0)
    smooth = functional.resize(torch.rand(3, 8, 11, generator=generator), [97, 131]).mul(255).round()
    try:
        black, white, expected = (_own_view(processor, image) for image in (0 * smooth, 0 * smooth + 255, smooth))
        if expected.ndim != 3:
            raise ValueError(f"it gives a shape of {tuple(expected.shape)} in place of (3, height, width)")
        pixels = smooth.requires_grad_()
        found = view(pixels)
        reached = torch.autograd.grad(found.sum(), pixels)[0].any().item()
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{name}: cannot be differentiated: {first_line(error)}") from error
    level = (white - black).amax((1, 2), keepdim=True) / 255
    off = ((found - expected).abs() / level).max().item()
    if not (reached and off <= _TOLERANCE):
        raise InputError(
            f"{name}: cannot be differentiated: {off:.0f} grey levels lie between what it makes of 8 bits and of "
            "unrounded values; take a model whose processor resizes, crops and normalises only."
        )
    low, high = black.amin((1, 2), keepdim=True) - level / 2, white.amax((1, 2), keepdim=True) + level / 2
    return lambda pixels: view(pixels).clamp(low.to(pixels), high.to(pixels))


def _own_view(processor: Any, image: torch.Tensor) -> torch.Tensor:
    picture: Image.Image = functional.to_pil_image(image.byte())
    found: torch.Tensor = processor([picture], return_tensors="pt")["pixel_values"][0]
    return found
