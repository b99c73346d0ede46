import hashlib
import logging
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset

from hf_deepfake import InputError
from hf_deepfake.arguments import AugmentationArguments, DataArguments, DistillationArguments, ModelArguments
from hf_deepfake.data.augmentation import TRANSFORMS
from hf_deepfake.data.loading import load_splits
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.transforms import ImageTransform
from hf_deepfake.evaluation.predictions import score_images
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.training import distillation as distillation_module
from hf_deepfake.training.distillation import (
    Distillation,
    check_distillation,
    kept_logits,
    load_teacher,
    stays_the_same,
    teacher_views,
)
from hf_deepfake.training.losses import cross_entropy

STUDENT = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-1.0, 3.0]])
TEACHER = torch.tensor([[3.0, -1.0], [0.5, 0.0], [-2.0, 2.0], [0.0, 4.0]])
LABELS = torch.tensor([0, 1, 1, 0])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def loss_of(epoch: int = 0, **choices: float) -> Distillation:
    return Distillation(DistillationArguments(teacher="t", **choices), None, cross_entropy, lambda: epoch)  # type: ignore[arg-type]


def asked(loss: Distillation, rows: slice = slice(None), values: int | None = None) -> torch.Tensor:
    loss.ask({"teacher_logits": TEACHER[rows]})
    return loss(SimpleNamespace(logits=STUDENT[rows]), LABELS[rows], values)


def test_the_loss_is_that_of_the_design() -> None:
    """`alpha·T²·KL(teacher_T ‖ student_T) + (1 - alpha)·CE`, written out."""
    p, q = (TEACHER / 3).softmax(1), (STUDENT / 3).softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    expected = 0.7 * 9 * divergence + 0.3 * torch.nn.functional.cross_entropy(STUDENT, LABELS)
    torch.testing.assert_close(asked(loss_of(distillation_alpha=0.7, distillation_temperature=3.0)), expected)


def test_parts_of_an_accumulated_batch_add_up() -> None:
    loss = loss_of()
    parts = [asked(loss, rows, values=4) for rows in (slice(0, 1), slice(1, 4))]
    torch.testing.assert_close(sum(parts), asked(loss))


def test_the_temperature_falls_to_one_and_no_further() -> None:
    choices = {"distillation_temperature": 3.0, "distillation_temperature_decay": 0.5}
    assert [loss_of(epoch, **choices).temperature for epoch in range(4)] == [3.0, 1.5, 1.0, 1.0]


def test_a_batch_that_nobody_was_asked_about_has_the_loss_of_its_labels() -> None:
    """As in evaluation, which follows a batch of training."""
    loss = loss_of()
    asked(loss)
    batch = {"pixel_values": torch.zeros(4, 3, 8, 8)}
    loss.ask(batch)
    assert list(batch) == ["pixel_values"]
    found = loss(SimpleNamespace(logits=STUDENT), LABELS)
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(STUDENT, LABELS))


def test_a_teacher_is_asked_in_its_own_views_whatever_the_order_of_its_labels(
    runs: list[Path], ensemble: Path, image_folder: Path
) -> None:
    """Images are as in scoring where nothing is changed, so that what it says is what it says in scoring."""
    rows = load_splits(DataArguments(str(image_folder)))["test"]
    turned = load_detector(str(runs[2]))._replace(fake_column=0)
    for teacher in (load_detector(str(runs[0])), turned, load_detector(str(ensemble))):
        processor, config = new_detector(ModelArguments("test_resnet", image_size=32))[1], SimpleNamespace()
        augmentation = AugmentationArguments(transforms=["none"])
        view = ImageTransform(processor, augmentation, others=teacher_views(teacher, config))
        batch = MixingCollator(augmentation)(list(rows.with_transform(view)))
        loss = Distillation(DistillationArguments("t"), teacher, cross_entropy, lambda: 0)
        loss.ask(batch)
        assert sorted(batch) == ["labels", "pixel_values"]
        scored = score_images(teacher.model, teacher.processor, rows["image"], teacher.fake_column)
        expected = np.concatenate([logits for _, logits, _ in scored])
        assert loss.opinion is not None
        np.testing.assert_allclose(loss.opinion, expected, atol=0.05)  # tensors are resized to within two grey levels


def test_teacher_and_student_see_the_same_mix() -> None:
    views = torch.rand(6, 3, 8, 8)
    rows = [
        {"pixel_values": view, "teacher_pixel_values": view[:, ::2, ::2], "labels": index % 2}
        for index, view in enumerate(views)
    ]
    batch = MixingCollator(AugmentationArguments(mixup_alpha=1.0))(rows)
    assert not torch.allclose(batch["pixel_values"], views)
    torch.testing.assert_close(batch["teacher_pixel_values"], batch["pixel_values"][:, :, ::2, ::2])


