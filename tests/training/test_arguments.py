from pathlib import Path
from typing import Any

import pytest

from hf_deepfake import InputError
from hf_deepfake.recipe import parse_recipe
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.train import RECIPE, train


def refused(tmp_path: Path, **choices: Any) -> Any:
    flags = {
        "dataset_name": tmp_path,
        "output_dir": tmp_path / "run",
        "model_name_or_path": "resnet18",
        "use_cpu": True,
    }
    train(*parse_recipe(RECIPE, [f"--{key}={value}" for key, value in (flags | choices).items()], "test"))


def test_a_model_is_named_or_gone_on_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--model_name_or_path is needed.*--init_from RUN"):
        refused(tmp_path, model_name_or_path="")


def test_what_is_measured_has_to_be_saved(tmp_path: Path) -> None:
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "save_steps": 40}
    with pytest.raises(InputError, match=r"--eval_steps 100 .* --save_steps 40: what is measured has to be saved"):
        refused(tmp_path, **steps, eval_steps=100)
    with pytest.raises(InputError, match=r"--eval_strategy epoch .*--save_strategy steps"):
        refused(tmp_path, **steps | {"eval_strategy": "epoch"})


def test_shares_of_the_steps_are_the_same_ones(tmp_path: Path) -> None:
    """Of 24 steps, 0.2 is every fifth and 0.1 every third: what is measured would not be saved."""
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "model_name_or_path": "resnet17"}
    with pytest.raises(InputError, match=r"what is measured has to be saved"):
        refused(tmp_path, **steps, eval_steps=0.2, save_steps=0.1)
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        refused(tmp_path, **steps, eval_steps=0.1, save_steps=0.1, dataset_name="nowhere")


@pytest.mark.parametrize("metric", ["roc_auc", "eval_validation_rocauc", "eval_validation_precision", "loss"])
def test_a_metric_that_is_not_measured_is_refused_at_once(metric: str, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=rf"--metric_for_best_model {metric}: .* eval_validation_ and one of loss, acc"
    ):
        refused(tmp_path, metric_for_best_model=metric)


def test_patience_is_some(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--early_stopping_patience 0: needs to be at least 1"):
        refused(tmp_path, early_stopping_patience=0)


@pytest.mark.parametrize(("metric", "mode"), [("eval_validation_roc_auc", "max"), ("eval_validation_eer", "min")])
def test_a_plateau_is_where_the_metric_gets_no_better(metric: str, mode: str, tmp_path: Path) -> None:
    """By default it would be where an AUC stops falling."""
    options = DetectorTrainingArguments(
        str(tmp_path),
        metric_for_best_model=metric,
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs='{"patience": 1}',
        use_cpu=True,
    )
    assert options.lr_scheduler_kwargs == {"mode": mode, "patience": 1}


def test_a_tracker_that_is_not_there_is_named_as_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_deepfake.training.arguments.get_available_reporting_integrations", lambda: ["tensorboard"])
    with pytest.raises(InputError, match="--report_to comet_ml: is not installed; pip install comet-ml"):
        refused(tmp_path, report_to="comet_ml")
    with pytest.raises(InputError, match="--report_to wandbb: no such tracker; there are azure_ml, "):
        refused(tmp_path, report_to="wandbb")


def test_a_metric_that_is_better_low_picks_the_lowest(tmp_path: Path) -> None:
    for metric, higher in (("eval_validation_brier", False), ("eval_validation_loss", False), ("roc_auc", True)):
        options = DetectorTrainingArguments(str(tmp_path), metric_for_best_model=metric, use_cpu=True)
        assert options.greater_is_better is higher
