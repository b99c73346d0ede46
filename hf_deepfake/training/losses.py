"""The training loss, right under gradient accumulation and in any number of processes."""

from typing import Any

import torch
from torch.nn import functional


def cross_entropy(
    outputs: Any,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Cross-entropy as Trainer's `compute_loss_func`.

    Trainer gives the number of label values of the whole accumulated batch of all processes; dividing the sum
    by the images among them makes the gradient that of one large batch, whatever the backbone's own loss does.

    Args:
        outputs: Model output with `logits`, shape `(images, 2)`.
        labels: 0 for real, 1 for fake, shape `(images,)`; or shares of both, shape `(images, 2)`.
        num_items_in_batch: Values of `labels` in all batches to average over; those of this batch where None.
        label_smoothing: Share of the label spread over both classes.
    """
    total = functional.cross_entropy(outputs.logits.float(), labels, reduction="sum", label_smoothing=label_smoothing)
    values = labels.numel() if num_items_in_batch is None else num_items_in_batch
    return total * (labels.numel() / len(labels)) / values