def test_what_a_teacher_said_is_kept_by_content(
    runs: list[Path], image_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = load_splits(DataArguments(str(image_folder)))["test"]
    teacher = load_detector(str(runs[0]))
    first = kept_logits(teacher, rows)
    assert len(list(own_cache.rglob("teacher-*.parquet"))) == 1
    monkeypatch.setattr(teacher.model, "forward", None)
    np.testing.assert_array_equal(kept_logits(teacher, rows.select([3, 0])), first[[3, 0]])
    other = load_detector(str(runs[1]))
    assert not np.allclose(kept_logits(other, rows), first)
    assert len(list(own_cache.rglob("teacher-*.parquet"))) == 2


def test_an_image_that_vanished_is_named(runs: list[Path]) -> None:
    rows = Dataset.from_dict({"image": [{"path": "gone.png", "bytes": None}], "file": ["gone.png"], "label": [0]})
    with pytest.raises(InputError, match=r"gone\.png: the teacher cannot read it: .*no such file"):
        kept_logits(load_detector(str(runs[0])), rows)


@pytest.mark.parametrize(
    ("data", "augmentation", "same"),
    [
        ({}, {"transforms": ["none"]}, True),
        ({}, {"transforms": ["flip"], "transforms_strength": 0.0}, True),
        ({}, {"transforms": ["flip"]}, False),
        ({}, {"transforms": ["none"], "mixup_alpha": 0.1}, False),
        ({}, {"transforms": ["none"], "self_blend_prob": 0.1}, False),
        ({"streaming": True}, {"transforms": ["none"]}, False),
    ],
)
def test_images_that_do_not_change_are_looked_at_once(
    data: dict[str, Any], augmentation: dict[str, Any], same: bool
) -> None:
    assert stays_the_same(DataArguments("data", **data), AugmentationArguments(**augmentation)) is same


def test_a_teacher_that_reads_otherwise_cannot_share_augmented_images(runs: list[Path]) -> None:
    teacher = load_detector(str(runs[0]))
    teacher.model.config.reading = {"smallest_side": 32}
    with pytest.raises(InputError, match=re.escape("reads images as {'smallest_side': 32}, the student as they are")):
        teacher_views(teacher, SimpleNamespace())


def test_a_teacher_that_knows_the_answers_is_told_of(
    runs: list[Path], image_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    splits = load_splits(DataArguments(str(image_folder)))
    path = Path(splits["test"]["image"][0]["path"])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    table = pd.DataFrame({"image": [path.name], "split": "train", "sha256": digest})
    table.to_parquet(tmp_path / "training_images.parquet")
    with caplog.at_level(logging.WARNING):
        distillation_module.warn_of_overlap(str(tmp_path), splits)
    assert f"{tmp_path} was trained on 1 of the 6 test images" in caplog.text
    assert "validation" not in caplog.text


@pytest.mark.parametrize(
    ("distillation", "data", "augmentation", "message"),
    [
        ({}, {}, {"train_crop_size": 16}, "--train_crop_size: cuts what the student alone would see"),
        ({}, {}, {"cutmix_alpha": 1.0}, "--cutmix_alpha: teacher and student may read"),
        (
            {"distillation_temperature_decay": 0.5},
            {"streaming": True},
            {},
            "--distillation_temperature_decay: a stream",
        ),
    ],
)
def test_what_the_two_would_not_see_alike_is_refused(
    distillation: dict[str, Any], data: dict[str, Any], augmentation: dict[str, Any], message: str
) -> None:
    arguments = DistillationArguments("teacher", **distillation)
    with pytest.raises(InputError, match=message):
        check_distillation(arguments, DataArguments("data", **data), AugmentationArguments(**augmentation))
    check_distillation(DistillationArguments(), DataArguments("data"), AugmentationArguments(**augmentation))
    assert "crop" in TRANSFORMS  # which the first message names


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"teacher": "t", "distillation_alpha": 1.5}, r"--distillation_alpha 1\.5: a share is between 0 and 1"),
        ({"teacher": "t", "distillation_temperature": 0.5}, r"--distillation_temperature 0\.5: cannot be below 1"),
        ({"teacher": "t", "distillation_temperature_decay": 0.0}, r"--distillation_temperature_decay 0\.0: a factor"),
        ({"distillation_alpha": 0.9}, r"--distillation_alpha 0\.9: does nothing without --teacher"),
    ],
)
def test_settings_out_of_range_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        DistillationArguments(**choices)


def test_a_teacher_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: no config.json"):
        load_teacher(DistillationArguments(str(tmp_path)))
