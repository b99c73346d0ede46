import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_vit
from scipy.ndimage import gaussian_filter
from scipy.stats import binomtest
from torch import nn

from hf_deepfake.errors import InputError
from hf_deepfake.explain.faithfulness import (
    _random_like,
    _ranks,
    faithfulness,
    intersection_over_union,
    pointing,
    pointing_chance,
    randomisation_check,
)

Map = np.ndarray[Any, Any]


def noise(size: int = 32) -> Map:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8)


def square(size: int = 32) -> Map:
    """A map that is 1 in the square from 4 to 12, away from the middle."""
    found = np.zeros((size, size))
    found[4:12, 4:12] = 1
    return found


def square_score(image: Map) -> Callable[[torch.Tensor], torch.Tensor]:
    """Log-odds from 10 where the square of `square` is the image's to -10 where none of it is."""
    whole = torch.from_numpy(image).permute(2, 0, 1)[:, 4:12, 4:12] / 255

    def score(pixels: torch.Tensor) -> torch.Tensor:
        same = (pixels[:, :, 4:12, 4:12] - whole).abs().amax(1) < 1e-6
        return 20 * same.float().mean((1, 2)) - 10

    return score


def test_the_true_map_empties_and_fills_the_score_at_once() -> None:
    found = faithfulness(square_score(noise()), noise(), square(), steps=16)
    assert found.deletion[0] == found.insertion[-1] == pytest.approx(1, abs=1e-4)
    assert found.deletion[1:] == pytest.approx([0] * 16, abs=1e-4)  # the square is one sixteenth of the image
    assert found.insertion[1:] == pytest.approx([1] * 16, abs=1e-4)
    assert found.deletion_auc == pytest.approx(1 / 32, abs=1e-4)
    assert found.insertion_auc == pytest.approx(31 / 32, abs=1e-4)
    assert found.deletion_auc < found.random_deletion_auc
    assert found.insertion_auc > found.random_insertion_auc
    assert found.better_than_random


def test_the_inverse_of_the_true_map_is_worse_than_random() -> None:
    found = faithfulness(square_score(noise()), noise(), 1 - square(), steps=16)
    assert found.deletion_auc > found.random_deletion_auc
    assert found.insertion_auc < found.random_insertion_auc
    assert not found.better_than_random


def test_a_random_map_passes_as_often_as_stated() -> None:
    image, generator = noise(16), np.random.default_rng(1)
    weights = torch.from_numpy(gaussian_filter(generator.standard_normal((16, 16)), 2)).float()

    def score(pixels: torch.Tensor) -> torch.Tensor:
        return (weights * pixels.mean(1)).sum((1, 2))

    maps = gaussian_filter(generator.standard_normal((200, 16, 16)), (0, 2, 2), mode="wrap")
    passed = [
        faithfulness(score, image, heatmap, steps=4, seed=seed, batch_size=100, controls=2).better_than_random
        for seed, heatmap in enumerate(maps)
    ]
    low, high = binomtest(sum(passed), 200).proportion_ci(0.99)
    assert low < 1 / 6 < high


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
def test_a_constant_map_is_never_better_than_random(level: float) -> None:
    heatmap = np.full((32, 32), level, np.float32)
    found = [faithfulness(square_score(noise()), noise(), heatmap, 4, seed) for seed in range(6)]
    assert not any(one.better_than_random for one in found)
    assert len({one.deletion_auc for one in found}) > 1  # its order is drawn, not that of the rows


def test_a_seed_gives_the_same_result_whatever_the_batch() -> None:
    score, image, heatmap = square_score(noise()), noise(), gaussian_filter(square(), 3)
    first = faithfulness(score, image, heatmap, 5, seed=3, batch_size=16)
    assert faithfulness(score, image, heatmap, 5, seed=3, batch_size=7) == first
    assert faithfulness(score, image, heatmap, 5, seed=4).random_deletion != first.random_deletion


def test_the_result_is_json_with_curves_of_one_length() -> None:
    found = json.loads(json.dumps(asdict(faithfulness(square_score(noise()), noise(), square(), steps=5))))
    curves = ("shares", "deletion", "insertion", "random_deletion", "random_insertion")
    assert [len(found[name]) for name in curves] == [6] * 5
    assert np.trapezoid(found["random_deletion"], found["shares"]) == pytest.approx(found["random_deletion_auc"])


