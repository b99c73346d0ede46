import functools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import build_tiny_vit, save_tiny_timm, save_tiny_vit
from PIL import Image
from safetensors.torch import load_file
from scipy.special import expit
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessor,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    ViTImageProcessor,
)

from hf_deepfake import EnsembleForImageClassification, InputError, build_ensemble, cli, labels
from hf_deepfake.arguments import ModelArguments
from hf_deepfake.data.fingerprints import load_training_images, save_training_images
from hf_deepfake.ensemble import diversity, measuring
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.evaluation import benchmark, plots
from hf_deepfake.evaluation.metrics import bootstrap_intervals
from hf_deepfake.evaluation.predictions import load_predictions, save_predictions
from hf_deepfake.models.detector import load_detector, new_detector

PLOTS = ("plot_benchmark", "plot_comparison", "plot_diversity", "plot_reliability")


@pytest.fixture(autouse=True)
def few_resamples_and_no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "bootstrap_intervals", functools.partial(bootstrap_intervals, resamples=20))
    for plot in PLOTS:
        monkeypatch.setattr(measuring, plot, lambda *_: None)


def fit_of(members: int, **settings: Any) -> Fit:
    """Different temperatures and weights for each member."""
    chosen: dict[str, Any] = {
        "voting": "soft",
        "temperatures": [1.0 + member for member in range(members)],
        "weights": [1.0 + member for member in range(members)],
        "member_thresholds": [0.5] * members,
        "thresholds": {"soft": 0.5, "hard": 0.5, "weighted": 0.5},
    }
    return Fit(**chosen | settings)


def photographs() -> list[Image.Image]:
    """Smooth gradients with grain, of several sizes, aspect ratios and modes."""
    images = []
    for seed, (width, height) in enumerate([(40, 40), (97, 64), (30, 120), (256, 200), (23, 31)]):
        generator = np.random.default_rng(seed)
        down, across = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        waves = np.stack([np.sin(7 * down + seed), np.cos(9 * across * down), across], axis=-1)
        pixels = 128 + 90 * waves + generator.normal(0, 12, waves.shape)
        images.append(Image.fromarray(pixels.clip(0, 255).astype(np.uint8)))
    return [*images, images[1].convert("L"), images[2].convert("RGBA")]


def prob_fake_alone(run: Path, temperature: float = 1.0) -> torch.Tensor:
    """One member, loaded by itself and fed by its own image processor one image at a time."""
    model, processor, fake_column = load_detector(str(run))
    with torch.inference_mode():
        logits = [model(**processor([open_rgb(image)], return_tensors="pt")).logits[0] for image in photographs()]
    return torch.softmax(torch.stack(logits) / temperature, dim=-1)[:, fake_column]


def prob_fake_together(folder: Path) -> torch.Tensor:
    ensemble = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    with torch.inference_mode():
        return ensemble(**processor(photographs(), return_tensors="pt")).logits.softmax(-1)[:, 1]


def save_hf_swin(folder: Path) -> Path:
    torch.manual_seed(3)
    sizes = {
        "image_size": 32,
        "patch_size": 2,
        "embed_dim": 8,
        "depths": [2, 1],
        "num_heads": [1, 2],
        "window_size": 4,
    }
    config = SwinConfig(**sizes, id2label=labels.ID2LABEL, label2id=labels.LABEL2ID, initializer_range=0.5)
    SwinForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}, resample=3).save_pretrained(folder)
    return folder


def save_hf_convnext(folder: Path) -> Path:
    """Resized by its shortest edge and cropped at the centre, unlike the others."""
    torch.manual_seed(4)
    config = ConvNextConfig(
        hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], initializer_range=0.5, id2label=labels.ID2LABEL
    )
    ConvNextForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=0.8).save_pretrained(folder)
    return folder


def save_timm_swin(folder: Path) -> Path:
    """Shifted windows: attention masks and position indices that no checkpoint holds."""
    torch.manual_seed(5)
    model_args = '{"embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4}'
    arguments = ModelArguments("swin_tiny_patch4_window7_224", image_size=64, model_args=model_args)
    detector: PreTrainedModel = new_detector(arguments)[0]
    for parameter in detector.timm_model.get_classifier().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    detector.save_pretrained(folder)
    return folder


