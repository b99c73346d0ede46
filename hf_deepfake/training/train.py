"""Fine-tune one detector over `transformers.Trainer` and leave a run directory."""

import ctypes
import dataclasses
import logging
import math
import os
import platform
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedModel,
    ProgressCallback,
    TimmWrapperImageProcessor,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from hf_deepfake.data.augmentation import TRANSFORMS
from hf_deepfake.data.augmentation import augmentation as named_transforms
from hf_deepfake.data.caching import cache_resized
from hf_deepfake.data.checking import Skipped, drop_unreadable, report_skipped
from hf_deepfake.data.faces import find_cropper
from hf_deepfake.data.fingerprints import save_training_images, training_images
from hf_deepfake.data.loading import load_splits
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.streaming import TrainingStream, load_streaming
from hf_deepfake.data.transforms import ImageTransform, add_blends, collate
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import reader_of
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import benchmark_metrics, environment, save_results
from hf_deepfake.evaluation.metrics import LOWER_IS_BETTER, detection_metrics
from hf_deepfake.evaluation.plots import plot_benchmark, plot_training
from hf_deepfake.evaluation.predictions import predictions_table, save_predictions
from hf_deepfake.models.detector import new_detector
from hf_deepfake.publishing.card import save_detector_card
from hf_deepfake.recipe import (
    AugmentationArguments,
    DataArguments,
    FittingArguments,
    ModelArguments,
    parse_recipe,
    save_recipe,
)
from hf_deepfake.training.callbacks import EarlyStopping, ReadableProgress
from hf_deepfake.training.losses import cross_entropy
from hf_deepfake.writing import whole

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


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


RECIPE = (DataArguments, AugmentationArguments, ModelArguments, FittingArguments, DetectorTrainingArguments)


class DetectorTrainer(Trainer):
    """Trainer with a collator of its own for training, a step schedule, and no weight decay on norms and biases."""

    def __init__(self, *args: Any, train_collator: Any, fitting: FittingArguments, **kwargs: Any) -> None:
        self.train_collator, self.fitting = train_collator, fitting
        super().__init__(*args, **kwargs)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Batches mixed by the training collator; Trainer has one collator for training and evaluation."""
        collator, self.data_collator = self.data_collator, self.train_collator
        try:
            loader: DataLoader[Any] = super().get_train_dataloader()
        finally:
            self.data_collator = collator
        return loader

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Weights of layers only; Trainer's own rule misses timm's norms and ConvNeXt's gains."""
        return [name for name, parameter in model.named_parameters() if parameter.ndim > 1]

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Step schedule where `lr_step_epochs` asks for it, after the usual warm-up; else Trainer's."""
        if self.fitting.lr_step_epochs is None:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            steps = num_training_steps / self.args.num_train_epochs * self.fitting.lr_step_epochs
            warmup = self.args.get_warmup_steps(num_training_steps)

            def factor(step: int) -> float:
                if step < warmup:
                    return float(step / warmup)
                return float(self.fitting.lr_step_gamma ** math.floor(step / steps))

            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)  # type: ignore[arg-type]
            self._created_lr_scheduler = True
        return self.lr_scheduler


