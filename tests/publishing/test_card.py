import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from hf_deepfake import InputError
from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.publishing.card import Publication, model_card
from hf_deepfake.publishing.words import expectations, failures


def measured(labels: list[int], prob_fake: list[float]) -> dict[str, Any]:
    return detection_metrics(labels, prob_fake) | bootstrap_intervals(labels, prob_fake, resamples=50)


GOOD = measured([0] * 20 + [1] * 10, [0.1] * 18 + [0.9] * 2 + [0.8] * 9 + [0.2])
"""2 of 20 real images called fake, 1 of 10 fakes missed."""


def detector_results(**parts: Any) -> dict[str, Any]:
    environment = {"device": "CPU, 1 threads", "packages": {"torch": "2.15.0"}}
    return {"schema": 1, "model": "mine", "metrics": {"test": GOOD}, "environment": environment} | parts


def test_a_card_prints_what_results_hold(ensemble: Path) -> None:
    results = json.loads((ensemble / "results.json").read_text())
    card = ModelCard.load(ensemble / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert "deepfake-ensemble" in card.data.tags
    test = results["metrics"]["test"]
    assert f"{test['roc_auc']:.3f} [{test['roc_auc_low']:.3f}, {test['roc_auc_high']:.3f}]" in card.text
    for member, network in zip(
        ("resnet", "efficientnet", "vit"), ("test_resnet", "test_efficientnet", "vit"), strict=True
    ):
        assert f"| {member} | {network} | " in card.text


def test_the_hub_reads_every_metric_of_every_benchmark(ensemble: Path) -> None:
    results = json.loads((ensemble / "results.json").read_text())
    shown = ModelCard.load(ensemble / "README.md").data.eval_results
    assert shown is not None
    found = {(result.dataset_split, result.metric_type): result.metric_value for result in shown}
    for split, metrics in results["metrics"].items():
        for name in ("roc_auc", "false_positive_rate", "ece"):
            assert found[split, name] == pytest.approx(metrics[name], abs=1e-4)


def test_a_card_tells_what_each_threshold_costs_and_what_is_left_open(ensemble: Path) -> None:
    results = json.loads((ensemble / "results.json").read_text())
    card = (ensemble / "README.md").read_text()
    for purpose, point in results["operating_points"].items():
        rates = point["test"]
        ends = f"{rates['false_positive_rate_low']:.3f}, {rates['false_positive_rate_high']:.3f}"
        assert f"| {purpose} | {point['threshold']:.3f} | {rates['false_positive_rate']:.3f} [{ends}] |" in card
    low, high = results["uncertain"]["band"]
    open_ = 1 - results["uncertain"]["rates"]["test"]["coverage"]
    assert f"Between {low:.3f} and {high:.3f} the verdict is `uncertain`: {open_:.1%} of the images" in card


def test_every_picture_of_a_card_is_there(ensemble: Path) -> None:
    pictures = [
        line.split("](")[1].rstrip(")") for line in (ensemble / "README.md").read_text().split("\n") if "![" in line
    ]
    assert "plots/scores_test.png" in pictures
    assert all((ensemble / picture).is_file() for picture in pictures)


def test_errors_are_told_in_counts_of_100_images() -> None:
    told = expectations("test", GOOD)
    assert told.startswith("**test** (20 real photographs, 10 fakes). Of 100 real photographs it calls 10 fake (")
    assert "Of 100 fakes it misses 10 (" in told
    # Bayes' rule: 0.99 * 0.1 of all images are false alarms, 0.01 * 0.9 true ones
    assert "Where 1 image in 100 is fake, 92 of 100 images that it calls fake are real." in told


def test_no_error_among_few_images_is_no_promise() -> None:
    told = expectations("lfw", measured([0] * 60, [0.1] * 60))
    assert "Of these 60 real photographs it calls none fake, which still allows up to 5 of 100." in told
    assert "misses" not in told


def test_where_it_fails_is_taken_from_the_figures() -> None:
    guessing = measured([0, 1] * 20, [0.2] * 20 + [0.8] * 20)
    source = {"false_positive_rate": 0.25}
    results = {
        "metrics": {"test": GOOD, "faces | edited": guessing},
        "sources": {"test": {"phone": source, "camera": {"false_positive_rate": 0.5}}},
        "robustness": {"test": {"jpeg": {"1": {"flipped": 0.1}, "5": {"flipped": 0.4}}}},
        "adversarial": {"test": [{"attack": "pgd", "epsilon": "2/255", "attacked": "mine", "flipped": 0.8}]},
    }
    told = "\n".join(failures(results))
    assert "On **faces | edited** it cannot tell fakes from real photographs: it misses 50 of 100 fakes" in told
    assert "calls fake most often: camera in test (50 of 100), phone in test (25 of 100)." in told
    assert "worst is jpeg at severity 5 of 5, after which 40 of 100 verdicts are others" in told
    assert "(pgd, by 2/255, made against mine) turns 80 of 100 verdicts" in told
    assert "Not measured: fakes of other generators" in told
    assert "recompressed" not in told


def test_what_nobody_measured_is_said() -> None:
    assert "recompressed, resized, blurred or noisy images" in failures({"metrics": {"test": GOOD}})[-1]


def test_a_published_card_names_base_model_data_and_licence_and_hides_folders(tmp_path: Path) -> None:
    recipe = {
        "dataset_name": "someone/faces",
        "dataset_revision": "abc",
        "model_name_or_path": "google/vit-base",
        "output_dir": "/home/me/runs",
        "image_root": "/home/me/images",
        "face_detector": "~/models/yunet.onnx",
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    text = model_card(detector_results(), tmp_path, Publication("me/faces", license="mit"))
    card = ModelCard(text)
    assert (card.data.license, card.data.base_model, card.data.datasets) == (
        "mit",
        ["google/vit-base"],
        ["someone/faces"],
    )
    assert card.data.eval_results is not None
    assert {result.dataset_revision for result in card.data.eval_results} == {"abc"}
    assert 'pipeline("image-classification", model="me/faces", revision="main")' in text
    assert "/home/me" not in text
    assert "~/" not in text
    assert "image_root: …/images" in text


def test_a_folder_of_images_is_no_data_set_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("dataset_name: /data/faces\nmodel_name_or_path: resnet18\n")
    text = model_card(detector_results(), tmp_path, Publication("me/faces"))
    card = ModelCard(text)
    assert card.data.datasets is None
    assert card.data.base_model is None
    assert "- Training data: `…/faces`.\n" in text
    assert "- Licence: none was given" in text


def test_an_ensemble_names_what_its_members_started_from(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    for name, start in (("a", "google/vit-base"), ("b", "mobilenetv2_100\npretrained: true"), ("c", "resnet18")):
        (tmp_path / "recipes" / f"{name}.yaml").write_text(f"model_name_or_path: {start}\n")
    card = ModelCard(model_card(detector_results(), tmp_path, Publication("me/faces")))
    assert card.data.base_model == ["google/vit-base"]
    started = "`google/vit-base`, `mobilenetv2_100` with ImageNet weights, `resnet18` with random weights"
    assert f"- Started from: {started}." in card.text


def test_an_evaluation_adds_its_benchmarks_and_what_corruptions_do(tmp_path: Path) -> None:
    flipped = {"flipped": 0.25, "roc_auc": 0.75, "false_positive_rate": 0.5, "false_negative_rate": 0.0}
    other = measured([0, 1] * 10, [0.2, 0.8] * 10)
    evaluation = {"metrics": {"phones": GOOD, "test": other}, "robustness": {"phones": {"blur": {"5": flipped}}}}
    text = model_card(
        detector_results(), tmp_path, Publication("me/faces", evaluations={"evaluations/hard": evaluation})
    )
    assert "| phones | blur | 5 | 0.750 | 0.500 | 0.000 | 25 |" in text
    assert "- **phones** (20 real photographs, 10 fakes)." in text
    assert "- **test** (20 real photographs, 10 fakes)." in text
    assert "- **test of hard** (10 real photographs, 10 fakes)." in text


def test_a_single_detector_that_brings_code_is_trusted_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "a.B"}}))
    text = model_card(detector_results(), tmp_path, Publication("me/faces"))
    assert 'pipeline("image-classification", model="me/faces", revision="main", trust_remote_code=True)' in text
    assert "its own verdict is `fake` from 0.500 on" in text


@pytest.mark.parametrize(("text", "answer"), [("- 1\n", "a recipe is .*found list"), ("a: [", "not YAML: ")])
def test_a_broken_recipe_is_named(tmp_path: Path, text: str, answer: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(InputError, match=rf"recipe.yaml: {answer}"):
        model_card(detector_results(), tmp_path, Publication())
