"""Fine-tune one detector over `transformers.Trainer` and leave a run directory."""

import contextlib
import copy
import dataclasses
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from datasets import DatasetDict
from rich.console import Console
from transformers import TrainerState, set_seed

from hf_deepfake.arguments import (
    AugmentationArguments,
    ContinuingArguments,
    DataArguments,
    DistillationArguments,
    FittingArguments,
    ModelArguments,
    TuningArguments,
)
from hf_deepfake.data.augmentation import TRANSFORMS
from hf_deepfake.data.augmentation import augmentation as named_transforms
from hf_deepfake.data.caching import cache_resized
from hf_deepfake.data.checking import Skipped, drop_unreadable, report_skipped
from hf_deepfake.data.faces import find_cropper
from hf_deepfake.data.fingerprints import save_training_images, training_images
from hf_deepfake.data.loading import load_splits
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.streaming import TrainingStream, load_streaming
from hf_deepfake.data.transforms import ImageTransform, add_blends
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import reader_of
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import load_results
from hf_deepfake.evaluation.plots import plot_training
from hf_deepfake.memory import keep_freed_memory
from hf_deepfake.models.checkpoints import load_checkpoint
from hf_deepfake.models.detector import new_detector
from hf_deepfake.recipe import default_recipe, parse_recipe, resolved_recipe, save_recipe
from hf_deepfake.training.arguments import (
    DetectorTrainingArguments,
    check_arguments,
    checkpoint_to_resume,
    run_directory,
)
from hf_deepfake.training.continual import MeasureBefore, check_earlier, forgetting_table, with_old_images
from hf_deepfake.training.devices import memory_advice
from hf_deepfake.training.distillation import TEACHER_LOGITS, check_distillation, load_teacher, prepare_lessons
from hf_deepfake.training.finishing import finish
from hf_deepfake.training.guarding import disk_watched
from hf_deepfake.training.resuming import (
    begun_with,
    check_same_origin,
    check_same_recipe,
    drop_checkpoints,
    is_trained,
    save_origin,
)
from hf_deepfake.training.trainer import DetectorTrainer, build_trainer
from hf_deepfake.training.tuning import check_tuning

logger = logging.getLogger(__name__)

RECIPE = (
    DataArguments,
    AugmentationArguments,
    ModelArguments,
    FittingArguments,
    DetectorTrainingArguments,
    DistillationArguments,
    TuningArguments,
    ContinuingArguments,
)


def train(
    data: DataArguments,
    augmentation: AugmentationArguments,
    model: ModelArguments,
    fitting: FittingArguments,
    training: DetectorTrainingArguments,
    distillation: DistillationArguments | None = None,
    tuning: TuningArguments | None = None,
    continuing: ContinuingArguments | None = None,
) -> Path:
    """Fine-tune a detector and write its run directory.

    The best checkpoint by `metric_for_best_model` is loaded with `from_pretrained` and stands at the root of
    `output_dir`, with `recipe.yaml`, `trainer_state.json`, `predictions/`, `plots/`, `README.md` and, last of all,
    `results.json`: a run directory with that file is whole. `training_images.parquet` lists the content hashes of what it
    was trained and selected on, so that an evaluation finds overlaps, and `origin.json` what data, code and environment it
    began with. The folders `checkpoint-N` are for resuming, which gives the same bits on a CPU, and go with the end.

    Returns:
        The run directory.

    Raises:
        InputError: If the data, the backbone, the precision or the output directory cannot be used, the run to resume
            began with other data or another recipe, the loss is no longer a finite number, or the disk is full.
    """
    started = time.monotonic()
    run = run_directory(training)
    distillation, tuning = distillation or DistillationArguments(), tuning or TuningArguments()
    continuing = continuing or ContinuingArguments()
    if continuing.init_from is not None:
        check_earlier(continuing, model.image_size, str(run))
        model = dataclasses.replace(model, model_name_or_path=continuing.init_from, pretrained=False)
    check_arguments(data, augmentation, model, fitting, training)
    check_distillation(distillation, data, augmentation)
    check_tuning(tuning, data, training)
    checkpoint = checkpoint_to_resume(training, run)
    recipe = [data, augmentation, model, fitting, training, distillation, tuning, continuing]
    training = copy.copy(training)  # Trainer changes its own
    if _is_finished(run, checkpoint, recipe, continuing):
        return run
    if training.device.type == "cpu":
        keep_freed_memory()
    PartialState().wait_for_everyone()  # no process writes before all have looked
    named_transforms(augmentation.transforms, augmentation.transforms_strength)  # a wrong name fails before long work
    teacher = load_teacher(distillation)
    set_seed(training.seed)
    splits, stream, skipped = _read(data, augmentation, training)
    replay = None
    if continuing.init_from is not None:
        quiet = bool(training.disable_tqdm) or not PartialState().is_main_process
        replay = with_old_images(splits, continuing, augmentation, training.seed, quiet)
        splits = replay.splits
    seen, now = None, None
    if PartialState().is_main_process:
        seen = training_images(splits, quiet=bool(training.disable_tqdm))  # before they are cached
        now = begun_with(splits, seen, training.world_size, teacher)
        if checkpoint is not None and not continuing.resume_anyway:
            check_same_origin(now, Path(checkpoint).parent)
    detector, processor, origin = new_detector(model)
    if checkpoint is not None:  # Trainer's own resume restores only part of some architectures
        detector = load_checkpoint(checkpoint)
    if model.channels_last:
        detector.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    reader = reader_of(detector.config)
    lessons = None
    if teacher is not None:
        lessons = prepare_lessons(distillation, teacher, data, augmentation, splits, detector, training)
    if data.cache_images:
        with training.main_process_first(desc="resizing"):
            splits = DatasetDict({name: cache_resized(rows, processor, reader) for name, rows in splits.items()})
        reader = None  # the cached images are read already
    if lessons is not None and lessons.logits is not None:
        splits["train"] = splits["train"].add_column(TEACHER_LOGITS, lessons.logits.tolist())
    faces = find_cropper(model.face_detector, "--face_detector") if augmentation.self_blend_prob > 0 else None
    plain = ImageTransform(processor, reader=reader, faces=faces)
    augmented = ImageTransform(processor, augmentation, reader, faces, lessons.views if lessons else None)
    views = {name: rows.with_transform(augmented if name == "train" else plain) for name, rows in splits.items()}
    if stream is not None:
        views["train"] = TrainingStream(stream, augmented, data.shuffle_buffer, training.seed)
    rows = splits["train"] if stream is None else None
    trainer = build_trainer(
        detector, processor, views, MixingCollator(augmentation), fitting, training, rows, lessons, tuning
    )
    if seen is not None and now is not None:
        with disk_watched(run):
            _announce(origin, splits, skipped, run)
            save_training_images(seen, run)
            save_origin(now, run)
            save_recipe(recipe, run / "recipe.yaml")
            drop_checkpoints(run, incomplete_only=True)
    if replay is not None:
        trainer.add_callback(MeasureBefore(trainer, views, splits, run))
    _fit(trainer, run, checkpoint, continuing.resume_anyway)
    with disk_watched(run):
        finish(trainer, views, splits, started, replay.summary if replay else None, continuing.keep_checkpoints)
    return run