def train(
    data: DataArguments,
    augmentation: AugmentationArguments,
    model: ModelArguments,
    fitting: FittingArguments,
    training: DetectorTrainingArguments,
) -> Path:
    """Fine-tune a detector and write its run directory.

    The best checkpoint by `metric_for_best_model` is loaded with `from_pretrained` and stands at the root of
    `output_dir`, with `recipe.yaml`, `trainer_state.json`, `predictions/`, `plots/`, `README.md` and, last of all,
    `results.json`: a run directory with that file is whole. `training_images.parquet` lists the content hashes of what it
    was trained and selected on, so that an evaluation finds overlaps.

    Returns:
        The run directory.

    Raises:
        InputError: If the data, the backbone, the precision or the output directory cannot be used.
    """
    started = time.monotonic()
    run = _run_directory(training)
    _check_selection(training)
    _check_streaming(data, fitting, training)
    _check_reading(augmentation, model)
    _check_processes(training)
    _check_precision(training)
    checkpoint = _checkpoint_to_resume(training, run)
    if training.device.type == "cpu":
        _keep_freed_memory()
    PartialState().wait_for_everyone()  # no process writes before all have looked
    set_seed(training.seed)
    named_transforms(augmentation.transforms, augmentation.transforms_strength)  # a wrong name fails before long work
    splits, stream, skipped = _read(data, augmentation, training)
    detector, processor, origin = new_detector(model)
    if checkpoint is not None:  # Trainer's own resume restores only part of some architectures
        detector = AutoModelForImageClassification.from_pretrained(checkpoint)
    if model.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    reader = reader_of(detector.config)
    main_process = PartialState().is_main_process
    seen = (
        training_images(splits, quiet=bool(training.disable_tqdm)) if main_process else None
    )  # before they are cached
    if data.cache_images:
        with training.main_process_first(desc="resizing"):
            splits = DatasetDict({name: cache_resized(rows, processor, reader) for name, rows in splits.items()})
        reader = None  # the cached images are read already
    faces = find_cropper(model.face_detector, "--face_detector") if augmentation.self_blend_prob > 0 else None
    plain = ImageTransform(processor, reader=reader, faces=faces)
    augmented = ImageTransform(processor, augmentation, reader, faces)
    views = {name: rows.with_transform(augmented if name == "train" else plain) for name, rows in splits.items()}
    if stream is not None:
        views["train"] = TrainingStream(stream, augmented, data.shuffle_buffer, training.seed)
    trainer = _trainer(detector, processor, views, MixingCollator(augmentation), fitting, training)
    if seen is not None:
        _announce(origin, splits, skipped, run)
        save_training_images(seen, run)
        save_recipe([data, augmentation, model, fitting, training], run / "recipe.yaml")
    trainer.train(resume_from_checkpoint=checkpoint)
    _finish(trainer, views, splits, started)
    return run


def _read(
    data: DataArguments, augmentation: AugmentationArguments, training: DetectorTrainingArguments
) -> tuple[DatasetDict, Any, Skipped]:
    """The splits without unreadable images, the stream of training images if there is one, and what was left out."""
    stream, blending = None, augmentation.self_blend_prob > 0
    if data.streaming:
        stream, splits = load_streaming(data, both_classes=not blending)
    else:
        splits = load_splits(data, both_classes=not blending)
    quiet = training.disable_tqdm or not PartialState().is_main_process
    splits, skipped = drop_unreadable(splits, data.dataset_name, quiet=quiet)
    return add_blends(splits, data.split_seed) if blending else splits, stream, skipped


def _run_directory(training: DetectorTrainingArguments) -> Path:
    run = Path(training.output_dir)
    found = sorted(path.name for path in run.iterdir())[:5] if run.is_dir() else []
    if found and not training.resume_from_checkpoint:
        raise InputError(
            f"{run}: not empty (found {', '.join(found)}). "
            "Choose another --output_dir, or go on with that run: --resume_from_checkpoint true."
        )
    return run


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


