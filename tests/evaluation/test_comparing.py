import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import binomtest, kstest
from sklearn.metrics import roc_auc_score

from hf_deepfake import InputError
from hf_deepfake.evaluation.comparing import compare_models, decisions_p_value, holm, roc_auc_difference

# The patients of DeLong, DeLong and Clarke-Pearson 1988 without missing values, as SAS/STAT prints them in the example
# "Comparing Receiver Operating Characteristic Curves" of PROC LOGISTIC.
ALBUMIN = """3.0 3.2 3.9 2.8 3.2 0.9 2.5 1.6 3.8 3.7 3.2 3.8 4.1 3.6 4.3 3.6 2.3 4.2 4.0 3.5 3.8 3.0 4.5 3.7 3.1 4.1 4.3 4.3
3.2 2.6 3.3 1.7 3.7 3.3 4.2 3.5 2.9 2.1 2.8 4.0 3.3 3.7 3.6"""
PROTEIN = """5.8 6.3 6.8 4.8 5.8 4.0 5.7 5.6 5.7 6.7 5.4 6.6 6.6 5.7 7.0 6.7 4.4 7.6 6.6 5.8 6.8 4.7 7.4 7.4 6.6 8.2 7.0 6.5
5.1 4.7 6.8 4.0 6.1 6.3 7.7 6.2 5.7 4.8 6.2 7.0 5.7 6.9 6.6"""
SEVERITY = "10 5 3 6 3 5 8 5 5 6 4 6 5 5 4 4 6 4 6 6 7 8 5 5 6 6 5 4 5 6 6 7 5 7 6 5 9 7 8 7 6 5 5"
OUTCOME = "0 1 1 0 1 0 0 1 1 1 1 1 1 1 1 0 1 0 0 1 1 0 1 1 1 1 1 1 1 1 0 0 1 1 1 1 0 1 0 1 1 1 1"


def numbers(text: str) -> NDArray[np.float64]:
    return np.array(text.split(), dtype=np.float64)


@pytest.mark.parametrize(
    ("measure", "difference", "low", "high", "p_value"),
    [(ALBUMIN, 0.0108, -0.1761, 0.1976, 0.9102), (PROTEIN, -0.0780, -0.2830, 0.1271, 0.4561)],
)
def test_delongs_own_patients_give_the_published_differences(
    measure: str, difference: float, low: float, high: float, p_value: float
) -> None:
    found, undefined = roc_auc_difference(numbers(OUTCOME) == 1, numbers(measure), -numbers(SEVERITY))
    assert list(found.values()) == pytest.approx([difference, low, high, p_value], abs=5e-5)
    assert undefined == {}


def draw(seed: int, images: int = 80, decimals: int = 16) -> tuple[NDArray[np.bool_], list[NDArray[np.float64]]]:
    """Labels of both classes and the scores of two equally good, correlated models."""
    generator = np.random.default_rng(seed)
    fake = generator.permutation(np.arange(images) % 3 == 0)
    shared = generator.normal(fake, 0.7)
    return fake, [expit(shared + generator.normal(0, 0.7, images)).round(decimals) for _ in range(2)]


@pytest.mark.parametrize("decimals", [16, 1])
def test_the_ranks_agree_with_all_pairs_of_a_real_and_a_fake_image(decimals: int) -> None:
    fake, scores = draw(1, decimals=decimals)
    kernels = [np.sign(probs[fake][:, None] - probs[~fake][None]) / 2 + 0.5 for probs in scores]
    kernel = kernels[0] - kernels[1]
    deviation = np.sqrt(kernel.mean(1).var(ddof=1) / fake.sum() + kernel.mean(0).var(ddof=1) / (~fake).sum())
    found, _ = roc_auc_difference(fake, *scores)
    assert found["roc_auc_difference"] == pytest.approx(kernel.mean(), abs=1e-12)
    assert found["roc_auc_difference_high"] - kernel.mean() == pytest.approx(1.959964 * deviation, rel=1e-6)
    assert kernel.mean() == pytest.approx(roc_auc_score(fake, scores[0]) - roc_auc_score(fake, scores[1]), abs=1e-12)


def test_the_p_value_of_equally_good_models_is_uniform() -> None:
    p_values = [roc_auc_difference(fake, *scores)[0]["roc_auc_p_value"] for fake, scores in map(draw, range(300))]
    assert kstest(p_values, "uniform").pvalue > 0.05


