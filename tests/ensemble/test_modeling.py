import math
import re
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification, ViTForImageClassification

from hf_deepfake import EnsembleConfig, EnsembleForImageClassification
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import vote


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
