from typing import Any

import pytest
import torch
from conftest import draw_image
from test_scores import build_ensemble, tensor

from hf_deepfake.explain.integrated import blurred, integrated_gradients, smooth_integrated_gradients
from hf_deepfake.explain.scores import Score


def linear(weights: torch.Tensor) -> Any:
    return lambda pixels: (pixels * weights).sum(dim=(1, 2, 3))


def test_of_a_linear_score_each_pixel_gets_its_weight_times_its_detail() -> None:
    torch.manual_seed(0)
    pixels, weights = torch.rand(1, 3, 20, 30), torch.randn(3, 20, 30)
    found, delta = integrated_gradients(linear(weights), pixels, batch_size=3)
    torch.testing.assert_close(found, ((pixels - blurred(pixels))[0] * weights).sum(dim=0), atol=1e-5, rtol=1e-4)
    assert delta == pytest.approx(0, abs=1e-4)


def test_attributions_of_a_vote_sum_to_the_difference_of_its_scores() -> None:
    settings = {"voting": "weighted", "weights": [1.0, 2.0], "temperatures": [2.0, 0.5]}
    score = Score(build_ensemble(**settings, vote_calibrations={"weighted": {"temperature": 0.5, "bias": 1.0}}))
    for label in (0, 1):
        pixels = tensor(draw_image(label, 0))
        found, delta = integrated_gradients(score, pixels, batch_size=16)
        with torch.no_grad():
            difference = (score(pixels) - score(blurred(pixels))).item()
        assert found.sum().item() == pytest.approx(difference, rel=0.01)
        assert delta == pytest.approx(abs(found.sum().item() - difference) / abs(difference), abs=1e-4)


def test_a_jump_on_the_path_is_walked_in_smaller_steps() -> None:
    """Of a sigmoid that is steep at a hundredth of the path, 32 equal steps miss most."""
    torch.manual_seed(0)
    pixels = torch.rand(1, 3, 16, 16)
    direction = (pixels - blurred(pixels))[0]
    along = lambda pixels_: ((pixels_ - blurred(pixels)) * direction).sum(dim=(1, 2, 3)) / (direction**2).sum()  # noqa: E731
    passes = []

    def score(pixels_: torch.Tensor) -> torch.Tensor:
        passes.append(len(pixels_))
        return torch.sigmoid(1000 * (along(pixels_) - 0.01))

    found, delta = integrated_gradients(score, pixels, batch_size=16)  # type: ignore[arg-type]
    assert found.sum().item() == pytest.approx(1, abs=0.011)
    assert delta is not None
    assert delta < 0.01
    assert max(passes) <= 16
    assert 32 < sum(passes) <= 256 + 40


def test_a_blurred_image_keeps_its_mean_and_straight_parts() -> None:
    flat = torch.full((1, 3, 50, 30), 0.3)
    torch.testing.assert_close(blurred(flat), flat)
    noise = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert blurred(noise).std() < 0.2 * noise.std()
    assert blurred(noise).mean() == pytest.approx(noise.mean().item(), abs=0.01)
    assert torch.equal(blurred(noise[..., :1, :1]), noise[..., :1, :1])


def test_noise_is_drawn_by_the_seed_and_leaves_the_global_one_alone() -> None:
    pixels = tensor(draw_image(1, 0))
    score = Score(build_ensemble(), member="small")
    before = torch.random.get_rng_state()
    first, again, other = (smooth_integrated_gradients(score, pixels, 16, seed) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.shape == (40, 40)


def test_an_image_without_details_takes_no_more_steps_than_any() -> None:
    passes = []

    def score(pixels: torch.Tensor) -> torch.Tensor:
        passes.append(len(pixels))
        return pixels.mean(dim=(1, 2, 3)).square()

    found, _ = integrated_gradients(score, torch.full((1, 3, 33, 47), 0.7), batch_size=16)  # type: ignore[arg-type]
    assert found.abs().max() < 1e-5
    assert sum(passes) == 32 + 5
