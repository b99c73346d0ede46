"""Transforms of training images, by name."""

import difflib
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from hf_deepfake.data.corruptions import SEVERITIES, corrupt
from hf_deepfake.errors import InputError
from hf_deepfake.writing import whole

_BILINEAR = v2.InterpolationMode.BILINEAR


def augmentation(names: Sequence[str], strength: float = 1.0) -> v2.Transform | None:
    """Compose named transforms in the given order.

    They take and give RGB images of 8 bits, shape `(3, height, width)`, of 8 pixels and more, keep the size, and draw
    from torch's global generator alone, so that a seeded training can be repeated and resumed.

    Args:
        names: Of `TRANSFORMS`, presets and single operations alike.
        strength: Factor on every magnitude. Where there is none (`flip`, `equalize`, `trivialaugment`, …) it scales the
            chance, up to one half for flips. Corruptions grow in severity with it, and below 1 also come less often.

    Returns:
        The transform, or None where nothing is to be done.

    Raises:
        InputError: If a name is unknown or the strength is no number from 0 up.
    """
    for name in names:
        if name not in TRANSFORMS:
            near = difflib.get_close_matches(name, TRANSFORMS, n=1)
            raise InputError(
                f"{name}: no such transform; there are {', '.join(TRANSFORMS)}."
                + (f" Did you mean {near[0]}?" if near else "")
            )
    if not 0 <= strength < math.inf:
        raise InputError(f"strength {strength}: it is a number from 0, for no change, up; 1 is the usual.")
    wanted = [name for name in names if name != "none"]
    return v2.Compose([_TABLE[name][1](strength) for name in wanted]) if wanted and strength > 0 else None