def test_the_p_value_agrees_with_exchanging_the_models_at_random() -> None:
    fake, (first, second) = draw(8, images=150)
    found, _ = roc_auc_difference(fake, first, second)
    generator = np.random.default_rng(0)
    extreme = []
    for _ in range(250):
        swapped = generator.random(150) < 0.5
        scores = np.where(swapped, second, first), np.where(swapped, first, second)
        difference = roc_auc_difference(fake, *scores)[0]["roc_auc_difference"]
        extreme.append(abs(difference) >= abs(found["roc_auc_difference"]))
    assert 0.05 < found["roc_auc_p_value"] < 0.6
    assert np.mean(extreme) == pytest.approx(found["roc_auc_p_value"], abs=0.06)


def test_one_image_a_group_is_as_no_groups() -> None:
    fake, scores = draw(2)
    grouped, _ = roc_auc_difference(fake, *scores, groups=[f"person {row}" for row in range(80)])
    assert grouped == pytest.approx(roc_auc_difference(fake, *scores)[0], abs=1e-12)


def test_copies_within_a_group_tell_no_more_than_one_of_them() -> None:
    fake, scores = draw(3)
    copies = [np.repeat(values, 5) for values in (fake, *scores)]
    once, _ = roc_auc_difference(fake, *scores)
    grouped, _ = roc_auc_difference(*copies, groups=np.repeat(np.arange(80), 5).tolist())
    ungrouped, _ = roc_auc_difference(*copies)
    assert grouped == pytest.approx(once, abs=1e-12)
    assert ungrouped["roc_auc_p_value"] < once["roc_auc_p_value"]


def test_only_the_grouped_test_keeps_its_level_where_images_of_a_group_are_alike() -> None:
    """Thirty people, half of them with fakes, of six images each; equally good models."""
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(30), 6)
    fake = people % 2 == 0
    alarms = []
    for _ in range(120):
        scores = [fake + generator.normal(0, 0.8, 30)[people] + generator.normal(0, 0.4, 180) for _ in range(2)]
        found = [roc_auc_difference(fake, *scores, groups=groups)[0] for groups in (people.tolist(), None)]
        alarms.append([values["roc_auc_p_value"] < 0.05 for values in found])
    grouped, ungrouped = np.mean(alarms, axis=0)
    assert 0.01 <= grouped <= 0.1
    assert ungrouped > 0.25


def test_equal_scores_are_no_difference() -> None:
    fake, scores = draw(4)
    found, undefined = roc_auc_difference(fake, scores[0], scores[0])
    assert list(found.values()) == [0, 0, 0, 1]
    assert undefined == {}


def test_a_difference_without_spread_has_no_p_value() -> None:
    """Perfect against constant scores: each image moves the difference by exactly a half."""
    found, undefined = roc_auc_difference(np.array([False, False, True, True]), np.arange(4.0), np.zeros(4))
    assert found == {"roc_auc_difference": 0.5}
    assert undefined["roc_auc_p_value"] == "every image moves the difference alike: its spread cannot be estimated"


def test_one_fake_image_or_group_has_no_spread() -> None:
    fake, scores = (
        np.array([False, False, True, True]),
        (np.array([0.1, 0.5, 0.4, 0.9]), np.array([0.2, 0.3, 0.6, 0.1])),
    )
    _, undefined = roc_auc_difference(fake, *scores, groups=["anna", "berta", "carla", "carla"])
    assert undefined["roc_auc_p_value"] == "needs two groups with real and two with fake images"
    _, undefined = roc_auc_difference(fake[:3], scores[0][:3], scores[1][:3])
    assert undefined["roc_auc_difference_low"] == "needs two images with real and two with fake images"


def test_mcnemars_test_is_solved_by_hand() -> None:
    """Of ten images that one model alone gets right, two are the second's: 2 (1 + 10 + 45) / 2 ** 10."""
    first = np.array([True] * 8 + [False] * 2 + [True] * 30)
    second = np.array([False] * 8 + [True] * 2 + [True] * 30)
    assert decisions_p_value(first, second) == pytest.approx(112 / 1024)
    assert decisions_p_value(second, first) == pytest.approx(112 / 1024)


def test_mcnemars_test_agrees_with_scipy() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        first, second = generator.random((2, 60)) < [[0.9], [0.7]]
        alone, discordant = int((first & ~second).sum()), int((first != second).sum())
        expected = binomtest(alone, discordant).pvalue
        assert decisions_p_value(first, second) == pytest.approx(expected, abs=1e-12)
        assert decisions_p_value(first, second, list(range(60))) == pytest.approx(expected, abs=1e-12)


def test_models_that_are_right_on_the_same_images_do_not_differ() -> None:
    right = np.array([True, False, True])
    assert decisions_p_value(right, right) == 1
    assert decisions_p_value(right, right, ["anna", "anna", "berta"]) == 1


