"""Fourier supervision: the detector's loss and that of a head which predicts the spectrum."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_deepfake.models.fourier import FourierHead
from hf_deepfake.training.losses import images_in_batch

HEAD = "fourier_head.safetensors"
"""File of a `checkpoint-N/` with the head, which the detector's own files have no trace of."""


class FourierLoss(TrainerCallback):
    """Adds the Fourier head's loss to a `compute_loss_func`, weighted by epoch: `min(weight, growth · (epoch + 1))`.

    Evaluation has the loss without it.

    Args:
        loss: What it is added to.
        head: Watches the detector.
        weight: In the end.
        growth: By which it grows each epoch; None for the same weight in all.
        accelerator: Averages the head's gradient over processes, which the detector's own wrapper does not.
    """

    def __init__(
        self,
        loss: Callable[..., torch.Tensor],
        head: FourierHead,
        weight: float,
        growth: float | None,
        accelerator: Accelerator,
    ) -> None:
        self.loss, self.head, self.accelerator = loss, head, accelerator
        self.cap, self.growth = weight, growth
        self.weight = 0.0

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None, **kwargs: Any
    ) -> torch.Tensor:
        """Both losses, as means over the images of the accumulated batch."""
        loss = self.loss(outputs, labels, num_items_in_batch=num_items_in_batch, **kwargs)
        errors = self.head.errors()
        if errors is None:
            return loss
        return loss + self.weight * errors.sum() / images_in_batch(labels, num_items_in_batch)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Weight of this epoch; after an interruption too."""
        epoch = math.floor((state.epoch or 0) + 1e-6)
        self.weight = self.cap if self.growth is None else min(self.cap, self.growth * (epoch + 1))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Forget the head's gradient of the step before; Trainer does so with the model's parameters only."""
        self.head.zero_grad()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Average the head's gradient over processes."""
        if self.accelerator.num_processes > 1:
            for parameter in self.head.parameters():
                parameter.grad = self.accelerator.reduce(parameter.grad, "mean")

    def save(self, checkpoint: Path) -> None:
        """Write the head."""
        save_file({name: tensor.contiguous() for name, tensor in self.head.state_dict().items()}, checkpoint / HEAD)

    def load(self, checkpoint: Path) -> None:
        """Go on with the head of a checkpoint."""
        self.head.load_state_dict(load_file(checkpoint / HEAD))
