import functools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build_tiny_vit, draw_folder, draw_image, save_tiny_timm, save_tiny_vit
from PIL import Image

from hf_deepfake import cli, evaluate_detector
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.corruptions import corrupt
from hf_deepfake.data.fingerprints import save_training_images, training_images
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import jittered
from hf_deepfake.evaluation import benchmark, contest, predictions, robustness
from hf_deepfake.evaluation.benchmark import benchmark_metrics, load_results
from hf_deepfake.evaluation.metrics import INTERVALS, bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.predictions import load_predictions
from hf_deepfake.models.detector import load_detector


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "bootstrap_intervals", functools.partial(bootstrap_intervals, resamples=20))
    monkeypatch.setattr(robustness, "_RESAMPLES", 20)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contest, "plot_benchmark", lambda *_: None)


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
        "scores/vit.parquet",
        "predictions/phones.parquet",
        "plots/confusion_matrix_phones.png",
        "plots/scores_phones.png",
        "leaderboard.csv",
        "leaderboard.md",
        "comparison.json",
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


def test_results_that_would_be_lost_are_refused_and_kept(
    detector: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    flags = ["--model", detector, "--data", f"a={image_folder}", "--output_dir", tmp_path / "out"]
    assert "is a file" in refusal(capsys, *flags[:4], "--output_dir", image_folder / "real" / "000.png")
    assert evaluate(*flags) == 0
    before = (tmp_path / "out" / "results.json").read_text()
    other = ["--model", detector, "--data", f"b={image_folder}", "--output_dir", tmp_path / "out"]
    assert f"{tmp_path / 'out' / 'results.json'}: holds results of vit on a that would be lost" in refusal(
        capsys, *other
    )
    another = save_tiny_timm(tmp_path / "resnet")
    assert "holds results of vit on a that would be lost" in refusal(capsys, "--model", another, *flags[2:])
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "results.json").write_text('{"metrics": {"a": {}}}')  # of a training, not of an evaluation
    assert "would be lost" in refusal(capsys, *flags[:4], "--output_dir", tmp_path / "run")
    assert (tmp_path / "out" / "results.json").read_text() == before
    (tmp_path / "out" / "results.json").write_text("{")
    assert "results.json: cannot be read" in refusal(capsys, *flags)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every image that is decoded and every batch that a model sees, as they come."""
    seen: list[Any] = []
    decode, forward = predictions.open_rgb, predictions._logits

    def counting_open(image: Any) -> Any:
        seen.append("decoded")
        return decode(image)

    def counting_logits(detector: Any, views: Any, batch_size: int) -> Any:
        seen.append(len(views["pixel_values"]))
        return forward(detector, views, batch_size)

    monkeypatch.setattr(predictions, "open_rgb", counting_open)
    monkeypatch.setattr(predictions, "_logits", counting_logits)
    return seen


def test_several_models_and_corruptions_share_one_decoding_of_each_image(
    detector: Path, tmp_path: Path, counted: list[Any], no_plots: None
) -> None:
    data, other = draw_folder(tmp_path / "data", 3), save_tiny_timm(tmp_path / "resnet")
    flags = ["--model", detector, other, "--data", f"a={data}", "--corruptions", "jpeg", "noise"]
    assert evaluate(*flags, "--severities", "1,3", "--tta", 2, "--output_dir", tmp_path / "out") == 0
    assert counted.count("decoded") == 6
    assert sum(views for views in counted if views != "decoded") == 6 * 2 * (1 + 1 + 4)


def test_nothing_is_scored_twice(detector: Path, tmp_path: Path, counted: list[Any], no_plots: None) -> None:
    data, out = draw_folder(tmp_path / "data", 3), tmp_path / "out"
    (data / "real" / "copy.png").write_bytes((data / "real" / "000.png").read_bytes())
    flags = ["--model", detector, "--output_dir", out, "--data", f"a={data}"]
    assert evaluate(*flags) == 0
    assert sum(counted) == 6  # of 7 images, one a copy
    first = load_results(out)["metrics"]["a"]
    counted.clear()
    assert evaluate(*flags, f"b={draw_folder(tmp_path / 'more', 4)}") == 0
    assert sum(counted) == 2  # the third and fourth of each class are new, the others have the same content
    assert load_results(out)["metrics"]["a"] == first
    assert load_results(out)["metrics"]["b"]["images"] == 8


def test_another_model_under_the_same_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    data, run = draw_folder(tmp_path / "data", 2), save_tiny_vit(tmp_path / "vit", seed=0)
    flags = ["--model", run, "--output_dir", tmp_path / "out", "--data", f"a={data}"]
    assert evaluate(*flags) == 0
    before = load_results(tmp_path / "out")
    save_tiny_vit(run, seed=1)
    assert "scores/vit.parquet: holds the scores of another model of this name" in refusal(capsys, *flags)
    (tmp_path / "out" / "scores" / "vit.parquet").write_bytes(b"no table")
    assert "scores/vit.parquet: cannot be read" in refusal(capsys, *flags)
    assert load_results(tmp_path / "out") == before


def test_a_model_that_was_moved_is_still_the_same(tmp_path: Path, counted: list[Any], no_plots: None) -> None:
    data, run = draw_folder(tmp_path / "data", 2), save_tiny_vit(tmp_path / "vit")
    flags = ["--output_dir", tmp_path / "out", "--data", f"a={data}"]
    assert evaluate("--model", run, *flags) == 0
    (tmp_path / "elsewhere").mkdir()
    run.rename(tmp_path / "elsewhere" / "vit")
    assert evaluate("--model", tmp_path / "elsewhere" / "vit", *flags) == 0
    assert sum(counted) == 4


def test_one_unreadable_image_costs_no_second_scoring_of_the_others(
    detector: Path, tmp_path: Path, counted: list[Any], no_plots: None
) -> None:
    data = draw_folder(tmp_path / "data", 3)
    (data / "real" / "001.png").write_text("no image")
    flags = ["--model", detector, "--data", f"a={data}", "--output_dir", tmp_path / "out", "--severities", 1]
    assert evaluate(*flags, "--corruptions", "jpeg") == 1
    counted.clear()
    assert evaluate(*flags, "--corruptions", "jpeg", "blur") == 1
    assert sum(views for views in counted if views != "decoded") == 5


def test_an_evaluation_of_one_model_becomes_one_of_several(
    detector: Path, tmp_path: Path, counted: list[Any], no_plots: None
) -> None:
    data, out, other = draw_folder(tmp_path / "data", 2), tmp_path / "out", save_tiny_timm(tmp_path / "resnet")
    flags = ["--data", f"a={data}", "--output_dir", out]
    assert evaluate("--model", detector, *flags, "--corruptions", "jpeg", "--severities", 2) == 0
    counted.clear()
    assert evaluate("--model", detector, other, *flags) == 0
    assert sum(views for views in counted if views != "decoded") == 4  # the other model's
    assert load_results(out / "vit")["robustness"]["a"]["jpeg"].keys() == {"2"}
    assert not (out / "results.json").exists()
    assert not (out / "predictions").exists()
    assert evaluate("--model", detector, other, *flags, "--tta", 2) == 0
    assert evaluate("--model", detector, other, *flags, "--tta", 2) == 0


def test_corruptions_and_attacks_of_an_earlier_call_are_kept(detector: Path, tmp_path: Path, no_plots: None) -> None:
    data, out = draw_folder(tmp_path / "data", 3), tmp_path / "out"
    flags = ["--model", detector, "--data", f"a={data}", "--output_dir", out]
    attack = ["--adversarial", "fgsm", "--adversarial_images", 4]
    assert evaluate(*flags, "--corruptions", "jpeg", "--severities", "2,1", *attack) == 0
    before = load_results(out)
    more = draw_folder(tmp_path / "more", 2)
    assert evaluate(*flags[:4], f"b={more}", *flags[4:], "--corruptions", "jpeg", "--severities", 3) == 0
    after = load_results(out)
    assert list(after["robustness"]["a"]["jpeg"]) == ["1", "2", "3"]
    assert after["robustness"]["a"]["jpeg"]["1"] == before["robustness"]["a"]["jpeg"]["1"]
    assert list(after["robustness"]["b"]["jpeg"]) == ["3"]
    assert after["adversarial"]["a"] == before["adversarial"]["a"]
    assert len(pd.read_csv(out / "robustness.csv")) == 4


def test_an_interrupted_evaluation_goes_on_where_it_was(
    detector: Path, tmp_path: Path, counted: list[Any], no_plots: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = draw_folder(tmp_path / "data", 4)
    flags = ["--model", detector, "--output_dir", tmp_path / "out", "--data", f"a={data}", "--batch_size", 2]
    score = predictions._logits

    def interrupted(*arguments: Any) -> Any:
        if sum(counted) >= 4:
            raise KeyboardInterrupt
        return score(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, "_logits", interrupted)
        assert evaluate(*flags) == 130
    assert not (tmp_path / "out" / "results.json").exists()
    assert evaluate(*flags) == 0
    assert sum(counted) == 8
    assert load_results(tmp_path / "out")["metrics"]["a"]["images"] == 8


def test_several_models_are_compared_and_ranked(
    detector: Path, tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    other, out = save_tiny_timm(tmp_path / "resnet"), tmp_path / "out"
    assert evaluate("--model", detector, other, "--data", f"a={image_folder}", "--output_dir", out) == 0
    assert {path.name for path in out.iterdir()} == {
        "vit",
        "resnet",
        "scores",
        "leaderboard.csv",
        "leaderboard.md",
        "comparison.json",
    }
    board = pd.read_csv(out / "leaderboard.csv")
    values = {name: load_results(out / name)["metrics"]["a"]["roc_auc"] for name in ("vit", "resnet")}
    assert board["model"].tolist() == sorted(values, key=lambda name: -values[name])
    assert board["roc_auc"].tolist() == sorted(values.values(), reverse=True)
    (pair,) = json.loads((out / "comparison.json").read_text())["a"]
    assert (pair["first"], pair["second"]) == ("vit", "resnet")
    assert pair["roc_auc_difference"] == pytest.approx(values["vit"] - values["resnet"])
    markdown = (out / "leaderboard.md").read_text()
    assert all(f"| {name} |" in markdown for name in values)
    assert "leaderboard.csv" in capsys.readouterr().out


def test_two_models_of_one_folder_name_are_told_apart_by_the_folder_above(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    other, data = save_tiny_vit(tmp_path / "mine" / "vit", seed=1), draw_folder(tmp_path / "data", 2)
    assert evaluate("--model", detector, other, "--data", f"a={data}", "--output_dir", tmp_path / "out") == 0
    names = {path.parent.name for path in (tmp_path / "out").glob("*/results.json")}
    assert names == {f"{detector.parent.name}-vit", "mine-vit"}
    twins = [save_tiny_vit(tmp_path / above / "twin" / "vit") for above in "ab"]
    message = refusal(capsys, "--model", *twins, "--data", f"a={data}", "--output_dir", tmp_path / "none")
    assert "--model: twin-vit, twin-vit are names of several models; rename a folder" in message
    same = ["--model", twins[0], f"{twins[0]}/", "--data", f"a={data}", "--output_dir", tmp_path / "one"]
    assert evaluate(*same) == 0
    assert load_results(tmp_path / "one")["model"] == "vit"


def test_test_time_augmentation_stands_beside_the_model_that_it_is_of(
    detector: Path, tmp_path: Path, image_folder: Path, no_plots: None
) -> None:
    out = tmp_path / "out"
    assert evaluate("--model", detector, "--data", f"a={image_folder}", "--tta", 3, "--output_dir", out) == 0
    plain, averaged = (load_predictions(out / name / "predictions" / "a.parquet") for name in ("vit", "vit-tta3"))
    model, processor, _ = load_detector(str(detector))
    image = draw_image(int(plain["label"][5]), int(Path(plain["image"][5]).stem))
    views = [jittered(image, number) for number in range(3)]
    with torch.inference_mode():
        prob_fake = model(**processor(views, return_tensors="pt")).logits.double().softmax(-1)[:, 1]
    assert plain["prob_fake"][5] == pytest.approx(float(prob_fake[0]), abs=1e-6)
    assert averaged["prob_fake"][5] == pytest.approx(float(prob_fake.mean()), abs=1e-6)
    (pair,) = json.loads((out / "comparison.json").read_text())["a"]
    assert (pair["first"], pair["second"]) == ("vit", "vit-tta3")


def test_images_that_were_trained_on_are_warned_of_and_marked(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    run, data = save_tiny_vit(tmp_path / "vit"), draw_folder(tmp_path / "data", 4)
    rows = load_data(DataArguments(dataset_name=str(draw_folder(tmp_path / "trained", 1))))
    save_training_images(training_images({"train": everything(rows)}), run)
    out = tmp_path / "out"
    assert evaluate("--model", run, detector, "--data", f"a={data}", "--output_dir", out) == 0
    printed = capsys.readouterr()
    assert f"WARNING: 2 of the 8 images of a are among those that {run.parent.name}-vit was trained" in printed.err
    named = {path.parent.name: load_results(path.parent)["metrics"]["a"] for path in out.glob("*/results.json")}
    assert named.pop(f"{run.parent.name}-vit")["seen_in_training"] == 2
    assert "seen_in_training" not in next(iter(named.values()))  # of the other, that is not known
    assert "SEEN in training: 2 of 8 images" in (out / "leaderboard.md").read_text()


def test_sources_are_measured_apart_and_new_ones_marked(tmp_path: Path, no_plots: None) -> None:
    run, data = save_tiny_vit(tmp_path / "vit"), draw_folder(tmp_path / "data", 6)
    files = sorted(data.rglob("*.png"))
    labels_ = [int(file.parent.name == "fake") for file in files]
    sources = [
        f"{'gan' if label else 'phone'}{int(file.stem) % 2}" for file, label in zip(files, labels_, strict=True)
    ]
    table = {"image": [str(file.relative_to(data)) for file in files], "label": labels_, "source": sources}
    pd.DataFrame(table).to_csv(data / "labels.csv", index=False)
    known = pd.DataFrame({"image": ["x"], "split": ["train"], "sha256": ["0"], "source": ["phone0"]})
    save_training_images(known, run)
    assert evaluate("--model", run, "--data", f"a={data / 'labels.csv'}", "--output_dir", tmp_path / "out") == 0
    results = load_results(tmp_path / "out")
    assert {name: of["unseen"] for name, of in results["sources"]["a"].items()} == {
        "gan0": True,
        "gan1": True,
        "phone0": False,
        "phone1": True,
    }
    assert results["metrics"]["a"]["unseen"] is False
    assert set(results["leave_one_source_out"]["a"]) == set(sources)


def test_robustness_is_measured_at_the_stored_threshold(
    detector: Path, tmp_path: Path, image_folder: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    out = tmp_path / "out"
    flags = ["--model", detector, "--data", f"a={image_folder}", "--corruptions", "blur", "--severities", "2-3"]
    assert evaluate(*flags, "--output_dir", out) == 0
    blurred = load_results(out)["robustness"]["a"]["blur"]
    assert list(blurred) == ["2", "3"]
    clean = load_predictions(out / "predictions" / "a.parquet")
    model, processor, _ = load_detector(str(detector))
    changed = []
    for label, image in zip(clean["label"], clean["image"], strict=True):
        pixels = torch.from_numpy(np.array(draw_image(label, int(Path(image).stem)))).permute(2, 0, 1)
        changed.append(Image.fromarray(corrupt(pixels, "blur", 3).permute(1, 2, 0).numpy()))
    with torch.inference_mode():
        prob_fake = model(**processor(changed, return_tensors="pt")).logits.double().softmax(-1)[:, 1].numpy()
    expected = detection_metrics(clean["label"], prob_fake)
    assert blurred["3"]["roc_auc"] == pytest.approx(expected["roc_auc"])
    assert blurred["3"]["false_positive_rate"] == pytest.approx(expected["false_positive_rate"])
    flipped = ((prob_fake >= 0.5) != (clean["prob_fake"] >= 0.5)).mean()
    assert blurred["3"]["flipped"] == pytest.approx(flipped)
    assert pd.read_csv(out / "robustness.csv")["severity"].tolist() == [2, 3]
    assert "flipped" in capsys.readouterr().out


def test_attacks_on_each_model_are_scored_by_all(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_plots: None
) -> None:
    other, out = save_tiny_timm(tmp_path / "resnet"), tmp_path / "out"
    data = draw_folder(tmp_path / "data", 3)
    flags = ["--model", detector, other, "--data", f"a={data}", "--adversarial", "fgsm", "--epsilon", "0", "8/255"]
    assert evaluate(*flags, "--adversarial_images", 4, "--output_dir", out) == 0
    for name in ("vit", "resnet"):
        entries = load_results(out / name)["adversarial"]["a"]
        assert {(entry["attacked"], entry["epsilon"]) for entry in entries} == {
            (attacked, epsilon) for attacked in ("vit", "resnet") for epsilon in ("0", "8/255")
        }
        assert {entry["images"] for entry in entries} == {4}
        assert {entry["flipped"] for entry in entries if entry["epsilon"] == "0"} == {0.0}
    assert "fgsm 8/255" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tta", "0"], "--tta 0: must be 1 or more"),
        (["--batch_size", "-1"], "--batch_size -1: must be 1 or more"),
        (["--adversarial", "fgsm", "--adversarial_images", "0"], "--adversarial_images 0: must be 1 or more"),
        (["--adversarial", "fgms"], "fgms: no such attack; .* Did you mean fgsm?"),
        (["--adversarial", "pgd", "--epsilon", "two"], "epsilon two: no number"),
        (["--corruptions", "jpg"], "jpg: no such corruption; .* Did you mean jpeg?"),
        (["--corruptions", "jpeg", "--severities", "6"], "--severities 6: must be"),
        (["--corruptions", "jpeg", "--severities", "low"], "--severities low: must be"),
    ],
)
def test_flags_that_cannot_be_are_refused_before_any_image_is_read(
    detector: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    found = refusal(capsys, "--model", detector, "--data", "none", *flags, "--output_dir", tmp_path / "out")
    assert re.search(message.replace("?", r"\?"), found)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (["a/b={folder}"], "'a/b' cannot be part of a file name; give it one: --data NAME="),
        (["../up={folder}"], "'../up' cannot be part of a file name"),
        (["={folder}"], "'' cannot be part of a file name"),
        (["x={folder}", "x={folder}"], "'x' is the name of two benchmarks; give it one: --data NAME="),
        (["{folder}/", "{folder}"], "is the name of two benchmarks"),
        (["test={folder}/none"], "none: no such file or folder, and no Hub id"),
        (["test="], "--data test=: names no data"),
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
