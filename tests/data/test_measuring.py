import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import draw_image
from PIL import Image

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.measuring import BANDS, SIGNATURE_SIDE, measure_images
from hf_deepfake.data.splitting import everything

NOISE = draw_image(0, 0, 120)


def measure(*paths: Path, name: str = "table.csv") -> pd.DataFrame:
    """Rows of these files, in this order."""
    table = paths[0].parent / name
    pd.DataFrame({"image": [path.name for path in paths], "label": "real"}).to_csv(table, index=False)
    return measure_images(everything(load_data(DataArguments(str(table)), both_classes=False)), quiet=True)


def save(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def spectrum(measured: pd.DataFrame) -> np.ndarray:
    return measured[[f"spectrum_{band:02d}" for band in range(BANDS)]].to_numpy()


def test_size_hash_and_format_are_those_of_the_file(tmp_path: Path) -> None:
    jpeg = save(NOISE.crop((0, 0, 80, 60)), tmp_path / "a.jpg")
    png = save(NOISE.convert("L"), tmp_path / "b.png")
    measured = measure(jpeg, png)
    assert measured["error"].tolist() == [None, None]
    assert measured["sha256"].tolist() == [hashlib.sha256(path.read_bytes()).hexdigest() for path in (jpeg, png)]
    assert measured[["width", "height"]].to_numpy().tolist() == [[80, 60], [120, 120]]
    assert measured["bytes"].tolist() == [path.stat().st_size for path in (jpeg, png)]
    assert measured["bits_per_pixel"][1] == 8 * png.stat().st_size / 120**2
    assert measured["format"].tolist() == ["JPEG", "PNG"]
    assert measured["mode"].tolist() == ["RGB", "L"]
    assert measured["frames"].tolist() == [1, 1]


def test_more_images_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    image = save(NOISE.resize((8, 8)), tmp_path / "a.png")
    broken = tmp_path / "b.png"
    broken.write_text("no image")
    measured = measure(*[image] * 300, broken, image)
    assert np.flatnonzero(measured["error"].notna()).tolist() == [300]
    assert measured.index.tolist() == list(range(302))


@pytest.mark.parametrize("quality", [10, 50, 75, 90, 95, 100])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality: int, tmp_path: Path) -> None:
    assert measure(save(NOISE, tmp_path / "a.jpg", quality=quality))["jpeg_quality"].tolist() == [quality]


def test_the_quality_of_foreign_tables_is_the_nearest(tmp_path: Path) -> None:
    standard = Image.open(save(NOISE, tmp_path / "a.jpg", quality=80)).quantization
    tables = {key: [entry + (entry > 9) for entry in table] for key, table in standard.items()}
    measured = measure(tmp_path / "a.jpg", save(NOISE, tmp_path / "b.jpg", qtables=tables))
    assert 76 <= measured["jpeg_quality"][1] <= 80
    assert measured["jpeg_tables"].nunique() == 2


def test_subsampling_is_named_and_other_formats_have_none(tmp_path: Path) -> None:
    paths = [save(NOISE, tmp_path / f"{index}.jpg", subsampling=index) for index in range(3)]
    measured = measure(*paths, save(NOISE.convert("L"), tmp_path / "l.jpg"), save(NOISE, tmp_path / "p.png"))
    assert measured["jpeg_subsampling"].tolist() == ["4:4:4", "4:2:2", "4:2:0", "", ""]
    assert measured["jpeg_quality"].isna().tolist() == [False] * 4 + [True]
    assert measured["jpeg_tables"][0] == measured["jpeg_tables"][1] != measured["jpeg_tables"][4] == ""


def test_a_name_that_claims_another_format_is_told(tmp_path: Path) -> None:
    names = {"a.jpg": "JPEG", "b.jpg": "PNG", "c.JPEG": "JPEG", "d.tif": "TIFF", "e.png": "WEBP", "f.jpg": "MPO"}
    paths = [save(NOISE, tmp_path / name, format=form) for name, form in names.items()]
    assert measure(*paths)["extension_matches"].tolist() == [True, False, True, True, False, True]


def test_exif_orientation_and_frames_are_told(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x112] = 6  # turned by 90 degrees
    frames = save(NOISE, tmp_path / "b.gif", save_all=True, append_images=[draw_image(1, 1, 120)] * 2)
    turned = save(NOISE.crop((0, 0, 80, 60)), tmp_path / "a.jpg", exif=exif)
    measured = measure(turned, frames, save(NOISE, tmp_path / "c.jpg"))
    assert measured["exif"].tolist() == [True, False, False]
    assert measured["frames"][1] >= 2
    assert measured[["width", "height"]].to_numpy()[0].tolist() == [80, 60]


