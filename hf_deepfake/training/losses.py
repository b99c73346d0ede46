"""The training loss, right under gradient accumulation and in any number of processes."""

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import TrainingArguments

from hf_deepfake.arguments import FittingArguments
from hf_deepfake.errors import InputError


def cross_entropy(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
    class_weights: Sequence[float] | None = None,
    focal_gamma: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy as Trainer's `compute_loss_func`: `-Σ w_c · y_c · (1 - p_c)^gamma · log p_c`, averaged over images.

    The factor `(1 - p_c)^gamma` is that of the focal loss (Lin et al., ICCV 2017, equation 4), which leaves the loss to
    images that are not yet told apart; w are the class weights and y the shares of the label.

    Trainer gives the number of label values of the whole accumulated batch of all processes; dividing the sum
    by the images among them makes the gradient that of one large batch, whatever the backbone's own loss does. It is
    the number of images with class weights too, not the sum of their weights: an image counts as much in a batch of its
    own class as in any other, and how batches are cut changes nothing.

    Args:
        outputs: Model output with `logits`, shape `(images, 2)`.
        labels: 0 for real, 1 for fake, shape `(images,)`; or shares of both, shape `(images, 2)`.
        num_items_in_batch: Values of `labels` in all batches to average over; those of this batch where None.
        label_smoothing: Share of the label spread over both classes.
        class_weights: Of real and fake; 1 by default.
        focal_gamma: 0 for plain cross-entropy.
    """
    logits = outputs.logits.float()
    weights = logits.new_tensor(class_weights) if class_weights is not None else None
    if focal_gamma == 0:
        total = functional.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=label_smoothing)
    else:
        shares = labels if labels.ndim == 2 else functional.one_hot(labels, 2)
        shares = shares * (1 - label_smoothing) + label_smoothing / 2
        if weights is not None:
            shares = shares * weights
        log_probs = logits.log_softmax(-1)
        # 1 - p is the other class's probability, whose logarithm is exact where p rounds to 1
        total = -(shares * (focal_gamma * log_probs.flip(-1)).exp() * log_probs).sum()
    return total / images_in_batch(labels, num_items_in_batch)


def images_in_batch(labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None) -> torch.Tensor | float:
    """Images to average over: Trainer counts the values of `labels`, of which soft labels have two an image."""
    values = labels.numel() if num_items_in_batch is None else num_items_in_batch
    return values * (len(labels) / labels.numel())


def check_loss(fitting: FittingArguments, training: TrainingArguments) -> None:
    """Refuse a share of smoothing, a focal exponent or class weights that are none.

    Raises:
        InputError: If so, saying what is needed.
    """
    if not 0 <= training.label_smoothing_factor < 1:
        raise InputError(
            f"--label_smoothing_factor {training.label_smoothing_factor}: a share from 0 to below 1; 0.1 is usual."
        )
    if not 0 <= fitting.focal_gamma < math.inf:
        raise InputError(f"--focal_gamma {fitting.focal_gamma}: cannot be below 0; 2 is usual.")
    parse_class_weights(fitting.class_weights, labels=(0, 1))


def parse_class_weights(texts: Sequence[str], labels: Sequence[int] | None) -> tuple[float, float] | None:
    """Weights of real and fake images in the loss; None for none.

    `balanced` is `images / (2 · images of the class)`, which averages 1 over the training images.

    Args:
        texts: Nothing, `balanced`, or two numbers.
        labels: Of the training images; only `balanced` reads them.

    Raises:
        InputError: If they are none of these, or there is one class only.

    Example:
        >>> parse_class_weights(["balanced"], [0, 0, 0, 1])
        (0.6666666666666666, 2.0)
    """
    if not texts:
        return None
    if list(texts) == ["balanced"]:
        counts = np.bincount(np.asarray(labels), minlength=2)
        if not counts.all():
            raise InputError(f"--class_weights balanced: there are {counts[0]} real and {counts[1]} fake images.")
        real, fake = (float(counts.sum() / (2 * count)) for count in counts)
        return real, fake
    values: list[float] = []
    with contextlib.suppress(ValueError):
        values = [float(text) for text in texts]
    if len(values) != 2 or not all(0 < value < np.inf for value in values):
        raise InputError(
            f"--class_weights {' '.join(map(str, texts))}: needs balanced, or two numbers above 0, of real and fake."
        )
    return values[0], values[1]
