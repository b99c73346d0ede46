import io
import os
from pathlib import Path

import pandas as pd
import pytest
from conftest import draw_folder, draw_image
from datasets import DatasetDict
from PIL import Image

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.checking import drop_unreadable, report_skipped
from hf_deepfake.data.loading import load_data, load_splits
from hf_deepfake.errors import InputError


def load(root: Path) -> DatasetDict:
    return load_data(DataArguments(str(root)))


def cut(path: Path, keep: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".JPG"])
def test_whole_images_of_every_format_are_kept(suffix: str, tmp_path: Path) -> None:
    splits = load(draw_folder(tmp_path, 2, suffix=suffix))
    kept, skipped = drop_unreadable(splits, "images", quiet=True)
    assert kept["all"]["file"][:] == splits["all"]["file"][:]
    assert skipped == []


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".webp", ".tif"])
def test_a_truncated_image_among_good_ones_is_left_out_and_listed(suffix: str, tmp_path: Path) -> None:
    draw_folder(tmp_path, 3, suffix=suffix)
    broken = tmp_path / "fake" / f"001{suffix}"
    cut(broken)
    kept, skipped = drop_unreadable(load(tmp_path), "images", quiet=True)
    assert len(kept["all"]) == 5
    assert f"fake/001{suffix}" not in kept["all"]["file"][:]
    [(file, reason)] = skipped
    assert file == f"fake/001{suffix}"
    assert reason.startswith(f"{broken}: ")


def test_a_truncated_progressive_jpeg_is_found(tmp_path: Path) -> None:
    draw_folder(tmp_path, 2, suffix=".jpg")
    draw_image(1, 0, 200).save(tmp_path / "fake" / "000.jpg", progressive=True)
    cut(tmp_path / "fake" / "000.jpg")
    assert [file for file, _ in drop_unreadable(load(tmp_path), "images", quiet=True)[1]] == ["fake/000.jpg"]


def test_text_named_jpg_and_an_empty_file_are_left_out_with_the_reason(tmp_path: Path) -> None:
    draw_folder(tmp_path, 3)
    (tmp_path / "real" / "a.jpg").write_text("no image")
    (tmp_path / "real" / "b.jpg").touch()
    _, skipped = drop_unreadable(load(tmp_path), "images", quiet=True)
    assert [file for file, _ in skipped] == ["real/a.jpg", "real/b.jpg"]
    assert all("not an image" in reason for _, reason in skipped)


