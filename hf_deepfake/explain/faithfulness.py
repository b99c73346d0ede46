"""How far a heatmap can be trusted: by what the detector says when the places that it marks are taken away."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.stats import spearmanr
from torch import nn
from tqdm.auto import tqdm

from hf_deepfake.errors import InputError
from hf_deepfake.explain.attributions import Explanation
from hf_deepfake.explain.scores import Score

_BLUR = 1 / 16
"""Standard deviation of the blur as a share of the longer side: enough to leave no detector much to go by."""

_RANDOMISED = 0.2
"""Share of a network's convolutions and linear layers, from its end, that the randomisation check draws anew."""

_PIXELS = 2**22
"""Of the changed images of a batch together, so that a large photograph does not fill the memory."""


@dataclass(frozen=True)
class Faithfulness:
    """What `faithfulness` finds; `dataclasses.asdict` gives JSON.

    Attributes:
        deletion_auc: Mean probability of the target while the heatmap's pixels are taken away; low is good.
        insertion_auc: Mean probability of the target while they are brought back; high is good.
        random_deletion_auc: Mean of the random heatmaps.
        random_insertion_auc: Mean of the random heatmaps.
        better_than_random: Whether the heatmap beats every random one, see `faithfulness`.
        shares: Of the pixels changed, from 0 to 1: the axis of the four curves.
        deletion: Probability of the target; it starts at the image and ends at its blurred copy.
        insertion: The same from the blurred copy to the image.
        random_deletion: Mean curve of the random heatmaps.
        random_insertion: Mean curve of the random heatmaps.
    """

    deletion_auc: float
    insertion_auc: float
    random_deletion_auc: float
    random_insertion_auc: float
    better_than_random: bool
    shares: list[float]
    deletion: list[float]
    insertion: list[float]
    random_deletion: list[float]
    random_insertion: list[float]


def faithfulness(
    score: Callable[[torch.Tensor], torch.Tensor],
    image: NDArray[np.uint8],
    heatmap: NDArray[np.floating],
    steps: int = 20,
    seed: int = 0,
    batch_size: int = 16,
    controls: int = 5,
) -> Faithfulness:
    """Measure whether the score hangs on the pixels that a heatmap marks, and more so than on random ones.

    Deletion and insertion after Petsiuk, Das and Saenko, RISE, BMVC 2018, section 3.3: the most important pixels are
    replaced first, or brought back first, and the area under the curve of the probability is taken by trapezoids.
    Pixels are replaced by those of a blurred copy in both: grey or black holes have sharp edges and a flat inside, and
    such traces are what a detector of fakes looks for.

    The controls are random fields with the heatmap's own power spectrum, so of its smoothness: single random pixels
    disturb an image otherwise than regions do, and flatter the heatmap that is compared with them. Read backwards, a
    control swaps its two areas, so each counts twice. The heatmap is better than random where its insertion minus
    deletion is above that of all `2 * controls`; the difference, as a patchwork of sharp and blurred pixels can lower or
    raise the score by itself, in both areas alike. A map drawn as the controls are passes in `1 / (2 * (controls + 1))`
    of all cases: one in 12 by default, one in 20 with 9 controls. A constant heatmap never does.

    It costs `2 + 2 * (controls + 1) * (steps - 1)` forward passes, 230 by default.

    Args:
        score: From RGB in [0, 1], shape `(images, 3, height, width)`, to log-odds of the target, shape `(images,)`.
        image: RGB, shape `(height, width, 3)`.
        heatmap: Higher where it speaks more for the target, shape `(height, width)`. Equal values come in random order,
            in regions like those of the controls.
        steps: Of each curve.
        seed: Of the controls and of the order of equal values.
        batch_size: Changed images a pass; fewer where they are large.
        controls: Random heatmaps.

    Raises:
        InputError: If the shapes do not match, a value is not finite, or there are no steps or controls.
    """
    _check(image, heatmap, steps, controls)
    generator = np.random.default_rng(seed)
    ranks = [_ranks(heatmap, _random_like(heatmap, generator))]
    ranks += [_ranks(_random_like(heatmap, generator)) for _ in range(controls)]
    radius = _BLUR * max(heatmap.shape)
    blurred = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    curves = _curves(score, image, blurred, ranks, steps, batch_size)
    areas = np.asarray(np.trapezoid(curves, dx=1 / steps))
    gains = areas[:, 1] - areas[:, 0]
    randoms, random_areas = curves[1:].mean(axis=0), areas[1:].mean(axis=0)
    return Faithfulness(
        deletion_auc=float(areas[0, 0]),
        insertion_auc=float(areas[0, 1]),
        random_deletion_auc=float(random_areas[0]),
        random_insertion_auc=float(random_areas[1]),
        better_than_random=bool(np.ptp(heatmap) > 0 and gains[0] > np.abs(gains[1:]).max()),
        shares=np.linspace(0, 1, steps + 1).tolist(),
        deletion=curves[0, 0].tolist(),
        insertion=curves[0, 1].tolist(),
        random_deletion=randoms[0].tolist(),
        random_insertion=randoms[1].tolist(),
    )


