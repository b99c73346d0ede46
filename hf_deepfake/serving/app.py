"""The page that shows a judge to people: one picture, many pictures, and how to read what it says."""

import signal
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI
from gradio.components import Navbar
from gradio.data_classes import ImageData

from hf_deepfake.ensemble.default import default_ensemble
from hf_deepfake.errors import InputError
from hf_deepfake.serving.answers import Answers
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.rendering import hint_html
from hf_deepfake.serving.samples import sample_pictures
from hf_deepfake.serving.uploads import MAX_BYTES
from hf_deepfake.serving.words import LANGUAGES, Words

_THEME = gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]).set(
    body_text_color_subdued="#595959",  # with a contrast of at least 4.5, as that of the others
    body_text_color_subdued_dark="#b8b8b8",
    button_primary_background_fill="#1d4ed8",
    button_primary_background_fill_hover="#1e40af",
)

SETTINGS: dict[str, Any] = {
    "theme": _THEME,
    "css_paths": [Path(__file__).with_name("page.css")],
    "footer_links": [],
    "run_history": False,  # else every browser keeps the pictures that it showed, and offers to store them on the Hub
    "max_file_size": MAX_BYTES,
    "ssr_mode": False,
}
"""Of the page's server, for `launch` and `gradio.mount_gradio_app`: nothing from other servers, nothing kept."""

_DELETION = (60, 3540)
"""Seconds between looks for old uploads, and how old they are then: none lies on the disk for more than an hour."""

_CALLS: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
_LONG: dict[str, Any] = {"api_visibility": "private", "show_progress": "full", "concurrency_limit": 1}
_PROGRESS = gr.Progress()


def build_app(judge: Judge, max_bytes: int = MAX_BYTES) -> gr.Blocks:
    """The page of a judge in every language; serve it with `SETTINGS`.

    Uploads lie in Gradio's cache for an hour at most; what is made of them (heatmaps, tables) is part of the page and never on
    the disk.

    Args:
        judge: What judges.
        max_bytes: Of a file that is judged.
    """
    first, *others = LANGUAGES
    app = gr.Blocks(title=first.title, analytics_enabled=False, delete_cache=_DELETION)
    with tempfile.TemporaryDirectory() as folder:  # of which Gradio takes copies into its cache
        samples = _save_samples(Path(folder))
        with app:
            _build_page(app, Answers(judge, first, max_bytes), first, samples)
        for words in others:
            with app.route(words.name, words.language):
                _build_page(app, Answers(judge, words, max_bytes), words, samples)
    app.queue(default_concurrency_limit=4, max_size=100)
    return app


def _save_samples(folder: Path) -> dict[str, str]:
    """The file of each sample by its name."""
    files = {}
    for name, content in sample_pictures().items():
        files[name] = folder / f"{name.replace(' ', '-')}.jpg"
        files[name].write_bytes(content)
    return {name: str(file) for name, file in files.items()}


def _build_page(app: gr.Blocks, answers: Answers, words: Words, samples: Mapping[str, str]) -> None:
    Navbar(main_page_name=LANGUAGES[0].name)
    gr.Markdown(f"# {words.title}\n\n{words.introduction}")
    with gr.Tabs():
        with gr.Tab(words.one_picture):
            _build_one_picture(answers, words, samples)
        with gr.Tab(words.many_pictures):
            _build_many_pictures(answers, words)
        with gr.Tab(words.guide_title):
            gr.Markdown(words.guide)
    gr.Markdown(words.privacy, elem_classes="note")
    app.load(None, js=_on_load(words))


