import base64
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import draw_folder, draw_image
from datasets import Dataset
from PIL import Image

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data import audit_page
from hf_deepfake.data.audit_page import FINDINGS_SHOWN, GALLERY, PICTURES_SHOWN, THUMBNAIL, save_page, thumbnail
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.measuring import measure_images
from hf_deepfake.data.verdicts import Check, Finding


def measured(root: Path) -> tuple[pd.DataFrame, Dataset]:
    rows = load_data(DataArguments(str(root)), both_classes=False)["all"]
    known = pd.DataFrame({"file": rows["file"][:], "label": rows["label"][:], "split": "all"})
    return pd.concat([known, measure_images(rows, quiet=True)], axis=1), rows


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of a page's time."""
    monkeypatch.setattr(audit_page, "draw_charts", lambda images: [])


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == "img"]


def page_of(root: Path, path: Path, checks: list[Check] | None = None, **options: Any) -> Page:
    images, rows = measured(root)
    save_page("images", checks or [Check("balance", "ok", "All well.")], images, rows, path, **options)
    return Page(path.read_text(encoding="utf-8"))


def test_a_page_needs_nothing_else_and_every_picture_says_what_it_is(tmp_path: Path) -> None:
    page = page_of(draw_folder(tmp_path / "data", 3), tmp_path / "page.html")
    assert {str(image["src"]).split(";")[0] for image in page.images()} == {"data:image/jpeg", "data:image/png"}
    assert all(image["alt"] and image["title"] for image in page.images())
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "http" not in text.replace("data:", "")
    assert 'name="viewport"' in text


@pytest.mark.usefixtures("without_charts")
def test_names_of_files_and_data_are_text_whatever_they_hold(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", 1)
    evil = '<script>alert(1)<" onerror="x.png'
    draw_image(0, 5).save(tmp_path / "data" / "real" / evil)
    draw_image(0, 6).save(tmp_path / "data" / "real" / "two\nlines [red]фото.png")
    images, rows = measured(tmp_path / "data")
    check = Check("size", "warning", f"found {evil}", f"mind {evil}", [Finding([1], f"what {evil}")])
    save_page(f"<b>{evil}", [check], images, rows, tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text(encoding="utf-8"))
    tags = {tag for tag, _ in page.tags}
    assert not {"script", "b>"} & tags
    assert not any("onerror" in attributes for _, attributes in page.tags)
    for written in (
        f"real/{evil}",
        f"found {evil}",
        f"mind {evil}",
        f"what {evil}",
        f"<b>{evil}",
        r"two\nlines [red]фото",
    ):
        assert written in page.text


@pytest.mark.usefixtures("without_charts")
def test_pairs_stand_side_by_side_and_what_is_too_much_is_counted(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data", 20)
    pairs = Check("leaks", "fail", "", findings=[Finding([row, row + 20], "same picture") for row in range(20)])
    large = Check("duplicates", "warning", "", findings=[Finding(list(range(20)), "same file")])
    singles = Check("size", "warning", "", findings=[Finding([row], f"small {row}") for row in range(40)])
    page = page_of(root, tmp_path / "page.html", [pairs, large, singles])
    assert f"and {20 - FINDINGS_SHOWN} more findings, in audit.json" in page.text
    assert f"and {20 - PICTURES_SHOWN} more images, in audit.json" in page.text
    assert page.text.count("same picture") == FINDINGS_SHOWN
    assert page.text.count("small ") == FINDINGS_SHOWN * PICTURES_SHOWN // 2 == 36
    assert "and 4 more findings, in audit.json" in page.text
    shown = 2 * FINDINGS_SHOWN + PICTURES_SHOWN + 36 + 2 * GALLERY
    assert sum("jpeg" in str(image["src"]) for image in page.images()) == shown


@pytest.mark.usefixtures("without_charts")
def test_the_random_pictures_are_those_of_the_seed(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data", GALLERY + 6)
    titles = [
        [image["title"] for image in page_of(root, tmp_path / f"{number}.html", seed=seed).images()]
        for number, seed in enumerate((0, 0, 1))
    ]
    assert titles[0] == titles[1] != titles[2]
    assert sum(str(title).startswith("fake/") for title in titles[0]) == GALLERY


@pytest.mark.usefixtures("without_charts")
def test_a_large_set_is_shown_by_images_of_both_classes(tmp_path: Path) -> None:
    root = draw_folder(tmp_path / "data", 10)
    check = Check("label conflicts", "fail", "", findings=[Finding(list(range(20)), "same picture")])
    page = page_of(root, tmp_path / "page.html", [check])
    shown = [str(image["title"]) for image in page.images()[:PICTURES_SHOWN]]
    assert shown == [f"{name}/00{number}.png" for number in range(PICTURES_SHOWN // 2) for name in ("fake", "real")]
    assert "same picture, 20 images" in page.text


def test_unreadable_images_are_named_without_a_picture(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", 1)
    for path in (tmp_path / "data").rglob("*.png"):
        path.write_text("no image")
    check = Check("unreadable", "fail", "", findings=[Finding([0], "is no image"), Finding([1], "is no image")])
    page = page_of(tmp_path / "data", tmp_path / "page.html", [check])
    assert page.images() == []
    assert "real/000.png" in page.text
    assert page.text.count("is no image") == 2


@pytest.mark.parametrize("size", [(20, 5000), (4000, 3000), (8, 8)])
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_of_any_size_becomes_a_small_one(size: tuple[int, int], suffix: str, tmp_path: Path) -> None:
    Image.new("RGB", size, "red").save(tmp_path / f"a{suffix}")
    address = thumbnail({"bytes": None, "path": str(tmp_path / f"a{suffix}")})
    assert address is not None
    assert len(address) < 5000


def test_a_picture_keeps_its_colours_and_its_longer_side_is_bounded(tmp_path: Path) -> None:
    Image.new("CMYK", (300, 600), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    address = str(thumbnail({"bytes": (tmp_path / "a.jpg").read_bytes(), "path": None}))
    shown = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert shown.size == (THUMBNAIL // 2, THUMBNAIL)
    assert np.abs(np.asarray(shown.convert("RGB")).mean(axis=(0, 1)) - [255, 0, 0]).max() < 25


def test_a_file_that_has_gone_has_no_picture(tmp_path: Path) -> None:
    assert thumbnail({"bytes": None, "path": str(tmp_path / "gone.png")}) is None


@pytest.mark.usefixtures("without_charts")
def test_formats_are_counted_by_class(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", 2)
    draw_image(1, 9).save(tmp_path / "data" / "fake" / "a.jpg")
    page = page_of(tmp_path / "data", tmp_path / "page.html")
    assert page.text.split("format")[1].split()[:9] == ["real", "fake", "PNG", "2", "2", "JPEG", "0", "1", "mode"]


@pytest.mark.usefixtures("without_charts")
def test_a_page_of_very_many_findings_stays_small(tmp_path: Path) -> None:
    images, rows = measured(draw_folder(tmp_path / "data", 3))
    many = [Finding([number % 6, (number + 1) % 6], "same picture") for number in range(50_000)]
    save_page("images", [Check("leaks", "fail", "", findings=many)] * 4, images, rows, tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 1_000_000
