"""Which frequencies of an image move its score."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn, idctn
from torchvision.transforms.v2 import functional

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.explain.scores import Score

BANDS = 12


def frequency_bands(
    score: Score, image: Any, bands: int = BANDS, batch_size: int = 16
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each radial band of an image's spectrum does to its score: the score with all bands minus that without it.

    Args:
        score: What is explained.
        image: Anything that `open_rgb` takes.
        bands: Rings of equal width, from 0 cycles a pixel to the corner of the spectrum at `√½`. The mean of the image
            is in none of them.
        batch_size: Images a pass.

    Returns:
        The ends of the bands in cycles a pixel, shape `(bands + 1,)`, and the log-odds of the target that each adds, shape
        `(bands,)`. The bands' effects do not sum to the score.
    """
    opened = open_rgb(image)
    pixels = functional.pil_to_tensor(opened.crop(score.box(opened)))[None] / 255
    parts = _band_images(pixels[0].numpy(), bands)
    return _edges(bands), _effects(score, pixels.to(score.models[0].device), parts, batch_size)


def frequency_map(score: Score, pixels: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Where the bands lie that speak for the target: each one's effect, spread over the image as the band's energy is.

    Args:
        score: What is explained.
        pixels: One image, shape `(1, 3, height, width)`.
        batch_size: Images a pass.

    Returns:
        Log-odds that bands with a positive effect add, shape `(height, width)`.
    """
    parts = _band_images(pixels[0].cpu().numpy(), BANDS)
    effects = _effects(score, pixels, parts, batch_size)
    energies = (parts**2).sum(axis=1)
    shares = energies / np.maximum(energies.sum(axis=(1, 2), keepdims=True), np.finfo(np.float32).tiny)
    return torch.from_numpy(np.tensordot(effects.clip(min=0), shares, axes=1))


def _edges(bands: int) -> NDArray[np.float64]:
    return np.linspace(0, np.sqrt(0.5), bands + 1)


def _band_images(pixels: NDArray[np.float32], bands: int) -> NDArray[np.float32]:
    """Parts of an image that sum to it less its mean, shape `(bands, 3, height, width)`.

    By the cosine transform, which goes on beyond the border as in a mirror: a Fourier transform would count the jump
    from one border to the other as detail.
    """
    spectrum = dctn(pixels, axes=(1, 2), norm="ortho")
    vertical, horizontal = (np.arange(side) / (2 * side) for side in pixels.shape[1:])
    radius = np.hypot(vertical[:, None], horizontal)
    band = np.digitize(radius, _edges(bands)[1:-1])
    band[0, 0] = bands
    return np.stack([idctn(spectrum * (band == index), axes=(1, 2), norm="ortho") for index in range(bands)])


def _effects(score: Score, pixels: torch.Tensor, parts: NDArray[np.float32], batch_size: int) -> NDArray[np.float64]:
    found = []
    with torch.no_grad():
        whole = score(pixels)
        for some in torch.from_numpy(parts).split(batch_size):
            found.append(whole - score(pixels - some.to(pixels)))
    return torch.cat(found).double().cpu().numpy()
