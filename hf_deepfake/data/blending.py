"""Self-blended fakes: a real photograph blended with a slightly changed copy of itself."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

# In a frame with its origin between the eyes, x to the right, y down and the eyes' distance as its unit; rounded
# medians of 180 detected faces.
_LANDMARKS = np.array([[-0.5, 0.0], [0.5, 0.0], [0.0, 0.56], [-0.42, 0.98], [0.42, 0.98]])
# Middle (x, y) and half axes of the parts that fakes replace.
_FACE_PARTS = np.array(
    [
        [[0, 0.52], [1.0, 1.15]],  # brows to chin
        [[0, 0.34], [1.0, 1.32]],  # forehead to chin
        [[0, 0.45], [0.8, 0.85]],  # eyes to mouth
        [[0, -0.03], [0.9, 0.4]],  # eyes
        [[0, 1.0], [0.7, 0.65]],  # nose, mouth and chin
    ]
)
_PART_CHANCES = [0.3, 0.2, 0.2, 0.15, 0.15]


def self_blend(
    image: Image.Image, generator: np.random.Generator, face: NDArray[np.floating] | None = None
) -> tuple[Image.Image, Image.Image]:
    """Make a fake of a real photograph.

    After Shiohara and Yamasaki, Detecting Deepfakes with Self-Blended Images, CVPR 2022, section 3.2: a copy is
    changed in colour and in sharpness or compression, moved and resized a little, and blended into the photograph
    through a soft deformed mask at a random ratio (their equation 1; their smallest ratio, 0.25, is left out).

    They change the copy or the photograph; this changes the copy alone. When half of the fakes were changed outside the
    mask, colour and sharpness of the image's border alone told them from real photographs with a ROC AUC of 0.70 (400
    photographs); now every pixel there is the photograph's, and it is 0.50.

    Args:
        image: Mode RGB.
        generator: All randomness; the same state gives the same fake.
        face: Right eye, left eye, nose, right and left corner of the mouth, in pixels, shape `(5, 2)`: the face or a
            part of it is blended, mostly with slight changes of colour. Without, or where less than 8 pixels of it lie
            in the image, it is a random hull in the middle.

    Returns:
        The fake, mode RGB, and the mask, mode L, which is 255 where the fake shows the copy alone and 0 where it shows
        the photograph alone.
    """
    hull, side = _central_hull(image.size, generator) if face is None else _face_hull(face, generator)
    visible = hull.clip(0, image.size)
    if face is not None and np.ptp(visible, axis=0).min() < 8:
        return self_blend(image, generator)
    blur = generator.uniform(0.01, 0.05) * side
    reach = 4 * blur + 2
    left, top = np.maximum(visible.min(axis=0) - reach, 0).astype(int).tolist()
    right, bottom = np.minimum(visible.max(axis=0) + reach, image.size).astype(int).tolist()
    box = (left, top, right, bottom)  # the rest of a large photograph costs nothing
    patch = image.crop(box)
    part = _soft_mask(patch.size, hull - (left, top), blur)
    ratio = generator.choice([0.5, 0.75, 1.0, 1.0, 1.0])
    part = part.point([round(value * ratio) for value in range(256)])
    strength = 0.4 if face is not None and generator.random() < 0.7 else 1.0
    source = _move(change_look(patch, generator, strength, max(1.0, side / 256)), side, generator)
    fake, mask = image.copy(), Image.new("L", image.size, 0)
    fake.paste(source, box, part)
    mask.paste(part, box)
    return fake, mask


def change_look(
    image: Image.Image, generator: np.random.Generator, strength: float = 1.0, scale: float = 1.0
) -> Image.Image:
    """Stretch and shift the colours (a grey image stays grey), then blur, sharpen or compress.

    Args:
        image: Mode RGB.
        generator: All randomness.
        strength: Factor of the change of colours.
        scale: Factor of the widths of blurring and sharpening, for images that will be scaled down.
    """
    pixels = np.asarray(image)
    shift = strength * generator.uniform(-20, 20, size=(3, 1))
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all():
        shift[:] = shift[0]
    mean = pixels.mean()
    values = (np.arange(256) - mean) * (1 + strength * generator.uniform(-0.25, 0.25)) + mean + shift
    changed = image.point(values.clip(0, 255).astype(np.uint8).ravel().tolist())
    way = generator.integers(3)
    if way == 0:
        shrink = generator.choice([2, 4]) * scale
        width, height = (max(1, int(length / shrink)) for length in image.size)
        small = changed.resize((width, height), Image.Resampling.BILINEAR)
        return small.resize(image.size, Image.Resampling.BICUBIC)
    if way == 1:
        percent = int(generator.uniform(80, 200))
        return changed.filter(ImageFilter.UnsharpMask(radius=2 * scale, percent=percent, threshold=0))
    encoded = io.BytesIO()
    changed.save(encoded, "JPEG", quality=int(generator.integers(40, 90)))
    return Image.open(encoded).convert("RGB")


def _move(image: Image.Image, side: float, generator: np.random.Generator) -> Image.Image:
    """Translate by up to 3 % (vertically 1.5 %) of `side` and scale by up to 5 %."""
    scale = generator.uniform(0.95, 1.05)
    shift_x, shift_y = generator.uniform(-1, 1, size=2) * (0.03 * side, 0.015 * side)
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


def _central_hull(size: tuple[int, int], generator: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """Corners of a random hull around the middle, shape `(corners, 2)`, and the length that blurs and moves go by."""
    angles = np.sort(generator.uniform(0, 2 * np.pi, size=12))
    radii = generator.uniform(0.18, 0.36, size=2) * size * generator.uniform(0.75, 1.15, size=(12, 1))
    center = np.array(size) * generator.uniform(0.4, 0.6, size=2)
    return center + radii * np.stack([np.cos(angles), np.sin(angles)], axis=1), min(size)


def _face_hull(face: NDArray[np.floating], generator: np.random.Generator) -> tuple[NDArray[np.float64], float]:
    """As `_central_hull`, a wavy ellipse around a part of the face; the affine map to it follows turned heads."""
    to_image, *_ = np.linalg.lstsq(np.hstack([_LANDMARKS, np.ones((5, 1))]), face, rcond=None)
    middle, axes = _FACE_PARTS[generator.choice(len(_FACE_PARTS), p=_PART_CHANCES)]
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    waves = np.arange(1, 5)[:, None]
    phases, heights = generator.uniform(0, 2 * np.pi, size=(4, 1)), generator.uniform(0, 0.2, size=(4, 1)) / waves
    radii = generator.uniform(0.85, 1.1, size=2) * (1 + (heights * np.sin(waves * angles + phases)).sum(0))[:, None]
    points = middle + axes * radii * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return points @ to_image[:2] + to_image[2], 3.5 * float(np.sqrt(abs(np.linalg.det(to_image[:2]))))


def _soft_mask(size: tuple[int, int], hull: NDArray[np.float64], blur: float) -> Image.Image:
    mask = Image.new("L", size, 0)
    ImageDraw.Draw(mask).polygon([(x, y) for x, y in hull.tolist()], fill=255)
    return mask.filter(ImageFilter.GaussianBlur(blur))