def _build_one_picture(answers: Answers, words: Words, samples: Mapping[str, str]) -> None:
    with gr.Row():
        with gr.Column():
            picture = gr.Image(
                label=words.picture,
                placeholder=words.drop,
                sources=["upload", "clipboard"],
                type="filepath",
                image_mode=None,
                buttons=[],
                alt_text=words.picture,
                height=380,
                elem_id="picture",
            )
            picture.preprocess = _uploaded  # type: ignore[method-assign]
            if samples:
                gr.Examples(
                    [[file] for file in samples.values()],
                    picture,
                    label=words.examples,
                    example_labels=[words.samples[name] for name in samples],
                )
        with gr.Column():
            verdict = gr.HTML(hint_html(words.nothing_yet), elem_classes="live")
            members = gr.HTML()
    with gr.Row():
        with gr.Column():
            gr.HTML(
                f'<section class="part"><h3>{words.heatmap}</h3><p class="note">{words.heatmap_note}</p></section>'
            )
            choices = [(name, method) for method, name in words.methods.items()]
            method = gr.Dropdown(choices, value=choices[0][1], label=words.method, filterable=False)
            show = gr.Button(words.show_heatmap)
            worth = gr.HTML(elem_classes=["live", "worth"])
            heatmap = gr.HTML()
        with gr.Column():
            robustness = gr.HTML(elem_classes="live")
            facts = gr.HTML()

    def explain(path: str | None, method: str, progress: gr.Progress = _PROGRESS) -> Iterator[tuple[str, str]]:
        progress((0, 2), desc=words.explaining)
        for found in answers.heatmap(path, method):
            yield found
            progress((1, 2), desc=words.checking)

    explaining = show.click(
        explain, [picture, method], [heatmap, worth], show_progress_on=worth, concurrency_id="explain", **_LONG
    )
    judging = picture.change(answers.verdict, picture, [verdict, members, facts], trigger_mode="always_last", **_CALLS)
    followed = [robustness, heatmap, worth]
    picture.change(lambda: [""] * len(followed), None, followed, cancels=[explaining], queue=False, **_CALLS)
    judging.then(answers.robustness, picture, robustness, **_CALLS)


def _uploaded(payload: ImageData | None) -> str | None:
    """The file as it was uploaded, in Gradio's cache; `gr.Image` would open it first, and fail on what is no image."""
    return payload.path if payload is not None else None


def _build_many_pictures(answers: Answers, words: Words) -> None:
    gr.Markdown(words.batch_note)
    files = gr.File(label=words.batch_files, file_count="multiple", file_types=["image"], height=220)
    start = gr.Button(words.judge_all, variant="primary")
    table = gr.HTML(elem_classes="live")

    def judge_all(paths: list[str] | None, progress: gr.Progress = _PROGRESS) -> str:
        return answers.batch(paths, lambda share: progress(share, desc=words.judged))

    start.click(judge_all, files, table, concurrency_id="batch", **_LONG)


def _on_load(words: Words) -> str:
    """What the browser does once the page stands.

    It names the language to screen readers and has them read what appears, gives a pasted picture to the page, and follows
    the browser's language the first time.
    """
    return f"""() => {{
        document.documentElement.lang = "{words.language}";
        document.title = "{words.title}";
        document.querySelectorAll(".live").forEach(part => part.setAttribute("aria-live", "polite"));
        document.addEventListener("paste", event => {{
            const picture = document.getElementById("picture"), input = picture?.querySelector("input[type=file]");
            if (picture?.offsetParent && input && event.clipboardData.files.length) {{
                input.files = event.clipboardData.files;
                input.dispatchEvent(new Event("change", {{bubbles: true}}));
            }}
        }});
        const wanted = navigator.language.slice(0, 2).toLowerCase();
        const chosen = sessionStorage.getItem("language");
        sessionStorage.setItem("language", "{words.language}");
        const others = {[other.language for other in LANGUAGES[1:]]};
        if (chosen === null && "{words.language}" !== wanted && others.includes(wanted)) {{
            location.assign(location.pathname.replace(/\\/?$/, "/") + wanted);
        }}
    }}"""


def mount(service: FastAPI, judge: Judge, max_bytes: int = MAX_BYTES) -> FastAPI:
    """Add the page to a service, at `/`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="SSR mode")  # it is off
        gr.mount_gradio_app(service, build_app(judge, max_bytes), path="/", **SETTINGS | {"max_file_size": max_bytes})
    return service


def launch(name_or_path: str | None = None) -> None:
    """Serve the page alone until the process ends, as a Space does.

    Args:
        name_or_path: Checkpoint folder or Hub id; the default ensemble where it is None or empty.

    Raises:
        InputError: If the model cannot be loaded, or none is named and there is no default ensemble.
    """
    if not name_or_path:
        try:
            name_or_path = default_ensemble()
        except InputError as error:
            raise InputError(f"{error} In a Space, set the variable HF_DEEPFAKE_MODEL in its settings.") from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, and so deletes the uploads
    with Judge.load(name_or_path) as judge:
        build_app(judge).launch(share=False, **SETTINGS)
