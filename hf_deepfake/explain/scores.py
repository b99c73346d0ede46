"""What an explanation explains: a score as a differentiable function of the image's own pixels."""

from typing import Any

import torch
from PIL import Image
from torch.nn.functional import logsigmoid

from hf_deepfake import labels
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import ImageReader, view_key
from hf_deepfake.errors import InputError
from hf_deepfake.models.detector import LoadedDetector
from hf_deepfake.models.differentiable import differentiable_views
from hf_deepfake.models.exported import refuse_exported


class Score:
    """Calibrated log-odds of real or fake, by a detector, a member of an ensemble, or the vote.

    Gradients go through views, temperatures, weights and the calibration of the vote. With `l_i` the calibrated
    log-odds of a member, `w_i` its share of all weights and `s` the sigmoid, the vote's log-odds before its own
    calibration are `Σ w_i l_i` where log-odds are pooled, else `log Σ w_i s(l_i) - log Σ w_i s(-l_i)`, which does not round
    to a gradient of 0 where the members are sure, as the probability does. For the same reason the hard vote, which has next to no gradient, is taken by its soft
    vote; isotonic curves, which have steps, are left out; and the vote is not cut off at the model's smallest probability.

    Attributes:
        names: Of the ensemble's members; empty for a single detector.
        models: Those that are asked: one detector or member, or all members.

    Args:
        detector: A detector or an ensemble, in evaluation mode.
        target: `fake` or `real`.
        member: Name of one member of an ensemble; None for the vote or a single detector.

    Raises:
        InputError: If there is no such target or member, the model is an exported graph, or what happens to the image
            cannot be differentiated.
    """

    def __init__(self, detector: LoadedDetector, target: str = "fake", member: str | None = None) -> None:
        if target not in labels.NAMES:
            raise InputError(f"{target}: no target to explain; it is real or fake.")
        self.sign = 1 if target == "fake" else -1
        processor: Any
        model, processor, fake_column = detector
        refuse_exported(model, "explain")
        config: Any = model.config
        ensemble: Any = getattr(model, "members", None)
        self.names: list[str] = list(config.member_names) if ensemble is not None else []
        if member is not None and member not in self.names:
            known = (
                f"its members are {', '.join(self.names)}" if self.names else "this is one detector without members"
            )
            raise InputError(f"{member}: no such member; {known}.")
        chosen = range(len(self.names)) if member is None else [self.names.index(member)]
        self.models: list[Any] = [ensemble[index] for index in chosen] or [model]
        self.columns = [config.fake_columns[index] for index in chosen] or [fake_column]
        self.temperatures, self.biases, self.weights = _calibration(config, list(chosen))
        last = {} if member is not None else getattr(config, "vote_calibrations", {}).get(_kind(config), {})
        self.temperature, self.bias = last.get("temperature", 1.0), last.get("bias", 0.0)
        self.pools_log_odds = _kind(config) == "weighted" and getattr(config, "pooling", "probability") == "log_odds"
        reading = getattr(config, "reading", {})
        views = [config.member_views[index] for index in chosen] or [0]
        if member is not None:
            reading = processor.views[views[0]].get("reading", {})
            processor, views = processor.processors[views[0]], [0]
        self.keys = [view_key(view) for view in views]
        self.views = differentiable_views(processor)
        self._cropper = ImageReader(**reading).cropper

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Log-odds of the target, shape `(images,)`.

        Args:
            pixels: RGB in [0, 1], shape `(images, 3, height, width)`. Of a detector that reads a face crop, the crop.
        """
        return self.vote(self.log_odds(pixels))

    def log_odds(self, pixels: torch.Tensor) -> torch.Tensor:
        """Each asked model's calibrated log-odds of fake, shape `(images, models)`."""
        views = self.views(pixels)
        found = []
        for model, key, column in zip(self.models, self.keys, self.columns, strict=True):
            logits = model(pixel_values=views[key].to(model.dtype)).logits.float()
            found.append(logits[:, column] - logits[:, 1 - column])
        log_odds = torch.stack(found, dim=1)
        return log_odds / log_odds.new_tensor(self.temperatures) + log_odds.new_tensor(self.biases)

    def vote(self, log_odds: torch.Tensor) -> torch.Tensor:
        """From log-odds of fake, shape `(images, models)`, to those of the target by the vote, shape `(images,)`."""
        weights = log_odds.new_tensor(self.weights)
        if self.pools_log_odds:
            pooled = log_odds @ weights
        else:
            fake, real = (torch.logsumexp(weights.log() + logsigmoid(sign * log_odds), dim=1) for sign in (1, -1))
            pooled = fake - real
        voted: torch.Tensor = self.sign * (pooled / self.temperature + self.bias)
        return voted

    def box(self, image: Image.Image) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what is read of an image: its largest face, where faces are cut out, or all."""
        faces = self._cropper.detect(image) if self._cropper is not None else []
        if self._cropper is None or not faces:
            return 0, 0, image.width, image.height
        return self._cropper.square(faces[0], image.size)


def _kind(config: Any) -> str:
    """The kind of voting whose vote has a gradient."""
    voting: str = getattr(config, "voting", "soft")
    return "soft" if voting == "hard" else voting


def _calibration(config: Any, chosen: list[int]) -> tuple[list[float], list[float], list[float]]:
    """Temperatures, biases and weights, one for each asked model."""
    if not chosen:
        return [1.0], [0.0], [1.0]
    temperatures = [config.temperatures[index] for index in chosen]
    biases = [config.biases[index] for index in chosen]
    weighted = _kind(config) == "weighted" and len(chosen) > 1
    weights = [config.weights[index] if weighted else 1.0 for index in chosen]
    return temperatures, biases, [weight / sum(weights) for weight in weights]
