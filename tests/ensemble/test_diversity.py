from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_deepfake.ensemble.diversity import MEASURES, diversity_lines, member_diversity, plot_diversity

LABELS = np.ones(10, dtype=np.int64)


def probs_of(*right: str) -> np.ndarray:
    """Members that are right (`1`) or wrong (`0`) about ten fakes."""
    return np.array([[0.9 if digit == "1" else 0.1 for digit in member] for member in right]).T


def test_two_members_by_hand() -> None:
    """Both right 4, the first alone 3, the second alone 1, both wrong 2 of 10."""
    found = member_diversity(["a", "b"], LABELS, probs_of("1111111000", "1111000100"), [0.5, 0.5])
    assert found["mean"] == pytest.approx(
        {
            "error_correlation": (0.4 * 0.2 - 0.3 * 0.1) / np.sqrt(0.7 * 0.3 * 0.5 * 0.5),
            "q_statistic": (8 - 3) / (8 + 3),
            "double_fault": 0.2,
            "disagreement": 0.4,
        }
    )


def test_twins_err_alike_and_a_member_without_errors_is_correlated_with_nobody() -> None:
    probs = probs_of("1111100000", "1111100000", "1111111111")
    pairs = member_diversity(["a", "b", "c"], LABELS, probs, [0.5] * 3)["pairs"]
    assert pairs["error_correlation"] == [[None, 1, None], [1, None, None], [None, None, None]]
    assert pairs["q_statistic"][0][1] == 1
    assert pairs["q_statistic"][0][2] is None
    assert pairs["disagreement"] == [[None, 0, 0.5], [0, None, 0.5], [0.5, 0.5, None]]


def test_each_verdict_is_taken_at_the_threshold_of_its_member() -> None:
    probs = np.array([[0.3, 0.3]] * 10)
    assert member_diversity(["a", "b"], LABELS, probs, [0.2, 0.4])["mean"]["disagreement"] == 1


def test_the_card_has_the_means_and_the_plot() -> None:
    found = member_diversity(["a", "b"], LABELS, probs_of("1111111000", "1111000100"), [0.5, 0.5])
    text = "\n".join(diversity_lines({"diversity": found | {"split": "test"}}))
    assert "over 10 test images, both are wrong on 20.0% and one alone on 40.0%" in text
    assert "their errors correlate by 0.22 (Q statistic 0.45)" in text
    assert "plots/diversity.png" in text
    assert diversity_lines({}) == []


def test_the_plot_is_drawn_also_where_a_measure_is_not_defined(tmp_path: Path) -> None:
    found = member_diversity(["a", "b"], LABELS, probs_of("1111111111", "1111111111"), [0.5, 0.5])
    assert found["mean"] | {"double_fault": 0, "disagreement": 0} == dict.fromkeys(MEASURES) | {
        "double_fault": 0,
        "disagreement": 0,
    }
    plot_diversity(found, tmp_path / "diversity.png")
    with Image.open(tmp_path / "diversity.png") as image:
        assert image.width > 500
