from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import draw_image
from PIL import Image, ImageOps
from transformers import AutoImageProcessor, ViTImageProcessor

from hf_deepfake import EnsembleImageProcessor
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb

SMALL = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16}}
LARGE = {"image_processor_type": "ViTImageProcessor", "size": {"height": 24, "width": 24}, "image_mean": [0.1] * 3}


def ramp(mode: str, dtype: str, top: float) -> Image.Image:
    """A grey ramp from 0 to `top`, 256 steps wide."""
    values = np.linspace(0, top, 256).round(4)
    return Image.fromarray(np.tile(values, (4, 1)).astype(dtype)).convert(mode)


@pytest.mark.parametrize(
    ("image", "name"),
    [
        (ramp("L", "uint8", 255), "grey"),
        (ramp("I;16", "uint16", 65535), "16 bit"),
        (ramp("I", "int32", 65535), "32 bit in 16"),
        (ramp("I", "int32", 255), "32 bit in 8"),
        (ramp("F", "float32", 1.0), "float to 1"),
        (ramp("F", "float32", 255.0), "float to 255"),
        (ramp("L", "uint8", 255).convert("LA"), "grey with alpha"),
        (ramp("L", "uint8", 255).convert("RGBA"), "alpha"),
        (ramp("L", "uint8", 255).convert("P"), "palette"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_mode_becomes_the_same_rgb(image: Image.Image, name: str) -> None:
    opened = open_rgb(image)
    assert opened.mode == "RGB"
    expected = np.tile(np.arange(256), (4, 1))[..., None].repeat(3, axis=-1)
    np.testing.assert_allclose(np.asarray(opened).astype(int), expected, atol=1)


def test_cmyk_files_become_rgb(tmp_path: Path) -> None:
    draw_image(1, 0).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    difference = np.asarray(open_rgb(tmp_path / "cmyk.jpg")).astype(int) - np.asarray(draw_image(1, 0))
    assert np.abs(difference).mean() < 3


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = draw_image(1, 0).crop((0, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    image.save(tmp_path / "turned.png", exif=exif)
    opened = open_rgb(tmp_path / "turned.png")
    assert opened.size == (20, 40)
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(image.rotate(-90, expand=True)))


def test_paths_bytes_arrays_and_datasets_dictionaries_decode_to_the_same(tmp_path: Path) -> None:
    image = draw_image(0, 0)
    path = tmp_path / "image.png"
    image.save(path)
    content = path.read_bytes()
    kinds = [path, str(path), content, bytearray(content), image, np.asarray(image)]
    kinds += [{"bytes": content, "path": None}, {"bytes": None, "path": str(path)}, {"bytes": content, "path": "x"}]
    for kind in kinds:
        np.testing.assert_array_equal(np.asarray(open_rgb(kind)), np.asarray(image))


def test_the_image_that_was_given_is_not_changed() -> None:
    image = draw_image(0, 0).convert("RGBA")
    before = image.tobytes()
    open_rgb(image)
    assert (image.mode, image.tobytes()) == ("RGBA", before)


def test_unreadable_images_are_named_with_their_reason(tmp_path: Path) -> None:
    draw_image(0, 0, 200).save(tmp_path / "whole.jpg")
    (tmp_path / "truncated.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:2000])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").write_bytes(b"")
    for name, reason in {
        "missing.jpg": "no such file",
        "text.jpg": "not an image, or of an unknown format",
        "empty.jpg": "not an image, or of an unknown format",
        "truncated.jpg": "image file is truncated",
    }.items():
        with pytest.raises(UnreadableImageError, match=rf"{name}: {reason}"):
            open_rgb(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=r"missing\.jpg: no such file"):
        open_rgb({"bytes": None, "path": "missing.jpg"})
    with pytest.raises(UnreadableImageError, match="<bytes>: not an image"):
        open_rgb(b"no image")
    with pytest.raises(UnreadableImageError, match="<int>: a int is no image, path, address or bytes"):
        open_rgb(7)


def test_an_address_that_nobody_answers_is_unreadable() -> None:
    with pytest.raises(UnreadableImageError, match=r"http://127\.0\.0\.1:9/a\.png: "):
        open_rgb("http://127.0.0.1:9/a.png", timeout=2)


def test_each_view_is_what_its_own_processor_gives() -> None:
    images = [draw_image(0, 0), draw_image(1, 1, 64), ImageOps.grayscale(draw_image(0, 2, 30))]
    views = EnsembleImageProcessor(views=[SMALL, LARGE])(images, return_tensors="pt")
    assert list(views) == ["pixel_values", "pixel_values_1"]
    rgb = [image.convert("RGB") for image in images]
    for key, settings in {"pixel_values": SMALL, "pixel_values_1": LARGE}.items():
        own = ViTImageProcessor(**{name: value for name, value in settings.items() if name != "image_processor_type"})
        torch.testing.assert_close(views[key], own(rgb, return_tensors="pt")["pixel_values"], atol=0, rtol=0)


def test_an_image_is_decoded_once_for_all_views(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    draw_image(0, 0).save(tmp_path / "image.png")
    opened = []
    original = Image.open
    monkeypatch.setattr(Image, "open", lambda *given: opened.append(given) or original(*given))
    EnsembleImageProcessor(views=[SMALL, LARGE])(tmp_path / "image.png")
    assert len(opened) == 1


def test_a_saved_processor_makes_the_same_views(tmp_path: Path) -> None:
    processor = EnsembleImageProcessor(views=[SMALL, LARGE])
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is EnsembleImageProcessor
    image = draw_image(1, 0)
    for name, view in processor(image).items():
        torch.testing.assert_close(loaded(image)[name], view, atol=0, rtol=0)


@pytest.mark.parametrize("name", ["AutoModel", "NoImageProcessor", "os.ImageProcessor"])
def test_a_processor_that_transformers_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"has no '{name}'"):
        EnsembleImageProcessor(views=[{"image_processor_type": name}])
