import dataclasses
import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit

from hf_deepfake import EnsembleConfig, InputError
from hf_deepfake.ensemble.fitting import cross_fitted, fit_ensemble, member_logits
from hf_deepfake.ensemble.folds import splits
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import VOTINGS
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import VOTE_SETTINGS, verdict, vote
from hf_deepfake.evaluation.metrics import expected_calibration_error
from hf_deepfake.labels import NAMES

LABELS = np.array([0, 0, 1, 1])


def logits_of(*members: list[float]) -> NDArray[np.float64]:
    """Logits of shape `(images, members, 2)` from each member's probabilities of fake."""
    prob_fake = np.array(members).T
    return np.log(np.stack([1 - prob_fake, prob_fake], axis=-1))


def draw_members(noises: list[float], images: int = 400, seed: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
    """Members whose margins are the truth plus noise of their own."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    margins = (2 * labels - 1)[:, None] + generator.normal(0, noises, (images, len(noises)))
    return np.stack([np.zeros_like(margins), margins], axis=-1), labels


def log_loss(prob_fake: NDArray[Any], labels: NDArray[Any]) -> float:
    return float(-np.log(np.where(labels == 1, prob_fake, 1 - prob_fake)).mean())


@pytest.mark.parametrize("noises", [[1, 1, 1], [0.5, 1, 4], [0.3, 3]])
def test_log_loss_weights_are_no_worse_than_equal_ones_and_no_worse_than_any_member(noises: list[float]) -> None:
    logits, labels = draw_members(noises)
    fit = fit_ensemble(logits, labels, weighting="logloss")
    assert sum(fit.weights) == pytest.approx(1)
    fitted = log_loss(fit.prob_fake(logits, "weighted", calibrated=False), labels)
    assert fitted <= log_loss(fit.prob_fake(logits, "soft", calibrated=False), labels) + 1e-9
    for member, temperature in enumerate(fit.temperatures):
        alone = expit(np.diff(logits[:, member], axis=-1)[:, 0] / temperature)
        assert fitted <= log_loss(alone, labels) + 1e-6


def test_log_loss_weights_solve_the_case_of_two_members_by_hand() -> None:
    """Of the truth, one member gives 0.9 and 0.1 and the other 0.4 twice: p = (1 - w) 0.4 + w (0.9 or 0.1).

    The product (0.4 + 0.5 w)(0.4 - 0.3 w) is largest where 0.08 = 0.3 w.
    """
    logits = logits_of([0.1, 0.9, 0.9, 0.1], [0.6, 0.6, 0.4, 0.4])
    fit = fit_ensemble(logits, LABELS, weighting="logloss", calibration="none")
    assert fit.weights == pytest.approx([4 / 15, 11 / 15], abs=1e-3)


def test_a_member_that_is_always_better_gets_all_of_the_weight() -> None:
    logits = logits_of([0.1, 0.1, 0.9, 0.9], [0.3, 0.3, 0.7, 0.7])
    fit = fit_ensemble(logits, LABELS, weighting="logloss", calibration="none")
    assert fit.weights == [1, 0]
    assert fit.prob_fake(logits, "weighted") == pytest.approx([0.1, 0.1, 0.9, 0.9])


def test_metric_weights_are_how_far_each_ranking_is_above_chance() -> None:
    """ROC AUC 1, 0.75 and 0: half, a quarter and nothing above chance."""
    logits = logits_of([0.1, 0.2, 0.8, 0.9], [0.1, 0.6, 0.4, 0.9], [0.9, 0.8, 0.2, 0.1])
    assert fit_ensemble(logits, LABELS, weighting="metric").weights == pytest.approx([2 / 3, 1 / 3, 0])


def test_metric_weights_need_a_member_above_chance() -> None:
    with pytest.raises(InputError, match="no member ranks validation images better than chance"):
        fit_ensemble(logits_of([0.9, 0.8, 0.2, 0.1]), LABELS, weighting="metric")


def test_manual_weights_are_taken_and_scaled_to_one() -> None:
    logits = logits_of([0.1, 0.2, 0.8, 0.9], [0.3, 0.4, 0.5, 0.6])
    fit = fit_ensemble(logits, LABELS, weighting="manual", weights=[3, 1], calibration="none")
    assert fit.weights == [0.75, 0.25]
    assert fit.prob_fake(logits, "weighted")[0] == pytest.approx(0.75 * 0.1 + 0.25 * 0.3)


@pytest.mark.parametrize("weights", [None, [1.0], [1.0, -0.5], [0.0, 0.0]])
def test_manual_weights_that_do_not_fit_are_refused(weights: list[float] | None) -> None:
    with pytest.raises(InputError) as refusal:
        fit_ensemble(logits_of([0.1] * 4, [0.2] * 4), LABELS, weighting="manual", weights=weights)
    assert f"--weights {weights or []}: manual weighting needs 2 weights" in str(refusal.value)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"weights": [1, 1]}, "--weights goes with --weighting manual"),
        ({"weighting": "best"}, "--weighting best: must be one of stacking, greedy, logloss, metric, manual"),
        ({"calibration": "sigmoid"}, "--calibration sigmoid: must be one of temperature, platt, isotonic, none"),
        ({"target_error": 5}, "--target_error 5: must be between 0 and 1"),
        ({"voting": "median"}, "--voting median: must be one of soft, hard, weighted"),
        ({"threshold": "0.3"}, "--threshold 0.3: must be fixed"),
    ],
)
def test_unknown_choices_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit_ensemble(logits_of([0.1, 0.2, 0.8, 0.9], [0.3, 0.4, 0.5, 0.6]), LABELS, **choices)


def test_images_of_one_class_are_refused() -> None:
    with pytest.raises(InputError, match="these 3 are all of one class"):
        fit_ensemble(logits_of([0.1, 0.2, 0.3]), np.zeros(3, dtype=np.int64))


def test_each_member_gets_back_the_temperature_that_its_logits_were_multiplied_by() -> None:
    generator = np.random.default_rng(0)
    margins = generator.normal(0, 2, 20000)
    labels = (generator.random(20000) < expit(margins)).astype(np.int64)
    one = np.stack([np.zeros_like(margins), margins], axis=-1)
    fit = fit_ensemble(np.stack([one, one * 4], axis=1), labels)
    assert fit.temperatures == pytest.approx([1, 4], rel=0.05)
    np.testing.assert_allclose(fit.prob_fake(np.stack([one, one * 4], axis=1)), expit(margins), atol=0.01)


def test_without_calibration_every_temperature_is_one_and_the_vote_is_the_plain_mean() -> None:
    logits, labels = draw_members([1, 2])
    fit = fit_ensemble(logits, labels, calibration="none")
    assert fit.temperatures == [1, 1]
    np.testing.assert_allclose(fit.prob_fake(logits), expit(logits[..., 1] - logits[..., 0]).mean(axis=1))


@pytest.mark.parametrize("calibration", ["temperature", "platt", "isotonic"])
def test_the_vote_of_calibrated_members_is_underconfident_until_it_is_calibrated_too(calibration: str) -> None:
    """Five members whose errors are their own: together they know more than the mean of their probabilities says."""
    logits, labels = draw_members([1.5] * 5, images=4000)
    fitted, unseen = (logits[:2000], labels[:2000]), (logits[2000:], labels[2000:])
    fit = fit_ensemble(*fitted, calibration=calibration)
    members = [expected_calibration_error(unseen[1], probs) for probs in fit.member_probs(unseen[0]).T]
    pooled = expected_calibration_error(unseen[1], fit.prob_fake(unseen[0], calibrated=False))
    assert max(members) < 0.05 < 0.15 < pooled
    for voting in ("soft", "weighted"):
        assert expected_calibration_error(unseen[1], fit.prob_fake(unseen[0], voting)) < 0.03
    votes = fit.prob_fake(unseen[0], "hard") * 5
    np.testing.assert_allclose(votes, votes.round())  # a share of votes is no probability, and is left alone


def test_the_checkpoint_votes_as_the_fit_does() -> None:
    logits, labels = draw_members([1, 2, 3])
    fit = fit_ensemble(logits, labels, calibration="isotonic", target_error=0.1)
    config = EnsembleConfig(members=[{"model_type": "vit"}] * 3, **dataclasses.asdict(fit))
    again = EnsembleConfig.from_dict(json.loads(config.to_json_string()))
    settings = {name: getattr(again, name) for name in VOTE_SETTINGS}
    for voting in VOTINGS:
        voted = vote(torch.from_numpy(logits), voting=voting, **settings)
        np.testing.assert_allclose(voted, fit.prob_fake(logits, voting))
    assert again.uncertain_band == fit.uncertain_bands["soft"]


@pytest.mark.parametrize("voting", ["soft", "weighted"])
def test_verdicts_outside_of_the_band_keep_the_target_error(voting: str) -> None:
    logits, labels = draw_members([1.5, 2], images=1000)
    fit = fit_ensemble(logits, labels, voting, target_error=0.05)
    stored = fit.thresholds[voting], fit.uncertain_bands[voting]
    verdicts = [verdict(prob, *stored) for prob in fit.prob_fake(logits)]
    wrong = [NAMES[label] != said for label, said in zip(labels, verdicts, strict=True) if said != "uncertain"]
    assert 0 < len(wrong) < 1000
    assert 0.04 < np.mean(wrong) <= 0.05


def test_hard_votes_have_no_band() -> None:
    logits, labels = draw_members([1.5, 2])
    with pytest.raises(InputError, match="--target_error: a share of hard votes has no band"):
        fit_ensemble(logits, labels, "hard", target_error=0.05)


def test_cross_fitting_predicts_each_image_by_a_fit_that_has_not_seen_its_unit() -> None:
    logits, labels = draw_members([1, 2], images=300)
    units = np.arange(300) // 3
    predicted = cross_fitted(logits, labels, units, voting="weighted", weighting="metric")
    assert predicted["members"].shape == (300, 2)
    for rest, part in splits(labels, units):
        assert not set(units[rest]) & set(units[part])
        fit = fit_ensemble(logits[rest], labels[rest], weighting="metric")
        np.testing.assert_allclose(predicted["members"][part], fit.member_probs(logits[part]))
        np.testing.assert_allclose(
            predicted["pooled"][part], fit.prob_fake(logits[part], "weighted", calibrated=False)
        )
        for voting in VOTINGS:
            np.testing.assert_allclose(predicted[voting][part], fit.prob_fake(logits[part], voting))
            assert set(predicted[f"{voting}_threshold"][part]) == {fit.thresholds[voting]}


def test_too_few_images_are_not_cross_fitted() -> None:
    logits, labels = draw_members([1, 2], images=20)
    assert cross_fitted(logits, labels, labels) == {}


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
def test_stacked_members_are_pooled_as_log_odds_in_single_precision_too(calibration: str) -> None:
    """The second member is sure to seven digits, where a single-precision probability has no log-odds left."""
    logits, labels = draw_members([1, 1])
    logits[:200, 1, 1] *= 12
    fit = fit_ensemble(logits, labels, weighting="stacking", calibration=calibration)
    assert fit.pooling == "log_odds"
    probs = fit.member_probs(logits).clip(1e-7, 1 - 1e-7)
    pooled = expit(np.log(probs / (1 - probs)) @ np.array(fit.weights))
    np.testing.assert_allclose(fit.prob_fake(logits, "weighted", calibrated=False), pooled, atol=1e-9)
    settings = {name: getattr(fit, name) for name in VOTE_SETTINGS}
    single = vote(torch.from_numpy(logits).float(), voting="weighted", **settings)
    np.testing.assert_allclose(single, fit.prob_fake(logits, "weighted"), atol=2e-6)


@pytest.mark.parametrize(("purpose", "most"), [("fpr=0.02", 0.02), ("fpr=0.2", 0.2)])
def test_the_threshold_of_each_vote_is_fitted_on_that_vote(purpose: str, most: float) -> None:
    logits, labels = draw_members([0.8, 1, 3])
    fit = fit_ensemble(logits, labels, threshold=purpose)
    for voting in ("soft", "weighted"):
        verdicts = fit.prob_fake(logits, voting) >= fit.thresholds[voting]
        assert verdicts[labels == 0].mean() == pytest.approx(most, abs=1 / (labels == 0).sum())
    assert fit.thresholds["hard"] == 0.5
    assert set(fit.thresholds) == set(VOTINGS)


def test_a_fixed_threshold_is_one_half_for_members_and_votes() -> None:
    logits, labels = draw_members([0.8, 1])
    fit = fit_ensemble(logits, labels, threshold="fixed")
    assert fit.member_thresholds == [0.5, 0.5]
    assert set(fit.thresholds.values()) == {0.5}


def predictions(images: list[str], labels: list[int]) -> pd.DataFrame:
    zeros = [0.0] * len(images)
    return pd.DataFrame({"image": images, "label": labels, "logit_real": zeros, "logit_fake": zeros})


def test_members_are_stacked_in_their_order() -> None:
    first, second = predictions(["a", "b"], [0, 1]), predictions(["a", "b"], [0, 1])
    second["logit_fake"] = [1.0, 2.0]
    logits, labels = member_logits({"first": first, "second": second})
    assert logits.tolist() == [[[0, 0], [0, 1]], [[0, 0], [0, 2]]]
    assert labels.tolist() == [0, 1]


def test_members_that_were_scored_on_different_rows_are_refused() -> None:
    tables = {"vit": predictions(["a", "b"], [0, 1]), "swin": predictions(["a", "c"], [0, 1])}
    with pytest.raises(InputError, match=r"swin and vit .* row 1 is c \(label 1\) in one and b \(label 1\) in"):
        member_logits(tables)
    with pytest.raises(InputError, match=r"row 0 is a \(label 1\) in one and a \(label 0\) in the other"):
        member_logits({"vit": predictions(["a"], [0]), "swin": predictions(["a"], [1])})


def test_members_that_were_scored_on_different_numbers_of_images_are_refused() -> None:
    with pytest.raises(InputError, match="swin was scored on 1 images and vit on 2"):
        member_logits({"vit": predictions(["a", "b"], [0, 1]), "swin": predictions(["a"], [0])})
