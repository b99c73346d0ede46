from typing import Any

import pytest

pytest.importorskip("c2pa")

from hf_deepfake.serving.facts import FileFacts
from hf_deepfake.serving.rendering import chance_in_words, facts_html, percent, robustness_html, verdict_html
from hf_deepfake.serving.words import ENGLISH

FACTS = FileFacts("JPEG", 10, 20, 3000, False, "<i>", "", "", True, "intact", "A & B", True)


def details(prob_fake: float, label: str = "fake", **more: Any) -> dict[str, Any]:
    return {"prob_fake": prob_fake, "label": label, "threshold": 0.4, "voting": "soft"} | more


@pytest.mark.parametrize(
    ("prob_fake", "number", "words"),
    [
        (1.0, "100 %", "almost certainly fake"),
        (0.996, "> 99 %", "almost certainly fake"),
        (0.9, "90 %", "very probably fake"),
        (0.5, "50 %", "little more than a guess"),
        (0.2, "20 %", "rather real than fake"),
        (0.001, "< 1 %", "almost certainly real"),
        (0.0, "0 %", "almost certainly real"),
    ],
)
def test_a_probability_is_said_as_a_number_and_in_words(prob_fake: float, number: str, words: str) -> None:
    assert percent(prob_fake) == number
    assert chance_in_words(prob_fake, ENGLISH) == words


def test_a_verdict_tells_the_threshold_or_the_band_that_it_was_taken_at() -> None:
    assert "It is called fake from 40 % on." in verdict_html(details(0.45), FACTS, ENGLISH)
    narrow = verdict_html(details(0.45, uncertain_band=[0.4, 0.401]), FACTS, ENGLISH)
    assert "It is called fake from 40 % on." in narrow, "no band from 40 % to 40 %"
    open_ = verdict_html(details(0.45, "uncertain", uncertain_band=[0.3, 0.6]), FACTS, ENGLISH)
    assert "Cannot tell" in open_
    assert "Between 30 % and 60 % the detectors leave it open." in open_


def test_a_share_of_hard_votes_is_not_called_a_probability() -> None:
    html = verdict_html(details(2 / 3, voting="hard"), FACTS, ENGLISH)
    assert "67 % of the detectors vote fake" in html
    assert "chance of being fake" not in html


def test_a_verdict_that_changes_is_pointed_out() -> None:
    same, other = details(0.9), details(0.1, "real")
    assert ENGLISH.holds in robustness_html({"a": same, "b": same}, ENGLISH)
    assert ENGLISH.flips in robustness_html({"a": same, "b": other}, ENGLISH)


def test_what_a_file_says_is_text_and_its_place_is_not_shown() -> None:
    html = facts_html(FACTS, ENGLISH)
    assert "&lt;i&gt;" in html
    assert "signed by A &amp; B" in html
    assert ENGLISH.says_made_by_ai in html
    assert ENGLISH.place_present in html
    assert html.count(ENGLISH.not_stated) == 2
