import numpy as np
import pytest
import torch
from scipy.special import expit

from hf_deepfake import InputError
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import calibrated
from hf_deepfake.evaluation.calibration import ece_of_chance, fit_calibration, fit_temperature, fit_threshold

LABELS = np.array([0, 0, 0, 0, 1, 0, 1, 1, 1])
SCORES = np.array([0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9])


def half(margin: float) -> np.ndarray:
    """Logits of shape `(1, 2)` whose difference is the margin."""
    return np.array([[-margin / 2, margin / 2]])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found_again(temperature: float) -> None:
    """Labels drawn from `softmax(logits)`; the same logits multiplied by T need T."""
    generator = np.random.default_rng(0)
    margins = generator.normal(0, 2, 20000)
    labels = (generator.random(20000) < expit(margins)).astype(np.int64)
    logits = np.stack([np.zeros_like(margins), margins], axis=1) * temperature
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_the_temperature_solves_the_case_of_two_kinds_of_images_by_hand() -> None:
    """Three of four images are as the margin says, so sigmoid(margin / T) has to be 3 / 4."""
    logits = np.repeat(half(4.0), 4, axis=0)
    assert fit_temperature(logits, np.array([1, 1, 1, 0])) == pytest.approx(4 / np.log(3), rel=1e-4)


def test_the_temperature_depends_on_the_difference_of_the_logits_only() -> None:
    logits, labels = np.repeat(half(4.0), 4, axis=0), np.array([1, 1, 1, 0])
    assert fit_temperature(logits + 100, labels) == pytest.approx(fit_temperature(logits, labels))


def test_the_temperature_stays_within_its_bounds() -> None:
    separated = np.concatenate([half(-1), half(1)])
    assert fit_temperature(separated, np.array([0, 1])) == pytest.approx(0.05, rel=1e-3)
    assert fit_temperature(separated, np.array([1, 0])) == pytest.approx(20, rel=1e-3)


def test_platt_scaling_finds_a_known_scale_and_bias_again() -> None:
    generator = np.random.default_rng(0)
    margins = generator.normal(0, 2, 20000)
    labels = (generator.random(20000) < expit(margins / 2 + 0.7)).astype(np.int64)
    found = fit_calibration(margins, labels, "platt")
    assert found["temperature"] == pytest.approx(2, rel=0.05)
    assert found["bias"] == pytest.approx(0.7, abs=0.05)


def test_platt_scaling_solves_the_case_of_two_kinds_of_images_by_hand() -> None:
    """Platt's smoothed labels of four fakes and four real images are 5/6 and 1/6; each kind's mean of them is met."""
    log_odds, labels = np.repeat([1.0, -1.0], 4), np.array([1, 1, 1, 0, 0, 0, 0, 1])
    found = fit_calibration(log_odds, labels, "platt")
    targets = [(3 * 5 / 6 + 1 / 6) / 4, (5 / 6 + 3 / 6) / 4]
    prob_fake = calibrated(torch.tensor([1.0, -1.0], dtype=torch.float64), **found)
    assert prob_fake.tolist() == pytest.approx(targets, abs=1e-4)


def test_platt_scaling_does_not_turn_a_detector_round() -> None:
    found = fit_calibration(np.array([-1.0, -1, 1, 1]), np.array([1, 1, 0, 0]), "platt")
    assert found["temperature"] == pytest.approx(20)


def test_isotonic_calibration_pools_what_is_out_of_order() -> None:
    """Real, fake, real, fake by rising score: the middle two share one half."""
    log_odds, labels = np.array([-2.0, -1, 1, 2]), np.array([0, 1, 0, 1])
    found = fit_calibration(log_odds, labels, "isotonic")
    scores = torch.tensor([-5.0, -2, -1.5, -1, 0, 1, 2, 9], dtype=torch.float64)
    expected = [1 / 6, 1 / 6, 1 / 3, 0.5, 0.5, 0.5, 5 / 6, 5 / 6]  # Laplace's 1 / 6 in place of 0 of 4 images
    assert calibrated(scores, **found).tolist() == pytest.approx(expected)


def test_isotonic_calibration_of_one_score_is_the_share_of_fakes() -> None:
    found = fit_calibration(np.zeros(4), np.array([0, 0, 0, 1]), "isotonic")
    assert calibrated(torch.tensor([-3.0, 0, 3], dtype=torch.float64), **found).tolist() == pytest.approx([0.25] * 3)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic", "none"])
def test_no_calibration_changes_the_order_of_images(method: str) -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 300)
    log_odds = np.sort(generator.normal(labels, 1.5))
    found = fit_calibration(log_odds, labels, method)
    assert (calibrated(torch.from_numpy(log_odds), **found).diff() >= 0).all()


def test_an_unknown_calibration_is_refused() -> None:
    with pytest.raises(InputError, match="--calibration beta: must be one of temperature, platt, isotonic, none"):
        fit_calibration(np.zeros(2), np.array([0, 1]), "beta")


@pytest.mark.parametrize(
    ("purpose", "expected"),
    [
        ("fixed", 0.5),
        ("youden", 0.35),  # all four fakes found, one of five real images called fake
        ("eer", 0.45),  # nearest: 0.2 false alarms, 0.25 misses
        ("f1", 0.35),  # 8 / 9
        ("fpr=0", 0.55),
        ("fpr=0.1", 0.55),
        ("fpr=0.2", 0.35),
        ("fpr=0.99", 0.075),
    ],
)
def test_thresholds_of_nine_images_solved_by_hand(purpose: str, expected: float) -> None:
    assert fit_threshold(LABELS, SCORES, purpose) == pytest.approx(expected)


def test_a_threshold_lies_half_way_to_the_neighbouring_score_and_within_0_and_1() -> None:
    labels = np.array([0, 1])
    assert fit_threshold(labels, np.array([0.2, 0.6]), "youden") == pytest.approx(0.4)
    assert fit_threshold(labels, np.array([0.6, 0.2]), "fpr=0") == pytest.approx(0.8)  # no fake image above 0.6
    assert fit_threshold(labels, np.array([0.4, 0.4]), "f1") == pytest.approx(0.2)


def test_the_false_positive_rate_of_the_fitted_images_keeps_its_target() -> None:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 500)
    scores = generator.normal(0.4 + 0.2 * labels, 0.2).clip(0, 1).round(2)
    for rate in (0.01, 0.05, 0.3):
        threshold = fit_threshold(labels, scores, f"fpr={rate}")
        assert (scores[labels == 0] >= threshold).mean() <= rate


@pytest.mark.parametrize("purpose", ["fpr", "fpr=", "fpr=5%", "fpr=1", "fpr=-0.1", "fpr=nan", "0.4", "best"])
def test_an_unknown_purpose_is_refused(purpose: str) -> None:
    with pytest.raises(InputError, match=f"--threshold {purpose}: must be fixed"):
        fit_threshold(LABELS, SCORES, purpose)


def test_perfect_probabilities_show_an_error_that_shrinks_with_the_number_of_images() -> None:
    """One bin of n images at one half: the mean of |heads / n - 1 / 2| is about sqrt(1 / (2 pi n))."""
    for images in (50, 800):
        expected = np.sqrt(1 / (2 * np.pi * images))
        assert ece_of_chance(np.full(images, 0.5), draws=2000) == pytest.approx(expected, rel=0.05)
    assert ece_of_chance(np.array([0.0, 1.0])) == 0