def _keep_freed_memory() -> None:
    """Let glibc keep what each batch frees instead of handing it back and faulting it in again for the next batch.

    Training on a CPU spends much of its time on those page faults; `benchmarks/freed_memory.py` measures how much.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(option, 2**31 - 1)


def _checkpoint_to_resume(training: DetectorTrainingArguments, run: Path) -> str | None:
    wanted = training.resume_from_checkpoint
    if not wanted or str(wanted).lower() == "false":
        return None
    if str(wanted).lower() != "true":
        if not Path(wanted).is_dir():
            raise InputError(f"--resume_from_checkpoint {wanted}: no such checkpoint folder.")
        return str(wanted)
    return get_last_checkpoint(str(run)) if run.is_dir() else None


def _trainer(
    detector: PreTrainedModel,
    processor: BaseImageProcessor,
    views: dict[str, Any],
    collator: MixingCollator,
    fitting: FittingArguments,
    training: DetectorTrainingArguments,
) -> DetectorTrainer:
    if training.greater_is_better is None:
        metric = str(training.metric_for_best_model).removeprefix("eval_").removeprefix("validation_")
        training.greater_is_better = metric not in LOWER_IS_BETTER and not metric.endswith("loss")
    if training.device.type == "cpu":
        training.dataloader_pin_memory = False
    callbacks = []
    if fitting.early_stopping_patience is not None:
        callbacks.append(EarlyStopping(fitting.early_stopping_patience))
    trainer = DetectorTrainer(
        model=detector,
        args=training,
        train_dataset=views["train"],
        eval_dataset={"validation": views["validation"]},
        processing_class=None if isinstance(processor, TimmWrapperImageProcessor) else processor,  # in config.json
        data_collator=collate,
        train_collator=collator,
        compute_metrics=_compute_metrics,
        compute_loss_func=partial(cross_entropy, label_smoothing=training.label_smoothing_factor),
        callbacks=callbacks,
        fitting=fitting,
    )
    if trainer.pop_callback(ProgressCallback) is not None:
        trainer.add_callback(ReadableProgress())
    return trainer


def _compute_metrics(prediction: Any) -> dict[str, float]:
    logits = np.asarray(prediction.predictions, dtype=np.float64)
    prob_fake = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    metrics = detection_metrics(prediction.label_ids, prob_fake)
    return {name: value for name, value in metrics.items() if isinstance(value, float)}


def _announce(origin: str, splits: DatasetDict, skipped: Skipped, run: Path) -> None:
    logger.info("%s", origin)
    for name, rows in splits.items():
        counts = pd.Series(rows["label"]).value_counts()
        logger.info("%s: %d real and %d fake images", name, counts.get(0, 0), counts.get(1, 0))
    if skipped:
        logger.warning("%s", report_skipped(skipped, run / "skipped.csv"))


def _finish(trainer: DetectorTrainer, views: dict[str, Any], splits: DatasetDict, started: float) -> None:
    """Put the best checkpoint at the root of the run directory and everything measured of it beside it."""
    run = Path(str(trainer.args.output_dir))
    best = trainer.state.best_model_checkpoint
    if best is None:
        logger.warning("validation never took place before the end, so the last weights are kept")
    else:
        weights = AutoModelForImageClassification.from_pretrained(best).state_dict()
        trainer.accelerator.unwrap_model(trainer.model).load_state_dict(weights)
    tables = {}
    for name in ("validation", "test"):
        if name in splits:
            output = trainer.predict(views[name])
            tables[name] = predictions_table(splits[name], np.asarray(output.predictions))
    if not trainer.is_world_process_zero():
        return
    _save_detector(trainer, run)
    trainer.state.save_to_json(str(run / "trainer_state.json"))
    for name, table in tables.items():
        save_predictions(table, run / "predictions" / f"{name}.parquet")
        plot_benchmark(table, name, run / "plots")
    plot_training(trainer.state.log_history, run / "plots")
    results = {
        "schema": 1,
        "model": run.name,
        "metrics": {name: benchmark_metrics(table) for name, table in tables.items()},
        "data": {name: _counts(rows) for name, rows in splits.items()},
        "training": {
            "best_step": trainer.state.best_global_step,
            "steps": trainer.state.global_step,
            "seconds": round(time.monotonic() - started, 1),
        },
        "environment": environment(trainer.args.world_size),
    }
    save_detector_card(results, run)
    save_results(results, run)


def _save_detector(trainer: DetectorTrainer, run: Path) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.problem_type = "single_label_classification"
    with whole(run / "checkpoint") as folder:
        model.save_pretrained(folder)
        if trainer.processing_class is not None:
            trainer.processing_class.save_pretrained(folder)
    for file in (run / "checkpoint").iterdir():
        file.replace(run / file.name)
    (run / "checkpoint").rmdir()


def _counts(rows: Dataset) -> dict[str, int]:
    fakes = sum(rows["label"])
    return {"real": len(rows) - fakes, "fake": fakes}


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake train`: one run directory from a recipe and flags."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # else processes on a CPU do not find each other
    names = [f"  {name:<15} {line}" for name, line in TRANSFORMS.items()]
    epilog = "\n".join(["transforms of training images, by name for --transforms:", *names])
    arguments = parse_recipe(RECIPE, list(argv or []), "hf-deepfake train", epilog)
    run = train(*arguments)
    if PartialState().is_main_process:
        logger.info("wrote %s (checkpoint, predictions, plots, README.md, results.json)", run)
        logger.info("next: hf-deepfake predict --model %s IMAGE…", run)
    return 0
