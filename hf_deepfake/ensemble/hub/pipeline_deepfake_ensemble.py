"""`pipeline("deepfake-ensemble")`: verdict, calibrated probability and every member's vote."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from transformers import ImageClassificationPipeline

from .image_processing_deepfake_ensemble import ImageReader, open_rgb, reader_of
from .modeling_deepfake_ensemble import vote


class DeepfakeEnsemblePipeline(ImageClassificationPipeline):
    """Scores images with an ensemble, or with a single detector as an ensemble of one.

    Takes a path (`str` or `Path`), an `http(s)://` address, encoded bytes, a PIL image, or a list, generator or torch
    `Dataset` of them, a `datasets` column, or a `datasets` data set with a column `image`.

    Args:
        voting: `soft`, `hard` or `weighted` in place of the stored kind.
        threshold: Probability from which the verdict is fake, in place of the stored one.
        details: False for `[{"label", "score"}, …]` as `image-classification` gives it; True for one dictionary with
            `label` (the verdict at the threshold), `prob_fake`, `threshold`, `voting`, `agreement` (the share of
            members whose own verdict is the ensemble's) and `members` (each with `name`, `prob_fake`, `weight`, `label`).
    """

    _load_video_processor: Any = False  # else repositories with an `auto_map` prompt for trust

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
        details: bool | None = None,
        **kwargs: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        preprocess, forward, postprocess = super()._sanitize_parameters(**kwargs)
        if voting is not None and voting not in ("soft", "hard", "weighted"):
            raise ValueError(f"voting is {voting!r}; it must be soft, hard or weighted.")
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"threshold is {threshold}; it must be between 0 and 1.")
        given = {"voting": voting, "threshold": threshold, "details": details}
        return preprocess, forward, postprocess | {name: value for name, value in given.items() if value is not None}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Score one image or many; see the class for what is taken and given."""
        if type(inputs).__module__.startswith("datasets."):
            column = inputs["image"] if type(inputs).__name__.endswith("Dataset") else inputs
            images: Any = (image for image in column)  # decoded batch by batch; a list would hold all of them
            return list(super().__call__(images, **kwargs))
        return super().__call__(inputs, **kwargs)

    @cached_property
    def _reader(self) -> ImageReader | None:
        return reader_of(self.model.config)

    def preprocess(self, image: Any, timeout: float | None = 30.0) -> Any:  # type: ignore[override]
        """Views of one image, read as the checkpoint was trained to."""
        processor: Any = self.image_processor
        if isinstance(image, str) and image.startswith(("http://", "https://")):
            image = open_rgb(image, timeout=timeout)
        if self._reader is not None:
            image = self._reader(image)
        return processor(images=[image], return_tensors="pt").to(self.dtype)

    def postprocess(  # type: ignore[override]
        self,
        model_outputs: Any,
        voting: str | None = None,
        threshold: float | None = None,
        details: bool = False,
        top_k: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Votes of one image in the format asked for."""
        config: Any = self.model.config
        member_logits = model_outputs.get("member_logits")
        if member_logits is None:  # a single detector
            logits = model_outputs["logits"].float()
            member_logits = (logits if self.fake_column(config.id2label) == 1 else logits.flip(-1))[:, None]
        settings = {
            "temperatures": getattr(config, "temperatures", [1.0]),
            "weights": getattr(config, "weights", [1.0]),
            "member_thresholds": getattr(config, "member_thresholds", [0.5]),
        }
        kind: str = voting if voting is not None else getattr(config, "voting", "soft")
        prob_fake = float(vote(member_logits, voting=kind, **settings)[0])
        if not details:
            real, fake = {"label": "real", "score": 1 - prob_fake}, {"label": "fake", "score": prob_fake}
            return ([fake, real] if prob_fake > 0.5 else [real, fake])[:top_k]
        threshold = threshold if threshold is not None else getattr(config, "thresholds", {}).get(kind, 0.5)
        label = "fake" if prob_fake >= threshold else "real"
        temperatures = torch.tensor(settings["temperatures"])
        member_probs = (member_logits[0] / temperatures[:, None]).softmax(-1)[:, 1].tolist()
        members = [
            {
                "name": name,
                "prob_fake": member_prob,
                "weight": weight / sum(settings["weights"]),
                "label": "fake" if member_prob >= member_threshold else "real",
            }
            for name, member_prob, weight, member_threshold in zip(
                getattr(config, "member_names", ["detector"]),
                member_probs,
                settings["weights"],
                settings["member_thresholds"],
                strict=True,
            )
        ]
        return {
            "label": label,
            "prob_fake": prob_fake,
            "threshold": threshold,
            "voting": kind,
            "agreement": sum(member["label"] == label for member in members) / len(members),
            "members": members,
        }
