import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_image
from datasets import ClassLabel, Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import (
    BitImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

from hf_deepfake.arguments import AugmentationArguments, DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.transforms import ImageTransform, add_blends, collate
from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import ImageReader

OFF = {"transforms": ["none"]}


def processor(size: int = 24) -> ViTImageProcessor:
    return ViTImageProcessor(size={"height": size, "width": size}, image_mean=[0.5] * 3, image_std=[0.5] * 3)


def pixels(image: Any, **augmentation: Any) -> torch.Tensor:
    arguments = AugmentationArguments(**augmentation) if augmentation else None
    found: torch.Tensor = ImageTransform(processor(), arguments)({"image": [image], "label": [1]})["pixel_values"][0]
    return found


def test_training_without_augmentation_is_inference() -> None:
    image = draw_image(1, 0)
    expected = processor()(image, return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(pixels(image), expected, rtol=0, atol=0)
    torch.testing.assert_close(pixels(image, **OFF), expected, rtol=0, atol=0)


def test_any_mode_and_size_comes_out_as_one_shape() -> None:
    rows = {
        "image": [draw_image(0, 0, 17).convert(mode) for mode in ("L", "P", "RGBA", "CMYK", "1")],
        "label": [0] * 5,
    }
    batch = ImageTransform(processor())(rows)
    assert {tuple(image.shape) for image in batch["pixel_values"]} == {(3, 24, 24)}
    assert batch["labels"] == [0] * 5


def test_a_crop_is_cut_from_the_resized_image() -> None:
    image = draw_image(1, 0)
    crop, whole = pixels(image, train_crop_size=16, **OFF), pixels(image)
    places = [(y, x) for y in range(9) for x in range(9) if torch.equal(whole[:, y : y + 16, x : x + 16], crop)]
    assert crop.shape == (3, 16, 16)
    assert len(places) == 1


def test_a_crop_larger_than_the_image_is_padded() -> None:
    assert pixels(draw_image(1, 0), train_crop_size=40, **OFF).shape == (3, 40, 40)


def test_the_same_seed_augments_alike() -> None:
    augmentation = {"transforms": ["forensic", "jitter", "erase"], "train_crop_size": 16, "self_blend_prob": 0.5}
    torch.manual_seed(1)
    first = [pixels(draw_image(0, seed), **augmentation) for seed in range(4)]
    torch.manual_seed(1)
    assert all(torch.equal(pixels(draw_image(0, seed), **augmentation), image) for seed, image in enumerate(first))


def test_images_of_a_data_set_are_decoded_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    rows = Dataset.from_dict({"image": [str(path)] * 2, "label": [0, 1]})
    rows = rows.cast(Features({**rows.features, "image": ImageFeature(decode=False)}))
    rows = DatasetDict(train=rows).with_transform(ImageTransform(processor()))["train"]
    with pytest.raises(ValueError, match=r"a\.png: no such file"):
        rows[0]
    draw_image(0, 0).save(path)
    batch = collate([rows[0], rows[1]])
    assert batch["pixel_values"].shape == (2, 3, 24, 24)
    assert batch["labels"].tolist() == [0, 1]


def test_normalisation_is_that_of_the_processor() -> None:
    white = Image.fromarray(np.full((30, 30, 3), 255, np.uint8))
    torch.testing.assert_close(pixels(white), torch.ones(3, 24, 24))


@pytest.mark.parametrize(
    "settings",
    [{"crop_pct": 1.0}, {"crop_pct": 0.875}, {"crop_pct": 0.9, "crop_mode": "squash"}, {"crop_mode": "border"}],
)
def test_training_sees_what_timm_sees_within_a_grey_level(settings: dict[str, Any]) -> None:
    size = {"input_size": (3, 24, 24), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.25,) * 3}
    stock = TimmWrapperImageProcessor(size | settings, "test_resnet")
    noise = np.random.default_rng(0).integers(0, 256, (90, 61, 3), dtype=np.uint8)
    rows = {"image": [Image.fromarray(noise)], "label": [0]}
    fast = ImageTransform(stock, AugmentationArguments(**OFF))(rows)["pixel_values"][0]  # type: ignore[arg-type]
    expected = ImageTransform(stock)(rows)["pixel_values"][0]
    assert torch.equal(expected, stock(rows["image"], return_tensors="pt")["pixel_values"][0])
    assert (fast - expected).abs().max() <= 1 / 255 / 0.25 + 1e-6


def test_a_self_blended_photograph_becomes_a_fake() -> None:
    image = draw_image(0, 0)
    arguments = AugmentationArguments(self_blend_prob=1.0, **OFF)  # type: ignore[arg-type]
    batch = ImageTransform(processor(), arguments)({"image": [image, draw_image(1, 0)], "label": [0, 1]})
    assert batch["labels"] == [1, 1]
    assert not torch.equal(batch["pixel_values"][0], pixels(image))
    assert torch.equal(batch["pixel_values"][1], pixels(draw_image(1, 0)))


def test_about_the_asked_share_of_photographs_is_blended() -> None:
    torch.manual_seed(0)
    transform = ImageTransform(processor(), AugmentationArguments(self_blend_prob=0.3, **OFF))  # type: ignore[arg-type]
    labels = transform({"image": [draw_image(0, 0)] * 100, "label": [0] * 100})["labels"]
    assert 20 <= sum(labels) <= 40


def test_splits_without_fakes_get_the_same_blends_each_time(image_folder: Path) -> None:
    photographs = load_data(DataArguments(dataset_name=str(image_folder / "real")), labelled=False)["all"]
    labelled = photographs.add_column("label", [0] * 20, feature=ClassLabel(names=["real", "fake"]))
    splits = DatasetDict(train=labelled.select(range(10)), validation=labelled.select(range(10, 20)))
    doubled = add_blends(splits, seed=0)
    assert doubled["train"]["label"][:] == [0] * 10
    assert doubled["validation"]["label"][:] == [0] * 10 + [1] * 10
    assert len(set(doubled["validation"]["file"][:])) == 20
    assert doubled["validation"]["blend_seed"][:] != add_blends(splits, seed=1)["validation"]["blend_seed"][:]
    view = doubled["validation"].with_transform(ImageTransform(processor()))
    first, again = view[10]["pixel_values"], view[10]["pixel_values"]
    assert torch.equal(first, again)
    assert not torch.equal(first, view[0]["pixel_values"])
    mixed = DatasetDict(validation=doubled["validation"])
    assert add_blends(mixed, seed=0)["validation"].num_rows == 20


def test_a_reader_that_scales_and_one_that_crops_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = io.BytesIO()
    draw_image(1, 0, 200).save(encoded, "JPEG")
    rows = {"image": [{"bytes": encoded.getvalue(), "path": None}], "label": [1]}
    whole, scaled = (
        ImageTransform(processor(), reader=ImageReader(smallest_side=side))(rows)["pixel_values"][0]
        for side in (None, 24)
    )
    assert 0 < (whole - scaled).abs().mean() < 0.2
    monkeypatch.setattr(FaceCropper, "__init__", lambda self: None)
    monkeypatch.setattr(FaceCropper, "crops", lambda self, image, every: [image.crop((50, 50, 150, 150))])
    reader = ImageReader(face_crop={})
    expected = processor()(draw_image_decoded(rows).crop((50, 50, 150, 150)), return_tensors="pt")["pixel_values"][0]
    for arguments in (None, AugmentationArguments(**OFF)):  # type: ignore[arg-type]
        assert torch.equal(ImageTransform(processor(), arguments, reader)(rows)["pixel_values"][0], expected)


def draw_image_decoded(rows: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(rows["image"][0]["bytes"])).convert("RGB")


@pytest.mark.parametrize(
    "stock",
    [
        ViTImageProcessor(size={"height": 24, "width": 20}, resample=3),
        BitImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 24, "width": 24}),
        BitImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 24, "width": 24}),  # out of 27 pixels
        ConvNextImageProcessor(size={"shortest_edge": 24}),
        EfficientNetImageProcessor(size={"height": 24, "width": 24}),
    ],
    ids=lambda stock: type(stock).__name__,
)
def test_training_sees_what_a_processor_of_transformers_sees(stock: Any) -> None:
    rows = {"image": [draw_image(1, 0, 61).crop((0, 0, 61, 53))], "label": [1]}
    fast = ImageTransform(stock, AugmentationArguments(**OFF))(rows)["pixel_values"][0]  # type: ignore[arg-type]
    torch.testing.assert_close(fast, stock(rows["image"], return_tensors="pt")["pixel_values"][0], atol=1e-4, rtol=0)
