import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, logit

from hf_deepfake import InputError
from hf_deepfake.evaluation.metrics import detection_metrics
from hf_deepfake.evaluation.selective import band_rates, fit_band, risk_coverage

# At 0.5 the odds of these are 1/9, 2/3, 3/2, 4 and 9: right, wrong, wrong, right, right.
LABELS = np.array([0, 1, 0, 1, 1])
SCORES = np.array([0.1, 0.4, 0.6, 0.8, 0.9])


def draw(seed: int, images: int = 60) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    return labels, expit(generator.normal(2 * labels - 1, 1.5)).round(2).clip(0.01, 0.99)


def test_the_curve_of_five_images_is_solved_by_hand() -> None:
    coverage, risk = risk_coverage(LABELS, SCORES, 0.5)
    assert coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert risk == pytest.approx([0, 0, 0, 1 / 4, 2 / 5])


def test_the_curve_ends_at_the_error_rate_of_all_images_and_its_mean_is_the_metric() -> None:
    labels, prob_fake = draw(0)
    metrics = detection_metrics(labels, prob_fake, 0.3)
    _, risk = risk_coverage(labels, prob_fake, 0.3)
    assert risk[-1] == pytest.approx(1 - metrics["accuracy"])
    assert risk.mean() == pytest.approx(metrics["aurc"])


def test_the_edge_lies_half_way_in_log_odds_between_two_confidences() -> None:
    """All three of the confident verdicts are right; the least confident of them has odds of 4, the next 3/2."""
    low, high = fit_band(LABELS, SCORES, 0.5, target_error=0.1)
    assert logit(high) == pytest.approx(np.log(4 * 3 / 2) / 2)
    assert logit(low) == pytest.approx(-logit(high))
    assert band_rates(LABELS, SCORES, 0.5, (low, high)) == {"coverage": 0.6, "error_rate": 0}


def test_the_band_is_symmetric_in_log_odds_around_any_threshold() -> None:
    labels, prob_fake = draw(1)
    low, high = fit_band(labels, prob_fake, 0.2, target_error=0.05)
    assert low < 0.2 < high
    assert logit(high) - logit(0.2) == pytest.approx(logit(0.2) - logit(low))


def test_the_band_is_empty_where_all_images_meet_the_target() -> None:
    assert fit_band(LABELS, SCORES, 0.5, target_error=0.4) == (0.5, 0.5)
    assert band_rates(LABELS, SCORES, 0.5, (0.5, 0.5)) == {"coverage": 1.0, "error_rate": 0.4}


def test_everything_is_uncertain_where_no_part_of_the_images_meets_the_target() -> None:
    labels = 1 - (SCORES >= 0.5)
    assert fit_band(labels, SCORES, 0.5, target_error=0.3) == (0.0, 1.0)
    assert band_rates(labels, SCORES, 0.5, (0.0, 1.0)) == {"coverage": 0.0}


def test_a_score_on_the_edge_of_a_band_is_covered() -> None:
    assert band_rates(np.array([0, 1, 1]), np.array([0.3, 0.5, 0.7]), 0.5, (0.3, 0.7))["coverage"] == 2 / 3


@pytest.mark.parametrize("threshold", [0.0, 0.02, 0.5, 0.87, 1.0])
@pytest.mark.parametrize("target_error", [0.01, 0.1, 0.3])
def test_no_wider_cover_keeps_the_target(threshold: float, target_error: float) -> None:
    """Against every set of the most confident images, for many draws with ties, also at the threshold."""
    for seed in range(40):
        labels, prob_fake = draw(seed)
        band = fit_band(labels, prob_fake, threshold, target_error)
        rates = band_rates(labels, prob_fake, threshold, band)
        coverage, risk = risk_coverage(labels, prob_fake, threshold)
        distance = np.sort(np.abs(logit(prob_fake) - logit(np.clip(threshold, 1e-7, 1 - 1e-7))))[::-1]
        ends_its_run = np.append(np.diff(distance) < -1e-9, True)
        best = coverage[(risk <= target_error + 1e-12) & ends_its_run].max(initial=0)
        assert band[0] <= threshold <= band[1]
        assert rates["coverage"] == pytest.approx(best)
        assert rates.get("error_rate", 0) <= target_error


@pytest.mark.parametrize("target_error", [0.0, 1.0, -0.1, 5.0, float("nan")])
def test_a_target_that_is_no_rate_is_refused(target_error: float) -> None:
    with pytest.raises(InputError, match=f"--target_error {target_error}: must be between 0 and 1"):
        fit_band(LABELS, SCORES, 0.5, target_error)
