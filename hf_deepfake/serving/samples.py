"""Pictures to try the page on: two packaged photographs that anyone may show, and fakes that are made of them here."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from hf_deepfake.data.blending import self_blend
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb

_PHOTOGRAPHS = ("coffee", "chelsea")
"""Of scikit-image; their photographers, Rachel Michetti and Stefan van der Walt, gave them to everyone (CC0)."""

_SIDE = 512


def sample_pictures(seed: int = 0) -> dict[str, bytes]:
    """The JPEG of each picture by its name; none where scikit-image is not installed."""
    found = find_spec("skimage")
    if found is None or found.origin is None:
        return {}
    pictures: dict[str, bytes] = {}
    for name in _PHOTOGRAPHS:
        real = open_rgb(Path(found.origin).parent / "data" / f"{name}.png")
        real.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC)
        fake, _ = self_blend(real, np.random.default_rng(seed))
        pictures |= {name: _jpeg(real), f"{name} altered": _jpeg(fake)}
    return pictures


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
