from typing import Any

import pytest
import torch

from hf_deepfake.arguments import AugmentationArguments
from hf_deepfake.data.mixing import MixingCollator


def rows() -> list[dict[str, Any]]:
    return [{"pixel_values": torch.full((3, 8, 8), float(index)), "labels": index % 2} for index in range(4)]


def mixed(**choices: float) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return MixingCollator(AugmentationArguments(**choices))(rows())  # type: ignore[arg-type]


def test_nothing_is_mixed_unless_asked_for() -> None:
    batch = mixed()
    assert batch["labels"].tolist() == [0, 1, 0, 1]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]


def test_mixup_mixes_pixels_and_labels_by_one_share() -> None:
    batch = mixed(mixup_alpha=1.0)
    share = float(batch["labels"][1, 1])  # of the image itself; its partner is its neighbour, of the other class
    assert 0 < share < 1
    own, partner = torch.tensor([0.0, 1, 2, 3]), torch.tensor([3.0, 0, 1, 2])
    expected = (share * own + (1 - share) * partner)[:, None, None, None].expand(4, 3, 8, 8)
    torch.testing.assert_close(batch["pixel_values"], expected)
    torch.testing.assert_close(batch["labels"].sum(1), torch.ones(4))


def test_cutmix_shares_the_label_as_it_shares_the_area() -> None:
    batch = mixed(cutmix_alpha=1.0)
    for index in range(4):
        own_area = float((batch["pixel_values"][index, 0] == index).float().mean())
        assert 0 < own_area < 1
        assert float(batch["labels"][index, index % 2]) == pytest.approx(own_area)


def test_both_take_turns() -> None:
    collator = MixingCollator(AugmentationArguments(mixup_alpha=1.0, cutmix_alpha=1.0))
    torch.manual_seed(0)
    batches = [collator(rows())["pixel_values"] for _ in range(20)]
    whole = [bool((batch == batch.round()).all()) for batch in batches]  # CutMix makes no new values
    assert 3 < sum(whole) < 17


def test_an_unmixed_batch_has_soft_labels_too() -> None:
    batch = mixed(mixup_alpha=1.0, mix_prob=0.0)
    assert batch["labels"].tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [0, 1, 2, 3]
