from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_image
from PIL import Image
from torchvision.transforms.v2 import functional
from transformers import (
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextImageProcessor,
    DeiTImageProcessor,
    EfficientNetImageProcessor,
    Siglip2ImageProcessor,
    SiglipImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
    ViTImageProcessorPil,
)

from hf_deepfake import EnsembleImageProcessor
from hf_deepfake.errors import InputError
from hf_deepfake.models.differentiable import differentiable_views


def timm_processor(**settings: Any) -> TimmWrapperImageProcessor:
    usual = {"input_size": (3, 96, 96), "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
    return TimmWrapperImageProcessor(usual | settings, "test_resnet")


def tensor(image: Image.Image) -> torch.Tensor:
    return functional.pil_to_tensor(image)[None] / 255


PROCESSORS = {
    "timm": timm_processor(crop_pct=1.0),
    "timm that crops": timm_processor(crop_pct=0.875, interpolation="bilinear"),
    "timm that squashes": timm_processor(crop_pct=0.9, crop_mode="squash"),
    "ViT": ViTImageProcessor(size={"height": 96, "width": 80}),
    "ConvNeXt that crops": ConvNextImageProcessor(size={"shortest_edge": 96}),
    "ConvNeXt": ConvNextImageProcessor(),
    "SigLIP": SiglipImageProcessor(size={"height": 96, "width": 96}),
    "BiT": BitImageProcessor(size={"shortest_edge": 110}, crop_size={"height": 96, "width": 96}),
    "CLIP": CLIPImageProcessor(),
    "DeiT": DeiTImageProcessor(),
    "EfficientNet": EfficientNetImageProcessor(),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(256, 256), (351, 200), (70, 97)], ids=str)
def test_a_view_is_within_two_grey_levels_of_the_processor(name: str, size: tuple[int, int]) -> None:
    processor: Any = PROCESSORS[name]
    photograph = Image.fromarray(pytest.importorskip("skimage.data").astronaut()).crop(
        (100, 20, *np.add(size, (100, 20)))
    )
    black, white, expected = (
        processor([image], return_tensors="pt")["pixel_values"][0]
        for image in (Image.new("RGB", size), Image.new("RGB", size, "white"), photograph)
    )
    found = differentiable_views(processor)(tensor(photograph))["pixel_values"][0]
    level = (white - black).amax((1, 2), keepdim=True) / 255
    assert ((found - expected).abs() / level).max() < 2


@pytest.mark.parametrize("name", PROCESSORS)
def test_every_pixel_that_is_looked_at_gets_a_gradient(name: str) -> None:
    """Black and white ones lie at the end of the range, where a bound would take it."""
    for colour in ("black", "white"):
        pixels = tensor(Image.new("RGB", (96, 96), colour)).requires_grad_()
        gradient = torch.autograd.grad(differentiable_views(PROCESSORS[name])(pixels)["pixel_values"].sum(), pixels)[0]
        assert gradient[..., 20:-20, 20:-20].all()


def test_images_of_a_batch_do_not_mix() -> None:
    pixels = torch.rand(3, 3, 50, 40)
    views = differentiable_views(PROCESSORS["ViT"])
    together, alone = views(pixels)["pixel_values"], views(pixels[1:2])["pixel_values"]
    assert together.shape == (3, 3, 96, 80)
    assert torch.equal(together[1:2], alone)


def test_an_ensemble_gets_every_view_under_its_name() -> None:
    settings = [
        {
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 16, "width": 16},
            "reading": {"smallest_side": 9},
        },
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}, "image_mean": [0.1] * 3},
    ]
    processor = EnsembleImageProcessor(views=settings)
    image = draw_image(1, 0)
    found, expected = differentiable_views(processor)(tensor(image)), processor(image)
    assert list(found) == list(expected) == ["pixel_values", "pixel_values_1"]
    for name, view in expected.items():
        torch.testing.assert_close(found[name], view, atol=4 / 255, rtol=0)  # 2 grey levels by a deviation of 0.5


def test_a_view_that_finds_faces_is_refused() -> None:
    processor = EnsembleImageProcessor(views=[{"image_processor_type": "ViTImageProcessor"}] * 2)
    processor.views[1] = processor.views[1] | {"reading": {"face_crop": {"margin": 0.3}}}
    with pytest.raises(InputError, match="view 1 of the ensemble reads a face crop"):
        differentiable_views(processor)


@pytest.mark.parametrize(
    ("processor", "reason"),
    [
        (ViTImageProcessorPil(), "ViTImageProcessorPil: .*numpy"),
        (Siglip2ImageProcessor(), r"Siglip2ImageProcessor: .*a shape of \(256, 768\)"),
        (timm_processor(interpolation="nearest"), r"TimmWrapperImageProcessor: .*: \d+ grey levels"),
        (timm_processor(crop_mode="border"), "TimmWrapperImageProcessor: .*does not require grad"),
    ],
    ids=["PIL", "patches", "nearest pixels", "border"],
)
def test_a_processor_without_a_gradient_or_with_other_steps_is_refused(processor: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        differentiable_views(processor)
