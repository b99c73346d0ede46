import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import (
    add_predictions,
    draw_folder,
    draw_image,
    launch,
    save_tiny_timm,
    save_tiny_vit,
    training_arguments,
    training_flags,
)
from datasets import DatasetDict
from rich.console import Console
from transformers import TrainerState

from hf_deepfake import InputError
from hf_deepfake.arguments import AugmentationArguments, ContinuingArguments, DataArguments, ModelArguments
from hf_deepfake.data.fingerprints import save_training_images, training_images
from hf_deepfake.data.loading import load_splits
from hf_deepfake.models.checkpoints import save_checkpoint
from hf_deepfake.models.detector import new_detector
from hf_deepfake.recipe import save_recipe
from hf_deepfake.training.continual import (
    BEFORE,
    OLD_VALIDATION,
    MeasureBefore,
    check_earlier,
    forgetting_table,
    with_old_images,
)
from hf_deepfake.training.train import train


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A finished run on images of its own, without the training."""
    data, run = draw_folder(tmp_path / "old", 10), save_tiny_vit(tmp_path / "earlier")
    splits = load_splits(DataArguments(str(data)))
    save_training_images(training_images(splits, quiet=True), run)
    save_recipe([DataArguments(str(data)), AugmentationArguments()], run / "recipe.yaml")
    (run / "results.json").write_text("{}")
    return run


def new_images(folder: Path, count: int = 10) -> Path:
    for label, name in enumerate(("real", "fake")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for seed in range(count):
            draw_image(label, 100 + seed).save(folder / name / f"new-{seed}.png")
    return folder


def replayed(data: Path, earlier: Path, share: float) -> Any:
    splits = load_splits(DataArguments(str(data)))
    continuing = ContinuingArguments(init_from=str(earlier), replay_share=share)
    return splits, with_old_images(splits, continuing, AugmentationArguments(), seed=0, quiet=True)


def test_a_share_of_each_class_is_replayed_and_the_rest_only_measured(earlier: Path, tmp_path: Path) -> None:
    old = load_splits(DataArguments(str(tmp_path / "old")))
    new, (splits, summary) = replayed(new_images(tmp_path / "new"), earlier, 0.5)
    added = [file for file in splits["train"]["file"] if "new-" not in file]
    assert set(added) <= set(old["train"]["file"])
    assert sorted(Path(file).parent.name for file in added) == ["fake"] * 4 + ["real"] * 4  # of 7 each, rounded
    assert summary["replayed"] == 8
    assert splits[OLD_VALIDATION]["file"][:] == old["validation"]["file"][:]
    assert splits["validation"]["file"][:] == new["validation"]["file"][:]
    assert replayed(tmp_path / "new", earlier, 0.5)[1].splits["train"]["file"][:] == splits["train"]["file"][:]


def test_images_that_the_earlier_run_knows_are_no_new_ones(earlier: Path, tmp_path: Path) -> None:
    """A folder that has grown is split anew, and would measure on what was learned."""
    data = new_images(shutil.copytree(tmp_path / "old", tmp_path / "grown"))
    _, (splits, summary) = replayed(data, earlier, 0.0)
    known = set(training_images(load_splits(DataArguments(str(tmp_path / "old"))), quiet=True)["image"])
    assert summary["known"] == len(known)
    assert not known & {*splits["train"]["file"], *splits["validation"]["file"]}
    with pytest.raises(InputError, match=r"it knows all .* images to go on with"):
        replayed(tmp_path / "old", earlier, 0.0)


def test_a_folder_that_has_grown_is_measured_on_as_it_was(earlier: Path, tmp_path: Path) -> None:
    """Its new split would put images that the earlier run was trained on among the old ones to measure on."""
    old = load_splits(DataArguments(str(tmp_path / "old")))
    new_images(tmp_path / "old", 20)
    again = load_splits(DataArguments(str(tmp_path / "old")))["validation"]["file"]
    assert set(again) & set(old["train"]["file"])
    splits = replayed(tmp_path / "old", earlier, 1.0)[1].splits
    assert sorted(splits[OLD_VALIDATION]["file"]) == sorted(old["validation"]["file"])
    assert set(old["train"]["file"]) <= set(splits["train"]["file"])


def test_a_folder_whose_images_are_others_now_has_no_old_ones(earlier: Path, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "old")
    new_images(tmp_path / "old")
    with pytest.raises(InputError, match=r"old no longer has the images that it was trained and validated on"):
        replayed(new_images(tmp_path / "new", 20), earlier, 0.2)


def known_among_new(earlier: Path, tmp_path: Path, split: str, classes: tuple[str, ...]) -> Path:
    """New images with splits, of which all of some classes of one split are known to the earlier run."""
    data = tmp_path / "new"
    for name in ("train", "validation", "test"):
        for label, of_class in enumerate(("real", "fake")):
            (data / name / of_class).mkdir(parents=True)
            draw_image(label, {"train": 100, "validation": 101, "test": 102}[name]).save(
                data / name / of_class / "a.png"
            )
    trained = load_splits(DataArguments(str(tmp_path / "old")))["train"]["file"]
    for of_class in classes:
        file = next(file for file in trained if file.startswith(of_class))
        shutil.copy(tmp_path / "old" / file, data / split / of_class / "a.png")
    return data


def test_a_test_split_that_is_known_is_left_out(
    earlier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = known_among_new(earlier, tmp_path, "test", ("real", "fake"))
    splits = replayed(data, earlier, 0.2)[1].splits
    assert splits.keys() == {"train", "validation", OLD_VALIDATION}
    assert "knows all test images already" in caplog.text


def test_a_class_that_is_known_leaves_nothing_to_measure_on(earlier: Path, tmp_path: Path) -> None:
    data = known_among_new(earlier, tmp_path, "validation", ("fake",))
    with pytest.raises(
        InputError, match=r"without the images that it knows: the validation split has 1 images and not"
    ):
        replayed(data, earlier, 0.2)


def test_old_images_that_are_gone_are_needed_for_replay_only(
    earlier: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(tmp_path / "old")
    data = new_images(tmp_path / "new")
    with pytest.raises(InputError, match=r"earlier: its images cannot be read: .*--replay_share 0"):
        replayed(data, earlier, 0.2)
    splits = replayed(data, earlier, 0.0)[1].splits
    assert OLD_VALIDATION not in splits
    assert "what is forgotten cannot be measured" in caplog.text


def test_nothing_is_replayed_into_a_stream(earlier: Path, tmp_path: Path) -> None:
    splits = load_splits(DataArguments(str(new_images(tmp_path / "new"))))
    del splits["train"]
    with pytest.raises(InputError, match="--replay_share: old images cannot be mixed into a stream"):
        with_old_images(splits, ContinuingArguments(init_from=str(earlier)), AugmentationArguments(), 0, True)
    kept = with_old_images(
        splits, ContinuingArguments(init_from=str(earlier), replay_share=0.0), AugmentationArguments(), 0, True
    )
    assert kept.splits.keys() == {"validation", "test", OLD_VALIDATION}


def test_what_an_interrupted_run_had_measured_counts_only_where_it_is_resumed(tmp_path: Path) -> None:
    """One that was killed before its first checkpoint may start again from another detector."""
    measured = '{"validation": {"roc_auc": 0.6}}'
    (tmp_path / BEFORE).write_text(measured)
    measuring: Any = MeasureBefore(None, {}, DatasetDict(), tmp_path)
    measuring.on_train_begin(None, TrainerState(global_step=3), None)
    assert (tmp_path / BEFORE).read_text() == measured
    measuring.on_train_begin(None, TrainerState(is_world_process_zero=True), None)
    assert json.loads((tmp_path / BEFORE).read_text()) == {}
    (tmp_path / BEFORE).write_text(measured)
    measuring.on_train_begin(None, TrainerState(is_world_process_zero=True), None)  # with smaller batches
    assert (tmp_path / BEFORE).read_text() == measured


@pytest.mark.slow  # two processes import torch and wait for each other
@pytest.mark.parametrize("config", ["cpu_2_processes", "fsdp"])
def test_two_processes_go_on_as_one_does(config: str, earlier: Path, tmp_path: Path) -> None:
    choices = {"init_from": earlier, "replay_share": 0.5, "model_name_or_path": None, "transforms": "none"}
    choices |= {"learning_rate": 1e-3, "use_cpu": None}
    data, results = new_images(tmp_path / "new"), []
    for name, batch in (("cpu", 8), (config, 4)):
        launch(name, training_flags(data, tmp_path / name, per_device_train_batch_size=batch, **choices))
        results.append(json.loads((tmp_path / name / "results.json").read_text()))
    one, two = ((result["continual"]["before"], result["metrics"]) for result in results)
    for before_or_after in range(2):
        for split in ("validation", OLD_VALIDATION):
            loss = one[before_or_after][split]["log_loss"]
            assert two[before_or_after][split]["log_loss"] == pytest.approx(loss, rel=1e-3)
    assert one[1]["validation"]["log_loss"] < 0.9 * one[0]["validation"]["log_loss"]


def test_self_blended_runs_go_on_as_such(earlier: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((earlier / "recipe.yaml").read_text())
    (earlier / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"self_blend_prob": 0.5}))
    with pytest.raises(InputError, match=r"made fakes of real photographs.*--self_blend_prob"):
        replayed(new_images(tmp_path / "new"), earlier, 0.2)


def test_what_is_no_earlier_run_is_refused(earlier: Path, tmp_path: Path) -> None:
    def check(size: int | None = None, output_dir: str = "other") -> None:
        check_earlier(ContinuingArguments(init_from=str(earlier)), size, output_dir)

    check()
    check(24)
    with pytest.raises(InputError, match=r"--image_size 64: .* reads 24 pixels"):
        check(64)
    with pytest.raises(InputError, match="is only read; choose another --output_dir"):
        check(output_dir=str(earlier))
    config = json.loads((earlier / "config.json").read_text())
    (earlier / "config.json").write_text(json.dumps(config | {"id2label": {"0": "cat", "1": "dog"}}))
    with pytest.raises(InputError, match=r"id2label is .*cat"):
        check()
    (earlier / "results.json").unlink()
    with pytest.raises(InputError, match=r"no finished run directory; results\.json is not there"):
        check()


def test_a_replay_share_is_a_share_and_needs_an_earlier_run() -> None:
    with pytest.raises(InputError, match=r"--replay_share 1\.5: a share"):
        ContinuingArguments(init_from="run", replay_share=1.5)
    with pytest.raises(InputError, match=r"--replay_share 0\.5: does nothing without --init_from"):
        ContinuingArguments(replay_share=0.5)


def test_forgetting_is_told_in_numbers() -> None:
    results = {
        "continual": {
            "init_from": "runs/first",
            "replayed": 12,
            "before": {"validation": {"roc_auc": 0.6}, OLD_VALIDATION: {"roc_auc": 0.9}},
        },
        "metrics": {"validation": {"roc_auc": 0.8}, OLD_VALIDATION: {"roc_auc": 0.7}},
    }
    console = Console(width=100, file=io.StringIO(), record=True)
    console.print(forgetting_table(results))
    lines = [line.split() for line in console.export_text().splitlines()]
    assert ["new", "ROC", "AUC", "0.600", "0.800"] in [[word for word in line if word != "│"] for line in lines]
    assert ["old", "ROC", "AUC", "0.900", "0.700"] in [[word for word in line if word != "│"] for line in lines]


def test_the_size_of_a_timm_detector_is_told_too(earlier: Path) -> None:
    save_tiny_timm(earlier)
    with pytest.raises(InputError, match=r"--image_size 64: .* reads 32 pixels"):
        check_earlier(ContinuingArguments(init_from=str(earlier)), 64, "other")


@pytest.mark.parametrize(("base", "size"), [("vit", 24), ("test_resnet", 32)])
def test_the_size_of_a_detector_with_an_mlp_head_is_told_too(
    base: str, size: int, earlier: Path, tmp_path: Path
) -> None:
    name = str(save_tiny_vit(tmp_path / "base")) if base == "vit" else base
    detector, processor, _ = new_detector(
        ModelArguments(name, image_size=None if base == "vit" else size, head="mlp", head_layers=[4])
    )
    (earlier / "preprocessor_config.json").unlink()
    save_checkpoint(detector, processor, earlier)
    with pytest.raises(InputError, match=rf"--image_size 64: .* reads {size} pixels"):
        check_earlier(ContinuingArguments(init_from=str(earlier)), 64, "other")


@pytest.mark.slow
def test_a_continued_run_stores_what_was_known_before_and_after(earlier: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in earlier.rglob("*") if path.is_file()}
    add_predictions(earlier, tmp_path / "old")
    choices = {"init_from": earlier, "model_name_or_path": None, "num_train_epochs": 1}
    run = train(*training_arguments(new_images(tmp_path / "new"), tmp_path / "run", **choices))
    assert {path: path.read_bytes() for path in before} == before
    results = json.loads((run / "results.json").read_text())
    assert results["continual"]["before"].keys() == {"validation", OLD_VALIDATION}
    assert results["metrics"].keys() == {"validation", "test", OLD_VALIDATION}
    assert (run / "predictions" / f"{OLD_VALIDATION}.parquet").is_file()
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert any(f"eval_{OLD_VALIDATION}_roc_auc" in entry for entry in log)
