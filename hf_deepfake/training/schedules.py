"""Learning rates that change at given epochs."""

import bisect
import math
from collections.abc import Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers import SchedulerType, TrainingArguments

from hf_deepfake.arguments import FittingArguments
from hf_deepfake.errors import InputError


def parse_milestones(texts: Sequence[str]) -> list[tuple[float, float]]:
    """Epochs and the learning rates that hold from their ends on.

    Raises:
        InputError: If one is not EPOCH:RATE, or the epochs do not rise.

    Example:
        >>> parse_milestones(["2:0.0001", "15:0.00001"])
        [(2.0, 0.0001), (15.0, 1e-05)]
    """
    milestones = []
    for text in texts:
        epoch, colon, rate = str(text).partition(":")
        try:
            milestones.append((float(epoch), float(rate)))
        except ValueError:
            colon = ""
        if not colon or not (0 < milestones[-1][0] < math.inf and 0 <= milestones[-1][1] < math.inf):
            raise InputError(
                f"--lr_milestones {text}: needs EPOCH:RATE, for example 2:0.0001 for a learning rate of 0.0001 after "
                "epoch 2; in a recipe in quotes, since YAML reads colons as minutes."
            )
    epochs = [epoch for epoch, _ in milestones]
    if epochs != sorted(set(epochs)):
        raise InputError(f"--lr_milestones {' '.join(map(str, texts))}: the epochs have to rise.")
    return milestones


def check_schedule(fitting: FittingArguments, training: TrainingArguments) -> None:
    """Refuse schedules that exclude each other or would change nothing.

    Raises:
        InputError: If they do, saying which.
    """
    milestones = parse_milestones(fitting.lr_milestones)
    if fitting.lr_step_epochs is None and fitting.lr_step_gamma != FittingArguments.lr_step_gamma:
        raise InputError(f"--lr_step_gamma {fitting.lr_step_gamma}: does nothing without --lr_step_epochs.")
    if fitting.lr_step_epochs is not None and not fitting.lr_step_epochs > 0:
        raise InputError(f"--lr_step_epochs {fitting.lr_step_epochs}: needs to be above 0.")
    if not 0 < fitting.lr_step_gamma < math.inf:
        raise InputError(f"--lr_step_gamma {fitting.lr_step_gamma}: needs to be above 0, for example 0.1.")
    if not has_schedule(fitting):
        return
    if milestones and fitting.lr_step_epochs is not None:
        raise InputError("--lr_milestones and --lr_step_epochs are two schedules; leave one out.")
    if training.lr_scheduler_type != SchedulerType.LINEAR:  # the default
        raise InputError(
            f"--lr_scheduler_type {SchedulerType(training.lr_scheduler_type).value}: --lr_milestones and --lr_step_epochs are "
            "schedules of their own; leave it or them out."
        )
    if milestones and training.learning_rate <= 0:
        raise InputError(f"--learning_rate {training.learning_rate}: --lr_milestones needs one above 0 to start from.")
    if training.max_steps <= 0:
        check_change(fitting, training.num_train_epochs)


def check_change(fitting: FittingArguments, epochs: float) -> None:
    """Refuse a schedule by epoch that has changed nothing when the training ends.

    Raises:
        InputError: If so.
    """
    first = fitting.lr_step_epochs or parse_milestones(fitting.lr_milestones)[0][0]
    if first >= epochs:
        raise InputError(
            f"the training ends after {epochs:g} epochs, before the learning rate would change for the first time, after "
            f"epoch {first:g}; leave --lr_milestones and --lr_step_epochs out, or train longer."
        )


def has_schedule(fitting: FittingArguments) -> bool:
    """Whether the learning rate changes at given epochs, instead of as `lr_scheduler_type` says."""
    return fitting.lr_step_epochs is not None or bool(fitting.lr_milestones)


def schedule_by_epoch(
    optimizer: torch.optim.Optimizer,
    fitting: FittingArguments,
    learning_rate: float,
    steps_per_epoch: int,
    warmup_steps: int,
) -> LambdaLR:
    """Step or piecewise-constant schedule, behind a linear warm-up.

    Every parameter group keeps its share of the learning rate, so that it goes with rates that differ by layer.

    Args:
        optimizer: What to schedule.
        fitting: `lr_step_epochs` and `lr_step_gamma`, or `lr_milestones`.
        learning_rate: Of the start, which the milestones' rates replace.
        steps_per_epoch: Steps of the optimizer.
        warmup_steps: Likewise.
    """
    milestones = parse_milestones(fitting.lr_milestones)
    epochs, factors = [epoch for epoch, _ in milestones], [1.0, *(rate / learning_rate for _, rate in milestones)]

    def factor(step: int) -> float:
        epoch = step / steps_per_epoch + 1e-9  # the end of an epoch is not missed by rounding
        warm = min(1.0, step / warmup_steps) if warmup_steps else 1.0
        if fitting.lr_step_epochs is not None:
            return warm * float(fitting.lr_step_gamma ** math.floor(epoch / fitting.lr_step_epochs))
        return warm * factors[bisect.bisect_right(epochs, epoch)]

    return LambdaLR(optimizer, factor)
