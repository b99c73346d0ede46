import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ks_2samp

from hf_deepfake import InputError
from hf_deepfake.evaluation.drift import (
    STATISTICS,
    Comparison,
    Limits,
    find_drift,
    principal_components,
    smallest_distance,
)


def scores(images: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """A table as predict --monitoring writes it, all columns independent of each other."""
    generator = np.random.default_rng(seed)
    table = {
        "prob_fake": generator.random(images),
        "label": generator.choice(["real", "fake", "uncertain"], images, p=[0.6, 0.3, 0.1]),
        "error": None,
        **{name: generator.normal(100, 10, images) for name in STATISTICS},
        "embedding": list(generator.normal(size=(images, 8)).astype(np.float32)),
    }
    return pd.DataFrame(table | columns)


def answers(reference: pd.DataFrame, current: pd.DataFrame, **limits: Any) -> dict[str, Comparison]:
    return {comparison.name: comparison for comparison in find_drift(reference, current, Limits(**limits))}


def drifted(reference: pd.DataFrame, current: pd.DataFrame, **limits: Any) -> list[str]:
    found = answers(reference, current, **limits)
    return [name for name, comparison in found.items() if comparison.verdict == "drift"]


def test_each_thing_that_changes_is_named_and_nothing_else() -> None:
    reference, current = scores(500), scores(400, seed=1)
    assert drifted(reference, current) == []
    for name, column in (("scores", "prob_fake"), *((name, name) for name in STATISTICS)):
        shifted = current.assign(**{column: current[column] * 0.5})
        assert drifted(reference, shifted) == [name]
    turned = [embedding + np.float32(1) * (np.arange(8) == 5) for embedding in current["embedding"]]
    assert drifted(reference, current.assign(embedding=turned)) == ["embeddings"]
    relabelled = current["label"].replace("real", "fake")
    assert drifted(reference, current.assign(label=relabelled)) == ["called fake"]
    assert drifted(reference, current.assign(label=current["label"].replace("uncertain", "real"))) == ["uncertain"]
    errors = np.where(np.arange(400) % 10, None, "no such file")
    assert drifted(reference, current.assign(error=errors)) == ["unreadable"]


def test_distances_and_shares_are_those_solved_by_hand() -> None:
    reference = scores(4, prob_fake=[0.1, 0.2, 0.3, 0.4], label=["real", "real", "real", "fake"])
    current = scores(4, prob_fake=[0.3, 0.35, 0.5, 0.6], label=["fake", "fake", "real", "fake"])
    found = answers(reference, current)
    assert found["scores"].effect == pytest.approx(0.5)  # below 0.3 are two of four, and none
    assert found["scores"].values == pytest.approx((0.25, 0.425))
    assert found["called fake"].values == (0.25, 0.75)
    assert found["called fake"].effect == 0.5
    assert found["called fake"].p_value == pytest.approx(34 / 70)  # 1 - C(4,2)² / C(8,4)
    assert found["scores"].images == (4, 4)


def test_rows_with_an_error_count_as_unreadable_only() -> None:
    reference, current = scores(200), scores(200, seed=1)
    broken = scores(50, seed=2, prob_fake=np.nan, error="damaged", label=None, width=np.nan, embedding=None)
    found = answers(reference, pd.concat([current, broken], ignore_index=True))
    assert found["unreadable"].values == (0, 0.2)
    assert {found[name].images for name in found if name != "unreadable"} == {(200, 200)}
    assert found["scores"].p_value == answers(reference, current)["scores"].p_value


def test_many_images_make_a_small_difference_significant_but_no_drift() -> None:
    reference, current = (pd.DataFrame({"prob_fake": np.linspace(0, end, 50_000)}) for end in (0.95, 1))
    (found,) = (part for part in find_drift(reference, current) if part.test)
    assert found.p_value_adjusted < 1e-10
    assert found.effect == pytest.approx(0.05, abs=1e-4)
    assert found.verdict == "ok"
    assert drifted(reference, current, min_distance=0.04) == ["scores"]


def test_few_images_are_not_judged_however_different() -> None:
    reference, current = scores(500), scores(99, prob_fake=1.0)
    assert {part.verdict for part in find_drift(reference, current)} == {"too few images"}
    assert "scores" in drifted(reference, current, min_images=99)


def test_what_a_table_lacks_is_not_measured_and_says_so() -> None:
    reference, current = scores(150), scores(150, seed=1)
    found = answers(reference[["prob_fake", "width"]], current.drop(columns="width"))
    assert {name for name, part in found.items() if part.verdict == "not measured"} == set(found) - {"scores"}
    assert found["width"].reason == "not in the current table"
    assert found["embeddings"].reason == "not in the reference"
    assert found["unreadable"].reason == "not both tables tell their errors"
    truth = answers(reference.assign(label=0), current)
    assert truth["called fake"].reason == truth["uncertain"].reason == "the labels are no verdicts"
    sure = (table.assign(label="real") for table in (reference, current))
    assert answers(*sure)["uncertain"].reason == "no verdict is uncertain"
    nothing = answers(reference, current.assign(error="damaged"))
    assert nothing["scores"].reason == "not in the current table"
    assert nothing["unreadable"].verdict == "drift"


def test_p_values_are_adjusted_for_all_tests_that_were_done() -> None:
    found = find_drift(scores(200), scores(200, seed=1, prob_fake=0.5))
    assert found[0].p_value_adjusted == pytest.approx(11 * found[0].p_value, rel=1e-9, abs=0)
    alone = find_drift(scores(200)[["prob_fake"]], scores(200, seed=1)[["prob_fake"]])
    assert alone[0].p_value_adjusted == alone[0].p_value


def test_turning_and_scaling_the_embeddings_changes_no_answer() -> None:
    reference, current = scores(150), scores(150, seed=1)
    rotation = np.linalg.qr(np.random.default_rng(2).normal(size=(8, 8)))[0]
    turned = [
        table.assign(embedding=list(3 * np.stack(table["embedding"].to_list()) @ rotation + 7))
        for table in (reference, current)
    ]
    expected, found = answers(reference, current)["embeddings"], answers(*turned)["embeddings"]
    assert found.effect == pytest.approx(expected.effect)
    assert found.p_value == pytest.approx(expected.p_value)


def test_components_of_both_tables_do_not_depend_on_which_is_the_reference() -> None:
    reference, current = scores(60), scores(40, seed=1)
    first, second = principal_components(reference, current, most=3)
    swapped = principal_components(current, reference, most=3)
    assert first.shape == (60, 3)
    np.testing.assert_allclose(np.abs(swapped[1]), np.abs(first), atol=1e-9)
    np.testing.assert_allclose(np.abs(swapped[0]), np.abs(second), atol=1e-9)


def test_without_a_drift_alarms_are_as_rare_as_alpha_says() -> None:
    table = scores(240)
    generator = np.random.default_rng(0)
    alarms = 0
    for _ in range(25):
        order = generator.permutation(len(table))
        halves = table.iloc[order[:120]], table.iloc[order[120:]]
        alarms += bool(drifted(*halves, alpha=0.1, min_distance=0, min_difference=0, min_unreadable=0))
    assert alarms <= 6  # of 25; 2.5 are allowed on average, and 7 or more come in one of 100 simulations


def test_the_smallest_distance_is_just_significant() -> None:
    distance = smallest_distance((1000, 1000), tests=5, alpha=0.05)
    steps = np.arange(1000) / 1000
    p_values = [
        ks_2samp(steps, steps + shift, method="asymp").pvalue for shift in (distance - 0.003, distance + 0.003)
    ]
    assert p_values[0] > 0.05 / 5 > p_values[1]


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"alpha": 1.5}, r"--alpha 1.5: must be between 0 and 1"),
        ({"min_distance": -0.1}, r"--min_distance -0.1: must be between 0 and 1"),
        ({"min_unreadable": float("nan")}, r"--min_unreadable nan: must be between 0 and 1"),
        ({"min_images": 0}, r"--min_images 0: must be at least 1"),
    ],
)
def test_impossible_limits_are_refused(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dataclasses.replace(Limits(), **limits)
