from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.special import expit

from hf_deepfake import InputError
from hf_deepfake.evaluation.calibration import fit_temperature, fit_threshold
from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.sources import OF_BOTH_CLASSES, by_source, leave_one_source_out


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "hf_deepfake.evaluation.benchmark.bootstrap_intervals", partial(bootstrap_intervals, resamples=30)
    )


def scored(source: str | None, label: int, margins: list[float], **columns: list[str]) -> pd.DataFrame:
    """Predictions of one source and class, uncalibrated: `prob_fake` is the sigmoid of the margin."""
    values = np.array(margins)
    columns_of_all = {"image": [f"{source}-{label}-{row}.png" for row in range(len(values))], "label": label}
    scores = {"prob_fake": expit(values), "logit_real": -values / 2, "logit_fake": values / 2, "source": source}
    return pd.DataFrame(columns_of_all | scores | columns)


def draw(source: str, label: int, center: float, images: int = 40, seed: int = 0) -> pd.DataFrame:
    margins = np.random.default_rng([seed, label, images]).normal(center, 1.5, images)
    return scored(source, label, margins.tolist())


@pytest.fixture
def benchmark() -> pd.DataFrame:
    """Two cameras, two generators, of which the detector finds `diffusion` harder, and a set of both classes."""
    return pd.concat(
        [
            draw("phone", 0, -3, 40),
            draw("scanner", 0, -2, 30),
            draw("gan", 1, 3, 50),
            draw("diffusion", 1, 0, 45),
            draw("mixed", 0, -1, 20),
            draw("mixed", 1, 1, 25),
        ]
    )


def test_a_source_of_both_classes_is_measured_alone(benchmark: pd.DataFrame) -> None:
    own = benchmark[benchmark["source"] == "mixed"]
    measured = by_source(benchmark, 0.5)["mixed"]
    expected = detection_metrics(own["label"], own["prob_fake"])
    assert {name: measured[name] for name in expected} == expected
    assert measured["others"] == 0
    assert measured["roc_auc_low"] <= measured["roc_auc"] <= measured["roc_auc_high"]


def test_a_generator_is_ranked_against_all_real_images_and_misses_are_its_own(benchmark: pd.DataFrame) -> None:
    own = benchmark[benchmark["source"] == "gan"]
    real = benchmark[benchmark["label"] == 0]
    measured = by_source(benchmark, 0.7)["gan"]
    alone = detection_metrics(own["label"], own["prob_fake"], 0.7)
    together = pd.concat([own, real])
    ranked = detection_metrics(together["label"], together["prob_fake"], 0.7)
    assert measured["images"] == 50
    assert measured["others"] == len(real) == 90
    for name in ("false_negative_rate", "recall", "accuracy", "brier", "ece", "aurc", "confusion_matrix"):
        assert measured[name] == alone[name], name
    assert {name: measured[name] for name in OF_BOTH_CLASSES} == {name: ranked[name] for name in OF_BOTH_CLASSES}
    assert measured["undefined"] == {"false_positive_rate": "there is no real image"}
    assert "roc_auc_low" in measured
    assert "false_positive_rate_low" not in measured


def test_a_camera_is_accused_by_its_own_images_only() -> None:
    table = pd.concat(
        [scored("phone", 0, [-2, 1, -1, -1]), scored("scanner", 0, [2, 2, 2]), scored("gan", 1, [3, 0.5, -3])]
    )
    measured = by_source(table, 0.5)
    assert measured["phone"]["false_positive_rate"] == 1 / 4
    assert measured["scanner"]["false_positive_rate"] == 1
    assert measured["gan"]["false_negative_rate"] == 1 / 3
    assert measured["phone"]["roc_auc"] == pytest.approx(7 / 12)  # 3 beats four images, 0.5 three, -3 none
    assert measured["phone"]["undefined"]["false_negative_rate"] == "there is no fake image"


def test_images_of_one_class_alone_cannot_be_ranked() -> None:
    table = pd.concat([scored("phone", 0, [-2, 1]), scored("scanner", 0, [2, 2, 2])])
    measured = by_source(table, 0.5)["phone"]
    assert measured["others"] == 0
    assert measured["undefined"]["roc_auc"] == "only real images: needs both classes"


def test_sources_that_no_training_image_was_of_are_unseen_where_that_is_known(benchmark: pd.DataFrame) -> None:
    measured = by_source(benchmark, 0.5, trained_on={"phone", "gan"})
    assert {source for source, metrics in measured.items() if metrics["unseen"]} == {"scanner", "diffusion", "mixed"}
    assert not any("unseen" in metrics for metrics in by_source(benchmark, 0.5).values())


def test_images_without_a_source_only_serve_as_the_other_class() -> None:
    table = pd.concat([scored("gan", 1, [2.0, 1.0]), scored(None, 0, [-1.0, 1.5])])
    measured = by_source(table, 0.5)
    assert set(measured) == {"gan"}
    assert measured["gan"]["roc_auc"] == 3 / 4


