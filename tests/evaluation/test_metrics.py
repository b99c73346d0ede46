import subprocess
import sys
from collections.abc import Iterator
from itertools import permutations

import evaluate
import numpy as np
import pytest
import sklearn.metrics
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from hf_deepfake.evaluation import metrics as module
from hf_deepfake.evaluation.metrics import (
    INTERVALS,
    LOWER_IS_BETTER,
    bootstrap_intervals,
    confidence_ranks,
    detection_metrics,
    equal_error_rate,
    expected_calibration_error,
    selective_risks,
    verdict_confidence,
)


def draw_scores(images: int, seed: int, decimals: int = 16) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Labels of both classes and overlapping scores; few decimals make ties."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 2, images)
    labels[:2] = 0, 1
    return labels, generator.normal(0.4 + 0.2 * labels, 0.2).clip(0.01, 0.99).round(decimals)


@pytest.mark.parametrize("decimals", [16, 2, 1, 0])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_agree_with_scikit_learn_also_on_ties(seed: int, decimals: int) -> None:
    labels, prob_fake = draw_scores(150, seed, decimals)
    metrics = detection_metrics(labels, prob_fake, threshold=0.45)
    verdicts = prob_fake >= 0.45
    recall_first = sklearn.metrics.precision_recall_curve(labels, prob_fake)[1::-1]
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(labels, verdicts),
        "average_precision": sklearn.metrics.average_precision_score(labels, prob_fake),
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score(labels, verdicts),
        "brier": sklearn.metrics.brier_score_loss(labels, prob_fake),
        "f1": sklearn.metrics.f1_score(labels, verdicts),
        "false_negative_rate": 1 - sklearn.metrics.recall_score(labels, verdicts),
        "false_positive_rate": 1 - sklearn.metrics.recall_score(labels, verdicts, pos_label=0),
        "log_loss": sklearn.metrics.log_loss(labels, prob_fake.clip(1e-7, 1 - 1e-7)),
        "pr_auc": sklearn.metrics.auc(*recall_first),
        "precision": sklearn.metrics.precision_score(labels, verdicts),
        "recall": sklearn.metrics.recall_score(labels, verdicts),
        "roc_auc": sklearn.metrics.roc_auc_score(labels, prob_fake),
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert metrics["confusion_matrix"] == sklearn.metrics.confusion_matrix(labels, verdicts).tolist()


def test_four_images_solved_by_hand() -> None:
    metrics = detection_metrics([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.9])
    expected = {
        "accuracy": 0.5,
        "aurc": (0 + 0 + 1 / 3 + 2 / 4) / 4,  # the two errors are the two least confident verdicts
        "average_precision": (1 + 2 / 3) / 2,
        "balanced_accuracy": 0.5,
        "brier": (0.01 + 0.36 + 0.36 + 0.01) / 4,
        "ece": (0.1 + 0.6 + 0.6 + 0.1) / 4,
        "eer": 0.5,
        "f1": 0.5,
        "false_negative_rate": 0.5,
        "false_positive_rate": 0.5,
        "log_loss": -np.log([0.9, 0.4, 0.4, 0.9]).mean(),
        "pr_auc": 0.5 * 1 + 0.5 * (1 / 2 + 2 / 3) / 2,
        "precision": 0.5,
        "recall": 0.5,
        "roc_auc": 0.75,
        "tpr_at_fpr_1pct": 0.5,
    }
    assert {name: metrics[name] for name in INTERVALS} == pytest.approx(expected, abs=1e-12)
    assert metrics["confusion_matrix"] == [[1, 1], [1, 1]]
    assert metrics["images"] == 4
    assert metrics["undefined"] == {}


def test_verdicts_are_as_confident_as_their_log_odds_are_far_from_those_of_the_threshold() -> None:
    """Odds of 1, 3 and 9 against a threshold at odds of 3."""
    assert verdict_confidence([0.5, 0.75, 0.9], 0.75) == pytest.approx([np.log(3), 0, np.log(3)], abs=1e-9)
    assert confidence_ranks([0.5, 0.75, 0.9], 0.75).tolist() == [0, 1, 0]


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
def test_certain_scores_and_thresholds_have_a_finite_confidence(threshold: float) -> None:
    assert np.isfinite(verdict_confidence([0.0, 1e-12, 0.5, 1.0], threshold)).all()
    assert np.isfinite(detection_metrics([0, 1, 0, 1], [0.0, 1e-12, 0.5, 1.0], threshold)["aurc"])


