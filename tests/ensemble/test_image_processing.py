from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_image
from PIL import Image, ImageOps
from transformers import (
    AutoImageProcessor,
    BaseImageProcessor,
    ConvNextImageProcessor,
    EfficientNetImageProcessor,
    TimmWrapperImageProcessor,
    ViTImageProcessor,
)

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


def timm_view(mean: float, size: int = 24) -> dict[str, Any]:
    config = {"input_size": [3, size, size], "interpolation": "bicubic", "crop_pct": 0.9, "crop_mode": "center"}
    config |= {"mean": [mean] * 3, "std": [0.4] * 3}
    return {"image_processor_type": "TimmWrapperImageProcessor", "pretrained_cfg": config}


def test_views_that_differ_in_normalisation_only_are_resized_once(monkeypatch: pytest.MonkeyPatch) -> None:
    brighter = SMALL | {"image_mean": [0.1] * 3, "image_std": [0.3] * 3}
    views = [timm_view(0.2), timm_view(0.7), timm_view(0.7, 30), SMALL, brighter, LARGE]
    processor, resized = EnsembleImageProcessor(views=views), []
    for owner in (Image.Image, ViTImageProcessor):
        whole = owner.resize
        monkeypatch.setattr(
            owner, "resize", lambda *given, whole=whole, **more: resized.append(0) or whole(*given, **more)
        )
    found = processor([draw_image(1, 0, 50)])
    assert len(resized) == 4
    for key, own in zip(found, processor.processors, strict=True):
        torch.testing.assert_close(
            found[key], own([draw_image(1, 0, 50)], return_tensors="pt")["pixel_values"], atol=0, rtol=0
        )


@pytest.mark.parametrize(
    "own",
    [
        ConvNextImageProcessor(size={"shortest_edge": 20}, crop_pct=0.8),
        EfficientNetImageProcessor(size={"height": 20, "width": 20}, rescale_offset=True),
        ViTImageProcessor(size={"height": 20, "width": 20}, do_normalize=False),
        TimmWrapperImageProcessor(timm_view(0.5)["pretrained_cfg"] | {"crop_mode": "border"}),
    ],
    ids=lambda own: type(own).__name__,
)
def test_every_detectors_view_has_the_bits_of_its_own_processor(own: BaseImageProcessor) -> None:
    images = [draw_image(0, seed, size) for seed, size in enumerate((50, 20, 31))]
    found = EnsembleImageProcessor.of(own)(images)["pixel_values"]
    torch.testing.assert_close(found, own(images, return_tensors="pt")["pixel_values"], atol=0, rtol=0)


def test_the_processor_of_an_ensemble_makes_its_views_itself() -> None:
    processor = EnsembleImageProcessor(views=[SMALL])
    assert EnsembleImageProcessor.of(processor) is processor


def test_threads_keep_the_order_of_images_and_name_the_one_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = [draw_image(seed % 2, seed, 40 + 7 * seed) for seed in range(5)]
    processor = EnsembleImageProcessor(views=[timm_view(0.2), SMALL])
    alone = [processor(image) for image in images]
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name, views in processor(images).items():
        torch.testing.assert_close(views, torch.cat([one[name] for one in alone]), atol=0, rtol=0)
    with pytest.raises(UnreadableImageError, match=r"none\.jpg: no such file"):
        processor([images[0], tmp_path / "none.jpg", images[1]])
