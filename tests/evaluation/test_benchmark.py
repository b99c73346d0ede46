import functools
import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build_tiny_vit, draw_folder, draw_image, save_tiny_vit

from hf_deepfake import InputError, cli, evaluate_detector
from hf_deepfake.evaluation import benchmark
from hf_deepfake.evaluation.benchmark import benchmark_metrics, environment, load_results, save_results
from hf_deepfake.evaluation.metrics import INTERVALS, bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.predictions import load_predictions
from hf_deepfake.models.detector import load_detector
from hf_deepfake.recipe import DataArguments


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "bootstrap_intervals", functools.partial(bootstrap_intervals, resamples=20))


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "plot_benchmark", lambda *_: None)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vit(tmp_path_factory.mktemp("detector") / "vit")


def evaluate(*flags: object) -> int:
    return cli.main(["evaluate", *map(str, flags)])


def refusal(capsys: pytest.CaptureFixture[str], *flags: object) -> str:
    """The one line that is printed with exit status 2."""
    assert evaluate(*flags) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert lines[-1:] == errors
    return errors[0]


def test_results_predictions_and_plots_are_written_from_the_test_split(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_folder(tmp_path / "data" / "train", 1)
    draw_folder(tmp_path / "data" / "val", 2)
    draw_folder(tmp_path / "data" / "test", 3)
    out = tmp_path / "out"
    assert evaluate("--model", detector, "--data", f"phones={tmp_path / 'data'}", "--output_dir", out) == 0
    assert {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()} == {
        "results.json",
        "predictions/phones.parquet",
        "plots/confusion_matrix_phones.png",
        "plots/scores_phones.png",
    }
    results = json.loads((out / "results.json").read_text())
    assert (results["schema"], results["model"], list(results["metrics"])) == (1, "vit", ["phones"])
    table = load_predictions(out / "predictions" / "phones.parquet")
    assert sorted(table["image"]) == [f"test/{label}/00{seed}.png" for label in ("fake", "real") for seed in range(3)]
    assert table["label"].tolist() == [int("fake" in image) for image in table["image"]]
    metrics = results["metrics"]["phones"]
    expected = detection_metrics(table["label"], table["prob_fake"])
    assert {name: metrics[name] for name in expected} == expected
    assert all(f"{name}_{end}" in metrics for name in INTERVALS if name in expected for end in ("low", "high"))
    assert f"wrote {out} (results.json" in capsys.readouterr().out


def test_predictions_are_what_the_model_says_of_each_image(
    detector: Path, tmp_path: Path, image_folder: Path, no_plots: None
) -> None:
    data = {"test": DataArguments(dataset_name=str(image_folder))}
    results, failures = evaluate_detector(str(detector), data, tmp_path / "out", batch_size=7)
    assert (failures, results["metrics"]["test"]["images"]) == (0, 40)
    table = load_predictions(tmp_path / "out" / "predictions" / "test.parquet")
    model, processor, _ = load_detector(str(detector))
    for row in (0, 13, 39):
        image = draw_image(int(table["label"][row]), int(Path(table["image"][row]).stem))
        with torch.inference_mode():
            logits = model(**processor([image], return_tensors="pt")).logits[0]
        np.testing.assert_allclose(table.loc[row, ["logit_real", "logit_fake"]].astype(float), logits, atol=1e-5)


def test_an_ensemble_is_measured_at_its_own_threshold(runs: list[Path], tmp_path: Path, no_plots: None) -> None:
    from hf_deepfake.ensemble.building import assemble
    from hf_deepfake.ensemble.fitting import Fit

    fit = Fit("soft", [1.0], [1.0], [0.5], {"soft": 0.123, "hard": 0.5, "weighted": 0.5})
    for part in assemble(runs[2:], ["vit"], fit):
        part.save_pretrained(tmp_path / "ensemble")
    data = {"test": DataArguments(dataset_name=str(draw_folder(tmp_path / "data", 2)))}
    results, _ = evaluate_detector(str(tmp_path / "ensemble"), data, tmp_path / "out")
    assert results["metrics"]["test"]["threshold"] == 0.123


def test_two_named_benchmarks_stand_side_by_side(detector: Path, tmp_path: Path, no_plots: None) -> None:
    first, second = draw_folder(tmp_path / "a", 2), draw_folder(tmp_path / "b", 3)
    out = tmp_path / "out"
    assert evaluate("--model", detector, "--data", f"phones={first}", second, "--output_dir", out) == 0
    metrics = load_results(out)["metrics"]
    assert {name: metric["images"] for name, metric in metrics.items()} == {"phones": 4, "b": 6}
    assert sorted(file.stem for file in (out / "predictions").iterdir()) == ["b", "phones"]


def test_real_photographs_alone_are_a_benchmark(detector: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", 4)
    for file in (tmp_path / "data" / "fake").iterdir():
        file.unlink()
    out = tmp_path / "out"
    assert evaluate("--model", detector, "--data", f"photos={tmp_path / 'data'}", "--output_dir", out) == 0
    metrics = load_results(out)["metrics"]["photos"]
    assert metrics["images"] == 4
    assert 0 <= metrics["false_positive_rate_low"] <= metrics["false_positive_rate_high"] <= 1
    assert metrics["undefined"]["roc_auc"] == "only real images: needs both classes"
    assert "roc_auc" not in metrics


def test_unreadable_images_are_listed_and_left_out_with_exit_status_1(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    data, out = draw_folder(tmp_path / "data", 3), tmp_path / "out"
    (data / "real" / "001.png").write_text("no image")
    whole = (data / "fake" / "002.png").read_bytes()
    (data / "fake" / "002.png").write_bytes(whole[: len(whole) // 2])
    assert evaluate("--model", detector, "--data", f"test={data}", "--output_dir", out) == 1
    printed = capsys.readouterr().err
    assert "2 unreadable images left out" in printed
    assert "001.png: not an image" in printed
    skipped = pd.read_csv(out / "skipped_test.csv")
    assert skipped["file"].tolist() == ["fake/002.png", "real/001.png"]
    table = load_predictions(out / "predictions" / "test.parquet")
    assert len(table) == load_results(out)["metrics"]["test"]["images"] == 4
    assert not set(table["image"]) & set(skipped["file"])


def test_a_benchmark_of_broken_images_only_is_refused(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, out = draw_folder(tmp_path / "data", 1), tmp_path / "out"
    for file in data.rglob("*.png"):
        file.write_text("no image")
    message = refusal(capsys, "--model", detector, "--data", f"test={data}", "--output_dir", out)
    assert f"{data}: none of the 2 images can be read: " in message
    assert not (out / "results.json").exists()


def test_existing_results_are_refused_and_kept(
    detector: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "results.json").write_text("mine")
    message = refusal(capsys, "--model", detector, "--data", image_folder, "--output_dir", tmp_path)
    assert f"{tmp_path}: is a file or holds a results.json already" in message
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("results.json", "mine")]
    assert "is a file" in refusal(
        capsys, "--model", detector, "--data", image_folder, "--output_dir", tmp_path / "results.json"
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a/b={folder}"], "'a/b' cannot be part of a file name; give it one: --data NAME="),
        (["../up={folder}"], "'../up' cannot be part of a file name"),
        (["={folder}"], "'' cannot be part of a file name"),
        (["x={folder}", "x={folder}"], "'x' is the name of two benchmarks; give it one: --data NAME="),
        (["{folder}/", "{folder}"], "is the name of two benchmarks"),
        (["test={folder}/none"], "none: no such file or folder, and no Hub id"),
    ],
)
def test_benchmarks_that_cannot_be_named_or_found_are_refused(
    detector: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    data: list[str],
    message: str,
) -> None:
    given = [item.format(folder=image_folder) for item in data]
    assert message in refusal(capsys, "--model", detector, "--data", *given, "--output_dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_path_with_an_equals_sign_is_a_path(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    data, out = draw_folder(tmp_path / "quality=50", 1), tmp_path / "out"
    message = refusal(capsys, "--model", detector, "--data", data, "--output_dir", out)
    assert message.endswith(f"'quality=50' cannot be part of a file name; give it one: --data NAME={data}")
    assert evaluate("--model", detector, "--data", f"low={data}", "--output_dir", out) == 0
    assert list(load_results(out)["metrics"]) == ["low"]


def test_the_split_is_chosen_and_must_be_there(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    draw_folder(tmp_path / "data" / "train", 1)
    draw_folder(tmp_path / "data" / "val", 2)
    flags = ["--model", detector, "--data", f"a={tmp_path / 'data'}"]
    assert evaluate(*flags, "--output_dir", tmp_path / "found") == 0
    assert load_results(tmp_path / "found")["metrics"]["a"]["images"] == 4
    assert evaluate(*flags, "--split", "train", "--output_dir", tmp_path / "given") == 0
    assert load_results(tmp_path / "given")["metrics"]["a"]["images"] == 2
    message = refusal(capsys, *flags, "--split", "test", "--output_dir", tmp_path / "none")
    assert "no split 'test'; its splits are ['train', 'validation']" in message


def test_groups_make_the_intervals(detector: Path, tmp_path: Path, no_plots: None) -> None:
    data = draw_folder(tmp_path / "data", 8)
    flags = ["--model", detector, "--data", f"a={data}", "--group_by", r"(\d)\.png"]
    assert evaluate(*flags, "--output_dir", tmp_path / "out") == 0
    table = load_predictions(tmp_path / "out" / "predictions" / "a.parquet")
    assert sorted(set(table["group"])) == list("01234567")
    metrics = load_results(tmp_path / "out")["metrics"]["a"]
    assert metrics == json.loads(json.dumps(benchmark_metrics(table)))
    assert metrics != json.loads(json.dumps(benchmark_metrics(table.drop(columns="group"))))


def test_models_that_are_no_detectors_are_refused(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = build_tiny_vit(24)
    model.config.id2label = {0: "cat", 1: "dog", 2: "fox"}
    model.save_pretrained(tmp_path / "pets")
    flags = ["--data", image_folder, "--output_dir", tmp_path / "out"]
    assert "pets: a detector has the two labels" in refusal(capsys, "--model", tmp_path / "pets", *flags)
    assert "none: no such checkpoint folder" in refusal(capsys, "--model", tmp_path.name + "none", *flags)


def test_results_are_read_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    results = {"schema": 1, "metrics": {"test": {"roc_auc": 0.5}}, "model": "é"}
    save_results(results, tmp_path)
    assert load_results(tmp_path) == results
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json: cannot be read: Expecting"):
        load_results(tmp_path)
    with pytest.raises(InputError, match=r"none/results\.json: cannot be read: .*No such file"):
        load_results(tmp_path / "none")


def test_the_environment_names_versions_and_the_device() -> None:
    found = environment(processes=2)
    assert found["processes"] == 2
    assert found["packages"]["torch"] == version("torch")
    assert found["device"]
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_installed_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(benchmark, "version", missing)
    assert set(environment()["packages"].values()) == {"not installed"}