def test_a_forward_pass_is_made_as_often_as_stated() -> None:
    sizes: list[int] = []

    def score(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return pixels.mean((1, 2, 3))

    faithfulness(score, noise(8), noise(8)[..., 0] / 255, batch_size=50)
    assert sizes == [50, 50, 50, 50, 30]


def test_large_images_go_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_deepfake.explain.faithfulness._PIXELS", 130)
    sizes: list[int] = []

    def score(pixels: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pixels))
        return pixels[:, 0, 0, 0]

    faithfulness(score, noise(8), np.eye(8), steps=2, controls=1)
    faithfulness(score, noise(16), np.eye(16), steps=2, controls=1)
    assert sizes == [2, 2, 2] + [1] * 6


def test_curves_and_areas_of_four_pixels_are_as_solved_by_hand() -> None:
    """The probability is the sum of the weights of those pixels that are still the image's."""
    image = np.array([[0, 255], [255, 0]], np.uint8)[..., None].repeat(3, axis=2)
    weights = torch.tensor([[0.1, 0.4], [0.3, 0.2]])

    def score(pixels: torch.Tensor) -> torch.Tensor:
        kept = pixels[:, 0] == torch.from_numpy(image[..., 0] / 255)
        return (weights * kept).sum((1, 2)).logit()

    found = faithfulness(score, image, weights.numpy(), steps=4)
    assert found.shares == [0, 0.25, 0.5, 0.75, 1]
    assert found.deletion == pytest.approx([1, 0.6, 0.3, 0.1, 0], abs=1e-6)
    assert found.insertion == pytest.approx([0, 0.4, 0.7, 0.9, 1], abs=1e-6)
    assert found.deletion_auc == pytest.approx((0.5 + 0.6 + 0.3 + 0.1) / 4)
    assert found.insertion_auc == pytest.approx((0.4 + 0.7 + 0.9 + 0.5) / 4)


def test_equal_values_come_in_the_order_of_the_ties() -> None:
    ties = np.array([[0.0, 1.0], [3.0, 2.0]])
    assert _ranks(np.array([[0.0, 0.0], [0.0, 1.0]]), ties).tolist() == [[1, 2], [3, 0]]


def test_a_random_map_is_as_smooth_as_the_heatmap() -> None:
    def roughness(values: Map) -> float:
        return float((np.diff(values, axis=0).var() + np.diff(values, axis=1).var()) / values.var())

    generator = np.random.default_rng(0)
    for width in (1, 4):
        heatmap = gaussian_filter(generator.standard_normal((65, 48)), width, mode="wrap")
        random = _random_like(heatmap, generator)
        assert random.shape == heatmap.shape
        assert roughness(random) == pytest.approx(roughness(heatmap), rel=0.05)
        assert abs(np.corrcoef(random.ravel(), heatmap.ravel())[0, 1]) < 0.5


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heatmap": np.zeros((8, 9))}, r"heatmap of shape \(8, 9\) for an image of shape \(8, 8, 3\)"),
        ({"image": np.zeros((8, 8, 3))}, r"of shape \(8, 8, 3\) and type float64"),
        ({"heatmap": np.full((8, 8), np.nan)}, "heatmap: 64 of its values are not finite"),
        ({"steps": 0}, "steps 0, controls 5"),
        ({"controls": 0}, "steps 20, controls 0"),
        ({"score": lambda pixels: pixels[:, 0, 0, 0] * np.nan}, "score: 230 of 230 are no number"),
    ],
)
def test_what_cannot_be_measured_is_refused(changed: dict[str, Any], message: str) -> None:
    given = {"score": lambda pixels: pixels[:, 0, 0, 0], "image": noise(8), "heatmap": np.eye(8)}
    with pytest.raises(InputError, match=message):
        faithfulness(**(given | changed))


def test_pointing_is_decided_by_the_highest_place() -> None:
    mask = np.array([[True, False], [False, False]])
    assert pointing(np.array([[0.9, 0.8], [0.8, 0.8]]), mask) == 1
    assert pointing(np.array([[0.8, 0.9], [0.0, 0.0]]), mask) == 0
    assert pointing(np.array([[0.9, 0.9], [0.0, 0.0]]), mask) == 0.5
    assert pointing(np.ones((2, 2)), mask) == pointing_chance(mask) == 0.25