def measure(
    score: Score, image: Image.Image, explanation: Explanation, seed: int = 0, batch_size: int = 16
) -> Faithfulness:
    """The faithfulness of an explanation, within the part of its image that is read at all.

    Args:
        score: What was explained.
        image: The upright image, mode RGB.
        explanation: Of this image.
        seed: As of `faithfulness`.
        batch_size: As of `faithfulness`.
    """
    left, top, right, bottom = box = score.box(image)
    pixels, heatmap = np.asarray(image.crop(box)), explanation.heatmap[top:bottom, left:right]
    device = score.models[0].device
    return faithfulness(lambda changed: score(changed.to(device)), pixels, heatmap, seed=seed, batch_size=batch_size)


def _check(image: NDArray[np.uint8], heatmap: NDArray[np.floating], steps: int, controls: int) -> None:
    if image.dtype != np.uint8 or image.shape != (*heatmap.shape, 3):
        raise InputError(
            f"heatmap of shape {heatmap.shape} for an image of shape {image.shape} and type {image.dtype}; "
            "give the RGB image of 8 bits, (height, width, 3), and a heatmap of its size, (height, width)."
        )
    if not np.isfinite(heatmap).all():
        raise InputError(f"heatmap: {(~np.isfinite(heatmap)).sum()} of its values are not finite.")
    if steps < 1 or controls < 1:
        raise InputError(f"steps {steps}, controls {controls}: at least one of each is needed.")


def _random_like(heatmap: NDArray[np.floating], generator: np.random.Generator) -> NDArray[np.float64]:
    """A random field with the power spectrum of a heatmap; single random pixels where the heatmap is constant."""
    noise = generator.standard_normal(heatmap.shape)
    if np.ptp(heatmap) == 0:
        return noise
    phases = np.exp(1j * np.angle(np.fft.rfft2(noise)))
    return np.fft.irfft2(np.abs(np.fft.rfft2(heatmap)) * phases, s=heatmap.shape)


def _ranks(heatmap: NDArray[np.floating], ties: NDArray[np.float64] | None = None) -> torch.Tensor:
    """Place of each pixel in the order of the heatmap, highest first and equal ones by `ties`, in its shape."""
    order = np.lexsort((-heatmap.ravel(),) if ties is None else (ties.ravel(), -heatmap.ravel()))
    ranks = np.empty(heatmap.size, dtype=np.int64)
    ranks[order] = np.arange(heatmap.size)
    return torch.from_numpy(ranks.reshape(heatmap.shape))


