import math
import re
from typing import Any

import pytest
import torch
from conftest import build_tiny_vit
from transformers import AutoModelForImageClassification, ViTForImageClassification

from hf_deepfake import EnsembleConfig, EnsembleForImageClassification
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import verdict, vote


def logits_of(*prob_fake: float) -> torch.Tensor:
    """Logits of shape `(1, members, 2)`."""
    both = torch.tensor([[[1 - prob, prob] for prob in prob_fake]], dtype=torch.float64)
    return both.log()


def voted(prob_fake: list[float], voting: str, **settings: Any) -> float:
    ones = [1.0] * len(prob_fake)
    halves = [0.5] * len(prob_fake)
    stored = {"temperatures": ones, "weights": ones, "member_thresholds": halves} | settings
    return float(vote(logits_of(*prob_fake), voting=voting, **stored))


def build(member: ViTForImageClassification, count: int = 2, **settings: Any) -> EnsembleForImageClassification:
    """An ensemble of copies of one detector."""
    ensemble = EnsembleForImageClassification(EnsembleConfig(members=[member.config.to_dict()] * count, **settings))
    for slot in ensemble.members:
        slot.load_state_dict(member.state_dict())
    return ensemble.eval()


def test_a_member_with_reversed_labels_counts_for_fake(tiny_vit: ViTForImageClassification) -> None:
    """Two copies of one detector, the second read in the other order, must cancel to 0.5."""
    config = EnsembleConfig(members=[tiny_vit.config.to_dict()] * 2, fake_columns=[1, 0])
    ensemble = EnsembleForImageClassification(config).eval()
    for member in ensemble.members:
        member.load_state_dict(tiny_vit.state_dict())
    prob_fake = ensemble(torch.rand(3, 3, 32, 32)).logits.softmax(-1)[:, 1]
    torch.testing.assert_close(prob_fake, torch.full((3,), 0.5))


def test_the_soft_vote_is_the_mean() -> None:
    assert voted([0.2, 0.3, 0.7], "soft") == pytest.approx(0.4)


def test_the_weighted_vote_is_the_weighted_mean_on_any_scale_of_weights() -> None:
    assert voted([0.2, 0.8], "weighted", weights=[3, 1]) == pytest.approx(0.35)
    assert voted([0.2, 0.8], "weighted", weights=[0.3, 0.1]) == pytest.approx(0.35)
    assert voted([0.2, 0.8], "weighted", weights=[0, 5]) == pytest.approx(0.8)


def test_the_hard_vote_is_the_share_of_members_at_or_above_their_own_threshold() -> None:
    assert voted([0.5, 0.4, 0.1], "hard") == pytest.approx(1 / 3)
    assert voted([0.5, 0.4, 0.1], "hard", member_thresholds=[0.5, 0.3, 0.2]) == pytest.approx(2 / 3)
    assert voted([0.9, 0.9, 0.9], "hard") == 1
    assert voted([0.1, 0.2, 0.3], "hard") == 0


@pytest.mark.parametrize(
    ("prob_fake", "expected"),
    [
        ([0.9, 0.4], 0.5 + 0.15 / 2),
        ([0.6, 0.1], 0.5 - 0.15 / 2),
        ([0.9, 0.8, 0.4, 0.1], 0.5 + 0.05 / 4),
        ([0.6, 0.4], 0.5),
    ],
)
def test_an_even_split_of_the_hard_vote_is_decided_by_the_soft_vote(prob_fake: list[float], expected: float) -> None:
    assert voted(prob_fake, "hard") == pytest.approx(expected)


def test_an_even_split_never_passes_a_clear_majority() -> None:
    even = voted([1 - 1e-9, 1 - 1e-9, 0.49, 0.49], "hard")
    assert voted([0.5, 0.5, 0.5, 1e-9], "hard") == 0.75 > even > 0.5


def test_temperatures_divide_each_members_logits() -> None:
    """Odds of 9 become odds of 3 at a temperature of 2."""
    assert voted([0.9, 0.5], "soft", temperatures=[2, 1]) == pytest.approx((0.75 + 0.5) / 2)


