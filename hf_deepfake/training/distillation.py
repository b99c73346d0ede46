"""A small student that learns from a detector or an ensemble."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import numpy as np
import torch
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from torch.nn import functional
from transformers import PreTrainedModel, TrainingArguments

from hf_deepfake.arguments import AugmentationArguments, DataArguments, DistillationArguments
from hf_deepfake.data.augmentation import augmentation as named_transforms
from hf_deepfake.data.fingerprints import content_hashes, load_training_images
from hf_deepfake.data.transforms import tensor_view
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import reader_of, view_key
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.scores import ScoreStore, fill_stores, fingerprint
from hf_deepfake.labels import FAKE
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.models.exported import refuse_exported
from hf_deepfake.training.losses import images_in_batch

logger = logging.getLogger(__name__)

_PREFIX = "teacher_"

TEACHER_LOGITS = "teacher_logits"
"""Column of the training rows, and name in a batch."""


def check_distillation(
    distillation: DistillationArguments, data: DataArguments, augmentation: AugmentationArguments
) -> None:
    """Refuse what teacher and student would not see alike.

    Raises:
        InputError: If they would not, or a flag needs a teacher.
    """
    if distillation.teacher is None:
        return
    if augmentation.train_crop_size is not None:
        raise InputError(
            "--train_crop_size: cuts what the student alone would see; leave it out with --teacher, or use "
            "--transforms crop, which both see."
        )
    if augmentation.cutmix_alpha > 0:
        raise InputError(
            "--cutmix_alpha: teacher and student may read images in different sizes, so they would not see the same "
            "patch; use --mixup_alpha, which mixes both alike."
        )
    if data.streaming and distillation.distillation_temperature_decay != 1:
        raise InputError("--distillation_temperature_decay: a stream has no epochs; leave it out.")


class Lessons(NamedTuple):
    """How a student is taught.

    Attributes:
        arguments: Of the loss.
        teacher: Asked about every batch; None where the logits are there.
        views: What makes the teacher's views of an image that was augmented for the student, by their names in a batch.
        logits: The teacher's, of all training images, where these are the same in every epoch.
    """

    arguments: DistillationArguments
    teacher: LoadedDetector | None = None
    views: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {}
    logits: NDArray[np.float32] | None = None


def load_teacher(distillation: DistillationArguments) -> LoadedDetector | None:
    """The teacher; None where none is named.

    Raises:
        InputError: If it cannot be loaded.
    """
    if distillation.teacher is None:
        return None
    teacher = load_detector(distillation.teacher, distillation.teacher_revision)
    refuse_exported(teacher.model, "--teacher")
    return teacher


def prepare_lessons(
    distillation: DistillationArguments,
    teacher: LoadedDetector,
    data: DataArguments,
    augmentation: AugmentationArguments,
    splits: DatasetDict,
    student: PreTrainedModel,
    training: TrainingArguments,
) -> Lessons:
    """Let the teacher look at the training images once if that is enough.

    Raises:
        InputError: If it cannot read an image, or reads images otherwise than the student.
    """
    logger.info("%s teaches a student of %s parameters", distillation.teacher, f"{student.num_parameters():,}")
    teacher.model.requires_grad_(False)
    teacher.model.to(training.device)  # type: ignore[arg-type]
    if training.process_index == 0:
        warn_of_overlap(str(distillation.teacher), splits)
    if not stays_the_same(data, augmentation):
        return Lessons(distillation, teacher, teacher_views(teacher, student.config))
    with training.main_process_first(desc="asking the teacher"):  # the others find its answers on disk
        return Lessons(distillation, logits=kept_logits(teacher, splits["train"]))


def warn_of_overlap(teacher: str, splits: DatasetDict) -> None:
    """Say where the teacher was trained on images that the student is measured on, which flatters the student."""
    listed = load_training_images(teacher)
    if listed is None:
        return
    seen = set(listed.loc[listed["split"] == "train", "sha256"]) - {""}
    for split in ("validation", "test"):
        count = sum(digest in seen for digest in content_hashes(splits[split])) if split in splits else 0
        if count:
            logger.warning(
                "%s was trained on %d of the %d %s images, so the student's figures on them are too good; train both on "
                "the same split (--split_seed, --group_by)",
                *(teacher, count, len(splits[split]), split),
            )


def stays_the_same(data: DataArguments, augmentation: AugmentationArguments) -> bool:
    """Whether a training image is the same in every epoch, so that the teacher need look at it once only."""
    changed = named_transforms(augmentation.transforms, augmentation.transforms_strength) is not None
    return not (changed or data.streaming or augmentation.self_blend_prob > 0 or augmentation.mixup_alpha > 0)


def kept_logits(teacher: LoadedDetector, rows: Dataset, batch_size: int = 16) -> NDArray[np.float32]:
    """The teacher's logits of images, from the cache where it has seen them.

    The cache stands beside the data sets' own, below `HF_DATASETS_CACHE`, and is keyed by the content of the image and
    everything that the teacher's scores depend on. The teacher reads the files as it does in scoring.

    Returns:
        Shape `(images, 2)`, columns real and fake.

    Raises:
        InputError: If the teacher cannot read an image.
    """
    key = fingerprint(teacher)
    path = Path(datasets.config.HF_DATASETS_CACHE) / "hf_deepfake" / f"teacher-{key[:32]}.parquet"
    store = ScoreStore(path, key)
    hashes = content_hashes(rows)
    errors = fill_stores({"": store}, {"": teacher}, rows, hashes, {"": None}, "teacher's images", batch_size)
    if errors:
        row, reason = next(iter(errors.items()))
        raise InputError(f"{rows['file'][row]}: the teacher cannot read it: {reason}")
    return store.logits(hashes, "").astype(np.float32)


def teacher_views(teacher: LoadedDetector, student_config: Any) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """What makes the teacher's views of an image that was augmented for the student, by the name of each in a batch.

    Raises:
        InputError: If the teacher reads files otherwise than the student (cut to the face, scaled in decoding).
    """
    processor: Any = teacher.processor
    own = reader_of(teacher.model.config)
    if own is not None:
        processors, readings = [processor], [own.settings()]
    else:
        processors = processor.processors
        readings = [view.get("reading", {}) for view in processor.views]
    student = getattr(student_config, "reading", {})
    for reading in readings:
        if reading != student:
            raise InputError(
                f"--teacher: reads images as {reading or 'they are'}, the student as {student or 'they are'}; give the "
                "student the same --face_crop and --dct_scaling, or --transforms none, with which each reads for itself."
            )
    return {_PREFIX + view_key(index): tensor_view(processor) for index, processor in enumerate(processors)}


class Distillation:
    """Trainer's `compute_loss_func` for a student: `alpha·T²·KL(teacher_T ‖ student_T) + (1 - alpha)·loss of the labels`.

    The index T means softmax of logits divided by T, the same T for both (Hinton et al., Distilling the Knowledge in a
    Neural Network, 2015, section 2.1). T falls by a factor each epoch, to no less than 1. An ensemble's logits are
    the log of its vote. Without the teacher's opinion, as in evaluation, it is the loss of the labels alone.

    Args:
        arguments: Alpha, T and the factor.
        teacher: Asked about every batch; None where its logits come with the batch.
        label_loss: Loss of the labels.
        epoch: Says how many epochs are over.
    """

    def __init__(
        self,
        arguments: DistillationArguments,
        teacher: LoadedDetector | None,
        label_loss: Callable[..., torch.Tensor],
        epoch: Callable[[], int],
    ) -> None:
        self.arguments, self.teacher, self.label_loss, self.epoch = arguments, teacher, label_loss, epoch
        self.opinion: torch.Tensor | None = None

    @property
    def temperature(self) -> float:
        """T of the present epoch."""
        arguments = self.arguments
        return max(1.0, arguments.distillation_temperature * arguments.distillation_temperature_decay ** self.epoch())

    def ask(self, batch: dict[str, torch.Tensor]) -> None:
        """Take what is the teacher's out of a batch, and its opinion for the loss that follows."""
        views = {name: batch.pop(name) for name in list(batch) if name.startswith(_PREFIX)}
        self.opinion = views.pop(TEACHER_LOGITS, None)
        if views and self.teacher is not None:
            with torch.no_grad():
                own = {name.removeprefix(_PREFIX): view for name, view in views.items()}
                logits = self.teacher.model(**own).logits.float()
            self.opinion = logits if self.teacher.fake_column == FAKE else logits.flip(-1)

    def __call__(
        self, outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Loss of a batch that was asked about."""
        loss = self.label_loss(outputs, labels, num_items_in_batch=num_items_in_batch)
        if self.opinion is None:
            return loss
        alpha, temperature = self.arguments.distillation_alpha, self.temperature
        student, teacher = (
            (logits.float() / temperature).log_softmax(-1) for logits in (outputs.logits, self.opinion)
        )
        divergence = functional.kl_div(student, teacher, reduction="sum", log_target=True)
        soft = math.pow(temperature, 2) * divergence / images_in_batch(labels, num_items_in_batch)
        return alpha * soft + (1 - alpha) * loss