def save_reversed_vit(folder: Path) -> Path:
    """Column 0 means fake."""
    save_tiny_vit(folder, 24, mean=0.6, seed=6)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": {"0": "FAKE", "1": "REAL"}, "label2id": {"FAKE": 0, "REAL": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints of both libraries, of several families, image sizes, crops and normalisations."""
    root = tmp_path_factory.mktemp("members")
    return {
        "resnet": save_tiny_timm(root / "resnet", "test_resnet", 32),
        "timm-vit": save_tiny_timm(root / "timm-vit", "test_vit", 48, seed=1),
        "timm-swin": save_timm_swin(root / "timm-swin"),
        "vit": save_tiny_vit(root / "vit", 24),
        "swin": save_hf_swin(root / "swin"),
        "convnext": save_hf_convnext(root / "convnext"),
        "reversed": save_reversed_vit(root / "reversed"),
    }


def save_assembled(runs: list[Path], fit: Fit, folder: Path) -> Path:
    model, processor = assemble(runs, [run.name for run in runs], fit)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["resnet", "vit"],
        ["timm-vit", "swin", "convnext"],
        ["timm-swin", "resnet", "reversed"],
    ],
    ids=" ".join,
)
def test_the_soft_vote_is_the_mean_of_the_members_run_alone(
    members: dict[str, Path], names: list[str], tmp_path: Path
) -> None:
    runs = [members[name] for name in names]
    fit = fit_of(len(runs))
    expected = [prob_fake_alone(run, temperature) for run, temperature in zip(runs, fit.temperatures, strict=True)]
    assert all(prob_fake.std() > 1e-3 for prob_fake in expected), (
        "members that say the same of all images prove nothing"
    )
    together = prob_fake_together(save_assembled(runs, fit, tmp_path / "ensemble"))
    torch.testing.assert_close(together, torch.stack(expected).mean(dim=0), atol=1e-5, rtol=0)


def test_the_weighted_and_the_hard_vote_are_those_of_the_members_run_alone(
    members: dict[str, Path], tmp_path: Path
) -> None:
    runs = [members[name] for name in ("resnet", "vit", "convnext")]
    alone = torch.stack([prob_fake_alone(run) for run in runs])
    fit = fit_of(3, temperatures=[1.0] * 3, weights=[1.0, 0.0, 3.0], voting="weighted")
    together = prob_fake_together(save_assembled(runs, fit, tmp_path / "weighted"))
    torch.testing.assert_close(together, (alone[0] + 3 * alone[2]) / 4, atol=1e-5, rtol=0)
    thresholds = [float(prob_fake.mean()) for prob_fake in alone]
    fit = fit_of(3, temperatures=[1.0] * 3, voting="hard", member_thresholds=thresholds)
    together = prob_fake_together(save_assembled(runs, fit, tmp_path / "hard"))
    torch.testing.assert_close(together, (alone > alone.mean(dim=1, keepdim=True)).float().mean(dim=0))


def test_saving_and_loading_keeps_weights_and_views_to_the_bit(members: dict[str, Path], tmp_path: Path) -> None:
    """The logits to rounding only: some processors' kernels depend on where in memory weights lie."""
    runs = [members[name] for name in ("resnet", "timm-vit", "timm-swin", "swin")]
    model, processor = assemble(runs, [run.name for run in runs], fit_of(4))
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    views = processor(photographs(), return_tensors="pt")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    loaded_views = AutoImageProcessor.from_pretrained(tmp_path)(photographs(), return_tensors="pt")
    assert isinstance(loaded, EnsembleForImageClassification)
    torch.testing.assert_close(dict(loaded_views), dict(views), atol=0, rtol=0)
    torch.testing.assert_close(loaded.state_dict(), model.state_dict(), atol=0, rtol=0)
    with torch.inference_mode():
        torch.testing.assert_close(
            loaded(**loaded_views).member_logits, model(**views).member_logits, atol=1e-6, rtol=0
        )
    assert [file.name for file in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


def test_members_with_the_same_preprocessing_share_one_view(members: dict[str, Path], tmp_path: Path) -> None:
    twin = save_tiny_timm(tmp_path / "twin", "test_resnet", 32, seed=9)
    runs = [members["vit"], members["resnet"], twin, members["reversed"]]
    model, processor = assemble(runs, ["a", "b", "c", "d"], fit_of(4))
    assert model.config.member_views == [0, 1, 1, 2]
    views = processor(photographs()[:2], return_tensors="pt")
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "pixel_values": (2, 3, 24, 24),
        "pixel_values_1": (2, 3, 32, 32),
        "pixel_values_2": (2, 3, 24, 24),
    }


def test_members_whose_labels_do_not_tell_are_refused(tmp_path: Path) -> None:
    for folder, id2label in {"two": {0: "LABEL_0", 1: "LABEL_1"}, "three": {0: "a", 1: "b", 2: "c"}}.items():
        model = build_tiny_vit(24)
        model.config.id2label = id2label
        model.save_pretrained(tmp_path / folder)
    with pytest.raises(InputError, match=r"two: cannot tell which label means fake; id2label is .*LABEL_0"):
        assemble([tmp_path / "two"], ["two"], fit_of(1))
    with pytest.raises(InputError, match=r"three: a detector has the two labels .*2: 'c'"):
        assemble([tmp_path / "three"], ["three"], fit_of(1))


