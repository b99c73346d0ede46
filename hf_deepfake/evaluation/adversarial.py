"""How easily verdicts are turned on purpose, by changes of a few grey levels to the pixels of the image itself."""

import difflib
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import NDArray
from PIL import Image
from scipy.special import expit
from torch.nn.functional import logsigmoid
from torchvision.transforms.v2 import functional
from tqdm.auto import tqdm

from hf_deepfake.data.checking import Skipped
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.predictions import score_changes
from hf_deepfake.evaluation.robustness import corrupted_metrics
from hf_deepfake.labels import FAKE
from hf_deepfake.models.detector import LoadedDetector
from hf_deepfake.models.differentiable import differentiable_views
from hf_deepfake.models.exported import refuse_exported

METHODS = ("fgsm", "pgd")

_PIXELS = 2**22
"""Of the images of a batch together, so that large photographs do not fill the memory."""

Gradient = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From pixels in [0, 1] and their labels to the direction in which a model goes wrong, in the shape of the pixels."""


def adversarial_robustness(
    models: Mapping[str, LoadedDetector],
    rows: Dataset,
    methods: Sequence[str] = METHODS,
    epsilons: Sequence[str] = ("2/255",),
    attacked: Sequence[str] | None = None,
    limit: int | None = 100,
    batch_size: int = 16,
    steps: int = 10,
    seed: int = 0,
) -> tuple[list[dict[str, Any]], Skipped]:
    """Attack some models white box, and measure what all models say about the changed images.

    The attack goes through everything that a model does to an image, but by smooth stand-ins. What it makes is rounded
    to 8 bits, as saving would, and scored by the models' own image processors, as any image. How a model does on what
    was made against another is the transfer. The images are attacked decoded; a detector that scales JPEGs while it
    decodes them reads them whole here.

    Args:
        models: All are scored, and judged at the threshold that they store.
        rows: Columns `image`, `label`, `file` and, where known, `group`.
        methods: Some of `METHODS`.
        epsilons: Largest change of a pixel, white being 1: `2/255` or `0.008`. 0 gives the figures without an attack.
        attacked: Names of the models to attack; all by default.
        limit: Images at most, drawn by `seed`, both classes alike; None for all. An image costs a forward and backward
            pass for FGSM and `steps` of them for PGD, for each epsilon and attacked model.
        batch_size: Images a pass; images of one size that follow each other share one.
        steps: Of PGD.
        seed: Of the images and of PGD's starting points, each image having its own whatever its batch.

    Returns:
        For each attacked model, method, epsilon and scored model `{"attack", "epsilon", "attacked", "model"}` with
        what `corrupted_metrics` gives; and the images that could not be read.

    Raises:
        InputError: If a method, epsilon or model is unknown, a model cannot be differentiated, or no image can be read.
    """
    attacks = parse_attacks(methods, epsilons)
    gradients = {name: _gradient(name, models) for name in dict.fromkeys(models if attacked is None else attacked)}
    labels = np.array(rows["label"][:])
    skipped: Skipped = []
    indices: list[int] = []
    clean_parts: list[NDArray[np.float64]] = []
    parts: dict[tuple[str, str, str], list[NDArray[np.float64]]] = defaultdict(list)
    for numbers, images in _batches(rows, _balanced(labels, limit, seed), batch_size, skipped):
        indices += numbers
        clean_parts.append(_score(models, images, batch_size))
        for name, gradient in gradients.items():
            for method, epsilon, levels in attacks:
                seeds = [[seed, number] for number in numbers]
                changed = attack(images, labels[numbers], gradient, method, levels, seeds, steps)
                parts[name, method, epsilon].append(_score(models, changed, batch_size))
    if not indices:
        raise InputError(f"none of the {len(skipped)} images to attack can be read: {skipped[0][1]}.")
    columns = {name: np.array(rows[name][:])[indices] for name in ("label", "group") if name in rows.column_names}
    clean = [pd.DataFrame(columns | {"prob_fake": prob_fake}) for prob_fake in np.hstack(clean_parts)]
    entries = [
        {"attack": method, "epsilon": epsilon, "attacked": name, "model": model}
        | corrupted_metrics(table, prob_fake, float(getattr(detector.model.config, "threshold", 0.5)))
        for (name, method, epsilon), scores in parts.items()
        for (model, detector), table, prob_fake in zip(models.items(), clean, np.hstack(scores), strict=True)
    ]
    return entries, skipped


def parse_attacks(methods: Sequence[str], epsilons: Sequence[str]) -> list[tuple[str, str, int]]:
    """Every method with every epsilon as given and in whole grey levels of 255.

    Raises:
        InputError: If a method is unknown, or an epsilon no number from 0 to 1, or less than a grey level.

    Example:
        >>> parse_attacks(["fgsm"], ["2/255", "0.05"])
        [('fgsm', '2/255', 2), ('fgsm', '0.05', 12)]
    """
    for method in methods:
        if method not in METHODS:
            near = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.5)
            raise InputError(
                f"{method}: no such attack; there are {', '.join(METHODS)}."
                + (f" Did you mean {near[0]}?" if near else "")
            )
    return [
        (method, epsilon, _grey_levels(epsilon))
        for method in dict.fromkeys(methods)
        for epsilon in dict.fromkeys(epsilons)
    ]


def _grey_levels(epsilon: str) -> int:
    try:
        share = Fraction(epsilon)
    except (ValueError, ZeroDivisionError) as error:
        raise InputError(f"epsilon {epsilon}: no number; write it as 2/255 or 0.008.") from error
    if not 0 <= share <= 1:
        raise InputError(f"epsilon {epsilon}: it is the largest change of a pixel, from 0 to 1, such as 2/255.")
    if 0 < share < Fraction(1, 255):
        raise InputError(f"epsilon {epsilon}: less than a grey level, which no saved image keeps; 1/255 is the least.")
    return int(255 * share)


def attack(
    images: Sequence[Image.Image],
    labels: NDArray[np.int64],
    gradient: Gradient,
    method: str,
    levels: int,
    seeds: Sequence[Any],
    steps: int = 10,
) -> list[Image.Image]:
    """Change images of one size against the model that the gradient is of, untargeted.

    `fgsm` goes once by epsilon along the sign of the gradient (Goodfellow, Shlens and Szegedy, Explaining and Harnessing
    Adversarial Examples, ICLR 2015, section 4). `pgd` starts at a random point within epsilon, goes `steps` times by
    2.5 epsilon / steps along the sign, each time back into the bound (Madry et al., Towards Deep Learning Models
    Resistant to Adversarial Attacks, ICLR 2018, section 2.1).

    Args:
        images: Mode RGB.
        labels: Shape `(images,)`.
        gradient: Of the model to attack.
        method: One of `METHODS`.
        levels: Grey levels that no channel of a pixel changes by more than, also after rounding.
        seeds: One an image, for the starting points of `pgd`.
        steps: Of `pgd`.
    """
    clean = torch.stack([functional.pil_to_tensor(image) for image in images]).float()
    low, high = (clean - levels).clamp(min=0), (clean + levels).clamp(max=255)  # whole numbers, so rounding obeys them
    pixels, step = clean, float(levels)
    if method == "pgd":
        noise = np.stack([np.random.default_rng(seed).uniform(-1, 1, clean.shape[1:]) for seed in seeds])
        pixels, step = (clean + levels * torch.from_numpy(noise).float()).clamp(low, high), 2.5 * levels / steps
    for _ in range(steps if method == "pgd" else 1):
        pixels = (pixels + step * gradient(pixels / 255, torch.from_numpy(labels)).sign()).clamp(low, high)
    return [functional.to_pil_image(image) for image in pixels.round().byte()]


def _gradient(name: str, models: Mapping[str, LoadedDetector]) -> Gradient:
    if name not in models:
        raise InputError(f"{name}: no such model to attack; there are {', '.join(models)}.")
    model, processor, fake_column = models[name]
    refuse_exported(model, "--adversarial")
    if "face_crop" in getattr(model.config, "reading", {}):
        raise InputError(f"{name}: it reads a face crop, and finding the face has no gradient; attack another model.")
    try:
        views = differentiable_views(processor)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error

    def gradient(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        given = pixels.detach().to(model.device).requires_grad_()
        output = model(**{key: view.to(model.dtype) for key, view in views(given).items()})
        loss = log_wrong(output, labels.to(model.device), model.config, fake_column).sum()
        found = torch.autograd.grad(loss, given, allow_unused=True)[0] if loss.requires_grad else None
        if found is None:
            raise InputError(f"{name}: no gradient leads from its logits back to the image; attack another model.")
        return found.to(pixels)

    return gradient


def log_wrong(output: Any, labels: torch.Tensor, config: Any, fake_column: int) -> torch.Tensor:
    """Log of the probability that a detector, or the vote of an ensemble, gives to the wrong class; shape `(images,)`.

    It rises and falls with the cross-entropy, so that the sign of its gradient is the same, but it does not round to
    a gradient of 0 where the model is sure. For the same reason the hard vote, which has next to no gradient, is taken
    by its soft vote, and the calibration of the vote and isotonic curves, which have steps, are left out.

    Args:
        output: Of the model.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        config: Of the model; an ensemble's has temperatures, biases, weights and a kind of voting.
        fake_column: Index of a single detector's logit that means fake.
    """
    member_logits = getattr(output, "member_logits", None)
    if member_logits is None:
        member_logits = (output.logits if fake_column == FAKE else output.logits.flip(-1))[:, None]
    log_odds = (member_logits[..., 1] - member_logits[..., 0]).float()
    temperatures, biases, weights = (
        log_odds.new_tensor(getattr(config, name, default))
        for name, default in (("temperatures", [1.0]), ("biases", [0.0]), ("weights", [1.0]))
    )
    if getattr(config, "voting", "soft") != "weighted":
        weights = torch.ones_like(weights)
    wrong = torch.where(labels == FAKE, -1, 1)[:, None]
    voted = (weights / weights.sum()).log() + logsigmoid(wrong * (log_odds / temperatures + biases))
    return torch.logsumexp(voted, dim=1)


def _balanced(labels: NDArray[Any], limit: int | None, seed: int) -> list[int]:
    """At most `limit` rows in their order: as many of each class, and more of one where the other is short."""
    generator = np.random.default_rng(seed)
    ranks = np.zeros(len(labels), dtype=int)
    for label in np.unique(labels):
        ranks[labels == label] = generator.permutation((labels == label).sum())
    return sorted(np.argsort(ranks, kind="stable")[:limit].tolist())


def _batches(
    rows: Dataset, chosen: Sequence[int], batch_size: int, skipped: Skipped
) -> Iterator[tuple[list[int], list[Image.Image]]]:
    """Numbers of rows and their images, of one size in a batch; what cannot be read is added to `skipped`."""
    numbers: list[int] = []
    images: list[Image.Image] = []
    for number in tqdm(chosen, desc="Attacking", unit="image", delay=1):
        row = rows[number]
        try:
            image = open_rgb(row["image"])
        except UnreadableImageError as error:
            skipped.append((row["file"], str(error)))
            continue
        room = min(batch_size, _PIXELS // (image.width * image.height))
        if images and (image.size != images[0].size or len(images) >= room):
            yield numbers, images
            numbers, images = [], []
        numbers, images = [*numbers, number], [*images, image]
    if images:
        yield numbers, images


def _score(
    models: Mapping[str, LoadedDetector], images: Sequence[Image.Image], batch_size: int
) -> NDArray[np.float64]:
    """Probability of fake by each model's own way to read an image, shape `(models, images)`."""
    scored = score_changes(list(models.values()), images, [None], batch_size)
    logits = np.concatenate([part[:, :, 0] for _, part, _ in scored], axis=1)
    return np.asarray(expit(logits[..., 1] - logits[..., 0]))