def mean_risks(wrong: NDArray[np.bool_], ranks: NDArray[np.int64]) -> Iterator[float]:
    """Area under the risk-coverage curve of every order of the images that puts no less confident one first."""
    for order in permutations(range(len(wrong))):
        if (np.diff(ranks[list(order)]) >= 0).all():
            yield float((np.cumsum(wrong[list(order)]) / np.arange(1, len(wrong) + 1)).mean())


@pytest.mark.parametrize("seed", range(4))
def test_equally_confident_verdicts_count_as_the_mean_of_all_their_orders(seed: int) -> None:
    labels, prob_fake = draw_scores(7, seed, decimals=1)
    wrong, ranks = (prob_fake >= 0.5) != labels, confidence_ranks(prob_fake, 0.5)
    assert len(np.unique(ranks)) < 7
    expected = np.mean(list(mean_risks(wrong, ranks)))
    assert selective_risks(wrong, ranks).mean() == pytest.approx(expected, abs=1e-12)
    assert detection_metrics(labels, prob_fake)["aurc"] == pytest.approx(expected, abs=1e-12)


def test_the_order_of_rows_changes_no_metric() -> None:
    labels, prob_fake = draw_scores(200, seed=2, decimals=1)
    order = np.random.default_rng(0).permutation(200)
    before, after = detection_metrics(labels, prob_fake), detection_metrics(labels[order], prob_fake[order])
    assert {name: after[name] for name in INTERVALS} == pytest.approx({name: before[name] for name in INTERVALS})


def test_errors_among_confident_verdicts_weigh_more() -> None:
    """The same accuracy; in the first the one error is the least confident verdict, in the second the most."""
    timid, bold = detection_metrics([0, 1, 1], [0.1, 0.4, 0.8]), detection_metrics([0, 1, 1], [0.4, 0.01, 0.8])
    assert timid["accuracy"] == bold["accuracy"]
    assert timid["aurc"] == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert bold["aurc"] == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_the_equal_error_rate_is_solved_between_two_points_of_the_curve() -> None:
    """The curve runs straight from (0, 0.5) to (0.5, 1), through the crossing at (0.25, 0.75)."""
    assert equal_error_rate([0, 0, 1, 1], [0.1, 0.6, 0.6, 0.9]) == pytest.approx(0.25)


def test_rescaling_the_scores_keeps_every_metric_of_their_order() -> None:
    labels, prob_fake = draw_scores(80, seed=1)
    before, after = detection_metrics(labels, prob_fake), detection_metrics(labels, prob_fake**3)
    for name in ("roc_auc", "pr_auc", "average_precision", "eer", "tpr_at_fpr_1pct"):
        assert after[name] == pytest.approx(before[name], abs=1e-12)


def test_scores_that_are_all_equal_are_chance() -> None:
    metrics = detection_metrics([0, 1, 0, 1], [0.3] * 4)
    assert metrics["roc_auc"] == metrics["eer"] == 0.5
    assert metrics["average_precision"] == 0.5
    assert metrics["tpr_at_fpr_1pct"] == 0


def test_a_score_at_the_threshold_is_a_verdict_of_fake() -> None:
    assert detection_metrics([0, 1], [0.2, 0.7], threshold=0.7)["accuracy"] == 1


def test_calibration_error_is_zero_where_shares_equal_scores() -> None:
    assert expected_calibration_error([0, 0, 0, 1, 1, 1, 1, 0], [0.25] * 4 + [0.75] * 4) == pytest.approx(0)
    assert expected_calibration_error([1], [1.0]) == 0