def _is_finished(run: Path, checkpoint: str | None, recipe: Sequence[Any], continuing: ContinuingArguments) -> bool:
    """Whether there is nothing left to do; if not, whether the run may be resumed is checked before long work."""
    finished = (run / "results.json").is_file()
    if (finished or checkpoint is not None) and not continuing.resume_anyway:
        before = Path(checkpoint).parent if checkpoint is not None else run
        check_same_recipe(resolved_recipe(recipe), before, default_recipe(recipe))
    if not finished:
        return False
    if continuing.resume_anyway and checkpoint is None:
        raise InputError(
            f"{run}: is finished, and its checkpoints are deleted. Go on from it into another directory: --init_from {run}."
        )
    if not continuing.resume_anyway:
        logger.info("%s is finished; nothing to do", run)
        if not continuing.keep_checkpoints and PartialState().is_main_process:
            drop_checkpoints(run)  # of a run that was stopped while it did
        return True
    PartialState().wait_for_everyone()
    (run / "results.json").unlink(missing_ok=True)  # it is no longer whole
    return False


def _fit(trainer: DetectorTrainer, run: Path, checkpoint: str | None, forced: bool) -> None:
    """Train, unless the checkpoint is of the end; the curves are drawn also where it is interrupted."""
    if checkpoint is not None and not forced and is_trained(Path(checkpoint)):
        trainer.state = TrainerState.load_from_json(str(Path(checkpoint) / "trainer_state.json"))
        return
    try:
        with memory_advice(
            f"training with batches of {trainer.args.per_device_train_batch_size}",
            "--auto_find_batch_size true, or a smaller --per_device_train_batch_size with --gradient_accumulation_steps, or "
            "--activation_checkpointing true",
        ):
            trainer.train(resume_from_checkpoint=checkpoint)
    except BaseException:
        if trainer.is_world_process_zero() and trainer.state.log_history:
            with contextlib.suppress(OSError):  # a full disk may be the reason
                plot_training(trainer.state.log_history, run / "plots")
        raise


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


def _announce(origin: str, splits: DatasetDict, skipped: Skipped, run: Path) -> None:
    logger.info("%s", origin)
    for name, rows in splits.items():
        counts = pd.Series(rows["label"]).value_counts()
        logger.info("%s: %d real and %d fake images", name, counts.get(0, 0), counts.get(1, 0))
    if skipped:
        logger.warning("%s", report_skipped(skipped, run / "skipped.csv"))


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake train`: one run directory from a recipe and flags."""
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(format="%(message)s", level=logging.INFO if first else logging.ERROR)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available():
        os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # else processes on a CPU do not find each other
    names = [f"  {name:<15} {line}" for name, line in TRANSFORMS.items()]
    epilog = "\n".join(["transforms of training images, by name for --transforms:", *names])
    arguments = parse_recipe(RECIPE, list(argv or []), "hf-deepfake train", epilog)
    run = train(*arguments)
    if PartialState().is_main_process:
        results = load_results(run)
        if "continual" in results:
            Console().print(forgetting_table(results))
        logger.info("wrote %s (checkpoint, predictions, plots, README.md, results.json)", run)
        logger.info("next: hf-deepfake predict --model %s IMAGE…", run)
    return 0
