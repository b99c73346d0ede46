"""The page in Debian's Chromium. Screenshots are kept in the folder that HF_DEEPFAKE_SCREENSHOTS names, else in pytest's own."""

import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pytest
from conftest import draw_image

gradio = pytest.importorskip("gradio")
sync_api = pytest.importorskip("playwright.sync_api")
pytest.importorskip("c2pa")

from hf_deepfake.serving.app import SETTINGS, build_app
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.words import CHINESE, ENGLISH

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}}
DROP = "Drop an image file here to upload"
"""Gradio's own name of the place to drop a picture."""
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def address(ensemble: Path) -> Iterator[str]:
    with Judge.load(str(ensemble)) as judge:
        app = build_app(judge)
        _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **SETTINGS)
        yield url
        app.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def screenshot(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Any], None]:
    """Keeps what a page shows, under the name of the test."""
    folder = Path(os.environ.get("HF_DEEPFAKE_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def keep(page: Any, part: str = "") -> None:
        name = request.node.name.removeprefix("test_") + part
        page.screenshot(path=folder / f"{re.sub(r'[^a-z0-9_]+', '-', name)}.png", full_page=True)

    return keep


@pytest.fixture
def opened(browser: Any, address: str) -> Iterator[Callable[..., Any]]:
    """Opens the page as a kind of device does; whatever it asks of another host fails the test."""
    contexts, elsewhere = [], []

    def open_page(path: str = "", **device: Any) -> Any:
        context = browser.new_context(**({"locale": "en-US", "accept_downloads": True} | DESKTOP | device))
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: elsewhere.append(request.url) if _is_elsewhere(request.url) else None)
        page.goto(address + path)
        return ready(page)

    yield open_page
    for context in contexts:
        context.close()
    assert elsewhere == []


def _is_elsewhere(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    draw_image(1, 3, 256).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def ready(page: Any) -> Any:
    """The page once its script has run and nothing more is loaded."""
    page.wait_for_selector(".live[aria-live=polite]", state="attached")
    page.wait_for_load_state("networkidle")
    return page


def give(page: Any, path: Path) -> None:
    page.locator("input[type=file]").first.set_input_files(path)


def judged(page: Any, path: Path) -> None:
    give(page, path)
    page.wait_for_selector(".verdict h2")
    page.wait_for_selector(".holds, .flips")


def fits(page: Any) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"))


def test_a_dropped_picture_gets_a_verdict_votes_and_its_files_facts(
    opened: Callable[..., Any], photo: Path, screenshot: Callable[..., None]
) -> None:
    page = opened()
    give(page, photo)
    page.wait_for_selector(".verdict h2")
    text = page.inner_text("body")
    assert any(verdict in text for verdict in ENGLISH.verdicts.values())
    for expected in ("resnet", "efficientnet", "vit", ENGLISH.credentials, "256 x 256"):
        assert expected in text
    page.wait_for_selector(".holds, .flips")
    assert page.evaluate("document.documentElement.lang") == "en"
    assert page.locator(".live").count() == page.locator(".live[aria-live=polite]").count()
    screenshot(page)


@pytest.mark.slow
def test_a_map_is_shown_first_and_checked_then(
    opened: Callable[..., Any], photo: Path, screenshot: Callable[..., None]
) -> None:
    page = opened()
    judged(page, photo)
    page.get_by_label(ENGLISH.method).click()
    page.get_by_role("option", name=ENGLISH.methods["occlusion"]).click()
    page.get_by_role("button", name=ENGLISH.show_heatmap).click()
    page.wait_for_selector("figure img")
    screenshot(page, "-first")
    page.get_by_text(re.compile("|".join([ENGLISH.better_than_random, ENGLISH.no_better_than_random]))).wait_for()
    screenshot(page)
    give(page, photo.rename(photo.with_name("again.jpg")))
    page.wait_for_selector("figure img", state="detached")


@pytest.mark.slow
def test_a_sample_can_be_tried(opened: Callable[..., Any], screenshot: Callable[..., None]) -> None:
    page = opened()
    page.get_by_text(ENGLISH.samples["chelsea altered"]).click()
    page.wait_for_selector(".holds, .flips")
    screenshot(page)


COPY = """async () => {
    const canvas = document.createElement("canvas");
    canvas.getContext("2d").fillRect(20, 20, 60, 60);
    const copied = await new Promise(done => canvas.toBlob(done, "image/png"));
    await navigator.clipboard.write([new ClipboardItem({"image/png": copied})]);
}"""
"""Copies a picture of 300 x 150 pixels."""


@pytest.mark.slow
def test_a_picture_can_be_pasted_also_in_place_of_another(opened: Callable[..., Any], photo: Path) -> None:
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    judged(page, photo)
    page.evaluate(COPY)
    page.keyboard.press("Control+V")
    page.get_by_text("300 x 150").wait_for()


@pytest.mark.slow
def test_many_files_become_a_table_and_the_same_csv(
    opened: Callable[..., Any], photo: Path, screenshot: Callable[..., None], tmp_path: Path
) -> None:
    page = opened()
    (tmp_path / "text.jpg").write_text("no picture")
    page.get_by_role("tab", name=ENGLISH.many_pictures).click()
    page.locator("input[type=file]").nth(1).set_input_files([photo, tmp_path / "text.jpg"])
    page.locator(".file-preview tr").nth(1).wait_for()
    page.get_by_role("button", name=ENGLISH.judge_all).click()
    with page.expect_download() as download:
        page.get_by_role("link", name=ENGLISH.download).click()
    table = pd.read_csv(download.value.path())
    assert table["image"].tolist() == ["photo.jpg", "text.jpg"]
    assert table["error"].isna().tolist() == [True, False]
    assert page.locator(".table tbody tr").count() == 2
    screenshot(page)


def bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "status"),
    [("empty.jpg", b"", 422), ("text.jpg", b"no picture", 415), ("bomb.png", bomb(), 413)],
    ids=["empty", "text", "bomb"],
)
def test_a_file_that_is_not_judged_is_refused_in_plain_words_and_the_page_goes_on(
    opened: Callable[..., Any],
    photo: Path,
    tmp_path: Path,
    screenshot: Callable[..., None],
    name: str,
    content: bytes,
    status: int,
) -> None:
    page = opened()
    (tmp_path / name).write_bytes(content)
    give(page, tmp_path / name)
    page.get_by_text(ENGLISH.refusals[status].format(megabytes=20, megapixels=100)).wait_for()
    screenshot(page)
    page.get_by_label("Remove Image").click()
    page.get_by_text(ENGLISH.nothing_yet).wait_for()
    judged(page, photo)


