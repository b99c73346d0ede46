"""One detector for many callers at once: the page and the API score with the same `Judge`."""

import copy
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple

import torch
from transformers import pipeline

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.explain.attributions import DEFAULT_METHOD, Explanation, explain
from hf_deepfake.explain.faithfulness import Faithfulness, measure
from hf_deepfake.explain.scores import Score
from hf_deepfake.models.detector import LoadedDetector, load_detector

_PATIENCE, _LONGEST = 0.004, 0.03
"""Seconds that a batch waits for one more image, and for all of them; less than an image takes, and than a batch."""


class _Asked(NamedTuple):
    """An image that waits to be judged."""

    image: Any
    preprocess: Mapping[str, Any]
    postprocess: Mapping[str, Any]
    answer: "Future[dict[str, Any]]"


class Judge:
    """Scores images of concurrent callers in common batches.

    One thread owns the model, and lets `pipeline("deepfake-ensemble")` score together what was asked for meanwhile. (Reading
    the next batch beside the model was slower on two cores: it disturbs torch's threads.) Every method may be called from
    any thread.

    Attributes:
        detector: What is scored with.
        name: Where it is from.

    Args:
        detector: Of `load_detector`; from now on the judge's alone.
        name: Checkpoint folder or Hub id.
        batch_size: Images a forward pass at most.
    """

    def __init__(self, detector: LoadedDetector, name: str, batch_size: int = 16) -> None:
        self.detector, self.name = detector, name
        self._batch_size = batch_size
        device = 0 if torch.cuda.is_available() else -1
        parts: dict[str, Any] = {"model": detector.model, "image_processor": detector.processor}
        self._pipeline: Any = pipeline("deepfake-ensemble", device=device, **parts)  # type: ignore[call-overload]
        self._waiting: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._asking = threading.Lock()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="judge", daemon=True)
        self._worker.start()
        self._explaining = threading.Lock()
        self._explained: LoadedDetector | None = None

    @classmethod
    def load(cls, name_or_path: str, batch_size: int = 16) -> "Judge":
        """A judge with the detector or ensemble of a folder or Hub id.

        Raises:
            InputError: If it cannot be loaded.
        """
        return cls(load_detector(name_or_path), name_or_path, batch_size)

    def __enter__(self) -> "Judge":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, image: Any, **settings: Any) -> "Future[dict[str, Any]]":
        """Have one image scored; `asyncio.wrap_future` makes the answer awaitable.

        Args:
            image: Anything that the pipeline takes, encoded bytes at best, or a function that gives it, which is called where
                images are read.
            settings: Of the pipeline: `voting`, `threshold`, `tta`.

        Returns:
            The dictionary of the pipeline's `details=True`, or what was raised, an `UnreadableImageError` as a rule. It may
            be cancelled until the image is taken up.

        Raises:
            ValueError: If a setting is wrong.
            RuntimeError: If the judge was closed.
        """
        preprocess, _, postprocess = self._pipeline._sanitize_parameters(details=True, **settings)
        answer: Future[dict[str, Any]] = Future()
        with self._asking:
            if self._closed:
                raise RuntimeError(f"{self.name}: the judge was closed.")
            self._waiting.put(_Asked(image, preprocess, postprocess, answer))
        return answer

    def judge(self, images: Sequence[Any], **settings: Any) -> list[dict[str, Any]]:
        """Score images and wait for it; see `submit`.

        Raises:
            UnreadableImageError: If one cannot be read.
        """
        answers = [self.submit(image, **settings) for image in images]
        return [answer.result() for answer in answers]

    def explain(
        self,
        image: Any,
        method: str = DEFAULT_METHOD,
        target: str = "fake",
        member: str | None = None,
        check: bool = True,
    ) -> tuple[Explanation, Faithfulness | None]:
        """Explain one image, one call at a time, beside the scoring: methods change the model while they run, so they have a copy.

        Args:
            image: Anything that `open_rgb` takes.
            method: See `hf_deepfake.explain.attributions.explain`.
            target: `fake` or `real`.
            member: Name of an ensemble's member; None for the vote.
            check: Measure the faithfulness of the map too, which takes some 200 forward passes.

        Raises:
            InputError: If the method, target or member is none, or does not fit the detector.
            UnreadableImageError: If the image cannot be read.
        """
        with self._explaining:
            explanation = explain(self._copy(), image, method, target, member)
        return explanation, self.measure(image, explanation) if check else None

    def measure(self, image: Any, explanation: Explanation) -> Faithfulness:
        """Measure the faithfulness of an explanation of this image, as `explain` does with `check`, on the same copy."""
        with self._explaining:
            return measure(Score(self._copy(), explanation.target, explanation.member), open_rgb(image), explanation)

    def _copy(self) -> LoadedDetector:
        if next(self.detector.model.parameters(), None) is None:
            raise InputError(f"{self.name}: has no weights to look into; explain with the checkpoint it is from.")
        if self._explained is None:
            self._explained = self.detector._replace(model=copy.deepcopy(self.detector.model))
        return self._explained

    def close(self) -> None:
        """Answer what was asked, then stop."""
        with self._asking:
            self._closed = True
            self._waiting.put(None)
        self._worker.join()

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batches: dict[Any, list[_Asked]] = {}
            for asked in [first, *self._more()]:
                if asked.answer.set_running_or_notify_cancel():
                    batches.setdefault(tuple(asked.preprocess.items()), []).append(asked)
            for batch in batches.values():
                self._answer(batch)

    def _more(self) -> list[_Asked]:
        """What else is asked for, up to a whole batch."""
        found: list[_Asked] = []
        latest = time.monotonic() + _LONGEST
        while len(found) < self._batch_size - 1:
            try:
                asked = self._waiting.get(timeout=max(0.0, min(_PATIENCE, latest - time.monotonic())))
            except queue.Empty:
                break
            if asked is None:  # the end, once this batch is done
                self._waiting.put(None)
                break
            found.append(asked)
        return found

    def _answer(self, batch: Sequence[_Asked]) -> None:
        """Score images that are read alike, and tell each caller; where that fails, in halves until it is known whose fault it is."""
        try:
            found = self._scored(batch)
        except Exception as error:
            if len(batch) == 1:
                batch[0].answer.set_exception(error)
                return
            self._answer(batch[: len(batch) // 2])
            self._answer(batch[len(batch) // 2 :])
            return
        for asked, answer in zip(batch, found, strict=True):
            asked.answer.set_result(answer)

    def _scored(self, batch: Sequence[_Asked]) -> list[dict[str, Any]]:
        images = [asked.image() if callable(asked.image) else asked.image for asked in batch]
        outputs = self._pipeline.forward(self._pipeline._preprocess_batch(images, **batch[0].preprocess))
        found = []
        for row, asked in enumerate(batch):
            of_one = {name: value[row : row + 1] for name, value in outputs.items()}
            found.append(self._pipeline.postprocess(of_one, **asked.postprocess))
            if not math.isfinite(found[-1]["prob_fake"]):
                raise InputError(f"{self.name}: gives no number for an image; it diverged in training.")
        return found