def test_the_coin_is_tossed_once_a_group() -> None:
    """Leads of 2, 2 and -1: of the totals 5, 3, 1, 1, -1, -1, -3, -5 half are at least 3 away from 0."""
    first = np.array([True, True, True, True, False, True])
    second = np.array([False, False, False, False, True, True])
    assert decisions_p_value(first, second, ["anna", "anna", "berta", "berta", "carla", "carla"]) == pytest.approx(0.5)


def test_holms_adjustment_is_solved_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([]) == []


def table(labels: list[int], prob_fake: list[float], **columns: list[str]) -> pd.DataFrame:
    names = [f"{row}.png" for row in range(len(labels))]
    return pd.DataFrame({"image": names, "label": labels, "prob_fake": prob_fake} | columns)


def test_every_pair_is_compared_at_each_models_own_threshold() -> None:
    """Thresholds put all verdicts of `a` and `b` right and those of `c` wrong."""
    labels = [0, 0, 0, 1, 1]
    scores = {"a": [0.1, 0.2, 0.4, 0.6, 0.9], "b": [0.5, 0.6, 0.6, 0.8, 0.7], "c": [0.9, 0.8, 0.7, 0.1, 0.2]}
    tables = {name: table(labels, values) for name, values in scores.items()}
    entries = compare_models(tables, {"a": 0.5, "b": 0.65, "c": 0.5})
    assert [(entry["first"], entry["second"]) for entry in entries] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [entry["accuracy_difference"] for entry in entries] == [0, 1, 1]
    assert [entry["decisions_p_value"] for entry in entries] == pytest.approx([1, 1 / 16, 1 / 16])
    assert [entry["decisions_p_value_adjusted"] for entry in entries] == pytest.approx([1, 3 / 16, 3 / 16])
    assert entries[1]["roc_auc_difference"] == 1
    assert entries[0]["images"] == 5
    assert "groups" not in entries[0]


def test_groups_of_the_tables_are_used() -> None:
    fake, scores = draw(5)
    people = [str(row // 4) for row in range(80)]
    tables = {str(model): table(fake.astype(int).tolist(), probs.tolist()) for model, probs in enumerate(scores)}
    grouped = {name: rows.assign(group=people) for name, rows in tables.items()}
    thresholds = {"0": 0.5, "1": 0.5}
    entry, without = compare_models(grouped, thresholds)[0], compare_models(tables, thresholds)[0]
    found, _ = roc_auc_difference(fake, *scores, groups=people)
    assert entry["groups"] == 20
    assert {name: entry[name] for name in found} == pytest.approx(found)
    assert entry["roc_auc_p_value"] != without["roc_auc_p_value"]
    assert entry["roc_auc_p_value_adjusted"] == entry["roc_auc_p_value"]


def test_one_class_is_compared_by_decisions_alone() -> None:
    tables = {"a": table([0, 0, 0], [0.1, 0.2, 0.3]), "b": table([0, 0, 0], [0.1, 0.8, 0.3])}
    entry = compare_models(tables, {"a": 0.5, "b": 0.5})[0]
    assert entry["accuracy_difference"] == pytest.approx(1 / 3)
    assert entry["decisions_p_value"] == entry["decisions_p_value_adjusted"] == 1
    assert entry["undefined"]["roc_auc_difference"] == "only real images: needs both classes"
    assert not [name for name in entry if name.startswith("roc_auc")]


def test_one_model_has_no_pairs() -> None:
    assert compare_models({"a": table([0, 1], [0.1, 0.9])}, {"a": 0.5}) == []


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (table([0, 1, 1], [0.1, 0.9, 0.8]), "b was scored on 3 images and a on 2"),
        (
            table([0, 0], [0.1, 0.9], group=["x", "y"]),
            r"row 1 is image 1.png, label 0, group y in one and image 1.png, lab",
        ),
        (
            table([0, 1], [0.1, 0.9], group=["x", "z"]),
            "row 1 is image 1.png, label 1, group z in one and .* group y in",
        ),
        (table([0, 1], [0.1, float("nan")], group=["x", "y"]), r"b: prob_fake is nan in row 1 \(1.png\), 1 such rows"),
        (table([0, 1], [1.5, -1.0], group=["x", "y"]), r"b: prob_fake is 1.5 in row 0 \(0.png\), 2 such rows"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(other: pd.DataFrame, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare_models({"a": table([0, 1], [0.2, 0.7], group=["x", "y"]), "b": other}, {"a": 0.5, "b": 0.5})


def test_tables_without_rows_are_refused() -> None:
    empty = table([], [])
    with pytest.raises(InputError, match="a was scored on 0 images and a on 0"):
        compare_models({"a": empty, "b": empty}, {"a": 0.5, "b": 0.5})
