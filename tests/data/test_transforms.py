from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_image
from datasets import Dataset, DatasetDict, Features
from datasets import Image as ImageFeature
from PIL import Image
from transformers import ViTImageProcessor

from hf_deepfake.data.transforms import ImageTransform, collate
from hf_deepfake.recipe import AugmentationArguments

OFF = {"flip_prob": 0.0}


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


def test_a_certain_flip_mirrors_the_image() -> None:
    image = draw_image(1, 0)
    torch.testing.assert_close(pixels(image, flip_prob=1.0), pixels(image).flip(-1))


def test_a_crop_is_cut_from_the_resized_image() -> None:
    image = draw_image(1, 0)
    crop, whole = pixels(image, train_crop_size=16, **OFF), pixels(image)
    places = [(y, x) for y in range(9) for x in range(9) if torch.equal(whole[:, y : y + 16, x : x + 16], crop)]
    assert crop.shape == (3, 16, 16)
    assert len(places) == 1


def test_a_crop_larger_than_the_image_is_padded() -> None:
    assert pixels(draw_image(1, 0), train_crop_size=40, **OFF).shape == (3, 40, 40)


def test_recompression_and_jitter_change_pixels_a_little_and_erasing_a_rectangle() -> None:
    torch.manual_seed(0)
    image, plain = draw_image(1, 0), pixels(draw_image(1, 0))
    for augmentation in ({"jpeg_prob": 1.0}, {"color_jitter": 0.1}):
        change = (pixels(image, **augmentation, **OFF) - plain).abs()
        assert 0 < change.mean() < 0.3
    erased = pixels(image, erase_prob=1.0, **OFF)
    gone = (erased == 0).all(0)
    assert 0.01 < gone.float().mean() < 0.35
    assert torch.equal(erased[:, ~gone], plain[:, ~gone])


def test_the_same_seed_augments_alike() -> None:
    augmentation = {"flip_prob": 0.5, "jpeg_prob": 0.5, "color_jitter": 0.3, "train_crop_size": 16, "erase_prob": 0.5}
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
