import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from hf_deepfake.ensemble.choosing import choice_lines, choose_fit


def members_of(
    strengths: list[float], images: int = 400, seed: int = 0, **columns: list[str]
) -> dict[str, pd.DataFrame]:
    """Calibrated members whose errors are their own, of these strengths."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    tables = {}
    for index, strength in enumerate(strengths):
        margins = 2 * strength * (strength * (2 * labels - 1) + generator.normal(size=images))
        scores = {"prob_fake": expit(margins), "logit_real": 0.0, "logit_fake": margins}
        tables[f"m{index}"] = pd.DataFrame(
            {"image": np.arange(images).astype(str), "label": labels, **scores, **columns}
        )
    return tables


def copies() -> dict[str, pd.DataFrame]:
    """One detector that is there five times, and another that the mean drowns."""
    other, copied = members_of([1.3, 1]).values()
    return {"other": other} | {f"copy{number}": copied for number in range(5)}


def test_weights_that_beat_soft_voting_are_kept() -> None:
    fit, choice = choose_fit(copies(), {"weighting": "logloss"})
    assert (fit.voting, choice["voting"]) == ("weighted", "weighted")
    assert fit.weights[0] > 0.5
    assert choice["difference"]["log_loss_high"] < 0
    assert choice["because"].startswith("logloss weights beat soft voting beyond noise: cross-fitted log-loss -")
    cross_fitted = choice["cross_fitted"]
    assert cross_fitted["weighted voting (stacking)"]["log_loss"] < cross_fitted["soft voting"]["log_loss"]


def test_weights_of_equal_members_give_way_to_soft_voting() -> None:
    fit, choice = choose_fit(members_of([1, 1, 1]), {"voting": "weighted", "weighting": "metric"})
    assert fit.voting == "soft"
    assert choice["asked"] == "weighted"
    assert "metric weights do not beat soft voting beyond noise" in choice["because"]
    assert list(choice["cross_fitted"]) == ["soft voting", "hard voting"] + [
        f"weighted voting ({name})" for name in ("stacking", "greedy", "logloss", "metric")
    ]
    difference = choice["difference"]
    assert difference["log_loss_low"] < difference["log_loss"] < difference["log_loss_high"]
    lines = choice_lines({"choice": choice})
    assert lines[0] == f"Why soft voting: {choice['because']}."
    assert f"| hard voting | {choice['cross_fitted']['hard voting']['roc_auc']:.3f} |" in "\n".join(lines)
    assert choice_lines({}) == []


@pytest.mark.slow
def test_a_vote_that_was_asked_for_stays_and_is_compared() -> None:
    fit, choice = choose_fit(copies(), {"voting": "hard", "weighting": "logloss"})
    assert fit.voting == "hard"
    assert choice["because"] == "hard voting was asked for"
    assert choice["difference"]["log_loss_high"] < 0


@pytest.mark.slow
def test_weights_given_by_hand_stay_however_bad() -> None:
    fit, choice = choose_fit(members_of([1.5, 0.1]), {"weighting": "manual", "weights": [0.0, 1.0]})
    assert (fit.voting, fit.weights) == ("weighted", [0, 1])
    assert choice["difference"]["log_loss_low"] > 0
    assert "weighted voting (manual)" in choice["cross_fitted"]


def test_too_few_images_and_a_single_member_are_voted_softly() -> None:
    fit, choice = choose_fit(members_of([1.5, 0.1], images=30), {})
    assert fit.voting == "soft"
    assert "15 real and 15 fake images are too few" in choice["because"]
    assert "cross_fitted" not in choice
    fit, choice = choose_fit(members_of([1.5]), {})
    assert (fit.voting, choice["because"]) == ("soft", "one member leaves nothing to weight")


@pytest.mark.slow
def test_noise_is_that_of_generators_where_they_are_known() -> None:
    """The second member is right about two generators of three: images are many, but generators are few."""
    sources = ["camera" if row % 2 == 0 else f"gan{row % 3}" for row in range(600)]
    members = members_of([1, 1], images=600, source=sources)
    turned = members["m1"]["source"] == "gan0"
    members["m1"].loc[turned, "logit_fake"] = -5.0
    by_source = choose_fit(members, {})[1]
    by_image = choose_fit({name: table.drop(columns="source") for name, table in members.items()}, {})[1]
    assert (by_source["left_out"], by_image["left_out"]) == ("source", "image")
    widths = [
        choice["difference"]["log_loss_high"] - choice["difference"]["log_loss_low"]
        for choice in (by_source, by_image)
    ]
    assert widths[0] > 1.5 * widths[1]
