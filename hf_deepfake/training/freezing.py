"""What of a detector is trained, from when on, and how fast."""

import logging
import re
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from torch import nn
from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_deepfake.arguments import TuningArguments
from hf_deepfake.errors import InputError
from hf_deepfake.models.blocks import parameter_blocks
from hf_deepfake.models.lora import ADAPTER

logger = logging.getLogger(__name__)


class Stage(NamedTuple):
    """What is trained from an epoch on.

    Attributes:
        epoch: Epochs that are over by then.
        train: `probe` (the head), `head+N` (the head and the last N blocks), `lora` or `full`.
    """

    epoch: int
    train: str


def training_stages(tuning: TuningArguments) -> list[Stage]:
    """What `--train` and `--unfreeze_at` ask for, in its order.

    Raises:
        InputError: If a word is none of these, or a stage does not train more, later, than the one before.
    """
    stages = [Stage(0, tuning.train)]
    for text in tuning.unfreeze_at:
        epoch, _, train = text.partition(":")
        if not (epoch.isdigit() and train):
            raise InputError(f"--unfreeze_at {text}: needs EPOCHS:WHAT, for example 3:head+2 or 6:full.")
        stages.append(Stage(int(epoch), train))
    reach = [_reach(stage.train) for stage in stages]
    for before, after, less, more in zip(stages, stages[1:], reach, reach[1:], strict=False):
        if "lora" in (before.train, after.train):
            raise InputError("--unfreeze_at: LoRA trains its adapters from the first to the last step; leave one out.")
        if after.epoch <= before.epoch or more <= less:
            raise InputError(
                f"--unfreeze_at {after.epoch}:{after.train}: has to come later and train more than {before.train} from "
                f"epoch {before.epoch} on."
            )
    return stages


def check_last_stage(stages: Sequence[Stage], epochs: float) -> None:
    """Refuse a stage that never comes.

    Raises:
        InputError: If the last one does not.
    """
    last = stages[-1]
    if last.epoch >= epochs:
        raise InputError(
            f"--unfreeze_at {last.epoch}:{last.train}: never comes in {epochs:g} epochs; name an earlier one, or train longer."
        )


def _reach(train: str) -> float:
    """Blocks below the head that are trained."""
    blocks = re.fullmatch(r"head\+([1-9]\d*)", train)
    if blocks is None and train not in ("probe", "lora", "full"):
        raise InputError(f"--train {train}: must be probe, head+N (N blocks, such as head+2), lora or full.")
    return float(blocks[1]) if blocks else {"probe": 0, "lora": 0, "full": float("inf")}[train]


def trained_parameters(detector: PreTrainedModel, train: str) -> set[str]:
    """Names of the parameters that are trained.

    Raises:
        InputError: If there are not so many blocks, or it is not known which there are.
    """
    if train == "full":
        return {name for name, _ in detector.named_parameters()}
    *blocks, head = parameter_blocks(detector)
    reach = _reach(train)
    if len(blocks) < reach:
        raise InputError(
            f"--train {train}: {detector.config.model_type} has {len(blocks)} blocks; name fewer, or full."
        )
    trained = blocks[len(blocks) - int(reach) :]
    adapters = {name for names in blocks for name in names if ADAPTER in name}
    return {name for names in (*trained, head) for name in names} | adapters


def set_trained(detector: PreTrainedModel, train: str) -> None:
    """Let only these parameters of a detector be trained, see `trained_parameters`."""
    trained = trained_parameters(detector, train)
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(name in trained)


def keep_frozen_at_rest(detector: PreTrainedModel) -> None:
    """Keep what is frozen in evaluation mode, whatever mode the detector is put in.

    Else frozen batch norms would go on adapting their statistics to the batches, and the frozen layers' dropout and
    stochastic depth would make noise of what the trained ones are given.
    """
    detector.register_forward_pre_hook(_rest)


def _rest(module: nn.Module, args: Any) -> None:
    if module.training:
        _rest_frozen(module, True)


def _rest_frozen(module: nn.Module, trained_after: bool) -> bool:
    """Put frozen parts in evaluation mode; a part without parameters does as the next one that has some.

    Returns:
        Whether the first parameters from here on are trained.
    """
    trained = {parameter.requires_grad for parameter in module.parameters()}
    if trained == {True}:
        return True
    if len(trained) == 2:
        for child in reversed(list(module.children())):
            trained_after = _rest_frozen(child, trained_after)
        return trained_after
    trained_after = trained_after and not trained
    module.train(trained_after)
    return trained_after


class Unfreezing(TrainerCallback):
    """Trains more of the detector from given epochs on.

    The optimizer holds what any stage trains from the start: it leaves alone what has no gradient, so that moments and
    decay of a parameter begin with its stage, while its learning rate follows the one schedule.

    Args:
        detector: As it is trained.
        stages: In their order; the first from epoch 0.
    """

    def __init__(self, detector: PreTrainedModel, stages: Sequence[Stage]) -> None:
        self.detector, self.stages = detector, stages
        self.train = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin anew, and refuse a last stage that never comes, which under `max_steps` is known only now."""
        self.train = ""
        check_last_stage(self.stages, state.num_train_epochs)

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin the stage of this epoch; after an interruption too, which may have been in the middle of one."""
        train = [stage.train for stage in self.stages if stage.epoch <= (state.epoch or 0) + 1e-6][-1]
        if train != self.train:
            self.train = train
            set_trained(self.detector, train)
            logger.info("epoch %d: training %s", state.epoch or 0, train)


def parameter_groups(
    detector: PreTrainedModel,
    trained: Collection[str],
    decayed: Collection[str],
    learning_rate: float,
    weight_decay: float,
    layer_decay: float | None,
) -> list[dict[str, Any]]:
    """Groups of the optimizer; the head's come first, whose learning rate is the one that is logged.

    With layer-wise decay d (Clark et al., ELECTRA, ICLR 2020; Bao et al., BEiT, ICLR 2022), a block has the learning rate
    `d^k` times that of the head, k blocks above it.

    Args:
        detector: As it is trained.
        trained: Names of the parameters that are ever trained.
        decayed: Names of those that weight decay is for.
        learning_rate: Of the head.
        weight_decay: Of `decayed`.
        layer_decay: d; None for one rate.
    """
    parameters = dict(detector.named_parameters())
    blocks = parameter_blocks(detector)[::-1] if layer_decay is not None else [list(parameters)]
    groups = []
    for depth, names in enumerate(blocks):
        for decays in (True, False):
            chosen = [name for name in names if name in trained and (name in decayed) == decays]
            if chosen:
                rate = learning_rate * (layer_decay or 1) ** depth
                groups.append(
                    {
                        "params": [parameters[name] for name in chosen],
                        "weight_decay": weight_decay if decays else 0.0,
                        "lr": rate,
                    }
                )
    return groups
