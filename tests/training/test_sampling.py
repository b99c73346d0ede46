from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator
from conftest import build_tiny_vit
from datasets import Dataset
from transformers import ViTImageProcessor

from hf_deepfake import InputError
from hf_deepfake.arguments import AugmentationArguments, DataArguments, FittingArguments
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.sampling import BalancedSampler, SharedBatches, balanced_shares, check_balancing
from hf_deepfake.training.trainer import build_trainer

ROWS = Dataset.from_dict({"label": [0, 1, 1, 1, 1, 1], "source": [None, "a", "b", "b", "b", "b"]})


def test_classes_are_drawn_equally_often() -> None:
    np.testing.assert_allclose(balanced_shares(ROWS, "class"), [1 / 2] + [1 / 10] * 5)


def test_sources_are_drawn_equally_often_within_their_class() -> None:
    np.testing.assert_allclose(balanced_shares(ROWS, "source"), [1 / 2, 1 / 4] + [1 / 16] * 4)


def test_what_is_drawn_depends_on_seed_and_epoch_alone() -> None:
    shares = balanced_shares(ROWS, "class")
    draws = {(seed, epoch): list(BalancedSampler(shares, seed, lambda epoch=epoch: epoch)) for seed in (0, 1) for epoch in (0, 1)}  # type: ignore[misc] # fmt: skip
    assert draws[0, 1] == list(BalancedSampler(shares, 0, lambda: 1))
    assert len({tuple(draw) for draw in draws.values()}) == 4


def test_an_epoch_has_as_many_images_as_ever_and_as_many_of_either_class() -> None:
    labels = [0] * 50 + [1] * 950
    drawn = list(BalancedSampler(balanced_shares(Dataset.from_dict({"label": labels}), "class"), 0, lambda: 0))
    assert len(drawn) == 1000
    assert 420 < sum(labels[index] == 0 for index in drawn) < 580


@pytest.mark.parametrize(("batch_size", "processes"), [(4, 2), (3, 3), (16, 4), (2, 2), (64, 8)])
def test_processes_share_an_epoch_in_as_many_turns_and_no_image_twice(batch_size: int, processes: int) -> None:
    for images in range(processes, 150):
        batches = SharedBatches(range(images), batch_size, processes)
        shared = list(batches)
        assert len(shared) == len(batches) == -(-images // (batch_size * processes)) * processes
        assert sorted(row for batch in shared for row in batch) == list(range(images))
        sizes = [len(batch) for batch in shared]
        assert all(0 < size <= batch_size for size in sizes), images
        assert set(sizes[: -2 * processes]) <= {batch_size}
        if batch_size > 3 and images > 2 * processes:
            assert min(sizes) > 1, images


@pytest.mark.parametrize("by", [None, "class"])
def test_what_a_trainer_gives_two_processes_is_what_one_would_get(
    by: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Dataset.from_dict({"label": [0] * 9 + [1] * 14})

    def batches(processes: int, process: int) -> list[list[int]]:
        monkeypatch.setattr(Accelerator, "num_processes", processes)
        monkeypatch.setattr(Accelerator, "process_index", process)
        options = DetectorTrainingArguments(str(tmp_path), use_cpu=True, per_device_train_batch_size=8 // processes)
        views = {"train": rows, "validation": rows}
        collator = MixingCollator(AugmentationArguments())
        fitting = FittingArguments(balanced_sampling=by)
        trainer = build_trainer(build_tiny_vit(32), ViTImageProcessor(), views, collator, fitting, options, rows)
        return list(trainer.get_train_dataloader().batch_sampler)

    alone, first, second = batches(1, 0), batches(2, 0), batches(2, 1)
    assert [len(batch) for batch in alone] == [8, 8, 7]
    assert (
        [len(batch) for batch in first] == [len(batch) + (step == 2) for step, batch in enumerate(second)] == [4, 4, 4]
    )
    assert [sorted(own + other) for own, other in zip(first, second, strict=True)] == [
        sorted(batch) for batch in alone
    ]


def test_sources_have_to_be_known() -> None:
    with pytest.raises(InputError, match=r"no column source; they have \['label'\]"):
        balanced_shares(ROWS.remove_columns("source"), "source")


def test_one_class_cannot_be_balanced() -> None:
    with pytest.raises(InputError, match="the training images are all of one class"):
        balanced_shares(Dataset.from_dict({"label": [1, 1]}), "class")


@pytest.mark.parametrize(
    ("fitting", "data", "augmentation", "message"),
    [
        (
            FittingArguments(balanced_sampling="colour"),
            {},
            {},
            "--balanced_sampling colour: needs to be class or source",
        ),
        (
            FittingArguments(balanced_sampling="class", class_weights=["balanced"]),
            {},
            {},
            "--balanced_sampling and --class_weights balanced make up for the same",
        ),
        (FittingArguments(balanced_sampling="class"), {"streaming": True}, {}, "a stream's classes are not counted"),
        (
            FittingArguments(class_weights=["balanced"]),
            {"streaming": True},
            {},
            "--class_weights balanced: a stream's",
        ),
        (
            FittingArguments(balanced_sampling="class"),
            {},
            {"self_blend_prob": 0.5},
            "is what --self_blend_prob makes it",
        ),
    ],
)
def test_what_cannot_be_balanced_is_refused(
    fitting: FittingArguments, data: dict[str, bool], augmentation: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_balancing(DataArguments("data", **data), AugmentationArguments(**augmentation), fitting)  # type: ignore[arg-type]
