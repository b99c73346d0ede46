"""Trainer's arguments with this package's defaults, and what is refused before any long work."""

import dataclasses
import os
from pathlib import Path
from typing import Any

import torch
from transformers import SchedulerType, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations
from transformers.trainer_utils import IntervalStrategy, SaveStrategy
from transformers.utils.import_utils import is_torch_xla_available

from hf_deepfake.arguments import AugmentationArguments, DataArguments, FittingArguments, ModelArguments
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import INTERVALS, LOWER_IS_BETTER
from hf_deepfake.publishing.push import check_access, check_name
from hf_deepfake.training.averaging import check_decay
from hf_deepfake.training.devices import check_devices, default_workers
from hf_deepfake.training.losses import check_loss
from hf_deepfake.training.resuming import COMPLETE, complete_checkpoints
from hf_deepfake.training.sampling import check_balancing
from hf_deepfake.training.schedules import check_schedule, has_schedule

_PACKAGES = {"azure_ml": "azureml-core", "comet_ml": "comet-ml", "flyte": "flytekit", "kubeflow": "kubeflow-training"}
"""Of PyPI, where it has another name than the tracker."""


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
    logging_nan_inf_filter: bool = dataclasses.field(
        default=False, metadata={"help": "Stays False: a loss that is no number stops the training instead."}
    )
    restore_callback_states_from_checkpoint: bool = dataclasses.field(
        default=True, metadata={"help": "Stays True: a resumed early stopping goes on counting."}
    )
    ddp_find_unused_parameters: bool | None = dataclasses.field(
        default=False, metadata={"help": "See TrainingArguments."}
    )
    dataloader_num_workers: int = dataclasses.field(
        default=-1,
        metadata={
            "help": "Processes that read images; -1: none on a CPU, on Windows and macOS, else one a core, up to 8."
        },
    )

    def __post_init__(self) -> None:
        if self.dataloader_num_workers < 0:
            self.dataloader_num_workers = default_workers(torch.accelerator.is_available() and not self.use_cpu)
        if self.greater_is_better is None:  # Trainer's own rule knows nothing but losses
            metric = str(self.metric_for_best_model).removeprefix("eval_").removeprefix("validation_")
            self.greater_is_better = metric not in LOWER_IS_BETTER and not metric.endswith("loss")
        if self.bf16 and not torch.accelerator.is_available() and not is_torch_xla_available():
            self.use_cpu = True  # there is nothing else, but Trainer wants to be told
        super().__post_init__()
        if self.lr_scheduler_type in (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY):  # to them low is better
            given: Any = self.lr_scheduler_kwargs or {}
            self.lr_scheduler_kwargs = {"mode": "max" if self.greater_is_better else "min"} | given


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
    if not model.model_name_or_path:
        raise InputError(
            "--model_name_or_path is needed: a Hub id, a checkpoint folder or a timm name; or --init_from RUN."
        )
    _check_selection(training)
    _check_trackers(training)
    _check_streaming(data, fitting, training)
    check_schedule(fitting, training)
    check_loss(fitting, training)
    check_balancing(data, augmentation, fitting)
    check_decay(fitting)
    if fitting.early_stopping_patience is not None and fitting.early_stopping_patience < 1:
        raise InputError(f"--early_stopping_patience {fitting.early_stopping_patience}: needs to be at least 1.")
    _check_reading(augmentation, model)
    _check_hub(training)
    _check_processes(training)
    check_devices(training)


def _check_selection(training: DetectorTrainingArguments) -> None:
    if training.metric_for_best_model is None or "no" in (training.eval_strategy, training.save_strategy):
        raise InputError(
            "--metric_for_best_model, --eval_strategy and --save_strategy are needed: they pick the checkpoint to keep."
        )
    wanted = training.metric_for_best_model.removeprefix("eval_")
    known = ["loss", *(name for name in INTERVALS if name != "precision")]  # undefined where nothing is called fake
    if wanted not in [f"validation_{name}" for name in known]:
        raise InputError(
            f"--metric_for_best_model {training.metric_for_best_model}: picks no checkpoint; it is eval_validation_ and one "
            f"of {', '.join(known)}."
        )
    saved = training.save_strategy in ("best", training.eval_strategy)
    if saved and training.save_strategy == "steps":
        measured, kept = float(training.eval_steps or 0), float(training.save_steps)
        shares = min(measured, kept) < 1  # of the training, which Trainer rounds up to steps
        saved = measured == kept if shares else measured % kept == 0
    if not saved:
        raise InputError(
            f"--eval_strategy {IntervalStrategy(training.eval_strategy).value} --eval_steps {training.eval_steps} and "
            f"--save_strategy {SaveStrategy(training.save_strategy).value} --save_steps {training.save_steps}: "
            "what is measured has to be saved, since the best of it is kept. Take the same strategy for both, and eval_steps a multiple of save_steps."
        )


def _check_trackers(training: DetectorTrainingArguments) -> None:
    for name in training.report_to or []:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise InputError(f"--report_to {name}: no such tracker; there are {known}.")
        if name not in get_available_reporting_integrations():
            package = _PACKAGES.get(name, name)
            raise InputError(f"--report_to {name}: is not installed; pip install {package}, or leave it out.")


def _check_streaming(data: DataArguments, fitting: FittingArguments, training: DetectorTrainingArguments) -> None:
    by_epoch = "epoch" in (training.eval_strategy, training.save_strategy) or has_schedule(fitting)
    if data.streaming and (training.max_steps <= 0 or by_epoch or data.cache_images):
        raise InputError(
            "--streaming: a stream has no epochs and is not cached. Pass --max_steps N --eval_strategy steps --eval_steps M "
            "--save_strategy steps --save_steps M, and none of --lr_step_epochs, --lr_milestones and --cache_images."
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
    if str(wanted).lower() == "true":
        return next(map(str, reversed(complete_checkpoints(run))), None)
    if not Path(wanted).is_dir():
        raise InputError(f"--resume_from_checkpoint {wanted}: no such checkpoint folder.")
    if not (Path(wanted) / COMPLETE).is_file():
        raise InputError(f"--resume_from_checkpoint {wanted}: was not saved to its end; true takes the last that was.")
    return str(wanted)


def _check_hub(training: DetectorTrainingArguments) -> None:
    if training.hub_token is not None:
        raise InputError(
            "--hub_token: would stand readable in every checkpoint; leave it out and log in with hf auth login, or set "
            "HF_TOKEN."
        )
    if training.push_to_hub:
        check_access()
        if training.hub_model_id is not None:
            check_name(training.hub_model_id)
