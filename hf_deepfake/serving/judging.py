"""One detector for many callers at once: the page and the API score with the same `Judge`."""

import copy
import math
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import torch
from transformers import pipeline

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.explain.attributions import DEFAULT_METHOD, Explanation, explain
from hf_deepfake.explain.faithfulness import Faithfulness, measure
from hf_deepfake.explain.scores import Score
from hf_deepfake.models.detector import LoadedDetector, load_detector

_PATIENCE = 0.004
"""Seconds that a batch waits for more images; less than an image takes."""


class _Read(NamedTuple):
    """An image that was read and waits for the model."""

    views: Mapping[str, torch.Tensor]
    postprocess: Mapping[str, Any]
    answer: "Future[dict[str, Any]]"


class Judge:
    """Scores images of concurrent callers in common batches.

    Images are read in as many threads as torch takes, while one thread, which alone runs the model, takes what has been
    read. The scores are those of `pipeline("deepfake-ensemble")`. Every method may be called from any thread.

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
        self._readers = ThreadPoolExecutor(torch.get_num_threads(), "reader")
        self._waiting: queue.Queue[_Read | None] = queue.Queue(2 * batch_size)  # readers wait, not pixels pile up
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
            image: Anything that the pipeline takes, encoded bytes at best.
            settings: Of the pipeline: `voting`, `threshold`, `tta`.

        Returns:
            The dictionary of the pipeline's `details=True`, or the `UnreadableImageError` that says what is wrong. An
            image that was not read yet may be cancelled.

        Raises:
            ValueError: If a setting is wrong.
            RuntimeError: If the judge was closed.
        """
        preprocess, _, postprocess = self._pipeline._sanitize_parameters(details=True, **settings)
        answer: Future[dict[str, Any]] = Future()
        self._readers.submit(self._read, image, preprocess, postprocess, answer)
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
            if next(self.detector.model.parameters(), None) is None:
                raise InputError(f"{self.name}: has no weights to look into; explain with the checkpoint it is from.")
            if self._explained is None:
                self._explained = self.detector._replace(model=copy.deepcopy(self.detector.model))
            explanation = explain(self._explained, image, method, target, member)
            if not check:
                return explanation, None
            return explanation, measure(Score(self._explained, target, member), open_rgb(image), explanation)

    def close(self) -> None:
        """Answer what was asked, then stop."""
        self._readers.shutdown()
        self._waiting.put(None)
        self._worker.join()

    def _read(
        self,
        image: Any,
        preprocess: Mapping[str, Any],
        postprocess: Mapping[str, Any],
        answer: "Future[dict[str, Any]]",
    ) -> None:
        if not answer.set_running_or_notify_cancel():
            return
        try:
            views = self._pipeline.preprocess(image, **preprocess)
        except Exception as error:
            answer.set_exception(error)
        else:
            self._waiting.put(_Read(views, postprocess, answer))

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batches: dict[Any, list[_Read]] = {}
            for read in [first, *self._more()]:
                batches.setdefault(tuple(view.shape for view in read.views.values()), []).append(read)
            for batch in batches.values():
                self._answer(batch)

    def _more(self) -> list[_Read]:
        """What else has been read, up to a whole batch."""
        found: list[_Read] = []
        deadline = time.monotonic() + _PATIENCE
        while len(found) < self._batch_size - 1:
            try:
                read = self._waiting.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                break
            if read is None:  # the end, once this batch is done
                self._waiting.put(None)
                break
            found.append(read)
        return found

    def _answer(self, batch: list[_Read]) -> None:
        """Run images whose views have one shape, and tell each caller."""
        try:
            names = list(batch[0].views)
            outputs = self._pipeline.forward({name: torch.cat([read.views[name] for read in batch]) for name in names})
            found = []
            for row, read in enumerate(batch):
                of_one = {name: value[row : row + 1] for name, value in outputs.items()}
                found.append(self._pipeline.postprocess(of_one, **read.postprocess))
                if not math.isfinite(found[-1]["prob_fake"]):
                    raise InputError(f"{self.name}: gives no number for an image; it diverged in training.")
        except Exception as error:
            for read in batch:
                read.answer.set_exception(error)
            return
        for read, answer in zip(batch, found, strict=True):
            read.answer.set_result(answer)
