import errno
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from conftest import (
    assert_same_weights,
    draw_folder,
    draw_image,
    launch,
    save_tiny_timm,
    save_tiny_vit,
    train_until,
    training_arguments,
    training_flags,
)
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ViTImageProcessor,
)

from hf_deepfake import InputError, cli
from hf_deepfake.arguments import AugmentationArguments, DataArguments, FittingArguments, ModelArguments
from hf_deepfake.data.loading import load_splits
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.transforms import ImageTransform
from hf_deepfake.ensemble.building import build_ensemble
from hf_deepfake.evaluation.predictions import score_images
from hf_deepfake.labels import ID2LABEL, LABEL2ID
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.recipe import parse_recipe
from hf_deepfake.training import losses
from hf_deepfake.training import train as training_module
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.train import RECIPE, train
from hf_deepfake.training.trainer import DetectorTrainer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "resnet"
    return train(*training_arguments(image_folder, folder, num_train_epochs=6, label_smoothing_factor=0.05))


def test_a_run_lists_what_it_was_trained_and_selected_on(run: Path, image_folder: Path) -> None:
    listed = pd.read_parquet(run / "training_images.parquet")
    splits = load_splits(DataArguments(dataset_name=str(image_folder)))
    assert listed["image"].tolist() == [*splits["train"]["file"], *splits["validation"]["file"]]
    assert listed["split"].value_counts().to_dict() == {name: len(splits[name]) for name in ("train", "validation")}
    first = hashlib.sha256((image_folder / listed["image"][0]).read_bytes()).hexdigest()
    assert listed["sha256"][0] == first
    assert not set(listed["image"]) & set(splits["test"]["file"])


def test_the_run_directory_keeps_the_contract(run: Path) -> None:
    present = {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}
    assert {
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "trainer_state.json",
        "predictions/validation.parquet",
        "predictions/test.parquet",
        "results.json",
        "plots/training_curves.png",
        "plots/confusion_matrix_test.png",
        "plots/scores_validation.png",
        "README.md",
    } <= present
    table = pd.read_parquet(run / "predictions" / "test.parquet")
    assert list(table.columns) == ["image", "label", "prob_fake", "logit_real", "logit_fake"]
    results = json.loads((run / "results.json").read_text())
    assert results["schema"] == 1
    assert results["data"] == {
        "train": {"real": 14, "fake": 14},
        "validation": {"real": 3, "fake": 3},
        "test": {"real": 3, "fake": 3},
    }
    test = results["metrics"]["test"]
    assert test["roc_auc_low"] <= test["roc_auc"] <= test["roc_auc_high"]


def test_it_learns_to_see_the_square(run: Path) -> None:
    assert json.loads((run / "results.json").read_text())["metrics"]["test"]["roc_auc"] > 0.9


def test_inference_gives_the_scores_that_training_saved(run: Path, image_folder: Path) -> None:
    """No skew: the checkpoint loaded afresh, with its own processor, scores as the training did at its end."""
    rows = load_splits(DataArguments(dataset_name=str(image_folder)))["test"]
    model, processor, fake_column = load_detector(str(run))
    logits = np.concatenate([scores for _, scores, _ in score_images(model, processor, rows["image"], fake_column)])
    saved = pd.read_parquet(run / "predictions" / "test.parquet")
    assert saved["image"].tolist() == list(rows["file"])
    np.testing.assert_allclose(logits, saved[["logit_real", "logit_fake"]].to_numpy(), atol=1e-4)


@pytest.mark.slow
def test_the_recipe_of_a_run_makes_it_again(run: Path, image_folder: Path, tmp_path: Path) -> None:
    recipe = yaml.safe_load((run / "recipe.yaml").read_text())
    assert recipe["label_smoothing_factor"] == 0.05
    again = parse_recipe(
        RECIPE, ["--config", str(run / "recipe.yaml"), "--output_dir", str(tmp_path / "again"), "--use_cpu"], "test"
    )
    train(*again)
    assert_same_weights(tmp_path / "again" / "model.safetensors", run / "model.safetensors")