def test_intervals_of_a_source_are_by_group() -> None:
    margins = [float(margin) for margin in np.random.default_rng(0).normal(0, 1, 20)]
    groups = [str(row // 10) for row in range(20)]
    table = scored("phone", 0, margins, group=groups)
    expected = bootstrap_intervals(table["label"], table["prob_fake"], groups=groups, resamples=30)
    measured = by_source(table, 0.5)["phone"]
    assert {name: measured[name] for name in expected} == expected


@pytest.mark.parametrize("measure", [partial(by_source, threshold=0.5), leave_one_source_out])
def test_a_table_without_sources_is_refused(measure: partial) -> None:
    with pytest.raises(InputError, match=r"no column source \(found \['image', 'label', 'prob_fake'"):
        measure(scored("gan", 1, [1.0]).drop(columns="source"))


def test_temperature_and_threshold_are_fitted_on_the_other_sources(benchmark: pd.DataFrame) -> None:
    rest = benchmark[benchmark["source"] != "mixed"]
    logits, labels = rest[["logit_real", "logit_fake"]].to_numpy(), rest["label"].to_numpy()
    temperature = fit_temperature(logits, labels)
    threshold = fit_threshold(labels, expit((logits[:, 1] - logits[:, 0]) / temperature), "f1")
    measured = leave_one_source_out(benchmark, purpose="f1")["mixed"]
    own = benchmark[benchmark["source"] == "mixed"]
    calibrated = expit((own["logit_fake"] - own["logit_real"]) / temperature)
    expected = detection_metrics(own["label"], calibrated, threshold)
    assert measured["temperature"] == temperature
    assert {name: measured[name] for name in expected} == expected


def test_what_is_fitted_does_not_depend_on_the_source_that_is_left_out(benchmark: pd.DataFrame) -> None:
    changed = benchmark.copy()
    changed.loc[changed["source"] == "diffusion", ["logit_real", "logit_fake"]] = [3.0, -3.0]
    before, after = (leave_one_source_out(table)["diffusion"] for table in (benchmark, changed))
    assert (after["temperature"], after["threshold"]) == (before["temperature"], before["threshold"])
    assert after["false_negative_rate"] == 1 > before["false_negative_rate"]


def test_a_generator_that_the_fit_has_not_seen_is_missed_more_often() -> None:
    """Real images at -6, fakes at 4; those of `diffusion` at -1, which a threshold half way between the others misses."""
    table = pd.concat([draw("phone", 0, -6, 80), draw("gan", 1, 4, 60), draw("diffusion", 1, -1, 40)])
    known = fit_threshold(table["label"].to_numpy(), table["prob_fake"].to_numpy(), "youden")
    measured = leave_one_source_out(table)["diffusion"]
    assert measured["false_negative_rate"] > by_source(table, known)["diffusion"]["false_negative_rate"] + 0.1
    assert measured["roc_auc"] > 0.85


def test_images_of_the_other_class_serve_either_for_fitting_or_for_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight people of three real images each: four people to fit on, the other four to measure with."""
    table = pd.concat([draw("phone", 0, -2, 24), draw("gan", 1, 2, 20), draw("diffusion", 1, 1, 18)])
    table["group"] = [f"person {row // 3}" for row in range(len(table))]
    person = dict(zip(table["prob_fake"].round(12), table["group"], strict=True))
    fitted, measured = [], []

    def fit(logits: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
        fitted.append({person[prob] for prob in expit(logits[:, 1] - logits[:, 0])[labels == 0].round(12)})
        return 1.0

    def measure(labels: NDArray[np.int64], prob_fake: NDArray[np.float64], threshold: float) -> dict[str, Any]:
        measured.append({person[prob] for prob in prob_fake[labels == 0].round(12)})
        return detection_metrics(labels, prob_fake, threshold)

    monkeypatch.setattr("hf_deepfake.evaluation.sources.fit_temperature", fit)
    monkeypatch.setattr("hf_deepfake.evaluation.benchmark.detection_metrics", measure)
    found = leave_one_source_out(table)
    assert [found[source]["others"] for source in ("diffusion", "gan")] == [12, 12]
    assert (
        fitted[0] == fitted[1]
    )  # of the two generators; the camera, all of the real images, cannot be fitted without
    assert measured == [set(), set(person.values()) & measured[1] - fitted[0]] * 2
    assert len(fitted[0]) == len(measured[1]) == 4


def test_halves_of_one_seed_are_the_same(benchmark: pd.DataFrame) -> None:
    table = benchmark[benchmark["source"].isin(("phone", "gan", "diffusion"))]
    first, second, other = (leave_one_source_out(table, seed=seed)["gan"] for seed in (0, 0, 1))
    assert first == second != other


def test_a_source_without_which_a_class_is_missing_says_so(benchmark: pd.DataFrame) -> None:
    two = benchmark[benchmark["source"].isin(("phone", "gan"))]
    measured = leave_one_source_out(two)
    assert measured["phone"]["images"] == 40
    assert measured["phone"]["undefined"]["roc_auc"] == "no real image of another source is left to fit on"
    assert measured["gan"]["undefined"]["accuracy"] == "no fake image of another source is left to fit on"
    assert "accuracy" not in measured["gan"]


def test_one_source_alone_leaves_nothing_to_fit_on(benchmark: pd.DataFrame) -> None:
    measured = leave_one_source_out(benchmark[benchmark["source"] == "mixed"])
    assert measured["mixed"]["undefined"]["eer"] == "no real and no fake image of another source is left to fit on"


def test_an_unknown_purpose_is_refused(benchmark: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="--threshold best: must be fixed"):
        leave_one_source_out(benchmark, purpose="best")