@pytest.mark.slow
def test_a_file_of_more_bytes_than_are_taken_is_refused_while_it_is_sent(
    opened: Callable[..., Any], photo: Path, tmp_path: Path, screenshot: Callable[..., None]
) -> None:
    page = opened()
    (tmp_path / "large.jpg").write_bytes(photo.read_bytes() + bytes(21 * 2**20))
    give(page, tmp_path / "large.jpg")
    page.get_by_text("exceed the maximum allowed size of 20.0 Mb").wait_for()
    screenshot(page)
    page.get_by_label(DROP).wait_for()
    judged(page, photo)


@pytest.mark.slow
def test_on_a_phone_nothing_lies_beside_the_screen(
    opened: Callable[..., Any], photo: Path, screenshot: Callable[..., None]
) -> None:
    page = opened(**PHONE)
    judged(page, photo)
    page.get_by_role("button", name=ENGLISH.show_heatmap).click()
    page.wait_for_selector("figure img")
    assert fits(page)
    screenshot(page)
    for tab in (ENGLISH.many_pictures, ENGLISH.guide_title):
        page.get_by_role("tab", name=tab).click()
        assert fits(page)


@pytest.mark.slow
def test_a_dark_browser_gets_a_dark_page(
    opened: Callable[..., Any], photo: Path, screenshot: Callable[..., None]
) -> None:
    page = opened(color_scheme="dark")
    judged(page, photo)
    shades = re.findall(r"\d+", page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert max(map(int, shades[:3])) < 60
    screenshot(page)


@pytest.mark.slow
def test_a_chinese_browser_gets_the_chinese_page_and_may_leave_it(
    opened: Callable[..., Any], photo: Path, screenshot: Callable[..., None]
) -> None:
    page = opened(locale="zh-CN")
    page.wait_for_url("**/zh")
    ready(page).get_by_text(CHINESE.nothing_yet).wait_for()
    judged(page, photo)
    text = page.inner_text("body")
    for expected in (CHINESE.members, CHINESE.file, CHINESE.changed, CHINESE.no_proof):
        assert expected in text
    assert page.evaluate("[document.documentElement.lang, document.title]") == ["zh", CHINESE.title]
    screenshot(page)
    page.get_by_text(ENGLISH.name, exact=True).click()
    page.get_by_text(ENGLISH.nothing_yet).wait_for()
    assert not page.url.endswith("/zh")


@pytest.mark.slow
def test_the_keyboard_alone_gives_a_picture_and_asks_for_its_map(
    opened: Callable[..., Any], photo: Path, screenshot: Callable[..., None]
) -> None:
    page = opened()
    with page.expect_file_chooser() as chooser:  # asked for long before Enter, or Chromium opens its own
        tab_to(page, DROP)
        screenshot(page, "-focus")
        page.keyboard.press("Enter")
    chooser.value.set_files(photo)
    page.wait_for_selector(".holds, .flips")
    tab_to(page, ENGLISH.show_heatmap)
    page.keyboard.press("Enter")
    page.wait_for_selector("figure img")
    screenshot(page)


def tab_to(page: Any, name: str) -> None:
    """Press Tab until the element of a name has the focus."""
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = "document.activeElement.ariaLabel || document.activeElement.innerText"
        if str(page.evaluate(focused)).strip() == name:
            return
    pytest.fail(f"no {name!r} is reached by Tab")


@pytest.mark.slow
def test_uploads_lie_in_the_cache_for_an_hour_at_most_and_go_with_the_server(
    ensemble: Path, photo: Path, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "cache"))  # which tests in other processes leave alone
    with Judge.load(str(ensemble)) as judge:
        app = build_app(judge)
        _, url, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **SETTINGS)
        page = browser.new_page(locale="en-US")
        page.goto(url)
        ready(page)
        give(page, photo)
        page.wait_for_selector(".verdict h2")
        files = [Path(path) for paths in app.temp_file_sets for path in paths]
        kept = [path for path in files if path.name == "photo.jpg"]
        assert all(path.is_relative_to(tmp_path / "cache") for path in files)
        assert {path.read_bytes() for path in kept} == {photo.read_bytes()}
        assert sum(app.delete_cache) == 3600
        page.close()
        app.close()
        assert not any(path.exists() for path in kept)
        assert all(path.exists() for path in files if path.name == "chelsea.jpg"), "the samples stay"