def test_real_images_alone_answer_what_they_can_and_say_why_not_the_rest() -> None:
    metrics = detection_metrics([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.9])
    assert metrics["false_positive_rate"] == 0.25
    assert metrics["accuracy"] == 0.75
    assert metrics["brier"] == pytest.approx((0.01 + 0.04 + 0.09 + 0.81) / 4)
    assert metrics["precision"] == 0
    assert metrics["undefined"]["roc_auc"] == "only real images: needs both classes"
    assert metrics["undefined"]["recall"] == "there is no fake image"
    assert metrics["undefined"]["false_negative_rate"] == "there is no fake image"
    assert set(INTERVALS) == {name for name in INTERVALS if name in metrics} | set(metrics["undefined"])


def test_fake_images_alone_have_a_recall_but_no_false_alarms() -> None:
    metrics = detection_metrics([1, 1], [0.1, 0.9])
    assert metrics["recall"] == metrics["false_negative_rate"] == 0.5
    assert metrics["undefined"]["false_positive_rate"] == "there is no real image"
    assert metrics["undefined"]["eer"] == "only fake images: needs both classes"


def test_precision_needs_an_image_that_is_called_fake() -> None:
    undefined = detection_metrics([0, 1], [0.1, 0.2])["undefined"]
    assert undefined == {"precision": "no image is called fake"}
    undefined = detection_metrics([0, 0], [0.1, 0.2])["undefined"]
    assert undefined["f1"] == "there is no fake image and none is called fake"