class _Shift(v2.Transform):  # type: ignore[misc]
    """Move by whole pixels, up to a share of the sides, and fill the rim by reflection: nothing is resampled."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Pixels down and right."""
        most = [min(side - 1, round(side * self.share)) for side in flat_inputs[0].shape[-2:]]
        down, right = (int(torch.randint(-side, side + 1, ())) for side in most)
        return {"down": down, "right": right}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Pad where the image left and crop where it went."""
        down, right = params["down"], params["right"]
        rim = [max(right, 0), max(down, 0), max(-right, 0), max(-down, 0)]
        padded = functional.pad(inpt, rim, padding_mode="reflect")
        return functional.crop(padded, max(-down, 0), max(-right, 0), *inpt.shape[-2:])


class _Corrupt(v2.Transform):  # type: ignore[misc]
    """A corruption at a random severity, up to `hardest` at strength 1."""

    def __init__(self, name: str, hardest: int, strength: float) -> None:
        super().__init__()
        self.name = name
        self.hardest = min(SEVERITIES[-1], math.ceil(hardest * strength))

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The severity."""
        return {"severity": int(torch.randint(1, self.hardest + 1, ()))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Change the image."""
        return corrupt(inpt, self.name, params["severity"])


def _sometimes(transform: v2.Transform, chance: float) -> v2.Transform:
    return v2.RandomApply([transform], p=min(1.0, chance))


def _corruption(name: str, chance: float, strength: float, hardest: int = 3) -> v2.Transform:
    return _sometimes(_Corrupt(name, hardest, strength), chance * min(1.0, strength))


def _flip(strength: float) -> v2.Transform:
    return v2.RandomHorizontalFlip(min(0.5, 0.5 * strength))


def _light(strength: float) -> v2.Transform:
    return v2.Compose([_flip(strength), _Shift(strength / 16)])


def _standard(strength: float) -> v2.Transform:
    """Light, colours within 10 %, and for four images in ten one upload.

    The upload is a mild JPEG, WebP or screenshot. The other six keep their pixels' finest traces, by which a detector
    tells generators and blends; it learns both to use and to do without them.
    """
    upload = v2.RandomChoice([_Corrupt(name, 2, strength) for name in ("jpeg", "webp", "screenshot")])
    return v2.Compose(
        [_light(strength), v2.ColorJitter(*[0.1 * strength] * 3), _sometimes(upload, 0.4 * min(1.0, strength))]
    )


def _forensic(strength: float) -> v2.Transform:
    """Flip, then what social media do, in any order; about one image in five escapes it all."""
    chances = {"jpeg": 0.4, "webp": 0.2, "resize": 0.3, "blur": 0.2, "noise": 0.2}
    changes = [_corruption(name, chance, strength) for name, chance in chances.items()]
    return v2.Compose([_flip(strength), v2.RandomOrder(changes)])


def _geometric(strength: float) -> v2.Transform:
    """Flip, then one movement: a second one would resample what the first has smeared."""
    return v2.Compose([_flip(strength), v2.RandomChoice([_TABLE[name][1](strength) for name in _MOVEMENTS])])


def _colour(strength: float) -> v2.Transform:
    """Jitter, then at most one change of tones."""
    return v2.Compose([_jitter(strength), v2.RandomChoice([_TABLE[name][1](strength) for name in _TONES])])


def _jitter(strength: float) -> v2.Transform:
    return v2.ColorJitter(*[0.2 * strength] * 3, hue=min(0.5, 0.02 * strength))


def _affine(strength: float) -> v2.Transform:
    largest = 1 + 0.1 * strength
    return v2.RandomAffine(
        0,
        translate=[min(1.0, 0.05 * strength)] * 2,
        scale=(1 / largest, largest),
        shear=min(45.0, 8 * strength),
        interpolation=_BILINEAR,
    )


def _perspective(strength: float) -> v2.Transform:
    return v2.RandomPerspective(min(0.9, 0.2 * strength), p=1.0)  # at 1 its corners could fall together


def _erase(strength: float) -> v2.Transform:
    share = min(1.0, 0.15 * strength)
    return v2.RandomErasing(0.5, scale=(share / 8, share), value=128)


_MOVEMENTS = ("shift", "rotation", "affine", "perspective")
_TONES = ("autocontrast", "equalize", "sharpness", "posterize", "grayscale")

_TABLE: dict[str, tuple[str, Callable[[float], v2.Transform]]] = {
    "none": ("no change", lambda strength: v2.Identity()),
    "light": ("flip and shift: the pixel grid, and so every trace on it, is kept", _light),
    "standard": ("light, colours within 10 %, and now and then a mild JPEG, WebP or screenshot", _standard),
    "forensic": ("flip, then JPEG, WebP, resize, blur and noise, each by chance, in random order", _forensic),
    "geometric": ("flip, then one of shift, rotation, affine and perspective", _geometric),
    "colour": ("jitter, then at most one of autocontrast, equalize, sharpness, posterize, grayscale", _colour),
    "autoaugment": (
        "AutoAugment, the policy learned on ImageNet (Cubuk et al., CVPR 2019)",
        lambda strength: _sometimes(v2.AutoAugment(interpolation=_BILINEAR), strength),
    ),
    "randaugment": (
        "RandAugment: 2 operations at magnitude 9 of 30 (Cubuk et al., NeurIPS 2020)",
        lambda strength: v2.RandAugment(magnitude=min(30, round(9 * strength)), interpolation=_BILINEAR),
    ),
    "trivialaugment": (
        "TrivialAugment: 1 operation at any magnitude (Müller and Hutter, ICCV 2021)",
        lambda strength: _sometimes(v2.TrivialAugmentWide(interpolation=_BILINEAR), strength),
    ),
    "augmix": (
        "AugMix: a mixture of 3 chains of operations at severity 3 of 10 (Hendrycks et al., ICLR 2020)",
        lambda strength: v2.AugMix(severity=min(10, max(1, round(3 * strength)))),
    ),
    "flip": ("left-right mirroring of every second image", _flip),
    "vertical_flip": (
        "upside-down mirroring of every second image",
        lambda strength: v2.RandomVerticalFlip(min(0.5, 0.5 * strength)),
    ),
    "shift": ("whole pixels, up to 1/16 of the sides; the rim is reflected", lambda strength: _Shift(strength / 16)),
    "rotation": (
        "up to 10 degrees; the corners are black",
        lambda strength: v2.RandomRotation(min(180.0, 10 * strength), interpolation=_BILINEAR),
    ),
    "affine": ("moved by up to 5 %, scaled by up to 10 %, sheared by up to 8 degrees", _affine),
    "perspective": ("corners moved inwards by up to 1/10 of the sides", _perspective),
    "crop": ("75 to 95 % of the sides, scaled back", partial(_corruption, "crop", 1.0, hardest=5)),
    "erase": ("a grey rectangle of up to 15 % of the area, in every second image", _erase),
    "jitter": ("brightness, contrast and saturation within 20 %, hue within 2 % of the circle", _jitter),
    "grayscale": ("one image in ten without colour", lambda strength: v2.RandomGrayscale(min(1.0, 0.1 * strength))),
    "invert": ("one image in ten as its negative", lambda strength: v2.RandomInvert(min(1.0, 0.1 * strength))),
    "posterize": (
        "every second image with 5 of 8 bits",
        lambda strength: v2.RandomPosterize(8 - min(6, round(3 * strength))),
    ),
    "solarize": (
        "every second image with the brightest quarter of values inverted",
        lambda strength: v2.RandomSolarize(255 - min(255.0, 64 * strength)),
    ),
    "sharpness": ("every second image sharpened", lambda strength: v2.RandomAdjustSharpness(1 + strength)),
    "equalize": ("one image in five", lambda strength: v2.RandomEqualize(min(1.0, 0.2 * strength))),
    "autocontrast": ("one image in two", lambda strength: v2.RandomAutocontrast(min(1.0, 0.5 * strength))),
    "jpeg": ("every second image recompressed at a quality of 65 to 90", partial(_corruption, "jpeg", 0.5)),
    "webp": ("every second image recompressed at a quality of 65 to 90", partial(_corruption, "webp", 0.5)),
    "rescale": ("every second image down to 40 to 60 % of the sides and up", partial(_corruption, "resize", 0.5)),
    "screenshot": (
        "every second image rescaled, saved as JPEG and scaled back",
        partial(_corruption, "screenshot", 0.5),
    ),
    "blur": ("every second image, by a Gaussian of 0.5 to 1.5 pixels", partial(_corruption, "blur", 0.5)),
    "noise": ("every second image, of 2 to 6 % of white", partial(_corruption, "noise", 0.5)),
}

TRANSFORMS: dict[str, str] = {name: line for name, (line, _) in _TABLE.items()}
"""What each name does at strength 1."""


def preview_transforms(
    images: list[Image.Image], name: str, strength: float, path: Path, seed: int = 0, samples: int = 7
) -> None:
    """Draw what a transform does to some images: one row an image, itself and then samples, as a PNG file.

    Raises:
        InputError: As `augmentation` does.
    """
    transform = augmentation([name], strength) or v2.Identity()
    figure = Figure(figsize=(2 * (samples + 1), 2.1 * len(images) + 0.5), layout="constrained")
    figure.suptitle(f"{name}, strength {strength:g}")
    rows = figure.subplots(len(images), samples + 1, squeeze=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for axes, image in zip(rows, images, strict=True):
            original = functional.pil_to_tensor(image.convert("RGB"))
            for place, shown in zip(axes, [original] + [transform(original) for _ in range(samples)], strict=True):
                place.imshow(shown.permute(1, 2, 0).numpy())
                place.set_axis_off()
    rows[0, 0].set_title("original", fontsize="small")
    with whole(path) as partial_path:
        figure.savefig(partial_path, dpi=120)
