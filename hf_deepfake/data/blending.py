"""Self-blended fakes: a real photograph blended with a slightly changed copy of itself."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter


def self_blend(image: Image.Image, generator: np.random.Generator) -> tuple[Image.Image, Image.Image]:
    """Make a fake of a real photograph.

    After Shiohara and Yamasaki, Detecting Deepfakes with Self-Blended Images, CVPR 2022, section 3.2: one of two
    copies is changed in colour, sharpness or compression, the source is moved and resized a little, and it is blended
    into the target through a soft mask at a random ratio (their equation 1; their smallest ratio, 0.25, is left out).
    Where they take the hull of a face's landmarks, this takes a random hull in the middle of the image, so that it
    works on any photograph.

    Args:
        image: Mode RGB.
        generator: All randomness; the same state gives the same fake.

    Returns:
        The fake, mode RGB, and the mask, mode L, which is 255 where the fake shows the moved copy alone.
    """
    source, target = image, image
    if generator.random() < 0.5:
        source = change_look(source, generator)
    else:
        target = change_look(target, generator)
    source = _move(source, generator)
    mask = _hull_mask(image.size, generator)
    ratio = generator.choice([0.5, 0.75, 1.0, 1.0, 1.0])
    mask = mask.point([round(value * ratio) for value in range(256)])
    return Image.composite(source, target, mask), mask


def change_look(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Stretch and shift the colours (a grey image stays grey), then blur, sharpen or compress."""
    pixels = np.asarray(image, dtype=np.float64)
    mean = pixels.mean()
    shift = generator.uniform(-20, 20, size=3)
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        shift[:] = shift[0]
    pixels = (pixels - mean) * generator.uniform(0.75, 1.25) + mean + shift
    changed = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    way = generator.integers(3)
    if way == 0:
        shrink = generator.choice([2, 4])
        small = changed.resize((changed.width // shrink, changed.height // shrink), Image.Resampling.BILINEAR)
        return small.resize(changed.size, Image.Resampling.BICUBIC)
    if way == 1:
        return changed.filter(ImageFilter.UnsharpMask(radius=2, percent=int(generator.uniform(80, 200)), threshold=0))
    encoded = io.BytesIO()
    changed.save(encoded, "JPEG", quality=int(generator.integers(40, 90)))
    return Image.open(encoded).convert("RGB")


def _move(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Translate by up to 3 % of the width and 1.5 % of the height, and scale by up to 5 %."""
    scale = generator.uniform(0.95, 1.05)
    shift_x, shift_y = generator.uniform(-1, 1, size=2) * (0.03 * image.width, 0.015 * image.height)
    center_x, center_y = image.width / 2, image.height / 2
    matrix = (
        1 / scale,
        0,
        center_x - (center_x + shift_x) / scale,
        0,
        1 / scale,
        center_y - (center_y + shift_y) / scale,
    )
    moved = image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    inside = Image.new("L", image.size, 255).transform(image.size, Image.Transform.AFFINE, matrix)
    return Image.composite(moved, image, inside)


def _hull_mask(size: tuple[int, int], generator: np.random.Generator) -> Image.Image:
    """A soft random hull around the middle."""
    width, height = size
    angles = np.sort(generator.uniform(0, 2 * np.pi, size=12))
    radii = generator.uniform(0.18, 0.36, size=2) * size * generator.uniform(0.75, 1.15, size=(12, 1))
    center = np.array(size) * generator.uniform(0.4, 0.6, size=2)
    corners: NDArray[np.float64] = center + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in corners], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(generator.uniform(0.01, 0.05) * min(width, height)))