@pytest.mark.parametrize(
    ("labels", "prob_fake", "message"),
    [
        ([0, 1], [0.1, float("nan")], "found nan in row 1, 1 in all"),
        ([0, 1], [1.5, -0.1], "found 1.5 in row 0, 2 in all"),
        ([0, 2], [0.1, 0.2], r"labels must be 0 \(real\) or 1 \(fake\); found \[0, 2\]"),
        ([0, 1, 1], [0.1, 0.2], r"found \(3,\) and \(2,\)"),
        ([[0, 1]], [[0.1, 0.2]], r"found \(1, 2\) and \(1, 2\)"),
        ([], [], "there are no images"),
    ],
)
def test_what_is_no_label_or_no_probability_is_refused(labels: list, prob_fake: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        detection_metrics(labels, prob_fake)
    with pytest.raises(ValueError, match=message):
        bootstrap_intervals(labels, prob_fake)


def test_one_class_has_no_equal_error_rate() -> None:
    with pytest.raises(ValueError, match="found 3 labels, all 1"):
        equal_error_rate([1, 1, 1], [0.1, 0.2, 0.3])


def test_lower_is_better_for_errors_and_higher_for_the_rest() -> None:
    """A perfect detector is at least as good as a bad one in every metric, in the direction that is said."""
    perfect, bad = detection_metrics([0, 1], [0.0, 1.0]), detection_metrics([0, 1, 0, 1], [0.7, 0.2, 0.8, 0.6])
    for name in INTERVALS:
        assert perfect[name] < bad[name] if name in LOWER_IS_BETTER else perfect[name] > bad[name], name


def test_every_interval_holds_its_value() -> None:
    labels, prob_fake = draw_scores(200, seed=3)
    metrics = detection_metrics(labels, prob_fake)
    intervals = bootstrap_intervals(labels, prob_fake, resamples=300)
    assert set(intervals) == {f"{name}_{end}" for name in INTERVALS for end in ("low", "high")}
    for name in set(INTERVALS) - {"ece"}:  # the error of a drawn sample's bins is biased upwards
        assert intervals[f"{name}_low"] <= metrics[name] <= intervals[f"{name}_high"], name


def test_intervals_of_one_seed_are_the_same() -> None:
    labels, prob_fake = draw_scores(50, seed=3)
    first, second, other = (bootstrap_intervals(labels, prob_fake, resamples=50, seed=seed) for seed in (0, 0, 1))
    assert first == second != other


def test_intervals_are_wider_when_the_images_of_a_group_are_alike() -> None:
    """Twenty copies of each image tell no more than one of them."""
    labels, prob_fake = draw_scores(40, seed=3)
    copies, scores = np.repeat(labels, 20), np.repeat(prob_fake, 20)
    groups = [str(image) for image in np.repeat(np.arange(40), 20)]

    def width(intervals: dict[str, float]) -> float:
        return intervals["roc_auc_high"] - intervals["roc_auc_low"]

    alone = width(bootstrap_intervals(copies, scores, resamples=200))
    grouped = width(bootstrap_intervals(copies, scores, groups=groups, resamples=200))
    once = width(bootstrap_intervals(labels, prob_fake, resamples=200))
    assert grouped > 3 * alone
    assert grouped == pytest.approx(once, rel=0.2)


def covered(intervals: dict[str, float], name: str, truth: float) -> bool:
    return intervals[f"{name}_low"] <= truth <= intervals[f"{name}_high"]


SIMULATIONS = pytest.mark.parametrize(
    ("simulations", "resamples"), [(50, 60), pytest.param(300, 300, marks=pytest.mark.slow)]
)


@SIMULATIONS
def test_intervals_hold_the_true_value_about_as_often_as_they_say(simulations: int, resamples: int) -> None:
    """Margins of normal scores two apart: AUC = Phi(2 / sqrt(2)), and Phi(1) of the verdicts at 0.5 are right."""
    generator = np.random.default_rng(0)
    held = []
    for seed in range(simulations):
        labels = np.arange(100) % 2
        prob_fake = expit(generator.normal(2 * labels - 1, 1))
        intervals = bootstrap_intervals(labels, prob_fake, resamples=resamples, seed=seed)
        held.append([covered(intervals, "accuracy", norm.cdf(1)), covered(intervals, "roc_auc", norm.cdf(2**0.5))])
    for share in np.mean(held, axis=0):
        assert 0.9 <= share <= 0.99


@SIMULATIONS
def test_only_intervals_by_group_hold_the_true_value_where_images_of_a_group_are_alike(
    simulations: int, resamples: int
) -> None:
    """Sixty people with four nearly equal photographs each."""
    generator = np.random.default_rng(0)
    held = []
    groups = [str(person) for person in np.repeat(np.arange(60), 4)]
    for seed in range(simulations):
        margins = np.repeat(generator.normal(0, 0.95**0.5, 60), 4) + generator.normal(0, 0.05**0.5, 240)
        labels, prob_fake = np.zeros(240), expit(margins - 0.5)
        grouped = bootstrap_intervals(labels, prob_fake, groups=groups, resamples=resamples, seed=seed)
        ungrouped = bootstrap_intervals(labels, prob_fake, resamples=resamples, seed=seed)
        held.append([covered(intervals, "accuracy", norm.cdf(0.5)) for intervals in (grouped, ungrouped)])
    grouped_share, ungrouped_share = np.mean(held, axis=0)
    assert 0.9 <= grouped_share <= 0.99
    assert ungrouped_share < 0.8


def test_one_group_alone_has_no_interval() -> None:
    assert bootstrap_intervals([0, 1, 0, 1], [0.1, 0.9, 0.2, 0.3], groups=["anna"] * 4) == {}
    assert bootstrap_intervals([1], [0.9]) == {}


def test_one_class_has_intervals_of_what_it_can_answer() -> None:
    intervals = bootstrap_intervals([0] * 20, [0.1, 0.9] * 10, resamples=100)
    assert 0 < intervals["false_positive_rate_low"] < 0.5 < intervals["false_positive_rate_high"] < 1
    assert "roc_auc_low" not in intervals


def test_each_image_needs_a_group() -> None:
    with pytest.raises(ValueError, match="4 images need one group each; found 2"):
        bootstrap_intervals([0, 1, 0, 1], [0.1, 0.2, 0.3, 0.4], groups=["a", "b"])


def test_evaluate_loads_the_metric_from_its_file_without_the_hub() -> None:
    metric = evaluate.load(module.__file__)
    labels, prob_fake = draw_scores(30, seed=5)
    expected = detection_metrics(labels, prob_fake, threshold=0.3)
    assert metric.compute(predictions=prob_fake, references=labels, threshold=0.3) == expected
    for part in (slice(0, 10), slice(10, 30)):
        metric.add_batch(predictions=prob_fake[part], references=labels[part])
    assert metric.compute(threshold=0.3) == expected


@pytest.mark.slow
def test_evaluate_loads_the_metric_in_a_fresh_interpreter_that_is_offline() -> None:
    code = (
        f"import evaluate; metric = evaluate.load({module.__file__!r}); "
        "print(metric.compute(predictions=[0.1, 0.9], references=[0, 1])['roc_auc'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1.0"
