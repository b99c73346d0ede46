"""Which pixels of an image speak for its score, by one of several methods."""

import difflib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size
from captum.attr import Occlusion
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional

from hf_deepfake import labels
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb, reader_of
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import member_probabilities
from hf_deepfake.errors import InputError
from hf_deepfake.explain.cams import attention, grad_cam
from hf_deepfake.explain.frequency import frequency_map
from hf_deepfake.explain.integrated import blurred, integrated_gradients, smooth_integrated_gradients
from hf_deepfake.explain.scores import Score
from hf_deepfake.models.detector import LoadedDetector

logger = logging.getLogger(__name__)

METHODS = (
    "integrated_gradients",
    "smooth_integrated_gradients",
    "grad_cam",
    "grad_cam_plus_plus",
    "occlusion",
    "attention_rollout",
    "gradient_attention",
    "frequency",
)
DEFAULT_METHOD = "integrated_gradients"

_PIXELS = 2**22
"""Of the images of a batch together, so that large photographs do not fill the memory."""

_WINDOWS = 8


@dataclass(frozen=True, eq=False)
class Explanation:
    """Where in an image a detector, a member or the vote found evidence.

    Attributes:
        heatmap: Shape `(height, width)` of the upright image, in [0, 1]; 1 speaks most for the target. All 0 where
            nothing speaks for it.
        method: One of `METHODS`.
        target: `fake` or `real`: what the heatmap is evidence for.
        member: Name of the ensemble's member; None for the vote or a single detector.
        prob_fake: Of the member or the vote, calibrated, by the model's real image processor.
        convergence_delta: Where the method is complete, how far the sum of its attributions is from the difference of
            scores that it explains, as a share of that difference.

    Raises:
        ValueError: If a value is out of its range.
    """

    heatmap: NDArray[np.float32]
    method: str
    target: str
    member: str | None
    prob_fake: float
    convergence_delta: float | None = None

    def __post_init__(self) -> None:
        if self.heatmap.ndim != 2 or self.heatmap.dtype != np.float32:
            raise ValueError(
                f"a heatmap of shape {self.heatmap.shape} and {self.heatmap.dtype}; it needs two dimensions and float32."
            )
        if not (self.heatmap.size and self.heatmap.min() >= 0 and self.heatmap.max() <= 1):  # NaN fails it too
            raise ValueError("a heatmap's values lie in [0, 1].")
        if self.method not in METHODS or self.target not in labels.NAMES:
            raise ValueError(f"no explanation of {self.target!r} by {self.method!r}.")
        if not 0 <= self.prob_fake <= 1:
            raise ValueError(f"prob_fake is {self.prob_fake}; it lies in [0, 1].")