def test_intersection_over_union_is_as_solved_by_hand() -> None:
    heatmap = np.array([[4.0, 3.0], [2.0, 1.0]])
    mask = np.array([[True, False], [True, False]])
    assert intersection_over_union(heatmap, mask) == pytest.approx(1 / 3)
    assert intersection_over_union(heatmap, mask, share=0.25) == pytest.approx(1 / 2)
    assert intersection_over_union(heatmap, mask, share=0.75) == pytest.approx(2 / 3)
    assert intersection_over_union(heatmap, mask, share=1.0) == pytest.approx(1 / 2)
    assert intersection_over_union(mask.astype(float), mask) == 1
    assert intersection_over_union(1.0 - mask, mask) == 0


def test_equal_values_at_the_cut_share_what_is_left_to_take() -> None:
    mask = np.array([[True, True], [False, False]])
    heatmap = np.array([[1.0, 0.0], [0.0, 0.0]])  # the second pixel is one of three, of which one is in the mask
    assert intersection_over_union(heatmap, mask) == pytest.approx((1 + 1 / 3) / (4 - 1 - 1 / 3))


def test_a_constant_map_overlaps_by_chance() -> None:
    mask = np.zeros((10, 10), bool)
    mask[:2] = True
    assert intersection_over_union(np.ones((10, 10)), mask) == pytest.approx(0.2 / (2 - 0.2))


def test_an_empty_mask_is_refused() -> None:
    with pytest.raises(InputError, match="mask: it is empty"):
        intersection_over_union(np.eye(2), np.zeros((2, 2), bool))


@pytest.mark.parametrize("share", [0.0, 1.1, -0.5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=f"share {share}: it is above 0"):
        intersection_over_union(np.eye(2), np.eye(2, dtype=bool), share)


def gradient_of(model: nn.Module) -> Callable[[], Map]:
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def explain_once() -> Map:
        return torch.autograd.grad(model(pixels).logits[0, 1], pixels)[0].abs().sum(1)[0].numpy()

    return explain_once


def weights_of(model: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def test_a_map_of_the_weights_changes_with_them_and_a_map_of_the_image_does_not() -> None:
    model = build_tiny_vit(32)
    before = weights_of(model)
    found = randomisation_check(gradient_of(model), model)
    assert found < 0.9
    assert randomisation_check(gradient_of(model), model) == found
    assert randomisation_check(lambda: noise()[..., 0], model) == 1
    assert all(torch.equal(*pair) for pair in zip(before, weights_of(model), strict=True))


def test_a_reversed_map_is_minus_one_and_a_constant_one_zero() -> None:
    def check(after: Map) -> float:
        maps = iter([np.array([[0.1, 0.5], [0.7, 0.9]]), after])
        return randomisation_check(lambda: next(maps), build_tiny_vit(32))

    assert check(np.array([[4.0, 3.0], [2.0, 1.0]])) == pytest.approx(-1)
    assert check(np.array([[1.0, 2.0], [4.0, 3.0]])) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    assert check(np.zeros((2, 2))) == 0


def test_weights_come_back_after_an_error_too() -> None:
    model = build_tiny_vit(32)
    before = weights_of(model)
    changed: list[bool] = []

    def explain_once() -> Map:
        changed.append(not all(torch.equal(*pair) for pair in zip(before, weights_of(model), strict=True)))
        if len(changed) == 2:
            raise RuntimeError("out of memory")
        return np.eye(2)

    with pytest.raises(RuntimeError, match="out of memory"):
        randomisation_check(explain_once, model)
    assert changed == [False, True]
    assert all(torch.equal(*pair) for pair in zip(before, weights_of(model), strict=True))


def test_every_member_of_an_ensemble_is_randomised() -> None:
    ensemble = nn.Module()
    ensemble.members = nn.ModuleList([build_tiny_vit(32, seed=1), build_tiny_vit(32, seed=2)])
    heads = [member.classifier.weight for member in ensemble.members]
    seen: list[list[Map]] = []

    def explain_once() -> Map:
        seen.append([head.detach().numpy().copy() for head in heads])
        return np.eye(2)

    randomisation_check(explain_once, ensemble)
    assert all((before != after).all() for before, after in zip(*seen, strict=True))