def test_every_split_is_checked(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        draw_folder(tmp_path / split, 2)
        cut(tmp_path / split / "real" / "000.png")
    kept, skipped = drop_unreadable(load_splits(DataArguments(str(tmp_path))), "images", quiet=True)
    assert {name: len(part) for name, part in kept.items()} == {"train": 3, "validation": 3, "test": 3}
    assert [file.split("/")[0] for file, _ in skipped] == ["train", "validation", "test"]


def test_more_images_than_a_batch_keep_their_order(tmp_path: Path) -> None:
    draw_folder(tmp_path, 150)
    for name in ("fake/000", "fake/149", "real/120"):
        cut(tmp_path / f"{name}.png")
    kept, skipped = drop_unreadable(load(tmp_path), "images", quiet=True)
    assert [file for file, _ in skipped] == ["fake/000.png", "fake/149.png", "real/120.png"]
    assert len(kept["all"]) == 297


def test_images_that_are_all_broken_are_refused(tmp_path: Path) -> None:
    draw_folder(tmp_path, 2)
    for path in tmp_path.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(
        InputError, match=r"^images \(all\): none of the 2 real images can be read: .*real.000\.png: not"
    ):
        drop_unreadable(load(tmp_path), "images", quiet=True)


def test_a_split_that_loses_a_whole_class_is_refused(tmp_path: Path) -> None:
    """Training on what is left would run, and learn nothing."""
    for split in ("train", "test"):
        draw_folder(tmp_path / split, 2)
    for path in (tmp_path / "train" / "fake").iterdir():
        cut(path)
    with pytest.raises(InputError, match=r"images \(train\): none of the 2 fake images can be read: .*truncated"):
        drop_unreadable(load(tmp_path), "images", quiet=True)


def test_a_decompression_bomb_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw_folder(tmp_path, 2, suffix=".jpg")
    draw_image(0, 9, 120).save(tmp_path / "real" / "bomb.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 40)
    _, skipped = drop_unreadable(load(tmp_path), "images", quiet=True)
    assert [file for file, _ in skipped] == ["real/bomb.jpg"]
    assert "decompression bomb" in skipped[0][1]


def test_a_large_image_below_the_limit_is_kept_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    draw_folder(tmp_path, 2, suffix=".jpg")
    for suffix in ("jpg", "png"):
        draw_image(0, 9, 50).save(tmp_path / "real" / f"large.{suffix}")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 40)
    kept, skipped = drop_unreadable(load(tmp_path), "images", quiet=True)
    assert (len(kept["all"]), skipped) == (6, [])
    assert not [warning for warning in recwarn if issubclass(warning.category, Image.DecompressionBombWarning)]


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_image_50000_pixels_wide_is_kept(suffix: str, tmp_path: Path) -> None:
    draw_folder(tmp_path, 1)
    Image.new("L", (50_000, 20)).save(tmp_path / "real" / f"wide.{suffix}")
    assert drop_unreadable(load(tmp_path), "images", quiet=True)[1] == []


def test_a_format_is_told_by_its_bytes_and_not_by_its_name(tmp_path: Path) -> None:
    draw_folder(tmp_path, 1)
    for name, form in (("png.jpg", "PNG"), ("jpeg.png", "JPEG"), ("webp.jpg", "WEBP")):
        draw_image(0, 1).save(tmp_path / "real" / name, form)
    assert drop_unreadable(load(tmp_path), "images", quiet=True)[1] == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes there")
def test_a_pipe_that_a_table_names_is_left_out_without_waiting_for_it(tmp_path: Path) -> None:
    draw_folder(tmp_path, 1)
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "t.csv").write_text("image,label\nreal/000.png,0\nfake/000.png,1\npipe.jpg,1\n")
    _, skipped = drop_unreadable(load(tmp_path / "t.csv"), "images", quiet=True)
    assert skipped == [("pipe.jpg", f"{tmp_path / 'pipe.jpg'}: no such file")]


def test_broken_bytes_of_an_embedded_image_are_listed_by_row(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    draw_image(0, 0).save(buffer, "PNG")
    images = [{"bytes": content, "path": None} for content in (buffer.getvalue(), buffer.getvalue(), b"no image")]
    pd.DataFrame({"image": images, "label": [0, 1, 1]}).to_parquet(tmp_path / "t.parquet")
    kept, skipped = drop_unreadable(load(tmp_path / "t.parquet"), "t.parquet", quiet=True)
    assert len(kept["all"]) == 2
    assert "all/2: <dict>: not an image" in report_skipped(skipped)


def test_the_report_is_short_and_the_file_whole(tmp_path: Path) -> None:
    skipped = [(f"{number}.jpg", f"in/{number}.jpg: no such file") for number in range(12)]
    lines = report_skipped(skipped, tmp_path / "skipped.csv", most=10).splitlines()
    assert lines[0] == "12 unreadable images left out:"
    assert lines[1] == "  in/0.jpg: no such file"
    assert lines[11] == f"  … and 2 more, all in {tmp_path / 'skipped.csv'}"
    assert len(lines) == 12
    assert pd.read_csv(tmp_path / "skipped.csv").to_records(index=False).tolist() == skipped
    assert report_skipped(skipped[:3]).count("\n") == 3


def test_each_image_of_the_report_stays_on_its_line() -> None:
    skipped = [("a\nb\x1b[31m.jpg", "in/a\nb\x1b[31m.jpg: no such file"), ("ü 写.jpg", "empty")]
    assert report_skipped(skipped).splitlines()[1:] == [r"  in/a\nb\x1b[31m.jpg: no such file", "  ü 写.jpg: empty"]
