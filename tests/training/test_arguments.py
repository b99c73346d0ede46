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
