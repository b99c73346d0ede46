"""`pipeline("deepfake-ensemble")`: verdict, calibrated probability and every member's vote."""

from collections.abc import Mapping, Sized
from functools import cached_property, partial
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import BatchFeature, ImageClassificationPipeline
from transformers.pipelines.pt_utils import PipelineIterator

from .image_processing_deepfake_ensemble import (
    EnsembleImageProcessor,
    ImageReader,
    check_views,
    in_threads,
    jittered,
    open_rgb,
    reader_of,
)
from .modeling_deepfake_ensemble import VOTE_SETTINGS, member_probabilities, verdict, vote, vote_shares
from .running_deepfake_ensemble import run_within_memory, speed_up

_AUTO_ON_CPU = 16
"""Images a batch where memory is no limit; larger ones are no faster there."""

_AUTO_AT_MOST = 256

_OF_ONE: dict[str, Any] = dict.fromkeys(VOTE_SETTINGS) | {
    "temperatures": [1.0],
    "weights": [1.0],
    "member_thresholds": [0.5],
}
"""The settings of a single detector as an ensemble of one."""


class DeepfakeEnsemblePipeline(ImageClassificationPipeline):
    """Scores images with an ensemble, or with a single detector as an ensemble of one.

    Takes a path (`str` or `Path`), an `http(s)://` address, encoded bytes, a PIL image, or a list, generator or torch
    `Dataset` of them, a `datasets` column, or a `datasets` data set with a column `image`. `batch_size="auto"` takes the
    largest power of two that fits into a GPU's memory, and 16 elsewhere; a batch that does not fit is halved.

    Args:
        voting: `soft`, `hard` or `weighted` in place of the stored kind.
        threshold: Probability from which the verdict is fake, in place of the stored one.
        tta: Views of each image to average the probability over (test-time augmentation, see `jittered`); 1 for none.
        details: False for `[{"label", "score"}, …]` as `image-classification` gives it; True for one dictionary with
            `label` (the verdict at the threshold; `uncertain` within `uncertain_band`, which a threshold given by hand
            switches off), `prob_fake`, `threshold`, `voting`, `agreement` (the share of members on the ensemble's side of their
            threshold), `members` (each with `name`, `prob_fake`, `weight` (its share of this vote), `label`) and, where stored, `uncertain_band`.
    """

    _load_video_processor: Any = False  # else repositories with an `auto_map` prompt for trust

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        check_views(self.model.config, self.image_processor)
        speed_up(self.model)

    @staticmethod
    def fake_column(id2label: Mapping[int, str]) -> int:
        """Index of a single detector's logit that means fake; `hf_deepfake` puts its reader of label names here."""
        if set(id2label.values()) != {"real", "fake"}:
            raise ValueError(f"the detector's labels must be real and fake; id2label is {dict(id2label)}.")
        return next(index for index, name in id2label.items() if name == "fake")

    def _sanitize_parameters(  # type: ignore[override]
        self,
        voting: str | None = None,
        threshold: float | None = None,
        tta: int | None = None,
        details: bool | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        applied = kwargs.pop("function_to_apply", None)
        if applied not in (None, "default", "softmax"):
            raise ValueError(f"function_to_apply is {applied!r}; scores are probabilities. Leave it out.")
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if voting is not None and voting not in ("soft", "hard", "weighted"):
            raise ValueError(f"voting is {voting!r}; it must be soft, hard or weighted.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be between 0 and 1.")
        if tta is not None and tta < 1:
            raise ValueError(f"tta is {tta}; it must be 1 (the image alone) or more.")
        preprocess |= {"tta": tta} if tta is not None else {}
        given = {"voting": voting, "threshold": threshold, "details": details}
        return preprocess, forward, postprocess | {name: value for name, value in given.items() if value is not None}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Score one image or many; see the class for what is taken and given."""
        if (kwargs.get("batch_size") or self._batch_size) == "auto":
            kwargs["batch_size"] = self._auto_batch_size
        if type(inputs).__module__.startswith("datasets."):
            column = inputs["image"] if type(inputs).__name__.endswith("Dataset") else inputs
            images: Any = _Rows(column) if isinstance(column, Sized) else (image for image in column)
            return list(super().__call__(images, **kwargs))
        return super().__call__(inputs, **kwargs)

    @cached_property
    def _auto_batch_size(self) -> int:
        if self.device.type != "cuda":
            return _AUTO_ON_CPU
        views = self._ensure_tensor_on_device(self.preprocess(Image.new("RGB", (64, 64))), self.device)
        size = 1
        while size < _AUTO_AT_MOST:
            try:
                with torch.no_grad():
                    self.model(**{name: view.repeat(2 * size, 1, 1, 1) for name, view in views.items()})
            except torch.OutOfMemoryError:
                break
            size *= 2
        torch.cuda.empty_cache()
        return size

    @cached_property
    def _reader(self) -> ImageReader | None:
        return reader_of(self.model.config)

    @cached_property
    def _views(self) -> EnsembleImageProcessor:
        processor: Any = self.image_processor
        return EnsembleImageProcessor.of(processor)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> PipelineIterator:
        """As in a stock pipeline, but a batch is preprocessed as one: read and resized in threads, normalised together."""
        if not isinstance(inputs, Sized):
            inputs, num_workers = PipelineIterator(inputs, _as_it_is, {}), min(num_workers, 1)
        collate = partial(self._preprocess_batch, **preprocess_params)
        loader = DataLoader(inputs, num_workers=num_workers, batch_size=batch_size, collate_fn=collate)
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return PipelineIterator(outputs, self.postprocess, postprocess_params)

    def preprocess(self, image: Any, timeout: float | None = 30.0, tta: int = 1) -> Any:  # type: ignore[override]
        """Views of one image, read as the checkpoint was trained to; with `tta` in a dimension of their own."""
        return self._preprocess_batch([image], timeout, tta)

    def _preprocess_batch(self, images: list[Any], timeout: float | None = 30.0, tta: int = 1) -> Any:
        seen: list[Any] = []
        for image in images:
            if isinstance(image, str) and image.startswith(("http://", "https://")):
                image = open_rgb(image, timeout=timeout)
            opened = open_rgb(image) if tta > 1 else None
            seen += [image, *(jittered(opened, number) for number in range(1, tta) if opened is not None)]
        if self._reader is not None:
            seen = in_threads(self._reader, seen, alone=self._reader.cropper is not None)
        views = self._views(seen).to(self.dtype)
        return BatchFeature({name: view.unflatten(0, (-1, tta)) for name, view in views.items()}) if tta > 1 else views

    def _forward(self, model_inputs: Any) -> Any:  # type: ignore[override]
        """Score a batch of images, or of images in several views each."""
        first = next(iter(model_inputs.values()))
        if first.ndim == 4:
            return run_within_memory(self.model, model_inputs)
        outputs = run_within_memory(self.model, {name: view.flatten(0, 1) for name, view in model_inputs.items()})
        return {name: value.unflatten(0, first.shape[:2]) for name, value in outputs.items()}

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Any,
        voting: str | None = None,
        threshold: float | None = None,
        details: bool = False,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Votes of one image in the format asked for, averaged over its views."""
        config: Any = self.model.config
        member_logits = model_outputs.get("member_logits")
        if member_logits is None:  # a single detector
            logits = model_outputs["logits"].float()
            member_logits = (logits if self.fake_column(config.id2label) == 1 else logits.flip(-1))[..., None, :]
        member_logits = member_logits.flatten(0, -3)  # views, members, classes
        settings = {name: getattr(config, name, default) for name, default in _OF_ONE.items()}
        kind: str = voting if voting is not None else getattr(config, "voting", "soft")
        prob_fake = float(vote(member_logits, voting=kind, **settings).mean())
        if not details:
            real, fake = {"label": "real", "score": 1 - prob_fake}, {"label": "fake", "score": prob_fake}
            return ([fake, real] if prob_fake > 0.5 else [real, fake])[:top_k]
        band = getattr(config, "uncertain_bands", {}).get(kind) if threshold is None else None
        threshold = threshold if threshold is not None else getattr(config, "thresholds", {}).get(kind, 0.5)
        label = verdict(prob_fake, threshold, band)
        calibration = {name: settings[name] for name in ("temperatures", "biases", "isotonic")}
        members = [
            {
                "name": name,
                "prob_fake": member_prob,
                "weight": share,
                "label": verdict(member_prob, member_threshold),
            }
            for name, member_prob, share, member_threshold in zip(
                getattr(config, "member_names", ["detector"]),
                member_probabilities(member_logits, **calibration).mean(dim=0).tolist(),
                vote_shares(settings["weights"], kind),
                settings["member_thresholds"],
                strict=True,
            )
        ]
        side = verdict(prob_fake, threshold)  # what the members are for or against, also where the verdict is open
        return {
            "label": label,
            "prob_fake": prob_fake,
            "threshold": threshold,
            "voting": kind,
            "agreement": sum(member["label"] == side for member in members) / len(members),
            "members": members,
        } | ({"uncertain_band": band} if band is not None else {})


class _Rows(torch.utils.data.Dataset[Any]):
    """A column of a data set for a `DataLoader`, whose workers so decode their own rows; a list would hold all of them."""

    def __init__(self, column: Any) -> None:
        self.column = column

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: int) -> Any:
        return self.column[index]


def _as_it_is(image: Any) -> Any:
    return image