def _curves(
    score: Callable[[torch.Tensor], torch.Tensor],
    image: NDArray[np.uint8],
    blurred: NDArray[np.uint8],
    ranks: Sequence[torch.Tensor],
    steps: int,
    batch_size: int,
) -> NDArray[np.float64]:
    """Probability of the target, shape `(heatmaps, 2, steps + 1)`; deletion comes before insertion."""
    pixels = ranks[0].numel()
    counts = np.linspace(0, pixels, steps + 1).round()[1:-1].tolist()
    changes: list[tuple[torch.Tensor, float, bool]] = [(ranks[0], 0, False), (ranks[0], 0, True)]
    changes += [(rank, count, inserted) for rank in ranks for inserted in (False, True) for count in counts]
    old, new = (torch.from_numpy(part.copy()).permute(2, 0, 1).float() / 255 for part in (image, blurred))
    size = max(1, min(batch_size, _PIXELS // pixels))
    log_odds = []
    for start in tqdm(range(0, len(changes), size), desc="Checking the heatmap", unit="batch", delay=1, leave=False):
        batch = changes[start : start + size]
        shown = torch.stack([(rank < count) == inserted for rank, count, inserted in batch])
        with torch.no_grad():
            log_odds.append(score(torch.where(shown[:, None], old, new)).double().cpu())
    found = torch.cat(log_odds).sigmoid().numpy()
    if not np.isfinite(found).all():
        raise InputError(f"score: {(~np.isfinite(found)).sum()} of {len(found)} are no number; check the detector.")
    curves = np.empty((len(ranks), 2, steps + 1))
    curves[:, 0, 0] = curves[:, 1, -1] = found[0]
    curves[:, 0, -1] = curves[:, 1, 0] = found[1]
    curves[:, :, 1:-1] = found[2:].reshape(len(ranks), 2, steps - 1)
    return curves


def pointing(heatmap: NDArray[np.floating], mask: NDArray[np.bool_]) -> float:
    """Whether the highest place of a heatmap lies inside a mask of the same shape: 1 or 0.

    The pointing game of Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016, section 4.1, without
    a margin. Where several pixels are equally high, the share of them inside: so chance stays that of one pixel, and
    `explain`, which cuts its heatmaps off at 1, has many.
    """
    return float(mask[heatmap == heatmap.max()].mean())


def pointing_chance(mask: NDArray[np.bool_]) -> float:
    """How often a random pixel lies inside a mask."""
    return float(mask.mean())


def intersection_over_union(
    heatmap: NDArray[np.floating], mask: NDArray[np.bool_], share: float | None = None
) -> float:
    """Overlap of the highest pixels of a heatmap with a mask of the same shape, from 0 to 1.

    Where equal values lie on both sides of the cut, each is taken by the same fraction. So a constant heatmap gives the
    level of chance: `m / (2 - m)` for a mask that covers the share `m`.

    Args:
        heatmap: Higher is more.
        mask: Not empty.
        share: Of the pixels to take, from 0 to 1; as many as the mask has by default.

    Raises:
        InputError: If the mask is empty, or the share is none.
    """
    if share is not None and not 0 < share <= 1:
        raise InputError(f"share {share}: it is above 0 and at most 1.")
    if not mask.any():
        raise InputError("mask: it is empty, and nothing can overlap with it.")
    taken = float(mask.sum()) if share is None else share * mask.size
    cut = np.sort(heatmap, axis=None)[-max(1, int(np.ceil(taken)))]
    above, equal = heatmap > cut, heatmap == cut
    common = mask[above].sum() + (taken - above.sum()) * mask[equal].mean()
    return float(common / (taken + mask.sum() - common))


def randomisation_check(explain_once: Callable[[], NDArray[np.floating]], model: nn.Module, seed: int = 0) -> float:
    """Rank correlation of the heatmaps of a model and of the same model with its last layers drawn anew.

    After Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 3: a heatmap that stays much the same,
    with a correlation near 1, shows the image rather than what the model learnt. The last fifth of the convolutions and
    linear layers, the head among them, gets normal weights of each tensor's own mean and standard deviation, in every
    member of an ensemble. The head alone is too little: the absolute gradient kept a correlation of 0.7 (0.9 smoothed)
    on an ensemble of three networks, against 0.4 (0.5) with a fifth. The model has its own weights again afterwards.

    Args:
        explain_once: Makes the heatmap of one image with `model`.
        model: A detector or an ensemble.
        seed: Of the weights.

    Returns:
        Spearman's correlation, from -1 to 1; 0 where one of the heatmaps is constant, 1 where they are equal.
    """
    before = explain_once()
    with _randomised(model, seed):
        after = explain_once()
    if np.array_equal(before, after):
        return 1.0
    if np.ptp(before) == 0 or np.ptp(after) == 0:
        return 0.0
    return float(spearmanr(before, after, axis=None).statistic)


@contextmanager
def _randomised(model: nn.Module, seed: int) -> Iterator[None]:
    weights = [weight for member in getattr(model, "members", [model]) for weight in _last_weights(member)]
    kept = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(seed)
    try:
        with torch.no_grad():
            for weight in weights:
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(weight.mean() + noise.to(weight) * weight.std(correction=0))
        yield
    finally:
        with torch.no_grad():
            for weight, old in zip(weights, kept, strict=True):
                weight.copy_(old)


def _last_weights(member: Any) -> list[torch.Tensor]:
    layers = [module for module in member.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    return [layer.weight for layer in layers[-max(1, round(_RANDOMISED * len(layers))) :]]
