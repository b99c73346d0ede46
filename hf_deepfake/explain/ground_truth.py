"""How often heatmaps point at what is fake, on fakes whose manipulated region is known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest
from tqdm.auto import tqdm

from hf_deepfake.data.blending import self_blend
from hf_deepfake.errors import InputError
from hf_deepfake.explain.attributions import DEFAULT_METHOD, explain
from hf_deepfake.explain.faithfulness import intersection_over_union, pointing, pointing_chance
from hf_deepfake.models.detector import LoadedDetector

_RESAMPLES = 2000


@dataclass(frozen=True)
class Localisation:
    """What `pointing_on_blends` finds; `dataclasses.asdict` gives JSON. Every interval is of 95 %.

    Attributes:
        images: Fakes that were explained.
        prob_fake: Mean over the fakes. A detector that takes them for real has seen nothing to point at.
        pointing: Share of heatmaps whose highest place lies inside the fake's own mask, see `pointing`.
        pointing_low: Lower end of Wilson's interval.
        pointing_high: Upper end.
        pointing_chance: Of a random pixel.
        pointing_elsewhere: The same heatmaps with the masks of other fakes: what it gives to prefer the middle, or
            faces, where masks lie anyway.
        overlap: Mean intersection over union of the mask and as many of the heatmap's highest pixels.
        overlap_low: Lower end of the percentile bootstrap.
        overlap_high: Upper end.
        overlap_chance: Of random pixels.
        overlap_elsewhere: With the masks of other fakes.
    """

    images: int
    prob_fake: float
    pointing: float
    pointing_low: float
    pointing_high: float
    pointing_chance: float
    pointing_elsewhere: float
    overlap: float
    overlap_low: float
    overlap_high: float
    overlap_chance: float
    overlap_elsewhere: float


def pointing_on_blends(
    detector: LoadedDetector,
    photographs: Sequence[Image.Image],
    method: str = DEFAULT_METHOD,
    seed: int = 0,
    batch_size: int = 16,
) -> Localisation:
    """Explain self-blended fakes of real photographs, and compare the heatmaps with the masks of the blending.

    A method that finds what was changed has to beat both `_chance` and `_elsewhere`: most masks lie about the middle,
    and so do faces, which a heatmap may prefer without any regard to what was changed.

    Args:
        detector: A detector or an ensemble.
        photographs: Mode RGB, at least two; none that the detector was trained on.
        method: Of `explain`.
        seed: Of the blending, each photograph having its own stream, and of the method.
        batch_size: Of the method.

    Raises:
        InputError: If there are less than two photographs, or the method does not fit the detector.
    """
    if len(photographs) < 2:
        raise InputError(f"{len(photographs)} photographs: at least 2 are needed, since masks are exchanged.")
    heatmaps, masks, prob_fake = [], [], []
    for index, photograph in enumerate(tqdm(photographs, desc="Explaining blends", unit="image", delay=1)):
        fake, mask = self_blend(photograph, np.random.default_rng([seed, index]))
        explanation = explain(detector, fake, method, seed=seed, batch_size=batch_size)
        heatmaps.append(explanation.heatmap)
        masks.append(mask)
        prob_fake.append(explanation.prob_fake)
    own = [mask_region(mask) for mask in masks]
    others = [mask_region(mask.resize(own.size)) for mask, own in zip(masks[1:] + masks[:1], masks, strict=True)]
    hits, overlaps = _compared(heatmaps, own)
    hits_elsewhere, overlaps_elsewhere = _compared(heatmaps, others)
    pointing_low, pointing_high = rate_interval(sum(hits), len(hits))
    overlap_low, overlap_high = _mean_interval(overlaps, seed)
    return Localisation(
        images=len(hits),
        prob_fake=float(np.mean(prob_fake)),
        pointing=float(np.mean(hits)),
        pointing_low=pointing_low,
        pointing_high=pointing_high,
        pointing_chance=float(np.mean([pointing_chance(mask) for mask in own])),
        pointing_elsewhere=float(np.mean(hits_elsewhere)),
        overlap=float(np.mean(overlaps)),
        overlap_low=overlap_low,
        overlap_high=overlap_high,
        overlap_chance=float(np.mean([intersection_over_union(np.zeros(mask.shape), mask) for mask in own])),
        overlap_elsewhere=float(np.mean(overlaps_elsewhere)),
    )


def _compared(
    heatmaps: Sequence[NDArray[np.float32]], masks: Sequence[NDArray[np.bool_]]
) -> tuple[list[float], list[float]]:
    pairs = list(zip(heatmaps, masks, strict=True))
    return [pointing(*pair) for pair in pairs], [intersection_over_union(*pair) for pair in pairs]


def mask_region(mask: Image.Image) -> NDArray[np.bool_]:
    """Where a soft mask is at least half as strong as at its strongest, shape `(height, width)`."""
    values = np.asarray(mask)
    return np.asarray(values >= max(1, values.max() / 2))


def rate_interval(count: float, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a rate; of a count that is not whole, from the next lower to the next higher one's.

    Example:
        >>> low, high = rate_interval(0, 10)
        >>> round(low, 3), round(high, 3)  # the upper end is z² / (n + z²)
        (0.0, 0.278)
    """
    lower, higher = (
        binomtest(int(part), total).proportion_ci(method="wilson") for part in (np.floor(count), np.ceil(count))
    )
    return float(lower.low), float(higher.high)


def _mean_interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    resampled = np.random.default_rng(seed).choice(np.array(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(resampled.mean(axis=1), [0.025, 0.975])
    return float(low), float(high)
