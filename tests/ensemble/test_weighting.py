import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from hf_deepfake.ensemble.weighting import fit_weights, pooling_of
from hf_deepfake.errors import InputError


def draw(strengths: list[float], images: int = 2000, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Calibrated members whose errors are their own: log-odds `2 s (s y + noise)` of strength `s`."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    strength = np.array(strengths)
    margins = 2 * strength * (strength * (2 * labels - 1)[:, None] + generator.normal(size=(images, len(strengths))))
    return expit(margins), labels


def test_stacking_finds_that_calibrated_members_with_errors_of_their_own_count_alike() -> None:
    """Their log-odds add up (naive Bayes), however strong each is; the weights of a mean of probabilities do not."""
    probs, labels = draw([0.5, 1, 1.5], images=8000)
    assert fit_weights(probs, labels, "stacking") == pytest.approx([1 / 3] * 3, abs=0.04)
    assert fit_weights(probs, labels, "logloss")[0] < 0.1


def test_stacking_counts_a_detector_once_that_is_there_twice() -> None:
    probs, labels = draw([1, 1])
    twice = fit_weights(probs[:, [0, 0, 1]], labels, "stacking")
    assert twice[0] == pytest.approx(twice[1])
    assert twice[0] + twice[1] == pytest.approx(twice[2], abs=0.1)


@pytest.mark.parametrize("weighting", ["stacking", "greedy", "logloss", "metric"])
def test_a_member_that_guesses_or_ranks_backwards_counts_little_or_nothing(weighting: str) -> None:
    probs, labels = draw([1.5, 1.5, 0])
    backwards = np.column_stack([probs, 1 - probs[:, 0]])
    weights = fit_weights(backwards, labels, weighting)
    assert sum(weights) == pytest.approx(1)
    assert min(weights) >= 0
    assert min(weights[:2]) > 0.35
    assert max(weights[2:]) < 0.03


def test_where_nothing_can_be_left_out_stacking_takes_the_strongest_penalty() -> None:
    """With so strong a penalty the coefficients go with how each member's log-odds differ between the classes."""
    probs, labels = draw([0.5, 1.5], images=400)
    log_odds = logit(probs)
    gaps = log_odds[labels == 1].mean(axis=0) - log_odds[labels == 0].mean(axis=0)
    one_unit = fit_weights(probs, labels, "stacking", units=np.zeros(400, dtype=np.int64))
    assert one_unit == pytest.approx(gaps / gaps.sum(), abs=0.02)
    assert fit_weights(probs, labels, "stacking") != pytest.approx(one_unit, abs=0.1)


def test_greedy_weights_are_shares_of_selections_and_the_same_every_time() -> None:
    probs, labels = draw([0.5, 1, 1.5], images=300)
    weights = fit_weights(probs, labels, "greedy")
    assert weights == fit_weights(probs, labels, "greedy")
    assert np.array(weights) * 20 * 25 == pytest.approx(np.round(np.array(weights) * 20 * 25))
    assert weights[0] < weights[1] < weights[2]


def test_twins_that_separate_the_classes_have_equal_weights() -> None:
    labels = np.array([0, 1] * 20)
    probs = np.where(labels == 1, 0.99, 0.01)[:, None].repeat(2, axis=1)
    assert fit_weights(probs, labels, "stacking") == pytest.approx([0.5, 0.5])


def test_stacking_needs_a_member_above_chance() -> None:
    probs, labels = draw([1.5])
    with pytest.raises(InputError, match="no member ranks validation images better than chance"):
        fit_weights(1 - probs, labels, "stacking")


def test_only_stacking_pools_log_odds() -> None:
    assert pooling_of("stacking") == "log_odds"
    assert {pooling_of(weighting) for weighting in ("greedy", "logloss", "metric", "manual")} == {"probability"}
