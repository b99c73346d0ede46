"""How soon the page can be used, and how soon after a picture is dropped its verdict stands there.

python benchmarks/page.py --model ENSEMBLE [--drops 20] [--starts 5]

In headless Chromium on the same machine. Drops of a 1024-pixel JPEG and judging the same file without a page take turns.
"""

import argparse
import base64
import io
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import skimage
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from readme_table import machine, save_figures

from hf_deepfake.serving.app import SETTINGS, build_app
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.words import ENGLISH

_DROP = """([content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));
    const dropped = new DataTransfer();
    dropped.items.add(new File([bytes], "photo.jpg", {type: "image/jpeg"}));
    return dropped;
}"""


def main() -> None:
    """Measure starts, then drops and judging in turns, and store the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--drops", type=int, default=20)
    parser.add_argument("--starts", type=int, default=5)
    arguments = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(locale="en-US")
        starts = [_start(arguments.model, page) for _ in range(arguments.starts)]
        with Judge.load(arguments.model) as judge:
            drops, alone = _in_turns(judge, page, arguments.drops)
        browser.close()
    rows = [
        _row("from start, after imports, to a page that can be used, model loaded", starts),
        _row("from the drop of a 1024-pixel JPEG to its verdict", drops),
        _row("the same file judged without a page", alone),
    ]
    ratios = [drop / judged for drop, judged in zip(drops, alone, strict=True)]
    rows[1]["beside judging alone, median"] = f"{statistics.median(ratios):.1f}"
    for row in rows:
        print(row)
    save_figures(
        "page",
        title=f"The page, with an ensemble of {len(judge.detector.model.config.member_names)}",
        command="python benchmarks/page.py --model ENSEMBLE",
        machine=machine(),
        rows=rows,
    )


def _row(what: str, seconds: list[float]) -> dict[str, Any]:
    return {
        "what": what,
        "seconds, median": f"{statistics.median(seconds):.2f}",
        "least to most": f"{min(seconds):.2f} to {max(seconds):.2f} of {len(seconds)}",
        "beside judging alone, median": "",
    }


def _start(model: str, page: Page) -> float:
    def start() -> Any:
        judge = Judge.load(model)
        app = build_app(judge)
        _open(app, page)
        return judge, app

    seconds, (judge, app) = _timed(start)
    app.close(verbose=False)
    judge.close()
    return seconds


def _open(app: Any, page: Page) -> None:
    """Serve a page and wait until its script has run."""
    _, address, _ = app.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **SETTINGS)
    page.goto(address)
    page.wait_for_selector(".live[aria-live=polite]", state="attached")


def _in_turns(judge: Judge, page: Page, drops: int) -> tuple[list[float], list[float]]:
    app = build_app(judge)
    _open(app, page)
    content = _jpeg()
    dropped = page.evaluate_handle(_DROP, [base64.b64encode(content).decode()])
    found: tuple[list[float], list[float]] = ([], [])
    for turn in range(drops + 1):
        seconds = [_timed(lambda: _drop(page, dropped))[0], _timed(lambda: judge.judge([content]))[0]]
        for measured, value in zip(found, seconds if turn else [], strict=bool(turn)):  # the first turn warms both up
            measured.append(value)
        page.get_by_label("Remove Image").click()
        page.get_by_text(ENGLISH.nothing_yet).wait_for()
        page.wait_for_selector(".upload-container")
    app.close(verbose=False)
    return found


def _drop(page: Page, dropped: Any) -> None:
    page.dispatch_event(".upload-container", "drop", {"dataTransfer": dropped})
    page.wait_for_selector(".verdict h2")


def _jpeg() -> bytes:
    photograph = Image.open(Path(skimage.__file__).parent / "data" / "retina.jpg").convert("RGB")
    buffer = io.BytesIO()
    photograph.resize((1024, 1024), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