def test_a_run_directory_is_not_overwritten(run: Path, image_folder: Path) -> None:
    before = (run / "results.json").read_bytes()
    with pytest.raises(InputError, match=f"{run}: not empty .*--resume_from_checkpoint true"):
        train(*training_arguments(image_folder, run))
    assert (run / "results.json").read_bytes() == before


@pytest.mark.slow  # test_resuming.py kills one within the default tests
@pytest.mark.parametrize("architecture", ["timm", "vit"])
def test_an_interrupted_training_resumes_to_the_same_weights(
    architecture: str, image_folder: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    save_tiny_timm(base) if architecture == "timm" else save_tiny_vit(base)
    choices = {"model_name_or_path": base, "num_train_epochs": 4}
    train(*training_arguments(image_folder, tmp_path / "whole", **choices))
    train_until(11, training_arguments(image_folder, tmp_path / "resumed", **choices))
    assert not (tmp_path / "resumed" / "results.json").exists()
    train(*training_arguments(image_folder, tmp_path / "resumed", resume_from_checkpoint=True, **choices))
    assert_same_weights(tmp_path / "resumed" / "model.safetensors", tmp_path / "whole" / "model.safetensors")


@pytest.mark.parametrize("architecture", ["timm", "vit"])
def test_the_checkpoint_of_the_best_epoch_is_kept(architecture: str, image_folder: Path, tmp_path: Path) -> None:
    """A learning rate that ruins the later epochs: the root holds the best one, whole (ViT too)."""
    base = tmp_path / "base"
    save_tiny_timm(base) if architecture == "timm" else save_tiny_vit(base)
    choices = {
        "model_name_or_path": base,
        "num_train_epochs": 3,
        "lr_scheduler_type": "constant",
        "learning_rate": 0.05,
        "transforms": "flip",
    }
    choices |= {"metric_for_best_model": "eval_validation_loss", "keep_checkpoints": True}
    run = train(*training_arguments(image_folder, tmp_path / "run", **choices))
    state = json.loads((run / "trainer_state.json").read_text())
    losses = [entry["eval_validation_loss"] for entry in state["log_history"] if "eval_validation_loss" in entry]
    saved = pd.read_parquet(run / "predictions" / "validation.parquet")
    margin = (saved["logit_fake"] - saved["logit_real"]) * np.where(saved["label"] == 1, 1, -1)
    log_loss = np.logaddexp(0, -margin).mean()
    assert log_loss == pytest.approx(min(losses), rel=1e-3)
    best = AutoModelForImageClassification.from_pretrained(state["best_model_checkpoint"]).state_dict()
    root = AutoModelForImageClassification.from_pretrained(run).state_dict()
    for name, tensor in best.items():
        torch.testing.assert_close(root[name], tensor, rtol=0, atol=0)


@pytest.mark.parametrize("family", ["test_efficientnet", "test_resnet", "test_convnext", "test_vit", "hf_vit"])
def test_accumulated_steps_equal_one_large_batch(family: str, image_folder: Path, tmp_path: Path) -> None:
    """Without batch statistics (evaluation mode), four batches of 4 give the weights that one of 16 gives."""
    weights = []
    for batch, steps in ((16, 1), (4, 4)):
        base = tmp_path / f"base-{batch}"
        save_tiny_vit(base) if family == "hf_vit" else save_tiny_timm(base, family)
        detector, processor, _ = new_detector(ModelArguments(str(base)))
        detector.eval()
        detector.train = lambda mode=True: None  # type: ignore[method-assign,assignment,return-value]
        options = DetectorTrainingArguments(
            output_dir=str(tmp_path / f"run-{batch}"),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=2,
            learning_rate=0.1,
            optim="sgd",
            max_grad_norm=0,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            eval_strategy="steps",
            eval_steps=100,
        )
        views = load_splits(DataArguments(dataset_name=str(image_folder))).with_transform(ImageTransform(processor))
        collator = MixingCollator(AugmentationArguments())
        trainer = training_module.build_trainer(detector, processor, views, collator, FittingArguments(), options)
        trainer.train()
        weights.append({name: tensor.clone() for name, tensor in detector.state_dict().items()})
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_several_gpus_of_one_process_train_as_one_does(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they divide a batch among them, their outputs are gathered before the loss, so its gradient is the same."""
    for plot in ("plot_benchmark", "plot_training"):  # they take longer than these trainings
        monkeypatch.setattr(f"hf_deepfake.training.finishing.{plot}", lambda *args: None)
    choices = {"optim": "sgd", "max_grad_norm": 0, "num_train_epochs": 1, "transforms": "none", "learning_rate": 0.1}
    one = train(*training_arguments(image_folder, tmp_path / "one", **choices))
    options = training_arguments(
        image_folder, tmp_path / "two", **choices | {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4}
    )
    monkeypatch.setattr(DetectorTrainingArguments, "n_gpu", 2)  # without GPUs, DataParallel leaves the batch whole
    two = train(*options)
    assert_same_weights(two / "model.safetensors", one / "model.safetensors")
    logs = [json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (one, two)]
    assert logs[1][0]["loss"] == pytest.approx(logs[0][0]["loss"])
    assert logs[1][1]["eval_validation_loss"] == pytest.approx(logs[0][1]["eval_validation_loss"])


@pytest.mark.slow
def test_the_step_schedule_drops_after_its_epochs(image_folder: Path, tmp_path: Path) -> None:
    choices = {"num_train_epochs": 4, "learning_rate": 0.01, "lr_step_epochs": 2, "lr_step_gamma": 0.1}
    run = train(*training_arguments(image_folder, tmp_path / "run", **choices))
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    rates = [entry["learning_rate"] for entry in log if "learning_rate" in entry]
    assert rates == pytest.approx([0.01, 0.01, 0.001, 0.001])


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"lr_milestones": ["2:0.1"]}, "ends after 2 epochs, before the learning rate would change"),
        ({"train": "probe", "unfreeze_at": ["2:full"]}, "--unfreeze_at 2:full: never comes in 2 epochs"),
    ],
)
def test_what_never_comes_within_the_steps_is_refused_before_the_first(
    choices: dict[str, Any], message: str, image_folder: Path, tmp_path: Path
) -> None:
    whole = train(*training_arguments(image_folder, tmp_path / "whole", num_train_epochs=1))
    steps = json.loads((whole / "trainer_state.json").read_text())["max_steps"]
    run = tmp_path / "run"
    with pytest.raises(InputError, match=message):
        train(*training_arguments(image_folder, run, max_steps=2 * steps, **choices))
    assert not list(run.glob("checkpoint-*"))


@pytest.mark.slow
def test_early_stopping_ends_the_training(image_folder: Path, tmp_path: Path) -> None:
    choices = {"num_train_epochs": 30, "learning_rate": 0.0, "early_stopping_patience": 2}
    run = train(*training_arguments(image_folder, tmp_path / "run", **choices))
    assert json.loads((run / "trainer_state.json").read_text())["epoch"] == 3


def test_norms_and_biases_are_not_decayed(image_folder: Path, tmp_path: Path) -> None:
    detector, _, _ = new_detector(ModelArguments("test_convnext", image_size=32))
    decayed = set(DetectorTrainer.get_decay_parameter_names(None, detector))  # type: ignore[arg-type]
    assert decayed
    for name, parameter in detector.named_parameters():
        assert (name in decayed) == (parameter.ndim > 1)


@pytest.mark.slow
def test_a_truncated_image_is_listed_and_left_out(image_folder: Path, tmp_path: Path, caplog: Any) -> None:
    data = draw_folder(tmp_path / "data", 12, suffix=".jpg")
    broken = data / "fake" / "003.jpg"
    broken.write_bytes(broken.read_bytes()[:-200])
    caplog.set_level("INFO")
    run = train(*training_arguments(data, tmp_path / "run", num_train_epochs=1))
    assert "1 unreadable images left out" in caplog.text
    assert "fake/003.jpg" in caplog.text
    assert "fake/003.jpg" in (run / "skipped.csv").read_text()
    counts = json.loads((run / "results.json").read_text())["data"]
    assert sum(count["fake"] for count in counts.values()) == 11


def test_half_precision_is_refused_on_a_cpu(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--fp16 needs a GPU.*--bf16 true"):
        train(*training_arguments(image_folder, tmp_path / "run", fp16=True))
    assert not (tmp_path / "run").exists()


def test_flags_of_trainer_that_do_not_go_together_are_refused(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="test: At most one of fp16 and bf16 can be True"):
        training_arguments(image_folder, tmp_path / "run", fp16=True, bf16=True)


def test_a_checkpoint_to_resume_must_exist(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--resume_from_checkpoint nowhere: no such checkpoint folder"):
        train(*training_arguments(image_folder, tmp_path / "run", resume_from_checkpoint="nowhere"))


def test_a_disk_that_is_full_from_the_start_is_said(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(training_module, "save_recipe", full)
    with pytest.raises(InputError, match=r"run: no room left on the disk .* Make room and start again"):
        train(*training_arguments(image_folder, tmp_path / "run"))


def test_processes_that_do_not_find_each_other_are_refused(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = training_arguments(image_folder, tmp_path / "run")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were launched, but each sees 1"):
        train(*options)


def test_a_metric_picks_the_checkpoint(image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--metric_for_best_model, --eval_strategy and --save_strategy are needed"):
        train(*training_arguments(image_folder, tmp_path / "run", eval_strategy="no", save_strategy="no"))


def test_the_command_line_goes_from_images_to_a_prediction(image_folder: Path, tmp_path: Path, capsys: Any) -> None:
    shared = ["--dataset_name", str(image_folder), "--num_train_epochs", "4", "--learning_rate", "3e-3"]
    shared += ["--per_device_train_batch_size", "8", "--use_cpu", "--disable_tqdm", "true"]
    runs = []
    for name, size in (("test_resnet", "32"), ("test_efficientnet", "40")):
        runs.append(str(tmp_path / name))
        flags = ["--model_name_or_path", name, "--image_size", size, "--output_dir", runs[-1]]
        assert cli.main(["train", *shared, *flags]) == 0
    ensemble = str(tmp_path / "ensemble")
    assert cli.main(["ensemble", *runs, "--voting", "weighted", "--output_dir", ensemble]) == 0
    assert "weighted voting" in capsys.readouterr().out
    scores = tmp_path / "scores.csv"
    assert cli.main(["predict", "--model", ensemble, str(image_folder), "--output", str(scores)]) == 0
    table = pd.read_csv(scores)
    assert len(table) == 40
    real = table["image"].str.contains("/real/")
    assert table.loc[~real, "prob_fake"].mean() > table.loc[real, "prob_fake"].mean()


@pytest.mark.slow  # two processes import torch and wait for each other
def test_two_processes_write_the_files_of_one(tmp_path: Path) -> None:
    """Through the shipped accelerate config; the same images a step, so the same training but for rounding."""
    data = tmp_path / "data"
    for split, count in (("train", 16), ("validation", 4), ("test", 5)):
        draw_folder(data / split, count)
    next((data / "train" / "real").iterdir()).unlink()  # the last step has 7 images, of which one process gets 3
    base = save_tiny_vit(tmp_path / "base")  # no batch norm, whose statistics are each process's own
    choices = {"model_name_or_path": base, "transforms": "none", "learning_rate": 1e-3, "use_cpu": None}
    for name, config, batch in (("one", "cpu", 8), ("two", "cpu_2_processes", 4)):
        batches = {"per_device_train_batch_size": batch, "per_device_eval_batch_size": 4}
        launch(config, training_flags(data, tmp_path / name, **choices, **batches))
    results = {name: json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")}
    assert [results[name]["environment"]["processes"] for name in ("one", "two")] == [1, 2]
    assert results["one"]["training"]["steps"] == results["two"]["training"]["steps"]
    files = [
        {path.relative_to(tmp_path / name).as_posix() for path in (tmp_path / name).rglob("*.*") if path.is_file()}
        for name in ("one", "two")
    ]
    only_of_one_kind = {path for path in files[0] ^ files[1] if "rng_state" not in path}
    assert not only_of_one_kind
    one, two = (pd.read_parquet(tmp_path / name / "predictions" / "test.parquet") for name in ("one", "two"))
    assert one["image"].tolist() == two["image"].tolist()
    np.testing.assert_allclose(two["logit_fake"], one["logit_fake"], atol=2e-3)


@pytest.mark.slow  # two processes import torch and wait for each other
@pytest.mark.parametrize("architecture", ["hf_vit", "hf_convnext", "test_vit"])
def test_two_processes_that_share_a_network_train_as_one_does(architecture: str, tmp_path: Path) -> None:
    """Through the shipped configuration of FSDP, here on a CPU; gathered checkpoints are like any other."""
    data = tmp_path / "data"
    for split, count in (("train", 8), ("validation", 4), ("test", 5)):
        draw_folder(data / split, count)
    bases = {"hf_vit": save_tiny_vit(tmp_path / "vit"), "hf_convnext": tmp_path / "convnext"}
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, id2label=ID2LABEL, label2id=LABEL2ID)
    ConvNextForImageClassification(config).save_pretrained(tmp_path / "convnext")
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "convnext")
    choices = {"model_name_or_path": bases.get(architecture, architecture), "transforms": "none", "use_cpu": None}
    choices |= {"learning_rate": 1e-3, "keep_checkpoints": True, "per_device_eval_batch_size": 4}
    for config, batch in (("cpu", 8), ("fsdp", 4)):
        launch(config, training_flags(data, tmp_path / config, per_device_train_batch_size=batch, **choices))
    checkpoints = [
        sorted(path.name for path in (tmp_path / config).glob("checkpoint-*")) for config in ("cpu", "fsdp")
    ]
    assert checkpoints[0] == checkpoints[1]
    assert (tmp_path / "fsdp" / checkpoints[1][-1] / "pytorch_model_fsdp.bin").is_file()  # so it was shared indeed
    one, two = (pd.read_parquet(tmp_path / config / "predictions" / "test.parquet") for config in ("cpu", "fsdp"))
    np.testing.assert_allclose(two["logit_fake"], one["logit_fake"], atol=1e-4)


@pytest.mark.slow  # two processes import torch and wait for each other
@pytest.mark.parametrize("config", ["cpu_2_processes", "fsdp"])
def test_what_two_processes_measure_is_what_they_save(config: str, tmp_path: Path) -> None:
    """Batch-norm statistics are each process's own, and the first one's are saved."""
    data = draw_folder(tmp_path / "data", 40)
    choices = {"learning_rate": 0.03, "per_device_train_batch_size": 4, "use_cpu": None, "num_train_epochs": 1}
    launch(config, training_flags(data, tmp_path / "run", **choices))
    log = json.loads((tmp_path / "run" / "trainer_state.json").read_text())["log_history"]
    logged = next(entry["eval_validation_log_loss"] for entry in log if "eval_validation_log_loss" in entry)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["metrics"]["validation"]["log_loss"] == pytest.approx(logged, rel=1e-4)


def test_batches_are_mixed_in_training_and_only_there(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[int]] = {"training": set(), "evaluation": set()}
    loss = losses.cross_entropy

    def watched(outputs: Any, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        seen["training" if torch.is_grad_enabled() else "evaluation"].add(labels.ndim)
        return loss(outputs, labels, **kwargs)

    monkeypatch.setattr("hf_deepfake.training.trainer.cross_entropy", watched)
    choices = {"mixup_alpha": 0.4, "cutmix_alpha": 1.0, "mix_prob": 0.5, "label_smoothing_factor": 0.1}
    run = train(*training_arguments(image_folder, tmp_path / "run", gradient_accumulation_steps=2, **choices))
    assert seen == {"training": {2}, "evaluation": {1}}
    config = json.loads((run / "config.json").read_text())
    assert config["problem_type"] == "single_label_classification"
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert 0.3 < log[0]["loss"] < 1.5  # of the mean image, however many batches make a step


def test_real_photographs_alone_train_a_detector_of_their_self_blends(tmp_path: Path) -> None:
    data = draw_folder(tmp_path / "data", 12)
    for path in (data / "fake").iterdir():
        path.unlink()
    (data / "fake").rmdir()
    run = train(*training_arguments(data, tmp_path / "run", self_blend_prob=0.5, face_detector="none"))
    results = json.loads((run / "results.json").read_text())
    assert results["data"]["train"]["fake"] == 0
    assert results["data"]["test"]["real"] == results["data"]["test"]["fake"] > 0
    table = pd.read_parquet(run / "predictions" / "test.parquet")
    assert table["image"].str.contains("self-blended").tolist() == (table["label"] == 1).tolist()


def test_one_class_without_self_blending_is_refused(tmp_path: Path) -> None:
    data = draw_folder(tmp_path / "data", 4)
    for path in (data / "fake").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="all of one class"):
        train(*training_arguments(data, tmp_path / "run"))


@pytest.mark.slow
def test_cached_images_train_to_the_same_weights(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation and with images of the model's size, where the two ways of resizing agree."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    choices = {"transforms": "none", "image_size": 40}
    runs = [
        train(*training_arguments(image_folder, tmp_path / name, cache_images=name == "cached", **choices))
        for name in ("plain", "cached")
    ]
    assert_same_weights(runs[1] / "model.safetensors", runs[0] / "model.safetensors")
    assert len(list((tmp_path / "cache").rglob("*.arrow"))) == 3


@pytest.mark.slow
def test_how_a_detector_reads_images_stays_with_it(image_folder: Path, tmp_path: Path) -> None:
    """Stored in config.json, used in scoring, and kept in an ensemble; without it the scores differ."""
    data = tmp_path / "data"
    for name in ("real", "fake"):
        (data / name).mkdir(parents=True)
        for index in range(6):
            draw_image(index % 2, index, 200).save(data / name / f"{index}.jpg")
    run = train(*training_arguments(data, tmp_path / "run", dct_scaling=True, num_train_epochs=1))
    assert json.loads((run / "config.json").read_text())["reading"] == {"smallest_side": 32}
    table = pd.read_parquet(run / "predictions" / "test.parquet")
    images = [data / name for name in table["image"]]
    model, processor, fake_column = load_detector(str(run))
    scored = [logits for _, logits, _ in score_images(model, processor, images, fake_column)]
    np.testing.assert_allclose(np.concatenate(scored)[:, 1], table["logit_fake"], atol=1e-5)
    ensemble = tmp_path / "ensemble"
    build_ensemble([run], ensemble, calibration="none")
    voted, views, _ = load_detector(str(ensemble))
    again = [logits for _, logits, _ in score_images(voted, views, images)]
    margins = np.concatenate(again)[:, 1] - np.concatenate(again)[:, 0]
    np.testing.assert_allclose(margins, table["logit_fake"] - table["logit_real"], atol=1e-4)
    del model.config.reading
    unscaled = [logits for _, logits, _ in score_images(model, processor, images, fake_column)]
    assert not np.allclose(np.concatenate(unscaled)[:, 1], table["logit_fake"], atol=1e-5)
