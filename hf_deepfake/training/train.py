"""Fine-tune one detector over `transformers.Trainer` and leave a run directory."""

import ctypes
import logging
import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from datasets import DatasetDict
from transformers import AutoModelForImageClassification, set_seed

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
from hf_deepfake.models.detector import new_detector
from hf_deepfake.recipe import (
    AugmentationArguments,
    DataArguments,
    FittingArguments,
    ModelArguments,
    parse_recipe,
    save_recipe,
)
from hf_deepfake.training.arguments import (
    DetectorTrainingArguments,
    check_arguments,
    checkpoint_to_resume,
    run_directory,
)
from hf_deepfake.training.finishing import finish
from hf_deepfake.training.trainer import build_trainer

logger = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)

RECIPE = (DataArguments, AugmentationArguments, ModelArguments, FittingArguments, DetectorTrainingArguments)


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
    run = run_directory(training)
    check_arguments(data, augmentation, model, fitting, training)
    checkpoint = checkpoint_to_resume(training, run)
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
    trainer = build_trainer(detector, processor, views, MixingCollator(augmentation), fitting, training)
    if seen is not None:
        _announce(origin, splits, skipped, run)
        save_training_images(seen, run)
        save_recipe([data, augmentation, model, fitting, training], run / "recipe.yaml")
    trainer.train(resume_from_checkpoint=checkpoint)
    finish(trainer, views, splits, started)
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


def _keep_freed_memory() -> None:
    """Let glibc keep what each batch frees instead of handing it back and faulting it in again for the next batch.

    Training on a CPU spends much of its time on those page faults; `benchmarks/freed_memory.py` measures how much.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD):
            libc.mallopt(option, 2**31 - 1)


def _announce(origin: str, splits: DatasetDict, skipped: Skipped, run: Path) -> None:
    logger.info("%s", origin)
    for name, rows in splits.items():
        counts = pd.Series(rows["label"]).value_counts()
        logger.info("%s: %d real and %d fake images", name, counts.get(0, 0), counts.get(1, 0))
    if skipped:
        logger.warning("%s", report_skipped(skipped, run / "skipped.csv"))


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
