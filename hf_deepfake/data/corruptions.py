"""What happens to photographs on their way, at severities 1 to 5: one code for training and for testing robustness."""

import difflib
import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from hf_deepfake.errors import InputError

Corruption = Callable[[torch.Tensor, int, torch.Generator | None], torch.Tensor]
"""From an image, a severity and the randomness to the changed image."""

SEVERITIES = (1, 2, 3, 4, 5)

QUALITY = (90, 80, 65, 45, 30)
"""Of JPEG and WebP: from a camera's own to a preview's; ImageNet-C's, 25 to 7, lie below what is sent around.

75 is left out: it is many writers' default, and an image saved at it once hardly changes when saved at it again.
"""

RESIZE = (0.6, 0.5, 0.4, 0.3, 0.25)
"""Factor on the sides: ImageNet-C's `pixelate` (Hendrycks and Dietterich, ICLR 2019), resampled smoothly as apps do."""

CROP = (0.95, 0.9, 0.85, 0.8, 0.75)
"""Share of the sides that is kept; own choice, up to what a square post takes from a 4:3 photograph."""

BLUR = (0.5, 1.0, 1.5, 2.0, 3.0)
"""Standard deviation in pixels, up to the 3 that Wang et al. (CNN-generated images, CVPR 2020) train with.

ImageNet-C goes on to 6, which leaves no face to judge in 256 pixels.
"""

NOISE = (0.02, 0.04, 0.06, 0.08, 0.12)
"""Standard deviation, white being 1: from a phone's at night to the first two of ImageNet-C, which goes on to 0.38."""

BRIGHTNESS = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Change of the factor on all pixels, up or down: ImageNet-C's amounts, which it adds to the value of HSV."""

CONTRAST = (0.15, 0.275, 0.4, 0.525, 0.65)
"""Change of the factor on the distance from the mean grey: DeeperForensics-1.0 (Jiang et al., CVPR 2020), here up or down."""

SATURATION = (0.2, 0.4, 0.6, 0.8, 1.0)
"""Change of the factor on the distance from grey, up or down: ends where DeeperForensics-1.0 does, at no colour."""

SCREENSHOT = ((0.9, 90), (0.8, 80), (0.7, 70), (0.6, 60), (0.5, 50))
"""Factor on the sides on the screen, and quality of the JPEG saved there; own choice."""


def corrupt(image: torch.Tensor, name: str, severity: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Change an image as its way to the viewer might have.

    Args:
        image: RGB of 8 bits, shape `(3, height, width)`, of any size.
        name: One of `CORRUPTIONS`.
        severity: 1 is mild, 5 is hard to overlook.
        generator: Of noise, places and signs; torch's global one by default.

    Returns:
        The changed image, in the shape that it had.

    Raises:
        InputError: If there is no such corruption or severity.
    """
    check_corruption(name, severity)
    return CORRUPTIONS[name](image, severity, generator)


def check_corruption(name: str, severity: int) -> None:
    """Refuse what `corrupt` does not know, before any image is read.

    Raises:
        InputError: If there is no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        near = difflib.get_close_matches(name, CORRUPTIONS, n=1)
        raise InputError(
            f"{name}: no such corruption; there are {', '.join(CORRUPTIONS)}."
            + (f" Did you mean {near[0]}?" if near else "")
        )
    if severity not in SEVERITIES:
        raise InputError(f"{name}: severity {severity}; it is one of {', '.join(map(str, SEVERITIES))}.")


def _jpeg(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    return _recompress(image, "JPEG", QUALITY[severity - 1])


def _webp(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    return _recompress(image, "WEBP", QUALITY[severity - 1])


def _resize(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    return _to_size(_scale(image, RESIZE[severity - 1]), image)


def _crop(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    sides = [max(1, round(side * CROP[severity - 1])) for side in image.shape[1:]]
    free = torch.tensor(image.shape[1:]) - torch.tensor(sides)
    top, left = (torch.rand(2, generator=generator) * (free + 1)).int().tolist()
    return _to_size(image[:, top : top + sides[0], left : left + sides[1]], image)


def _blur(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    # torchvision's blur takes several times as long, and no image smaller than its kernel
    return _to_tensor(_to_pil(image).filter(ImageFilter.GaussianBlur(BLUR[severity - 1])))


def _noise(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=generator)
    return noise.mul_(255 * NOISE[severity - 1]).add_(image).round_().clamp_(0, 255).to(torch.uint8)


def _brightness(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    changed: torch.Tensor = functional.adjust_brightness(image, 1 + _sign(generator) * BRIGHTNESS[severity - 1])
    return changed


def _contrast(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    changed: torch.Tensor = functional.adjust_contrast(image, 1 + _sign(generator) * CONTRAST[severity - 1])
    return changed


def _saturation(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    changed: torch.Tensor = functional.adjust_saturation(image, 1 + _sign(generator) * SATURATION[severity - 1])
    return changed


def _screenshot(image: torch.Tensor, severity: int, generator: torch.Generator | None) -> torch.Tensor:
    factor, quality = SCREENSHOT[severity - 1]
    return _to_size(_recompress(_scale(image, factor), "JPEG", quality), image)


CORRUPTIONS: dict[str, Corruption] = {
    "jpeg": _jpeg,
    "webp": _webp,
    "resize": _resize,
    "crop": _crop,
    "blur": _blur,
    "noise": _noise,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturation": _saturation,
    "screenshot": _screenshot,
}


def _recompress(image: torch.Tensor, form: str, quality: int) -> torch.Tensor:
    encoded = io.BytesIO()
    _to_pil(image).save(encoded, form, quality=quality, method=2)  # WebP only: half the time of 4
    return _to_tensor(Image.open(encoded))


def _to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).contiguous().numpy())


def _to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _scale(image: torch.Tensor, factor: float) -> torch.Tensor:
    size = [max(1, round(side * factor)) for side in image.shape[1:]]
    scaled: torch.Tensor = functional.resize(image, size, v2.InterpolationMode.BICUBIC)
    return scaled


def _to_size(image: torch.Tensor, original: torch.Tensor) -> torch.Tensor:
    scaled: torch.Tensor = functional.resize(image, list(original.shape[1:]), v2.InterpolationMode.BICUBIC)
    return scaled


def _sign(generator: torch.Generator | None) -> int:
    return 1 if torch.rand((), generator=generator) < 0.5 else -1
