import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import draw_folder, draw_image
from PIL import Image
from scipy.special import expit

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.report import plots
from hf_deepfake.evaluation.report.errors import ERRORS_SHOWN, surest_errors
from hf_deepfake.evaluation.report.page import main, read_audit
from hf_deepfake.evaluation.report.runs import read_runs
from hf_deepfake.evaluation.report.settings import recipe_table
from hf_deepfake.evaluation.report.tables import SPACE, Value, classification_table, models_table
from hf_deepfake.evaluation.report.words import comparisons, verdict
from hf_deepfake.evaluation.selective import band_rates

pytestmark = pytest.mark.filterwarnings("error:::hf_deepfake")

IMAGES = 20
"""Of each class: as many as the pictures below."""


def scores(
    strength: float, seed: int, reals: int = IMAGES, fakes: int = IMAGES, temperature: float = 1.0
) -> pd.DataFrame:
    """Predictions of a detector that tells the classes apart by `strength` standard deviations."""
    labels = np.repeat([0, 1], [reals, fakes])
    margin = np.random.default_rng(seed).normal((2 * labels - 1) * strength, 1.0)
    names = [
        f"{name}/{number:03d}.png" for name, count in (("real", reals), ("fake", fakes)) for number in range(count)
    ]
    return pd.DataFrame(
        {
            "image": names,
            "label": labels,
            "prob_fake": expit(margin / temperature),
            "logit_real": -margin / 2,
            "logit_fake": margin / 2,
        }
    )


def figures(table: pd.DataFrame, threshold: float = 0.5, **more: Any) -> dict[str, Any]:
    measured = (table["label"].to_numpy(), table["prob_fake"].to_numpy(), threshold)
    return detection_metrics(*measured) | bootstrap_intervals(*measured, resamples=50) | more


