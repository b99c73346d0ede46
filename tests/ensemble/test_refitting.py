import functools
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import draw_image
from transformers import AutoConfig

from hf_deepfake import build_ensemble, cli
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.fingerprints import load_training_images, save_training_images
from hf_deepfake.ensemble import measuring, refitting
from hf_deepfake.ensemble.refitting import refit_ensemble, score_members
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation import benchmark
from hf_deepfake.evaluation.metrics import bootstrap_intervals
from hf_deepfake.evaluation.predictions import load_predictions, save_predictions
from hf_deepfake.models.detector import load_detector


@pytest.fixture(autouse=True)
def few_resamples_and_no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    quicken(monkeypatch)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "bootstrap_intervals", functools.partial(bootstrap_intervals, resamples=20))
    for plot in ("plot_benchmark", "plot_comparison", "plot_reliability", "plot_diversity"):
        monkeypatch.setattr(measuring, plot, lambda *_: None)


@pytest.fixture(scope="module")
def built(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refitting") / "ensemble"
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        build_ensemble(runs, folder, calibration="platt", threshold="eer")
    return folder


@pytest.fixture
def ensemble(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "ensemble"))


def test_a_refit_keeps_the_old_images_and_values_and_leaves_the_old_folder_alone(
    ensemble: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in ensemble.rglob("*") if path.is_file()}
    old = load_predictions(ensemble / "predictions" / "validation.parquet")
    labels = pd.DataFrame({"image": [f"{name}/{row:03d}.png" for name in ("real", "fake") for row in range(20)]})
    labels["label"] = ["fake"] * 20 + ["real"] * 20  # a person turned every label round
    labels.to_csv(tmp_path / "corrected.csv", index=False)
    flags = ["--labels", str(tmp_path / "corrected.csv"), "--image_root", str(image_folder)]
    assert cli.main(["ensemble", "--refit", str(ensemble), *flags, "--output_dir", str(tmp_path / "new")]) == 0
    assert {path: path.read_bytes() for path in ensemble.rglob("*") if path.is_file()} == before
    results = json.loads((tmp_path / "new" / "results.json").read_text())
    assert results["refit"]["corrected"] == 40
    assert results["refit"]["old"] == 0  # each was corrected
    assert "the fit hangs on single images" in " ".join(capsys.readouterr().out.split())
    [doubt] = results["refit"]["doubts"]
    assert doubt.startswith("…/corrected.csv: with no old validation images")  # no folder, which push would refuse
    table = load_predictions(tmp_path / "new" / "predictions" / "validation.parquet").set_index("image")
    assert (table.loc[old["image"], "label"].to_numpy() == 1 - old["label"].to_numpy()).all()
    was, now = (AutoConfig.from_pretrained(folder) for folder in (ensemble, tmp_path / "new"))
    [entry] = now.history
    assert entry["old"]["temperatures"] == was.temperatures != now.temperatures
    assert entry["old"]["thresholds"] == was.thresholds
    assert entry["images"] == {"corrected": 40, "old": 0, "unreadable": 0}
    assert (results["choices"]["calibration"], results["choices"]["threshold"]) == ("platt", "eer")
    assert load_detector(str(tmp_path / "new")).model.config.history == now.history


def test_a_corrected_image_is_found_by_its_content_whatever_it_is_called_and_is_listed_as_seen(
    ensemble: Path, image_folder: Path, tmp_path: Path
) -> None:
    old = load_predictions(ensemble / "predictions" / "validation.parquet")
    hashes = [hashlib.sha256((image_folder / name).read_bytes()).hexdigest() for name in old["image"]]
    seen = pd.DataFrame({"image": old["image"], "split": "validation", "sha256": hashes})
    save_training_images(seen[:-1], ensemble)  # one is known by its name only
    names = [*old["image"][:2], old["image"].iloc[-1]]
    draw_image(1, 99).save(tmp_path / "new.png")
    corrected = [str(image_folder / names[0]), str(image_folder / names[1]), str(tmp_path / "new.png")]
    pd.DataFrame({"image": corrected, "label": ["fake", "real", "fake"]}).to_csv(tmp_path / "one.csv", index=False)
    scored, _ = score_members(load_detector(str(ensemble)), DataArguments(dataset_name=str(tmp_path / "one.csv")))
    scored.loc[2, "image"] = names[2]
    members = ["resnet", "efficientnet", "vit"]
    kept = refitting._old_validation(ensemble, members, scored, load_training_images(ensemble))
    assert list(kept["image"]) == list(old["image"][2:-1])
    listed = refitting._seen_and(scored, seen)
    assert set(listed["sha256"]) == {*hashes, hashlib.sha256((tmp_path / "new.png").read_bytes()).hexdigest()}
    assert len(listed) == len(seen) + 1


def test_members_are_scored_as_they_were_when_the_ensemble_was_built(ensemble: Path, image_folder: Path) -> None:
    old = load_predictions(ensemble / "predictions" / "validation.parquet").set_index("image")
    table, unreadable = score_members(load_detector(str(ensemble)), DataArguments(dataset_name=str(image_folder)))
    columns = ["log_odds_resnet", "log_odds_efficientnet", "log_odds_vit"]
    np.testing.assert_allclose(table.set_index("image").loc[old.index, columns], old[columns], atol=1e-4)
    assert unreadable == 0


@pytest.mark.slow
def test_old_validation_images_stay_beside_corrections(ensemble: Path, image_folder: Path, tmp_path: Path) -> None:
    path = ensemble / "predictions" / "validation.parquet"
    old = load_predictions(path)
    many = pd.concat([old.assign(image=old["image"] + f"?{number}") for number in range(10)], ignore_index=True)
    save_predictions(many, path)
    (tmp_path / "one.csv").write_text("image,label\nreal/000.png,fake\nfake/000.png,fake\nreal/001.png,real\n")
    data = DataArguments(dataset_name=str(tmp_path / "one.csv"), image_root=str(image_folder))
    results = refit_ensemble(ensemble, data, tmp_path / "new")
    assert {name: results["refit"][name] for name in ("corrected", "old")} == {"corrected": 3, "old": len(many)}
    assert results["metrics"]["validation"]["images"] == len(many) + 3


def test_too_few_images_of_a_class_are_refused(ensemble: Path, image_folder: Path, tmp_path: Path) -> None:
    path = ensemble / "predictions" / "validation.parquet"
    save_predictions(load_predictions(path).drop(columns="log_odds_vit"), path)  # an ensemble of an older version
    (tmp_path / "one.csv").write_text("image,label\nreal/000.png,fake\nfake/000.png,fake\nreal/001.png,real\n")
    data = DataArguments(dataset_name=str(tmp_path / "one.csv"), image_root=str(image_folder))
    message = (
        r"one.csv: with no old validation images, .* there are 1 real and 2 fake images to fit on; at least 20 of each are "
        "needed. Label more real images"
    )
    with pytest.raises(InputError, match=message):
        refit_ensemble(ensemble, data, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_only_an_ensemble_can_be_fitted_again(runs: list[Path], image_folder: Path, tmp_path: Path) -> None:
    data = DataArguments(dataset_name=str(image_folder))
    with pytest.raises(
        InputError, match="vit: is no ensemble; --refit takes a folder that hf-deepfake ensemble wrote"
    ):
        refit_ensemble(runs[2], data, tmp_path / "new")
