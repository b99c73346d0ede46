"""What of a detector is trained: how the choices are checked and made true."""

from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from hf_deepfake.arguments import DataArguments, TuningArguments
from hf_deepfake.errors import InputError
from hf_deepfake.models.blocks import lower_half
from hf_deepfake.models.fourier import FourierHead
from hf_deepfake.models.lora import add_adapters
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.freezing import (
    Stage,
    check_last_stage,
    keep_frozen_at_rest,
    set_trained,
    trained_parameters,
    training_stages,
)
from hf_deepfake.training.supervision import FourierLoss


def check_tuning(tuning: TuningArguments, data: DataArguments, training: DetectorTrainingArguments) -> None:
    """Refuse what does not go together, and what would do nothing.

    Raises:
        InputError: If so.
    """
    stages = training_stages(tuning)
    last = stages[-1].train
    if tuning.unfreeze_at:
        _check_unfreezing(stages, data, training)
    for name in ("lora_rank", "lora_alpha"):
        value = getattr(tuning, name)
        if value is not None and tuning.train != "lora":
            raise InputError(f"--{name} {value}: does nothing without --train lora.")
        if value is not None and not value > 0:
            raise InputError(f"--{name} {value}: needs to be above 0.")
    if tuning.layer_decay is not None:
        if not 0 < tuning.layer_decay < 1:
            raise InputError(f"--layer_decay {tuning.layer_decay}: needs to be above 0 and below 1, for example 0.75.")
        if last == "probe":
            raise InputError(f"--layer_decay {tuning.layer_decay}: does nothing where the head alone is trained.")
    _check_fourier(tuning, last, data, training)


def _check_unfreezing(stages: list[Stage], data: DataArguments, training: DetectorTrainingArguments) -> None:
    if data.streaming:
        raise InputError("--unfreeze_at: a stream has no epochs; leave --streaming out.")
    if training.max_steps <= 0:
        check_last_stage(stages, training.num_train_epochs)


def _check_fourier(
    tuning: TuningArguments, last: str, data: DataArguments, training: DetectorTrainingArguments
) -> None:
    weight, growth = tuning.fourier_weight, tuning.fourier_growth
    if weight < 0:
        raise InputError(f"--fourier_weight {weight}: cannot be below 0.")
    if growth is not None and weight == 0:
        raise InputError(f"--fourier_growth {growth}: does nothing without --fourier_weight, which it grows to.")
    if growth is not None and not growth > 0:
        raise InputError(f"--fourier_growth {growth}: needs to be above 0.")
    if growth is not None and data.streaming:
        raise InputError(f"--fourier_growth {growth}: a stream has no epochs; leave it or --streaming out.")
    if weight > 0 and training.n_gpu > 1:
        raise InputError(
            f"--fourier_weight {weight}: {training.n_gpu} GPUs in one process; start one process a GPU with accelerate "
            "launch, or set CUDA_VISIBLE_DEVICES=0."
        )
    if weight > 0 and last == "probe":
        raise InputError(f"--fourier_weight {weight}: does nothing where the head alone is trained.")


def prepare_tuning(detector: PreTrainedModel, tuning: TuningArguments, views: Any) -> list[Stage]:
    """Add adapters, freeze what the first stage does not train, and keep it at rest.

    Args:
        detector: Changed in place.
        tuning: What is trained.
        views: Images as the detector reads them, each with its `pixel_values`.

    Returns:
        The stages.

    Raises:
        InputError: If there are not so many blocks, or Fourier supervision would reach none that is ever trained.
    """
    stages = training_stages(tuning)
    if tuning.train == "lora":
        rank = tuning.lora_rank or 8
        pixel_values = torch.as_tensor(views[0]["pixel_values"])[None].to(detector.device)
        add_adapters(detector, rank, tuning.lora_alpha or 2 * rank, pixel_values)
    for stage in reversed(stages):  # all, so that a number of blocks that is too large is told of now
        set_trained(detector, stage.train)
    if tuning.fourier_weight > 0:
        lower = {name for names in lower_half(detector) for name in names}
        if not lower & trained_parameters(detector, stages[-1].train):
            raise InputError(
                f"--fourier_weight {tuning.fourier_weight}: does nothing where no block of the lower half is trained; "
                f"--train {stages[-1].train} trains later ones only."
            )
    if stages[0].train != "full":
        keep_frozen_at_rest(detector)
    return stages


def refuse_sharding(trainer: Trainer) -> None:
    """Refuse to divide weights among processes where all are needed at once.

    Raises:
        InputError: If the trainer does.
    """
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise InputError(
            "--unfreeze_at, --layer_decay, --fourier_weight, --train lora and --head mlp need every process to hold all "
            f"weights, which {'FSDP' if trainer.is_fsdp_enabled else 'DeepSpeed'} divides; leave them or that out."
        )


def supervise(
    trainer: Trainer, detector: PreTrainedModel, view: dict[str, Any], tuning: TuningArguments
) -> FourierLoss:
    """Add Fourier supervision to a trainer's loss.

    Args:
        trainer: With the loss that it is added to.
        detector: As it is trained.
        view: Any image as the detector reads it, with its `pixel_values`.
        tuning: For the weight and its growth.
    """
    head = FourierHead(detector, torch.as_tensor(view["pixel_values"])[None].to(detector.device)).to(detector.device)
    plain: Any = trainer.compute_loss_func
    loss = FourierLoss(plain, head, tuning.fourier_weight, tuning.fourier_growth, trainer.accelerator)
    trainer.compute_loss_func = loss
    trainer.add_callback(loss)
    return loss
