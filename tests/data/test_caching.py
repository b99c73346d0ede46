from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from conftest import draw_folder, draw_image
from transformers import EfficientNetImageProcessor, TimmWrapperImageProcessor, ViTImageProcessor

from hf_deepfake import InputError
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data import caching
from hf_deepfake.data.caching import cache_resized
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.data.transforms import ImageTransform
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import ImageReader

VIT = ViTImageProcessor(size={"height": 24, "width": 24}, image_mean=[0.3] * 3, image_std=[0.4] * 3)
TIMM = TimmWrapperImageProcessor(
    {"input_size": (3, 24, 24), "crop_pct": 0.9, "interpolation": "bicubic"}, "test_resnet"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder))
    return folder


def rows_of_folder(folder: Path) -> datasets.Dataset:
    return everything(load_data(DataArguments(dataset_name=str(folder))))


@pytest.mark.parametrize("processor", [VIT, TIMM], ids=["vit", "timm"])
def test_a_model_sees_the_same_of_a_cached_image(processor: Any, tmp_path: Path) -> None:
    rows = rows_of_folder(draw_folder(tmp_path / "data", 2))
    cached = cache_resized(rows, processor, ImageReader())
    assert cached.column_names == rows.column_names
    assert cached["file"][:] == rows["file"][:]
    transform = ImageTransform(processor)
    for before, after in zip(transform(rows[:])["pixel_values"], transform(cached[:])["pixel_values"], strict=True):
        assert torch.equal(before, after)


def test_an_image_is_read_once_until_it_or_the_view_changes(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rows_of_folder(draw_folder(tmp_path / "data", 2))
    read = []
    resize = caching._resize
    monkeypatch.setattr(caching, "_resize", lambda *arguments: read.append(arguments[1].size) or resize(*arguments))
    for _ in range(2):
        cache_resized(rows, VIT, ImageReader())
    assert len(read) == 6  # each time one image to check the processor with
    cache_resized(rows, TIMM, ImageReader())
    assert len(read) == 11
    draw_image(0, 99, 60).save(tmp_path / "data" / "real" / "000.png")
    cache_resized(rows_of_folder(tmp_path / "data"), VIT, ImageReader())
    assert len(read) == 16
    assert len(list(own_cache.rglob("*.arrow"))) == 3


def test_a_processor_that_cannot_be_parted_is_refused(tmp_path: Path) -> None:
    rows = rows_of_folder(draw_folder(tmp_path / "data", 1))
    with pytest.raises(InputError, match="--cache_images: EfficientNetImageProcessor does not resize apart"):
        cache_resized(rows, EfficientNetImageProcessor(), ImageReader())
