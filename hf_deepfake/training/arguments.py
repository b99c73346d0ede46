"""Trainer's arguments with this package's defaults, and what is refused before any long work."""

import dataclasses
import os
from pathlib import Path

from transformers import TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hf_deepfake.errors import InputError
from hf_deepfake.recipe import AugmentationArguments, DataArguments, FittingArguments, ModelArguments


@dataclasses.dataclass
class DetectorTrainingArguments(TrainingArguments):
    """Trainer's own arguments; only defaults differ."""

    output_dir: str = dataclasses.field(metadata={"help": "The run directory to write."})
    eval_strategy: str = dataclasses.field(default="epoch", metadata={"help": "See TrainingArguments."})
    save_strategy: str = dataclasses.field(default="epoch", metadata={"help": "See TrainingArguments."})
    logging_strategy: str = dataclasses.field(default="epoch", metadata={"help": "See TrainingArguments."})
    save_total_limit: int | None = dataclasses.field(default=1, metadata={"help": "See TrainingArguments."})
    report_to: None | str | list[str] = dataclasses.field(  # noqa: RUF036 (the order that HfArgumentParser reads)
        default="none", metadata={"help": "See TrainingArguments."}
    )
    metric_for_best_model: str | None = dataclasses.field(
        default="eval_validation_roc_auc", metadata={"help": "Metric that picks the checkpoint; validation only."}
    )
    remove_unused_columns: bool = dataclasses.field(
        default=False, metadata={"help": "Stays False: images are decoded from their own column."}
    )
    ddp_find_unused_parameters: bool | None = dataclasses.field(
        default=False, metadata={"help": "See TrainingArguments."}
    )


def check_arguments(
    data: DataArguments,
    augmentation: AugmentationArguments,
    model: ModelArguments,
    fitting: FittingArguments,
    training: DetectorTrainingArguments,
) -> None:
    """Refuse what does not go together.

    Raises:
        InputError: If choices exclude each other, the precision or the number of processes cannot be had.
    """
    _check_selection(training)
    _check_streaming(data, fitting, training)
    _check_reading(augmentation, model)
    _check_processes(training)
    _check_precision(training)


def _check_selection(training: DetectorTrainingArguments) -> None:
    if training.metric_for_best_model is None or "no" in (training.eval_strategy, training.save_strategy):
        raise InputError(
            "--metric_for_best_model, --eval_strategy and --save_strategy are needed: they pick the checkpoint to keep."
        )


def _check_streaming(data: DataArguments, fitting: FittingArguments, training: DetectorTrainingArguments) -> None:
    by_epoch = "epoch" in (training.eval_strategy, training.save_strategy) or fitting.lr_step_epochs is not None
    if data.streaming and (training.max_steps <= 0 or by_epoch or data.cache_images):
        raise InputError(
            "--streaming: a stream has no epochs and is not cached. Pass --max_steps N --eval_strategy steps --eval_steps M "
            "--save_strategy steps --save_steps M, and neither --lr_step_epochs nor --cache_images."
        )


def _check_reading(augmentation: AugmentationArguments, model: ModelArguments) -> None:
    if model.dct_scaling and augmentation.self_blend_prob > 0:
        raise InputError(
            "--dct_scaling decodes photographs at a smaller scale, and their blends at full size, which would tell them "
            "apart; leave it or --self_blend_prob out."
        )


def _check_processes(training: DetectorTrainingArguments) -> None:
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if launched != training.world_size:
        raise InputError(
            f"{launched} processes were launched, but each sees {training.world_size}, so all would write one directory. "
            "On a CPU set ACCELERATE_USE_CPU=true, or pass --use_cpu."
        )


def _check_precision(training: DetectorTrainingArguments) -> None:
    if training.fp16 and training.device.type == "cpu":
        raise InputError("--fp16 needs a GPU; on this CPU train in float32, or try --bf16 true.")


def run_directory(training: DetectorTrainingArguments) -> Path:
    """The run directory, refused where it holds something and the run is not to be resumed."""
    run = Path(training.output_dir)
    found = sorted(path.name for path in run.iterdir())[:5] if run.is_dir() else []
    if found and not training.resume_from_checkpoint:
        raise InputError(
            f"{run}: not empty (found {', '.join(found)}). "
            "Choose another --output_dir, or go on with that run: --resume_from_checkpoint true."
        )
    return run


def checkpoint_to_resume(training: DetectorTrainingArguments, run: Path) -> str | None:
    """The checkpoint that `resume_from_checkpoint` means; None to start from the beginning."""
    wanted = training.resume_from_checkpoint
    if not wanted or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() != "true":
        if not Path(wanted).is_dir():
            raise InputError(f"--resume_from_checkpoint {wanted}: no such checkpoint folder.")
        return str(wanted)
    return get_last_checkpoint(str(run)) if run.is_dir() else None
