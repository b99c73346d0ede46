"""Moving average of the weights, which is what is evaluated and kept."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_deepfake.arguments import FittingArguments
from hf_deepfake.errors import InputError

UNAVERAGED = "unaveraged.safetensors"
"""File of a `checkpoint-N/` with the weights that training goes on from; its model file holds their average."""


def check_decay(fitting: FittingArguments) -> None:
    """Refuse a decay that is none.

    Raises:
        InputError: If it is not between 0 and 1.
    """
    if fitting.ema_decay is not None and not 0 < fitting.ema_decay < 1:
        raise InputError(f"--ema_decay {fitting.ema_decay}: needs to be between 0 and 1, for example 0.999.")


class WeightAveraging(TrainerCallback):
    """Exponential moving average of weights and buffers, batch-norm statistics among them.

    After step t the average moves by `1 - min(decay, (1 + t) / (10 + t))` of the way to the weights, as TensorFlow's
    ExponentialMovingAverage does, so that a short run is not held at its start (Polyak and Juditsky, SIAM J. Control and
    Optimization 1992; Tarvainen and Valpola, Mean teachers, NeurIPS 2017).

    Args:
        decay: Between 0 and 1; the average reaches about `1 / (1 - decay)` steps back.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: dict[str, torch.Tensor] = {}
        self._is_applied = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Start from the weights, unless a checkpoint was loaded."""
        if not self.average:
            self.average = _copies(model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Move the average towards the weights."""
        weights = model.state_dict()
        decay = min(self.decay, (1 + state.global_step) / (10 + state.global_step))
        moving = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        get_ema_multi_avg_fn(decay)(
            [self.average[name] for name in moving], [weights[name] for name in moving], state.global_step
        )
        for name in weights.keys() - set(moving):  # counts of batches
            self.average[name].copy_(weights[name])

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        """Leave the average in the model."""
        model.load_state_dict(self.average)
        self.average = {}

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Exchange weights and average within the block; the optimizer's tensors stay the same ones.

        A block within the block changes nothing: Trainer's evaluation of several sets calls itself for each.
        """
        outermost, self._is_applied = not self._is_applied, True
        if not outermost:
            yield
            return
        self._exchange(model)
        try:
            yield
        finally:
            self._exchange(model)
            self._is_applied = False

    @torch.no_grad()
    def _exchange(self, model: nn.Module) -> None:
        weights = model.state_dict()
        for name, average in self.average.items():
            kept = average.clone()
            average.copy_(weights[name])
            weights[name].copy_(kept)

    def save(self, model: nn.Module, checkpoint: Path) -> None:
        """Write the weights that training goes on from."""
        tensors = {name: tensor.contiguous() for name, tensor in _copies(model).items()}
        save_file(tensors, checkpoint / UNAVERAGED)

    def load(self, model: nn.Module, checkpoint: Path) -> None:
        """Go on from a checkpoint whose averaged weights the model holds already.

        Raises:
            InputError: If it was saved without an average.
        """
        path = checkpoint / UNAVERAGED
        if not path.is_file():
            raise InputError(f"{checkpoint}: has no {UNAVERAGED}; it was saved without --ema_decay, leave that out.")
        self.average = _copies(model)
        model.load_state_dict(load_file(path, device=str(next(model.parameters()).device)))


def _copies(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