def test_an_ensemble_is_no_member(members: dict[str, Path], tmp_path: Path) -> None:
    folder = save_assembled([members["vit"]], fit_of(1), tmp_path / "ensemble")
    with pytest.raises(InputError, match="ensemble: is an ensemble itself"):
        assemble([folder], ["ensemble"], fit_of(1))


def test_an_ensemble_folder_holds_a_checkpoint_its_votes_and_its_measures(
    runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for plot in PLOTS:
        monkeypatch.setattr(measuring, plot, getattr(diversity if plot == "plot_diversity" else plots, plot))
    folder = tmp_path / "ensembles" / "three"
    results = build_ensemble(runs, folder, weighting="manual", weights=[1, 1, 2], threshold="eer")
    names = ["resnet", "efficientnet", "vit"]
    assert results == json.loads((folder / "results.json").read_text())
    assert results["model"] == "three"
    assert results["ensemble"]["members"] == names
    rows = [*names, "soft voting", "hard voting", "weighted voting"]
    assert {split: list(table) for split, table in results["comparison"].items()} == {"validation": rows, "test": rows}
    assert results["metrics"]["test"] == results["comparison"]["test"]["weighted voting"]
    assert {"roc_auc", "roc_auc_low", "roc_auc_high"} <= set(results["metrics"]["validation"])
    config = AutoModelForImageClassification.from_pretrained(folder).config
    assert (config.voting, config.member_names) == ("weighted", names)
    assert config.threshold == results["metrics"]["validation"]["threshold"]
    assert {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()} == {
        "README.md",
        "config.json",
        "configuration_deepfake_ensemble.py",
        "face_cropping_deepfake_ensemble.py",
        "image_processing_deepfake_ensemble.py",
        "members_deepfake_ensemble.py",
        "model.safetensors",
        "modeling_deepfake_ensemble.py",
        "pipeline_deepfake_ensemble.py",
        "plots/calibration.png",
        "plots/comparison_test.png",
        "plots/comparison_validation.png",
        "plots/diversity.png",
        "plots/confusion_matrix_test.png",
        "plots/confusion_matrix_validation.png",
        "plots/scores_test.png",
        "plots/scores_validation.png",
        "predictions/test.parquet",
        "predictions/validation.parquet",
        "preprocessor_config.json",
        "results.json",
        "running_deepfake_ensemble.py",
    }
    assert [path.name for path in folder.parent.iterdir()] == ["three"]


@pytest.mark.parametrize("voting", ["soft", "hard", "weighted"])
def test_the_saved_predictions_are_those_of_the_checkpoint(
    runs: list[Path], image_folder: Path, tmp_path: Path, voting: str
) -> None:
    folder = tmp_path / "ensemble"
    build_ensemble(runs, folder, voting=voting)
    table = load_predictions(folder / "predictions" / "test.parquet")
    model, processor, _ = load_detector(str(folder))
    images = [image_folder / file for file in table["image"]]
    with torch.inference_mode():
        prob_fake = model(**processor(images, return_tensors="pt")).logits.softmax(-1)[:, 1]
    np.testing.assert_allclose(table["prob_fake"], prob_fake, atol=1e-5)
    np.testing.assert_allclose(expit(table["logit_fake"] - table["logit_real"]), prob_fake, atol=1e-5)


@pytest.fixture
def bare_runs(members: dict[str, Path], tmp_path: Path) -> list[Path]:
    """Two members of which only validation predictions were saved."""
    runs = [save_tiny_vit(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    table = pd.DataFrame({"image": ["a", "b", "c", "d"], "label": [0, 0, 1, 1]})
    for seed, run in enumerate(runs):
        logits = np.random.default_rng(seed).normal(size=(4, 2))
        columns = {"logit_real": logits[:, 0], "logit_fake": logits[:, 1], "prob_fake": 0.5}
        save_predictions(table.assign(**columns), run / "predictions" / "validation.parquet")
    return runs


def test_without_test_predictions_the_ensemble_is_measured_on_validation_and_says_so(
    bare_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["ensemble", *map(str, bare_runs), "--output_dir", str(tmp_path / "out"), "--voting", "hard"]
    assert cli.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "no test split: these figures are of the images that the vote was fitted on" in " ".join(printed.split())
    assert f"wrote {tmp_path / 'out'}" in printed
    assert list(json.loads((tmp_path / "out" / "results.json").read_text())["metrics"]) == ["validation"]


def test_members_in_folders_of_the_same_name_are_told_apart(bare_runs: list[Path], tmp_path: Path) -> None:
    twins = [bare_runs[0].rename(tmp_path / "vit"), (tmp_path / "other" / "vit")]
    twins[1].parent.mkdir()
    bare_runs[1].rename(twins[1])
    results = build_ensemble(twins, tmp_path / "out")
    assert results["ensemble"]["members"] == ["vit-0", "vit-1"]


def test_a_folder_that_is_not_empty_is_refused_and_kept(bare_runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(
        InputError, match="out: stands there already and is no empty folder; choose another --output_dir"
    ):
        build_ensemble(bare_runs, tmp_path / "out")
    assert [(file.name, file.read_text()) for file in (tmp_path / "out").iterdir()] == [("notes.txt", "mine")]


def test_an_empty_folder_is_filled(bare_runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    build_ensemble(bare_runs, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_file_in_place_of_the_output_folder_is_refused_and_kept(bare_runs: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="out: stands there already and is no empty folder"):
        build_ensemble(bare_runs, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "mine"


def test_a_failure_half_way_leaves_no_output_folder(
    bare_runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(measuring, "plot_benchmark", fail)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(OSError, match="disk full"):
        build_ensemble(bare_runs, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_runs_that_are_missing_or_have_no_predictions_are_refused(members: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none: no config\.json; a member is a run directory"):
        build_ensemble([tmp_path / "none"], tmp_path / "out")
    with pytest.raises(InputError, match=r"validation\.parquet: no such table of predictions"):
        build_ensemble([members["vit"]], tmp_path / "out")
    with pytest.raises(InputError, match="at least one run directory"):
        build_ensemble([], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_members_scored_on_different_images_are_refused_in_one_line(
    bare_runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bare_runs[1] / "predictions" / "validation.parquet"
    save_predictions(load_predictions(path).assign(image=["a", "b", "x", "d"]), path)
    assert cli.main(["ensemble", *map(str, bare_runs), "--output_dir", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err.strip()
    assert printed.startswith("error: two and one were scored on different images: row 2 is x (label 1)")
    assert "\n" not in printed
    assert not (tmp_path / "out").exists()


def test_one_member_is_an_ensemble_of_one(bare_runs: list[Path], tmp_path: Path) -> None:
    build_ensemble(bare_runs[:1], tmp_path / "out", calibration="none")
    assert all(name.startswith("members.0.") for name in load_file(tmp_path / "out" / "model.safetensors"))
    torch.testing.assert_close(prob_fake_together(tmp_path / "out"), prob_fake_alone(bare_runs[0]), atol=1e-6, rtol=0)


def test_an_ensemble_lists_what_its_members_were_trained_on_where_all_say_so(
    bare_runs: list[Path], tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / f"copy-{run.name}")) for run in bare_runs[:2]]
    listed = {"image": ["a", "b"], "split": "train", "sha256": ["1", "2"]}
    save_training_images(pd.DataFrame(listed), copies[0])
    build_ensemble(copies, tmp_path / "unknown")
    assert load_training_images(tmp_path / "unknown") is None
    save_training_images(pd.DataFrame(listed | {"sha256": ["2", "3"], "image": ["b", "c"]}), copies[1])
    build_ensemble(copies, tmp_path / "known")
    found = load_training_images(tmp_path / "known")
    assert found is not None
    assert found["sha256"].tolist() == ["1", "2", "3"]


def test_calibration_and_thresholds_are_measured(runs: list[Path], tmp_path: Path) -> None:
    results = build_ensemble(runs, tmp_path / "out", threshold="fpr=0.1", target_error=0.3)
    assert list(results["calibration"]) == [*(run.name for run in runs), "vote"]
    for measured in results["calibration"].values():
        assert set(measured["before"]) == {"ece", "brier", "log_loss"}
        assert set(measured["after"]) == {"ece", "brier", "log_loss", "ece_of_chance"}
    assert list(results["operating_points"]) == ["fpr=0.1", "youden", "eer", "f1", "fpr=0.01", "fixed"]
    chosen = results["operating_points"]["fpr=0.1"]
    assert chosen["threshold"] == results["metrics"]["validation"]["threshold"]
    rate = results["metrics"]["test"]["false_positive_rate"]
    assert chosen["test"]["false_positive_rate"] == rate
    assert chosen["test"]["false_positive_rate_low"] <= rate <= chosen["test"]["false_positive_rate_high"]
    assert results["operating_points"]["fixed"]["threshold"] == 0.5
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert results["uncertain"]["band"] == config["uncertain_bands"]["soft"]
    assert set(results["uncertain"]["rates"]) == {"validation", "test"}
