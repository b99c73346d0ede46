"""Images to try everything on without a network: crops of packaged photographs and self-blends of them."""

import importlib.util
from pathlib import Path

import numpy as np
from PIL import Image

from hf_deepfake.data.blending import change_look, self_blend
from hf_deepfake.data.splitting import assign_splits
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.labels import NAMES
from hf_deepfake.writing import whole

_PHOTOGRAPHS = {
    "skimage/data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "clock_motion.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn/datasets/images": ("china.jpg", "flower.jpg"),
}

GROUP_PATTERN = r"([^/]+)-\d+\.jpg$"
"""Finds the photograph that a crop was cut from in its path."""

_SHARES = {"train": 0.5, "validation": 0.25, "test": 0.25}


def packaged_photographs() -> dict[str, Path]:
    """The photographs that scikit-image and scikit-learn ship in their wheels, by name.

    Raises:
        InputError: If scikit-image is not installed.
    """
    photographs = {}
    for folder, files in _PHOTOGRAPHS.items():
        package, _, below = folder.partition("/")
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise InputError(
                f"the demo's photographs need {package}; pip install 'hf_deepfake[demo]', or pass --data DIR."
            )
        for file in files:
            path = Path(found.origin).parent / below / file
            if path.is_file():  # which ones a wheel holds differs between versions
                photographs[path.stem] = path
    return photographs


def make_demo_images(root: Path, crops: int = 60, size: int = 128, seed: int = 0) -> Path:
    """Write `root/{train,validation,test}/{real,fake}/PHOTOGRAPH-NUMBER.jpg`.

    The photographs, not the crops, are split, so no photograph stands in two splits. Every second crop or so is changed
    in colour, sharpness or compression as a whole, so that such a change is no sign of a fake. Then each is kept as it
    is (real) and self-blended (fake), both as JPEG of one quality.

    Args:
        root: A folder that does not exist yet; one that does is taken as whole and left as it is.
        crops: Crops a photograph.
        size: Pixels of a crop's side.
        seed: Of the split, the crops and the blends.
    """
    if root.is_dir():
        return root
    photographs = packaged_photographs()
    splits = assign_splits([0] * len(photographs), None, _SHARES, seed)
    with whole(root) as folder:
        for (name, path), split in zip(sorted(photographs.items()), splits, strict=True):
            generator = np.random.default_rng([seed, *name.encode()])
            photograph = open_rgb(path)
            for number in range(crops):
                real = _crop(photograph, size, generator)
                if generator.random() < 0.5:
                    real = change_look(real, generator)
                fake, _ = self_blend(real, generator)
                for label, image in zip(NAMES, (real, fake), strict=True):
                    target = folder / split / label / f"{name}-{number:03d}.jpg"
                    target.parent.mkdir(parents=True, exist_ok=True)
                    image.save(target, quality=95)
    return root


def _crop(photograph: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """A random square of one to two times the size, scaled down to it; empty sky and darkness are passed over."""
    for _ in range(20):
        side = min(int(size * generator.uniform(1, 2)), *photograph.size)
        left = int(generator.integers(photograph.width - side + 1))
        top = int(generator.integers(photograph.height - side + 1))
        box = (left, top, left + side, top + side)
        crop = photograph.resize((size, size), Image.Resampling.BICUBIC, box=box)
        if np.asarray(crop).std() > 15:
            break
    return crop