def test_broken_files_are_told_with_the_reason_and_their_hash(tmp_path: Path) -> None:
    whole = save(NOISE, tmp_path / "whole.jpg")
    contents = {"cut.jpg": whole.read_bytes()[:2000], "text.jpg": b"no image", "empty.jpg": b"", "bomb.png": _bomb()}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    measured = measure(*[tmp_path / name for name in contents], tmp_path / "missing.jpg", whole)
    for error, reason in zip(
        measured["error"], ["truncated", "not an image", "empty", "decompression bomb", "No such file"], strict=False
    ):
        assert reason in error
    assert measured["error"][0].startswith(f"{tmp_path / 'cut.jpg'}: ")
    assert measured["error"][5] is None
    hashes = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    assert measured["sha256"].tolist()[:5] == [*hashes, ""]
    assert measured["width"].tolist() == [0] * 5 + [120]


def _bomb() -> bytes:
    """The header of a PNG of 50,000 by 50,000 pixels."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_an_animation_that_breaks_off_after_its_first_frame_is_readable(tmp_path: Path) -> None:
    path = save(NOISE, tmp_path / "a.tif", save_all=True, append_images=[NOISE] * 2)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    measured = measure(path)
    assert measured["error"].tolist() == [None]
    assert measured["frames"].tolist() == [1]


def test_images_that_the_table_holds_are_measured_too(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    NOISE.save(buffer, "JPEG")
    images = [{"bytes": content, "path": None} for content in (buffer.getvalue(), b"no image")]
    pd.DataFrame({"image": images, "label": [0, 1]}).to_parquet(tmp_path / "t.parquet")
    measured = measure_images(everything(load_data(DataArguments(str(tmp_path / "t.parquet")))), quiet=True)
    assert measured["bytes"].tolist() == [len(buffer.getvalue()), 8]
    assert measured["error"][1] == "all/1: not an image, or of an unknown format"


def test_the_mean_colour_is_that_of_the_pixels(tmp_path: Path) -> None:
    means = measure(save(NOISE, tmp_path / "a.png"))[["mean_red", "mean_green", "mean_blue"]]
    np.testing.assert_allclose(means.to_numpy()[0], np.asarray(NOISE).mean(axis=(0, 1)))


def test_white_noise_has_its_variance_in_every_band(tmp_path: Path) -> None:
    """With a window of unit energy, the expected power of white noise is its variance, whatever the image's size."""
    for side in (150, 300):
        grey = np.random.default_rng(side).normal(128, 20, (side, side)).clip(0, 255).astype(np.uint8)
        found = spectrum(measure(save(Image.fromarray(grey), tmp_path / f"{side}.png"), name=f"{side}.csv"))[0]
        np.testing.assert_allclose(found[4:], np.log(grey.var()), atol=0.25)  # the lowest hold few frequencies


@pytest.mark.parametrize(("period", "band"), [(16, 2), (4, 8), (3, 10)])
def test_a_wave_is_found_in_its_band(period: int, band: int, tmp_path: Path) -> None:
    """`period` pixels a cycle are 32 / `period` bands."""
    wave = 128 + 100 * np.sin(2 * np.pi * np.arange(256) / period + 0.3)
    image = Image.fromarray(np.tile(wave, (256, 1)).astype(np.uint8))
    found = spectrum(measure(save(image, tmp_path / "a.png")))[0]
    assert found.argmax() in (band, band - (32 % period == 0))  # the window spreads a wave on an edge to both sides


def test_a_picture_without_detail_has_a_signature_of_zeros_and_no_power(tmp_path: Path) -> None:
    measured = measure(save(Image.new("RGB", (90, 70), (20, 30, 40)), tmp_path / "a.png"))
    assert measured["signature"][0] == bytes(SIGNATURE_SIDE**2)
    assert (spectrum(measured) < -4).all()


def test_hash_and_signature_do_not_depend_on_size_or_contrast(tmp_path: Path) -> None:
    smooth = Image.fromarray(np.random.default_rng(5).integers(0, 255, (9, 9, 3), dtype=np.uint8))
    picture = smooth.resize((256, 256), Image.Resampling.BICUBIC)
    small = picture.resize((128, 128))
    dim = picture.point(lambda value: value // 2 + 30)
    measured = measure(*[save(image, tmp_path / f"{n}.png") for n, image in enumerate((picture, small, dim))])
    hashes = np.array([list(row) for row in measured["phash"]], np.uint8)
    assert len(measured["phash"][0]) == 8
    assert np.unpackbits(hashes ^ hashes[0], axis=1).sum(axis=1).max() <= 4
    signatures = np.array([np.frombuffer(row, np.int8) for row in measured["signature"]], np.float64)
    assert np.corrcoef(signatures).min() > 0.99


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 2), (3, 3)])
def test_images_of_a_few_pixels_are_measured(size: tuple[int, int], tmp_path: Path) -> None:
    measured = measure(save(NOISE.crop((0, 0, *size)), tmp_path / "a.png"))
    assert measured["error"].tolist() == [None]
    assert measured[["width", "height"]].to_numpy()[0].tolist() == list(size)
