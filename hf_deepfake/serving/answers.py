"""What the page answers to a picture or to many, as HTML in one language."""

import io
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from hf_deepfake.data.corruptions import corrupt
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.explain.figures import LONGEST
from hf_deepfake.labels import FAKE, NAMES, REAL
from hf_deepfake.serving.facts import file_facts
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.rendering import (
    batch_html,
    facts_html,
    heatmap_html,
    hint_html,
    members_html,
    refusal_html,
    robustness_html,
    verdict_html,
    worth_html,
)
from hf_deepfake.serving.uploads import MAX_BYTES, MAX_PIXELS, UploadError, read_upload
from hf_deepfake.serving.words import Words

QUALITY = 50
"""Of the JPEG that a picture is judged as once more."""

_HALF = 2
"""Severity of the corruption `resize` that halves the sides."""

_CHUNK = 16
"""Files of many that are judged together, between two steps of the progress bar."""


class Answers:
    """Answers in one language; every file is read where it lies, and nothing is kept or written.

    Args:
        judge: What judges.
        words: In which words.
        max_bytes: Of a file that is judged.
    """

    def __init__(self, judge: Judge, words: Words, max_bytes: int = MAX_BYTES) -> None:
        self.judge, self.words, self.max_bytes = judge, words, max_bytes

    def verdict(self, path: str | None) -> tuple[str, str, str]:
        """The verdict, every member's vote and what the file says; a refusal alone where it is not judged."""
        if path is None:
            return hint_html(self.words.nothing_yet), "", ""
        try:
            content = self._read(path)
            details = self._judged([content])[0]
        except UploadError as error:
            return refusal_html(self._refusal(error)), "", ""
        except InputError:
            return refusal_html(self.words.failed), "", ""
        facts = file_facts(content)
        return (
            verdict_html(details, facts, self.words),
            members_html(details, self.words),
            facts_html(facts, self.words),
        )

    def robustness(self, path: str | None) -> str:
        """The verdicts of a picture as it is, compressed and made smaller; nothing where there was no verdict."""
        if path is None:
            return ""
        try:
            content = self._read(path)
            image = _opened(content)
            judged = self._judged([content, _recompressed(image), _halved(image)])
        except (UploadError, InputError):
            return ""
        names = (self.words.as_it_is, self.words.after_jpeg, self.words.after_half)
        return robustness_html(dict(zip(names, judged, strict=True)), self.words)

    def heatmap(self, path: str | None, method: str) -> Iterator[tuple[str, str]]:
        """A map of what speaks for the verdict's side, then the same and what it is worth.

        Large photographs are explained in a copy of `LONGEST` pixels.
        """
        if path is None:
            yield hint_html(self.words.picture_first), ""
            return
        try:
            image = _opened(self._read(path))
            image.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
            details = self._judged([image])[0]
            target = NAMES[FAKE if details["prob_fake"] >= details["threshold"] else REAL]
            explanation, _ = self.judge.explain(image, method, target, check=False)
            heatmap = heatmap_html(image, explanation, self.words)
            yield heatmap, ""
            yield heatmap, worth_html(self.judge.measure(image, explanation), self.words)
        except UploadError as error:
            yield refusal_html(self._refusal(error)), ""
        except InputError as error:
            yield refusal_html(self.words.no_heatmap.format(reason=error)), ""

    def batch(self, paths: Sequence[str] | None, progress: Callable[[float], None]) -> str:
        """A table of many files; one that is not judged says why in its row."""
        if not paths:
            return hint_html(self.words.batch_empty)
        rows: list[dict[str, Any]] = []
        for start in range(0, len(paths), _CHUNK):
            rows += self._rows(paths[start : start + _CHUNK])
            progress(len(rows) / len(paths))
        columns = ["image", "prob_fake", "label", "error"]
        return batch_html(pd.DataFrame(rows, columns=columns, dtype=object), self.words)

    def _rows(self, paths: Sequence[str]) -> list[dict[str, Any]]:
        answers = [(path, self._submitted(path)) for path in paths]
        return [{"image": os.path.basename(path)} | answer() for path, answer in answers]

    def _submitted(self, path: str) -> Callable[[], dict[str, Any]]:
        """Have a file judged, and what gives its row once it is."""
        try:
            future = self.judge.submit(self._read(path))
        except UploadError as error:
            reason = self._refusal(error)
            return lambda: {"prob_fake": None, "label": None, "error": reason}

        def answer() -> dict[str, Any]:
            try:
                details = future.result()
            except UnreadableImageError as error:
                return {"prob_fake": None, "label": None, "error": self._refusal(UploadError.of(error))}
            return {"prob_fake": details["prob_fake"], "label": details["label"], "error": None}

        return answer

    def _judged(self, images: Sequence[Any]) -> list[dict[str, Any]]:
        try:
            return self.judge.judge(images)
        except UnreadableImageError as error:
            raise UploadError.of(error) from error

    def _read(self, path: str) -> bytes:
        """An uploaded file that may be judged.

        Raises:
            UploadError: If it may not.
        """
        with Path(path).open("rb") as file:
            return read_upload(file.read(self.max_bytes + 1), self.max_bytes).image

    def _refusal(self, error: UploadError) -> str:
        limits = {"megabytes": f"{self.max_bytes / 2**20:g}", "megapixels": MAX_PIXELS // 10**6}
        return self.words.refusals[error.status].format(**limits)


def _opened(content: bytes) -> Image.Image:
    try:
        return open_rgb(content)
    except UnreadableImageError as error:
        raise UploadError.of(error) from error


def _recompressed(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def _halved(image: Image.Image) -> Image.Image:
    halved: torch.Tensor = corrupt(functional.pil_to_tensor(image), "resize", _HALF)
    pixels: Image.Image = functional.to_pil_image(halved)
    return pixels