def explain(
    detector: LoadedDetector,
    image: Any,
    method: str = DEFAULT_METHOD,
    target: str = "fake",
    member: str | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Explanation:
    """Map what in an image speaks for a target, by a detector, a member of an ensemble, or the vote.

    The map keeps only what speaks for the target, and is divided by its own 99th percentile (over the pixels above 0)
    and cut off at 1, so that some bright pixels do not darken all others: it compares places of one image, not images. The
    same call gives the same map.

    `integrated_gradients`, `smooth_integrated_gradients`, `occlusion` and `frequency` work for every detector.
    `grad_cam` and `grad_cam_plus_plus` need a feature map, which every network that timm or transformers have for image
    classification should have; `attention_rollout` and `gradient_attention` need a transformer without windows.

    Args:
        detector: Of `load_detector`.
        image: Anything that `open_rgb` takes. Of a detector that reads a face crop, the map is 0 beside the largest face.
        method: One of `METHODS`.
        target: `fake` or `real`.
        member: Name of an ensemble's member; None for the vote, or for a single detector. Of a hard vote, the soft vote
            is explained.
        seed: Of the noise of `smooth_integrated_gradients`.
        batch_size: Images a pass at most; large photographs, or less memory, take fewer.

    Raises:
        InputError: If there is no such method, target or member, the method does not fit the network, what happens to
            the image cannot be differentiated, or the memory is too small.
        UnreadableImageError: If the image cannot be read.
    """
    if method not in METHODS:
        near = difflib.get_close_matches(method.lower().replace("-", "_"), METHODS, n=1, cutoff=0.4)
        raise InputError(
            f"{method}: no such method{f', did you mean {near[0]}' if near else ''}? There are {', '.join(METHODS)}."
        )
    score = Score(detector, target, member)
    opened = open_rgb(image)
    left, top, right, bottom = box = score.box(opened)
    pixels = (functional.pil_to_tensor(opened.crop(box))[None] / 255).to(detector.model.device)
    room = _PIXELS // (pixels.shape[-2] * pixels.shape[-1])
    found, delta = _within_memory(
        lambda size: _attribute(method, score, pixels, size, seed), max(1, min(batch_size, room))
    )
    heatmap = np.zeros((opened.height, opened.width), np.float32)
    heatmap[top:bottom, left:right] = _scaled(found.detach().float().cpu().numpy())
    is_address = isinstance(image, str) and image.startswith(("http://", "https://"))
    prob_fake = _prob_fake(detector, opened if is_address else image, score.names, member)
    return Explanation(heatmap, method, target, member, prob_fake, delta)


def _attribute(
    method: str, score: Score, pixels: torch.Tensor, batch_size: int, seed: int
) -> tuple[torch.Tensor, float | None]:
    """Evidence for the target, shape `(height, width)`, in any unit, and the convergence delta where there is one."""
    if method == "integrated_gradients":
        return integrated_gradients(score, pixels, batch_size)
    if method == "smooth_integrated_gradients":
        return smooth_integrated_gradients(score, pixels, batch_size, seed), None
    if method == "occlusion":
        return _occlusion(score, pixels, batch_size), None
    if method == "frequency":
        return frequency_map(score, pixels, batch_size), None
    if method in ("grad_cam", "grad_cam_plus_plus"):
        return grad_cam(score, pixels, plus_plus=method == "grad_cam_plus_plus"), None
    return attention(score, pixels, weighted=method == "gradient_attention"), None


def _occlusion(score: Score, pixels: torch.Tensor, batch_size: int) -> torch.Tensor:
    """By how much the score falls where a window is blurred (Zeiler and Fergus, ECCV 2014, section 4.2).

    Windows are a quarter of the image's sides long and lie half over each other; a pixel gets the mean of its windows.
    """
    strides = [max(1, side // _WINDOWS) for side in pixels.shape[-2:]]
    sides = [min(2 * stride, side) for stride, side in zip(strides, pixels.shape[-2:], strict=True)]
    with torch.no_grad():
        found: torch.Tensor = Occlusion(score).attribute(
            pixels,
            sliding_window_shapes=(3, *sides),
            strides=(3, *strides),
            baselines=blurred(pixels),
            perturbations_per_eval=batch_size,
        )
    return found.mean(dim=(0, 1))


def _within_memory(
    run: Callable[[int], tuple[torch.Tensor, float | None]], batch_size: int
) -> tuple[torch.Tensor, float | None]:
    while True:
        try:
            return run(batch_size)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
            if batch_size == 1:
                raise InputError(
                    "the memory is too small to explain this image; scale it down or take another method."
                ) from error
        batch_size //= 2
        logger.warning("Out of memory; going on with %d images a pass.", batch_size)


def _scaled(evidence: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(evidence).all():
        raise InputError("the model gives no finite numbers for this image; it diverged in training.")
    positive = evidence.clip(min=0)
    if not positive.any():
        return positive
    highest = np.float32(np.percentile(positive[positive > 0], 99))
    return np.minimum(positive / highest, np.float32(1))


def _prob_fake(detector: LoadedDetector, image: Any, names: list[str], member: str | None) -> float:
    model, processor, fake_column = detector
    config: Any = model.config
    reader = reader_of(config)
    views = processor([image if reader is None else reader(image)], return_tensors="pt")
    with torch.no_grad():
        output = model(**{key: view.to(model.device, model.dtype) for key, view in views.items()})
    if member is None:
        return float(output.logits[0].double().softmax(dim=-1)[fake_column])
    probabilities = member_probabilities(
        output.member_logits.double(), temperatures=config.temperatures, biases=config.biases, isotonic=config.isotonic
    )
    return float(probabilities[0, names.index(member)])