def test_an_unknown_vote_is_refused() -> None:
    with pytest.raises(ValueError, match="voting is 'median'; it must be soft, hard or weighted"):
        voted([0.1, 0.2], "median")


@pytest.mark.parametrize("voting", ["soft", "hard", "weighted"])
def test_logits_are_the_log_of_the_vote(tiny_vit: ViTForImageClassification, voting: str) -> None:
    ensemble = build(tiny_vit, voting=voting, temperatures=[1, 4], weights=[1, 3])
    output = ensemble(torch.rand(3, 3, 32, 32))
    config = ensemble.config
    expected = vote(
        output.member_logits,
        temperatures=config.temperatures,
        weights=config.weights,
        member_thresholds=config.member_thresholds,
        voting=voting,
    )
    torch.testing.assert_close(output.logits.exp()[:, 1], expected.clamp(1e-7, 1))
    torch.testing.assert_close(output.logits.softmax(-1)[:, 1], expected, atol=1e-6, rtol=0)
    assert output.member_logits.shape == (3, 2, 2)


def test_a_unanimous_hard_vote_has_finite_logits(tiny_vit: ViTForImageClassification) -> None:
    logits = build(tiny_vit, voting="hard", member_thresholds=[0, 0])(torch.rand(1, 3, 32, 32)).logits
    torch.testing.assert_close(logits, torch.tensor([[math.log(1e-7), 0.0]]))


@pytest.mark.parametrize("voting", ["soft", "weighted"])
def test_gradients_flow_to_the_pixels(tiny_vit: ViTForImageClassification, voting: str) -> None:
    pixel_values = torch.rand(2, 3, 32, 32, requires_grad=True)
    build(tiny_vit, voting=voting)(pixel_values).logits[:, 1].sum().backward()
    assert pixel_values.grad is not None
    assert (pixel_values.grad.abs().sum(dim=(1, 2, 3)) > 0).all()


def test_the_loss_is_the_log_loss_of_the_vote(tiny_vit: ViTForImageClassification) -> None:
    ensemble, pixel_values, labels = build(tiny_vit), torch.rand(2, 3, 32, 32), torch.tensor([0, 1])
    output = ensemble(pixel_values, labels=labels)
    prob_fake = output.logits.exp()[:, 1]
    torch.testing.assert_close(output.loss, -((1 - prob_fake[0]).log() + prob_fake[1].log()) / 2)
    assert output.loss == ensemble(pixel_values, labels=labels, return_dict=False)[0]


def test_one_image_scores_as_it_does_in_a_batch(tiny_vit: ViTForImageClassification) -> None:
    ensemble, pixel_values = build(tiny_vit), torch.rand(4, 3, 32, 32)
    alone = torch.cat([ensemble(image[None]).logits for image in pixel_values])
    torch.testing.assert_close(ensemble(pixel_values).logits, alone)


def test_the_auto_classes_build_an_ensemble_from_its_config(tiny_vit: ViTForImageClassification) -> None:
    config = EnsembleConfig(members=[tiny_vit.config.to_dict()])
    assert isinstance(AutoModelForImageClassification.from_config(config), EnsembleForImageClassification)


def test_the_threshold_is_that_of_the_stored_vote() -> None:
    config = EnsembleConfig(voting="weighted", thresholds={"weighted": 0.3, "soft": 0.4})
    assert config.threshold == 0.3
    assert config.thresholds == {"soft": 0.4, "hard": 0.5, "weighted": 0.3}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": [1, -0.5]}, r"weights must be 0 or more; found \[-0.5\]"),
        ({"weights": [0, 0]}, "every weight is 0"),
        ({"weights": [1, 1, 1]}, "2 members but 3 weights"),
        ({"temperatures": [0, 1]}, r"temperatures must be above 0; found \[0\]"),
        ({"temperatures": [1]}, "2 members but 1 temperatures"),
        ({"member_thresholds": [0.5, 1.5]}, r"member_thresholds must be between 0 and 1; found \[1.5\]"),
        ({"fake_columns": [1, 2]}, r"fake_columns must be 0 or 1; found \[2\]"),
        ({"member_names": ["a"]}, "2 members but 1 member_names"),
        ({"member_views": [0, 0, 1]}, "2 members but 3 member_views"),
        ({"voting": "median"}, "voting is 'median'"),
    ],
)
def test_a_config_that_does_not_fit_its_members_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EnsembleConfig(members=[{"model_type": "vit"}] * 2, **settings)


