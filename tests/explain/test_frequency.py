from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hf_deepfake.explain.frequency import _band_images, frequency_bands, frequency_map


def fine_detail(pixels: torch.Tensor) -> torch.Tensor:
    """A score that only sees differences of neighbours."""
    return (pixels[..., 1:] - pixels[..., :-1]).square().sum(dim=(1, 2, 3))


class Fine:
    """What of a `Score` the frequencies need."""

    models = [SimpleNamespace(device="cpu")]

    def box(self, image: Image.Image) -> tuple[int, int, int, int]:
        return 0, 0, *image.size

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        return fine_detail(pixels)


def stripes() -> Image.Image:
    """Grey on the left; on the right stripes of 4 pixels, which are a quarter of a cycle a pixel."""
    pixels = np.full((32, 64, 3), 100, np.uint8)
    pixels[:, 32:] += (40 * (np.arange(32) // 2 % 2)).astype(np.uint8)[None, :, None]
    return Image.fromarray(pixels)


def test_the_bands_sum_to_the_image_less_its_mean() -> None:
    pixels = np.random.default_rng(0).random((3, 17, 30), np.float32)
    for bands in (1, 5, 12):
        found = _band_images(pixels, bands)
        assert found.shape == (bands, 3, 17, 30)
        np.testing.assert_allclose(found.sum(axis=0), pixels - pixels.mean(axis=(1, 2), keepdims=True), atol=1e-5)


def test_the_band_of_the_stripes_moves_the_score_most() -> None:
    score: Any = Fine()
    edges, effects = frequency_bands(score, stripes(), bands=12, batch_size=5)
    assert edges[0] == 0
    assert edges[-1] == pytest.approx(np.sqrt(0.5))
    top = int(effects.argmax())
    assert edges[top] <= 0.25 < edges[top + 1]


def test_the_map_lies_where_the_bands_that_speak_for_the_target_do() -> None:
    score: Any = Fine()
    pixels = torch.from_numpy(np.asarray(stripes()).copy()).permute(2, 0, 1)[None] / 255
    found = frequency_map(score, pixels, batch_size=16)
    assert found.shape == (32, 64)
    assert found[:, 36:].mean() > 3 * found[:, :28].mean()
    _, effects = frequency_bands(score, stripes())
    assert found.sum().item() == pytest.approx(effects.clip(min=0).sum(), rel=1e-4)


def test_an_image_of_one_pixel_has_no_bands() -> None:
    score: Any = Fine()
    assert not frequency_map(score, torch.rand(1, 3, 1, 1), batch_size=2).any()