def save_run(folder: Path, tables: dict[str, pd.DataFrame], predictions: bool = True, **results: Any) -> Path:
    """What `evaluate` leaves of one model."""
    (folder / "predictions").mkdir(parents=True)
    metrics = results.pop("metrics", {name: figures(table) for name, table in tables.items()})
    if predictions:
        for name, table in tables.items():
            table.to_parquet(folder / "predictions" / f"{name}.parquet")
    content = {"schema": 1, "model": folder.name, "metrics": metrics, "environment": {"python": "3.11"}} | results
    (folder / "results.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def everything(seed: int, tables: dict[str, pd.DataFrame]) -> dict[str, Any]:
    """Every key that results.json may have, measured on a simulation."""
    test = tables["test"]
    weaker = {
        name: {
            str(severity): figures(scores(1.5 - 0.25 * severity * drop, seed + severity), flipped=0.04 * severity)
            for severity in (1, 3, 5)
        }
        for name, drop in (("jpeg", 1.0), ("resize", 0.7))
    }
    return {
        "metrics": {
            name: figures(table, **{"test": {"unseen": True}, "phones": {"seen_in_training": 12}}.get(name, {}))
            for name, table in tables.items()
        },
        "comparison": {"validation": {"a": figures(test), "soft voting": figures(test)}},
        "ensemble": {"members": ["a", "b"], "voting": "soft", "temperatures": [1.2, 0.9], "weights": [0.5, 0.5]},
        "calibration": {
            "vote": {
                "before": {"ece": 0.101, "brier": 0.12, "log_loss": 0.4},
                "after": {"ece": 0.023, "brier": 0.1, "log_loss": 0.3},
            }
        },
        "operating_points": {
            purpose: {"threshold": threshold, "test": figures(test, threshold)}
            for purpose, threshold in (("youden", 0.47), ("fpr=0.01", 0.93))
        },
        "uncertain": {
            "target_error": 0.05,
            "band": [0.3, 0.7],
            "rates": {"test": band_rates(test["label"].to_numpy(), test["prob_fake"].to_numpy(), 0.5, [0.3, 0.7])},
        },
        "sources": {
            "test": {"stylegan3": figures(test, unseen=True), "camera": figures(test[test.label == 0], unseen=False)}
        },
        "leave_one_source_out": {"test": {"stylegan3": figures(test)}},
        "robustness": {"test": weaker},
        "adversarial": {"test": [{"attack": "pgd", "epsilon": "2/255", "attacked": "a"} | figures(test, flipped=0.4)]},
        "data": {"train": {"real": 100, "fake": 90}},
        "training": {"best_step": 30, "steps": 40, "seconds": 90.0},
        "environment": {"python": "3.11", "packages": {"torch": "2.15"}},
    }


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models on three benchmarks with everything that can be measured, as `evaluate` leaves them."""
    folder = tmp_path_factory.mktemp("evaluation")
    for seed, (name, strength) in enumerate((("strong", 1.3), ("weak", 0.8))):
        tables = {"test": scores(strength, seed, temperature=2.0)}
        tables |= (
            {"phones": scores(strength, 10, fakes=0)} if name == "strong" else {"validation": scores(strength, 20)}
        )
        run = save_run(folder / name, tables, **everything(seed, tables))
        for benchmark in ("phones", "validation"):
            (run / "predictions" / f"{benchmark}.parquet").unlink(missing_ok=True)
        history = [
            {"epoch": epoch, "loss": 1 / epoch, "eval_validation_loss": 1.2 / epoch, "learning_rate": 0.1 / epoch}
            for epoch in (1.0, 2.0, 3.0)
        ]
        (run / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        recipe = {"dataset_name": "/home/me/secret/faces", "learning_rate": 0.01 * (seed + 1), "group_by": "/(.*)_"}
        (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    pair = {
        "first": "strong",
        "second": "weak",
        "images": 40,
        "roc_auc_difference": 0.125,
        "roc_auc_difference_low": 0.05,
        "roc_auc_difference_high": 0.2,
        "roc_auc_p_value_adjusted": 0.004,
        "accuracy_difference": -0.025,
        "decisions_p_value": 0.8,
    }
    (folder / "comparison.json").write_text(json.dumps({"test": [pair]}))
    return folder


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("audit")
    check = {"name": "leaks", "verdict": "fail", "found": "2 pictures in two splits.", "advice": "Run --fix."}
    content = {"data": "/home/me/secret/faces", "verdict": "fail", "images": 40, "checks": [check]}
    (folder / "audit.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def page(evaluation: Path, audit: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of all of it, with pictures of the mistakes."""
    folder = tmp_path_factory.mktemp("page")
    data = draw_folder(folder / "data", IMAGES)
    path = folder / "report.html"
    flags = ["--output", str(path), "--data", str(data), "--audit", str(audit)]
    assert main([str(evaluation), *flags]) == 0
    return path


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of a page's time."""
    nothing = plots.Chart("chart", "", b"", {}, 1.0)
    monkeypatch.setattr(plots, "chart", lambda *drawn, **size: nothing)
    for name in ("ranking_charts", "robustness_charts"):
        monkeypatch.setattr(f"hf_deepfake.evaluation.report.page.{name}", lambda runs: [])


def test_the_page_needs_nothing_else_and_every_picture_says_what_it_shows(page: Path) -> None:
    shown = Page(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in shown.tags}
    assert {str(image["src"])[:11] for image in shown.all("img")} == {"data:image/"}
    assert all(image["alt"] for image in shown.all("img"))
    assert not {"http:", "https:"} & set(re.findall(r"https?:", page.read_text(encoding="utf-8")))
    assert shown.all("meta")[1]["name"] == "viewport"


def test_every_part_has_a_heading_that_the_contents_lead_to(page: Path) -> None:
    shown = Page(page)
    parts = "models training ranking verdicts scores calibration thresholds uncertain robustness adversarial sources"
    parts += " classes errors data recipe environment"
    assert [heading["id"] for heading in shown.all("h2")] == parts.split()
    assert [link["href"] for link in shown.all("a")] == [f"#{part}" for part in parts.split()]


def test_every_chart_is_a_png_whose_numbers_stand_beside_it(page: Path) -> None:
    folder = page.with_name("report_files")
    drawn = sorted(file.stem for file in folder.glob("*.png"))
    kinds = {"confusion": 4, "det": 1, "f1": 1, "pr": 1, "reliability": 2, "risk": 1, "robustness": 2, "roc": 1}
    kinds |= {"scores": 2, "training": 2}
    assert {kind: sum(name.split("_")[0] == kind for name in drawn) for kind in kinds} == kinds
    assert len(drawn) == sum(kinds.values())
    assert sorted(file.stem for file in folder.glob("*.json")) == sorted([*drawn, "report"])
    for name in drawn:
        with Image.open(folder / f"{name}.png") as image:
            assert len(image.convert("L").getcolors()) > 1


def test_the_numbers_of_a_chart_are_those_of_the_predictions(page: Path, evaluation: Path) -> None:
    folder = page.with_name("report_files")
    table = pd.read_parquet(evaluation / "strong" / "predictions" / "test.parquet")
    roc = json.loads((folder / "roc_test.json").read_text())["models"]["strong"]
    area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
    assert area == pytest.approx(figures(table)["roc_auc"])
    scored = json.loads((folder / "scores_test_strong.json").read_text())
    assert (sum(scored["real"]), sum(scored["fake"]), scored["band"]) == (IMAGES, IMAGES, [0.3, 0.7])
    risk = json.loads((folder / "risk_coverage_test.json").read_text())["models"]["strong"]
    assert np.mean(risk["risk"]) == pytest.approx(figures(table)["aurc"])
    bins = json.loads((folder / "reliability_test_strong.json").read_text())["bins"]
    assert {name: sum(part["images"]) for name, part in bins.items()} == {"before": 2 * IMAGES, "after": 2 * IMAGES}


def test_the_tables_are_kept_with_their_numbers(page: Path, evaluation: Path) -> None:
    kept = json.loads((page.with_name("report_files") / "report.json").read_text())
    table = next(table for table in kept["tables"] if table["title"] == "All figures")
    row = next(row for row in table["rows"] if row[:2] == ["test", "strong"])
    metrics = json.loads((evaluation / "strong" / "results.json").read_text())["metrics"]["test"]
    expected = {"value": metrics["roc_auc"], "low": metrics["roc_auc_low"], "high": metrics["roc_auc_high"]}
    assert row[table["columns"].index("ROC AUC")] == expected
    titles = ["strong on test", "weak on test"]
    assert [part["title"].split(":")[0] for part in kept["errors"]] == titles


def test_benchmarks_that_overlap_the_training_images_or_were_never_seen_are_marked(page: Path) -> None:
    text = Page(page).text
    assert "12 images ALSO IN TRAINING" in text
    assert "12 images of phones are also training images of strong: its figures there are too good." in text
    assert "No image of the same sources as test was trained on" in text
    assert "unseen sources" in text
    assert "picked settings: optimistic" in text


def test_of_paths_only_the_last_part_is_shown(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "…/faces" in text
    assert "secret" not in text
    assert "<td>/(.*)_</td>" in text
    assert "secret" not in (page.with_name("report_files") / "report.json").read_text()


def test_the_checks_of_the_audit_are_repeated(page: Path) -> None:
    assert "leaks fail 2 pictures in two splits. Run --fix." in Page(page).text


def test_mistakes_are_shown_with_frames_of_their_truth_and_in_words(page: Path, evaluation: Path) -> None:
    shown = Page(page)
    table = pd.read_parquet(evaluation / "weak" / "predictions" / "test.parquet")
    wrong = table[(table.prob_fake >= 0.5) != (table.label == 1)]
    assert f"weak on test: {len(wrong)} of {2 * IMAGES} images judged wrongly" in shown.text
    pictures = [image for image in shown.all("img") if str(image["src"]).startswith("data:image/jpeg")]
    assert {image["class"] for image in pictures} == {"real", "fake"}
    assert all(str(image["alt"]).startswith(f"truth {image['class']}, called ") for image in pictures)
    assert f"truth: real , called fake probability of fake {wrong[wrong.label == 0].prob_fake.max():.3f}" in shown.text


def test_the_verdict_counts_images_and_names_the_best_model(evaluation: Path) -> None:
    paragraphs = verdict(*read_runs([evaluation]))
    first = paragraphs[0].replace(SPACE, " ")
    metrics = json.loads((evaluation / "strong" / "results.json").read_text())["metrics"]["test"]
    (_, alarms), (missed, _) = metrics["confusion_matrix"]
    assert first.startswith("This report measures 2 models on test (20 real photographs and 20 fakes), ")
    assert f"On test strong has the highest ROC AUC of {metrics['roc_auc']:.3f} [" in first
    assert f"calls {alarms or 'none'} of 20 real photographs fake (" in first
    assert f"misses {missed or 'none'} of 20 fakes (" in first


def test_the_verdict_says_what_compression_and_halving_do_and_how_much_stays_open(evaluation: Path) -> None:
    text = " ".join(verdict(*read_runs([evaluation]))).replace(SPACE, " ")
    robust = json.loads((evaluation / "strong" / "results.json").read_text())["robustness"]["test"]
    assert (
        f"After JPEG compression at quality 65 (severity 3) of test, for strong, the ROC AUC is {robust['jpeg']['3']['roc_auc']:.3f}"
        in text
    )
    assert "12.0 % of the verdicts change." in text
    assert "After resizing to 40 % of the sides (severity 3)" in text  # half the sides were not measured
    table = pd.read_parquet(evaluation / "strong" / "predictions" / "test.parquet")
    judged = table[(table.prob_fake <= 0.3) | (table.prob_fake >= 0.7)]
    wrong = (judged.prob_fake >= 0.5) != (judged.label == 1)
    told = f"it judges {len(judged) / len(table):.1%} of the images and errs on {wrong.mean():.1%}".replace("%", " %")
    assert f"Between 0.300 and 0.700 strong says “uncertain”: on test {told} of those." in text


def test_a_lead_that_chance_may_explain_is_called_so(evaluation: Path) -> None:
    runs, pairs = read_runs([evaluation])
    assert "Chance alone may explain" not in verdict(runs, pairs)[0]
    pairs["test"][0]["roc_auc_p_value_adjusted"] = 0.3
    assert "Chance alone may explain its lead over weak." in verdict(runs, pairs)[0]


def test_pairs_are_compared_in_words(evaluation: Path) -> None:
    _, pairs = read_runs([evaluation])
    assert comparisons(pairs)[0].replace(SPACE, " ") == (
        "test, strong minus weak (40 images): ROC AUC differs by +0.125 [0.050, 0.200] (p 0.004, more than chance "
        "explains); accuracy by -2.5 percentage points (p 0.800, chance may explain it)."
    )


@pytest.mark.usefixtures("without_charts")
def test_a_benchmark_of_real_photographs_only_is_told_by_its_false_alarms(tmp_path: Path) -> None:
    table = scores(3.0, 0, reals=30, fakes=0).assign(prob_fake=0.2)
    run = save_run(tmp_path / "a", {"lfw": table})
    text = verdict(*read_runs([run]))[0].replace(SPACE, " ")
    assert "calls none of 30 real photographs fake (a rate of up to 10.0 % could still be behind it)." in text
    assert "misses" not in text
    assert main([str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert "not defined" in Page(tmp_path / "page.html").text


def test_no_better_than_guessing_is_said(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a", {"test": scores(0.0, 3)})
    assert "guessing reaches 0.5, which may be no worse." in verdict(*read_runs([run]))[0]


@pytest.mark.usefixtures("without_charts")
def test_without_predictions_the_figures_are_shown_and_the_page_says_what_is_left_out(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a", {"test": scores(1.0, 0)}, predictions=False)
    main([str(run), "--output", str(tmp_path / "page.html")])
    text = Page(tmp_path / "page.html").text
    assert "No predictions on test of a: their curves are left out." in text
    assert "The surest mistakes" not in text
    assert f"{figures(scores(1.0, 0))['roc_auc']:.3f}" in text


@pytest.mark.usefixtures("without_charts")
def test_models_measured_on_other_images_of_one_name_are_warned_of(tmp_path: Path) -> None:
    runs = [save_run(tmp_path / name, {"test": scores(1.0, 0, reals=reals)}) for name, reals in (("a", 20), ("b", 19))]
    main([*map(str, runs), "--output", str(tmp_path / "page.html")])
    assert "Not the same images: what is called test differs between the models." in Page(tmp_path / "page.html").text


def test_runs_of_one_name_get_as_much_of_their_folders_as_tells_them_apart(tmp_path: Path) -> None:
    table = {"test": scores(1.0, 0)}
    folders = [save_run(tmp_path / parent / "ensemble", table, model="vote") for parent in ("x", "y")]
    runs, _ = read_runs([*folders, folders[0], save_run(tmp_path / "c", table)])
    assert [run.name for run in runs] == ["vote (x/ensemble)", "vote (y/ensemble)", "c"]


def test_names_of_models_benchmarks_and_files_are_text_whatever_they_hold(tmp_path: Path) -> None:
    evil = r'<script>alert(1)<" onerror="x$\foo$'
    table = scores(0.5, 0, fakes=0)
    table["image"] = f"{evil}\n" + table["image"]
    run = save_run(tmp_path / "a", {"te&st": table}, model=f"m{evil}")
    main([str(run), "--output", str(tmp_path / "page.html")])
    page = Page(tmp_path / "page.html")
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any("onerror" in attributes for _, attributes in page.tags)
    assert f"m{evil}" in page.text
    assert rf"{evil}\nreal/" in page.text


@pytest.mark.usefixtures("without_charts")
def test_pictures_are_found_through_the_recipe_or_the_page_names_the_flag(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a", {"test": scores(0.2, 0)})
    output = ["--output", str(tmp_path / "page.html")]
    main([str(run), *output])
    page = Page(tmp_path / "page.html")
    assert "Pass --data test=DATA" in page.text
    assert not [image for image in page.all("img") if "jpeg" in str(image["src"])]
    data = draw_folder(tmp_path / "data", IMAGES)
    (run / "recipe.yaml").write_text(yaml.safe_dump({"dataset_name": str(data), "flip_prob": 0.5}))
    main([str(run), *output])
    assert (
        len([image for image in Page(tmp_path / "page.html").all("img") if "jpeg" in str(image["src"])])
        == ERRORS_SHOWN
    )


@pytest.mark.usefixtures("without_charts")
def test_a_recipe_whose_data_have_changed_costs_the_pictures_only(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a", {"test": scores(0.2, 0)})
    (tmp_path / "empty").mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump({"dataset_name": str(tmp_path / "empty")}))
    assert main([str(run), "--output", str(tmp_path / "page.html")]) == 0
    assert "Pass --data test=DATA" in Page(tmp_path / "page.html").text


@pytest.mark.usefixtures("without_charts")
def test_broken_and_missing_images_are_named_in_a_note(tmp_path: Path) -> None:
    table = scores(0.2, 0)
    run = save_run(tmp_path / "a", {"test": table})
    data = draw_folder(tmp_path / "data", IMAGES)
    first, second, *_ = surest_errors(table, 0.5)["image"]
    (data / first).write_text("no image")
    (data / second).unlink()
    main([str(run), "--output", str(tmp_path / "page.html"), "--data", str(data)])
    text = Page(tmp_path / "page.html").text
    assert f"No picture of {first}, {second}: missing in data, or unreadable." in text
    assert text.count("no picture") == 2


@pytest.mark.usefixtures("without_charts")
def test_data_that_hold_the_same_names_must_be_told_apart(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a", {"test": scores(0.2, 0)})
    first, second = (str(draw_folder(tmp_path / name, IMAGES)) for name in ("x", "y"))
    flags = [str(run), "--output", str(tmp_path / "page.html"), "--data"]
    main([*flags, first, second])
    assert "x and y hold images of these names; say which with --data test=DATA." in Page(tmp_path / "page.html").text
    main([*flags, first, f"test={second}"])
    assert [image for image in Page(tmp_path / "page.html").all("img") if "jpeg" in str(image["src"])]


def test_the_surest_mistakes_are_farthest_from_the_threshold_in_log_odds() -> None:
    table = pd.DataFrame({"image": list("abcd"), "label": [0, 1, 1, 1], "prob_fake": [0.95, 0.85, 0.2, 0.99]})
    # log-odds from 0.9 (2.2): 0.95 is 0.75 away, 0.85 is 0.46, 0.2 is 3.6; d is right
    assert surest_errors(table, 0.9)["image"].tolist() == ["c", "a", "b"]
    assert surest_errors(table.assign(prob_fake=[1.0, 0.0, 1.0, 1.0]), 0.9)["image"].tolist() == ["b", "a"]


def test_a_report_is_made_again_and_whole(tmp_path: Path, without_charts: None) -> None:
    run = save_run(tmp_path / "a", {"test": scores(0.2, 0)})
    for _ in range(2):
        main([str(run), "--output", str(tmp_path / "page.html")])
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "page.html", "page_files"]


def test_the_classification_report_is_that_of_scikit_learn(tmp_path: Path) -> None:
    metrics = {"test": {"confusion_matrix": [[6, 2], [1, 3]], "images": 12, "threshold": 0.5}}
    runs, _ = read_runs([save_run(tmp_path / "a", {}, metrics=metrics)])
    table = classification_table(runs)
    assert table is not None
    rows = {row[2]: [cell.value if isinstance(cell, Value) else cell for cell in row[3:]] for row in table.rows}
    # real: 6 of 7 called real are real, 6 of 8 found, F1 12/15; fake: 3/5, 3/4, 6/9
    assert rows["real"] == pytest.approx([6 / 7, 6 / 8, 12 / 15, 8])
    assert rows["fake"] == pytest.approx([3 / 5, 3 / 4, 6 / 9, 4])
    assert rows["macro"] == pytest.approx([(6 / 7 + 3 / 5) / 2, 3 / 4, (12 / 15 + 6 / 9) / 2, 12])
    assert rows["weighted"][2] == pytest.approx((8 * 12 / 15 + 4 * 6 / 9) / 12)


def test_figures_of_before_misses_were_a_metric_have_them_from_recall(tmp_path: Path) -> None:
    metrics = {"test": {"recall": 0.75, "recall_low": 0.5, "recall_high": 0.9, "ece": float("nan")}}
    runs, _ = read_runs([save_run(tmp_path / "a", {}, metrics=metrics)])
    table = models_table(runs)
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert str(row["fakes missed"]).replace(SPACE, " ") == "25.0 % [10.0, 50.0]"
    assert row["ECE"] is None


def test_recipes_stand_side_by_side(evaluation: Path) -> None:
    table = recipe_table(read_runs([evaluation])[0])
    assert table is not None
    assert table.columns == ["", "strong", "weak"]
    assert ["learning_rate", "0.01", "0.02"] in table.rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no results.json, nor does a folder in it"),
        ("{", r"results.json: cannot be read"),
        ("[]", "holds no metrics"),
        ('{"metrics": {}}', "holds no metrics"),
        ('{"metrics": {"test": 3}}', "metrics.test: is damaged: 3 stands"),
        ('{"metrics": {"test": {"roc_auc": "high"}}}', "metrics.test.roc_auc: is damaged: 'high' is no number"),
        ('{"metrics": {"test": {}}, "robustness": {"test": {"jpeg": 1}}}', "robustness.test.jpeg: is damaged: 1 stands"),
        ('{"metrics": {"t": {}}, "robustness": {"t": {"jpeg": {"high": {}}}}}', "robustness: is damaged: 'high' is no sev"),
        ('{"metrics": {"test": {"confusion_matrix": [[1]]}}}', r"metrics.test.confusion_matrix: is damaged: \[\[1\]\]"),
        ('{"metrics": {"test": {}}, "uncertain": {"band": 3}}', "uncertain.band: is damaged: 3"),
        ('{"metrics": {"test": {}}, "adversarial": {"test": [4]}}', "adversarial.test.0: is damaged: 4 stands"),
    ],
)  # fmt: skip
def test_damaged_results_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_runs([tmp_path])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prob_fake": float("nan")}, r"row 0 \(real/000.png\) has the label 0 and the scores \[nan"),
        ({"prob_fake": 1.5}, r"the scores \[1\.5, .*, 40 such rows"),
        ({"label": 2}, r"row 0 \(real/000.png\) has the label 2 and"),
        ({"prob_fake": 0.9}, r"gives the confusion matrix \[\[0, 20\], \[0, 20\]\], results.json has"),
    ],
)  # fmt: skip
def test_predictions_that_are_none_or_another_measurements_are_refused(
    change: dict[str, float], message: str, tmp_path: Path
) -> None:
    run = save_run(tmp_path / "a", {"test": scores(1.0, 0)})
    scores(1.0, 0).assign(**change).to_parquet(run / "predictions" / "test.parquet")
    with pytest.raises(InputError, match=message):
        read_runs([run])


def test_damaged_predictions_are_refused(tmp_path: Path) -> None:
    run = save_run(tmp_path / "a", {"test": scores(1.0, 0)})
    (run / "predictions" / "test.parquet").write_text("no table")
    with pytest.raises(InputError, match=r"test.parquet: cannot be read as Parquet"):
        read_runs([run])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("trainer_state.json", "{", "trainer_state.json: cannot be read: Expecting property name"),
        ("trainer_state.json", "{}", "trainer_state.json: cannot be read: 'log_history'"),
        ("recipe.yaml", "a: [", "recipe.yaml: not YAML: while parsing"),
        ("recipe.yaml", "- a", "recipe.yaml: a recipe is a flat mapping of keys to values; found list"),
        ("comparison.json", "[", "comparison.json: cannot be read: Expecting value"),
        ("comparison.json", '{"test": [{}]}', "comparison.json: is damaged: a comparison names no two models"),
    ],
)
def test_damaged_files_beside_the_results_are_refused(name: str, content: str, message: str, tmp_path: Path) -> None:
    run = save_run(tmp_path / "a", {"test": scores(1.0, 0)})
    (run / name).write_text(content)
    with pytest.raises(InputError, match=message):
        read_runs([run])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "audit.json: cannot be read"),
        ("{}", "audit.json: cannot be read: 'checks'"),
        ('{"verdict": "ok", "checks": [{"name": "leaks"}]}', "is damaged: a check says no name, verdict or finding"),
    ],
)
def test_damaged_audits_are_refused(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "audit.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_audit(tmp_path)


@pytest.mark.usefixtures("without_charts")
def test_an_output_that_is_no_page_or_would_hide_something_else_is_refused(tmp_path: Path) -> None:
    run = str(save_run(tmp_path / "a", {"test": scores(1.0, 0)}))
    with pytest.raises(InputError, match=r"--output .*page\.pdf: must be a file that ends in \.html"):
        main([run, "--output", str(tmp_path / "page.pdf")])
    (tmp_path / "page_files").mkdir()
    (tmp_path / "page_files" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match=r"page_files: exists and is no report's"):
        main([run, "--output", str(tmp_path / "page.html")])
    assert (tmp_path / "page_files" / "mine.txt").read_text() == "mine"


def test_a_name_that_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    run = str(save_run(tmp_path / "a", {"test": scores(1.0, 0)}))
    with pytest.raises(InputError, match=r"--data phones=x: 'phones' is none of the benchmarks test\."):
        main([run, "--output", str(tmp_path / "page.html"), "--data", "phones=x"])


def test_sheets_of_explanations_are_part_of_the_page(tmp_path: Path) -> None:
    run, folder = save_run(tmp_path / "a", {"test": scores(1.0, 0)}), tmp_path / "explanations"
    folder.mkdir()
    draw_image(0, 0).save(folder / "photo_grad_cam.png")
    entry = {"image": "photo.png", "prob_fake": 0.7, "label": "fake", "sheet": "photo_grad_cam.png", "maps": []}
    record = {"method": "grad_cam", "target": "fake", "images": [entry]}
    (folder / "explanations.json").write_text(json.dumps(record))
    flags = [str(run), "--explanations", str(folder), "--output", str(tmp_path / "report.html")]
    assert main(flags) == 0
    text = (tmp_path / "report.html").read_text()
    assert "Where it looked" in text
    assert base64.b64encode((folder / "photo_grad_cam.png").read_bytes()).decode() in text
    assert json.loads((tmp_path / "report_files" / "explanation_photo_grad_cam.json").read_text())["prob_fake"] == 0.7
    (folder / "photo_grad_cam.png").unlink()
    with pytest.raises(InputError, match=r"explanations\.json: cannot be read: .*photo_grad_cam\.png"):
        main(flags)