def test_a_band_that_does_not_hold_the_threshold_is_refused() -> None:
    for band in ([0.5, 0.9], [0.1], [0.3, 0.4], [-1, 1]):
        with pytest.raises(
            ValueError, match=rf"the uncertain band of the soft vote is {re.escape(str(band))}; .* 0\.45"
        ):
            EnsembleConfig(thresholds={"soft": 0.45}, uncertain_bands={"soft": band})
    assert EnsembleConfig(uncertain_bands={"soft": [0.5, 0.5]}).uncertain_band == [0.5, 0.5]


def test_the_calibration_of_the_vote_is_part_of_the_logits(tiny_vit: ViTForImageClassification) -> None:
    pixels = torch.rand(3, 3, 32, 32)
    plain = build(tiny_vit)(pixels).logits
    calibration = {"temperature": 0.5, "bias": 0.2, "isotonic": None}
    calibrated = build(tiny_vit, vote_calibrations={"soft": calibration})(pixels).logits
    odds = plain[:, 1] - plain[:, 0]
    torch.testing.assert_close(calibrated[:, 1] - calibrated[:, 0], odds / 0.5 + 0.2, atol=1e-4, rtol=1e-4)
    weighted = build(tiny_vit, vote_calibrations={"soft": calibration}, voting="weighted")(pixels).logits
    torch.testing.assert_close(weighted, plain)


def test_a_calibrated_vote_is_never_certain() -> None:
    sharp = {"soft": {"temperature": 0.05}}
    for prob_fake, expected in (([0.0, 0.0], 1e-7), ([1.0, 1.0], 1 - 1e-7)):
        assert voted(prob_fake, "soft", vote_calibrations=sharp) == pytest.approx(expected, abs=1e-12)


def constant(*prob_fake: float, **settings: Any) -> EnsembleForImageClassification:
    """An ensemble whose members say the same of every image."""
    ensemble = build(build_tiny_vit(32), len(prob_fake), **settings)
    for member, prob in zip(ensemble.members, prob_fake, strict=True):
        torch.nn.init.zeros_(member.classifier.weight)
        member.classifier.bias.data = torch.tensor([1 - prob, prob]).log()
    return ensemble


@pytest.mark.parametrize(
    ("prob_fake", "settings", "run", "expected", "bounds"),
    [
        ([0.9, 0.8, 0.1], {"voting": "hard"}, 2, 1.0, [2 / 3, 1.0]),
        ([0.9, 0.2, 0.8], {"voting": "hard"}, 3, 2 / 3, [2 / 3, 2 / 3]),
        ([0.9, 0.8, 0.1], {}, 2, 0.85, [1.7 / 3, 2.7 / 3]),
        ([0.9, 0.5, 0.1], {}, 3, 0.5, [0.5, 0.5]),
        ([0.1, 0.3, 0.9], {}, 2, 0.2, [0.4 / 3, 1.4 / 3]),
        ([0.1, 0.3, 0.9], {"thresholds": {"soft": 0.4}}, 3, 1.3 / 3, [1.3 / 3, 1.3 / 3]),
        ([0.9, 0.1, 0.1], {"voting": "weighted", "weights": [8, 1, 1]}, 1, 0.9, [0.72, 0.92]),
        ([0.9, 0.1, 0.1], {"voting": "weighted", "weights": [0, 1, 1]}, 2, 0.1, [0.1, 0.1]),
        ([0.5, 0.6, 0.1], {"thresholds": {"soft": 0.6}, "uncertain_bands": {"soft": [0.3, 0.8]}}, 2, 0.55, [0.36667, 0.7]),
        ([0.5, 0.6, 0.1], {"thresholds": {"soft": 0.6}, "uncertain_bands": {"soft": [0.4, 0.8]}}, 3, 0.4, [0.4, 0.4]),
    ],
)  # fmt: skip
def test_a_cascade_stops_where_the_members_left_cannot_turn_the_verdict(
    prob_fake: list[float], settings: dict[str, Any], run: int, expected: float, bounds: list[float]
) -> None:
    output = constant(*prob_fake, **settings).cascade(torch.rand(2, 3, 32, 32))
    assert output.members_run.tolist() == [run, run]
    assert output.logits.exp()[:, 1].tolist() == pytest.approx([expected] * 2, abs=1e-5)
    assert output.bounds[0].tolist() == pytest.approx(bounds, abs=1e-5)


