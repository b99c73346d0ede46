"""Whatever a file's mode, what comes out is upright 8-bit RGB."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from conftest import draw_image
from PIL import Image

from hf_deepfake.ensemble.hub import image_processing_deepfake_ensemble as image_processing
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb, rgb_pixels

GREY = Image.fromarray(np.array([[0, 100], [200, 255]], np.uint8))
COLOUR = Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [10, 20, 30]]], np.uint8))


def encode(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def decoded(image: Any) -> np.ndarray[Any, Any]:
    opened = open_rgb(image)
    assert opened.mode == "RGB"
    return np.asarray(opened)


def three(values: Any) -> np.ndarray[Any, Any]:
    return np.repeat(np.array(values, np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "JPEG", "WEBP"])
def test_grey_is_repeated_over_the_channels(form: str) -> None:
    lossless = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    np.testing.assert_allclose(decoded(encode(GREY, form, **lossless)).astype(int), three(GREY), atol=3)


def test_a_palette_gives_its_colours_with_and_without_transparency() -> None:
    palette = COLOUR.quantize(4)
    np.testing.assert_array_equal(decoded(encode(palette, "PNG")), np.asarray(COLOUR))
    for transparency in (0, bytes([0, 128, 255, 255])):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow would rather keep the alpha
            found = decoded(encode(palette, "PNG", transparency=transparency))
        np.testing.assert_array_equal(found, np.asarray(COLOUR))


def test_transparency_is_dropped() -> None:
    alpha = Image.fromarray(np.array([[0, 50], [128, 255]], np.uint8))
    colour, grey = COLOUR.copy(), GREY.copy()
    colour.putalpha(alpha)
    grey.putalpha(alpha)
    assert (colour.mode, grey.mode) == ("RGBA", "LA")
    np.testing.assert_array_equal(decoded(encode(colour, "PNG")), np.asarray(COLOUR))
    np.testing.assert_array_equal(decoded(encode(grey, "PNG")), three(GREY))


def test_black_and_white_is_0_and_255() -> None:
    bits = Image.fromarray(np.array([[True, False]]))
    np.testing.assert_array_equal(decoded(encode(bits, "PNG")), three([[255, 0]]))


def test_a_cmyk_jpeg_keeps_its_colour() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    np.testing.assert_allclose(decoded(encode(red, "JPEG", quality=100))[8, 8].astype(int), [255, 0, 0], atol=4)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_range(form: str) -> None:
    values = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    np.testing.assert_array_equal(decoded(encode(Image.fromarray(values), form)), three([[0, 100], [200, 255]]))


def test_floating_point_grey_keeps_its_range() -> None:
    for scale, largest in ((1.0, 1.0), (255.0, 255.0), (65535.0, 65535.0)):
        values = np.array([[0.0, 0.2], [0.6, 1.0]], np.float32) * scale
        assert values.max() == largest
        np.testing.assert_array_equal(decoded(encode(Image.fromarray(values), "TIFF")), three([[0, 51], [153, 255]]))


@pytest.mark.parametrize(
    ("orientation", "turned"),
    [
        (1, COLOUR),
        (3, COLOUR.transpose(Image.Transpose.ROTATE_180)),
        (6, COLOUR.transpose(Image.Transpose.ROTATE_270)),
        (8, COLOUR.transpose(Image.Transpose.ROTATE_90)),
    ],
)
def test_the_exif_orientation_is_applied(orientation: int, turned: Image.Image) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    np.testing.assert_array_equal(decoded(encode(COLOUR, "PNG", exif=exif)), np.asarray(turned))


def test_damaged_exif_does_not_cost_the_image() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for exif in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\0\0", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01\x03\0"):
            assert decoded(encode(COLOUR, "JPEG", exif=exif)).shape == (2, 2, 3)


def test_every_kind_of_input_gives_the_same_image(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    COLOUR.save(path)
    content = path.read_bytes()
    inputs: list[Any] = [path, str(path), content, bytearray(content), memoryview(content), COLOUR, np.asarray(COLOUR)]
    inputs += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, {"path": path}]
    for image in inputs:
        np.testing.assert_array_equal(decoded(image), np.asarray(COLOUR))
    np.testing.assert_array_equal(decoded(np.asarray(GREY)), three(GREY))


def test_an_address_is_fetched_with_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(address: str, timeout: float | None) -> Image.Image:
        asked.append((address, timeout))
        return COLOUR

    monkeypatch.setattr(transformers.image_utils, "load_image", fetch)
    np.testing.assert_array_equal(np.asarray(open_rgb("https://a.b/c.png", timeout=3)), np.asarray(COLOUR))
    assert asked == [("https://a.b/c.png", 3)]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "TIFF", "PNG"])
def test_the_first_frame_of_an_animation_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if form == "WEBP" else {}
    moving = encode(frames[0], form, save_all=True, append_images=frames[1:], **options)
    assert getattr(Image.open(io.BytesIO(moving)), "n_frames", 1) == 2
    np.testing.assert_array_equal(decoded(moving), np.asarray(frames[0]))


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"just text", "not an image"), (b"", "not an image"), (b"\xff\xd8\xff\xe0", r"\S")],
)
def test_a_file_that_is_no_image_is_refused_with_its_path(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=rf"a\.jpg: {reason}"):
        open_rgb(str(path))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF"])
def test_a_truncated_image_is_refused(form: str) -> None:
    content = encode(draw_image(1, 0), form)
    with pytest.raises(UnreadableImageError, match=r"<bytes>: \S"):
        open_rgb(content[: len(content) * 2 // 3])


def test_a_missing_file_or_a_folder_is_no_such_file(tmp_path: Path) -> None:
    for image in (tmp_path / "none.jpg", str(tmp_path), {"bytes": None, "path": str(tmp_path / "none.jpg")}):
        with pytest.raises(UnreadableImageError, match=rf"{tmp_path.name}.*: no such file$"):
            open_rgb(image)


@pytest.mark.parametrize(
    ("image", "kind"), [(3, "int"), (None, "NoneType"), ({}, "NoneType"), ([b"a"], "list"), (object(), "object")]
)
def test_anything_else_is_refused_by_its_kind(image: Any, kind: str) -> None:
    with pytest.raises(UnreadableImageError, match=rf"a {kind} is no image, path, address or bytes"):
        open_rgb(image)


def test_an_array_that_is_no_image_is_refused() -> None:
    with pytest.raises(UnreadableImageError, match="<ndarray>: "):
        open_rgb(np.zeros((4, 4, 3), np.float64))


def test_a_decompression_bomb_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(UnreadableImageError, match=r"1600 pixels.*decompression bomb"):
        open_rgb(encode(draw_image(0, 0), "PNG"))


@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_turbojpeg_gives_the_pixels_of_pil(mode: str, subsampling: int, monkeypatch: pytest.MonkeyPatch) -> None:
    content = encode(draw_image(1, 0, 45).convert(mode), "JPEG", quality=70, subsampling=subsampling)
    fast = decoded(content)
    monkeypatch.setattr(image_processing, "simplejpeg", None)
    np.testing.assert_array_equal(fast, decoded(content))
    np.testing.assert_array_equal(rgb_pixels(content), fast)


@pytest.mark.parametrize("orientation", range(10))
def test_turbojpeg_turns_as_pil_does(orientation: int, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(draw_image(1, 0).crop((0, 0, 40, 24)), "JPEG", exif=exif)
    fast = decoded(content)
    monkeypatch.setattr(image_processing, "simplejpeg", None)
    np.testing.assert_array_equal(fast, decoded(content))


def test_scaled_decoding_keeps_the_asked_side() -> None:
    content = encode(draw_image(1, 0, 160).crop((0, 0, 160, 120)), "JPEG")
    assert rgb_pixels(content).shape == (120, 160, 3)
    assert rgb_pixels(content, smallest_side=50).shape == (60, 80, 3)
    assert rgb_pixels(content, smallest_side=61).shape[0] >= 61
    assert rgb_pixels(content, smallest_side=500).shape == (120, 160, 3)
    assert rgb_pixels(encode(COLOUR, "PNG"), smallest_side=1).shape == (2, 2, 3)