@pytest.mark.parametrize("voting", ["soft", "hard", "weighted"])
@pytest.mark.parametrize("pooling", ["probability", "log_odds"])
def test_a_cascade_gives_the_verdicts_of_the_whole_vote(voting: str, pooling: str) -> None:
    settings: dict[str, Any] = {
        "weights": [3, 1, 0, 2],
        "temperatures": [0.5, 1, 2, 1],
        "isotonic": [None, [[-1, 0, 2], [0.1, 0.3, 0.9]], None, None],
        "vote_calibrations": {"soft": {"temperature": 0.5, "bias": 0.2}, "weighted": {"temperature": 2.0}},
        "thresholds": dict.fromkeys(("soft", "hard", "weighted"), 0.55),
        "uncertain_bands": {"soft": [0.5, 0.6]},
    }
    ensemble = build(build_tiny_vit(32), 4, voting=voting, pooling=pooling, **settings)
    for seed, member in enumerate(ensemble.members):
        member.load_state_dict(build_tiny_vit(32, seed).state_dict())
    pixels = 3 * torch.randn(40, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = ensemble(pixels).logits.exp()[:, 1]
        for threshold in (None, 0.3):
            output = ensemble.cascade(pixels, threshold=threshold)
            band = ensemble.config.uncertain_band if threshold is None else None
            wanted, found = (
                [verdict(prob, threshold or 0.55, band) for prob in voted.tolist()]
                for voted in (whole, output.logits.exp()[:, 1])
            )
            assert found == wanted
            assert len(set(wanted)) == (3 if band else 2)
            assert ((output.bounds[:, 0] - 1e-5 <= whole) & (whole <= output.bounds[:, 1] + 1e-5)).all()
            complete = output.members_run == 4
            torch.testing.assert_close(output.logits.exp()[complete, 1], whole[complete])
        assert output.members_run.float().mean() < 4


def test_a_cascade_with_a_tolerance_stops_where_no_probability_can_be_off_by_more() -> None:
    ensemble = constant(0.55, 0.3, 0.3, voting="weighted", weights=[8, 1, 1])
    pixels = torch.rand(1, 3, 32, 32)
    assert ensemble.cascade(pixels, tolerance=0.19).members_run.tolist() == [2]
    output = ensemble.cascade(pixels, tolerance=0.21)
    assert output.members_run.tolist() == [1]
    assert output.bounds[0].tolist() == pytest.approx([0.44, 0.64], abs=1e-5)


def test_a_cascade_asks_the_smallest_member_first_and_each_only_what_is_open() -> None:
    large, small = build_tiny_vit(32), build_tiny_vit(16)
    config = EnsembleConfig(members=[large.config.to_dict(), small.config.to_dict()], member_views=[0, 1])
    ensemble = EnsembleForImageClassification(config).eval()
    asked = []
    for name, member in zip(("large", "small"), ensemble.members, strict=True):
        member.register_forward_hook(lambda *given, name=name: asked.append((name, len(given[2].logits))))
    torch.nn.init.zeros_(ensemble.members[1].classifier.weight)
    views = {"pixel_values": torch.rand(3, 3, 32, 32), "pixel_values_1": torch.rand(3, 3, 16, 16)}
    ensemble.cascade(**views)
    assert asked == [("small", 3), ("large", 3)]
