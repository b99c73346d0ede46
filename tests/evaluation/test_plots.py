from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_deepfake.evaluation.plots import plot_benchmark, plot_comparison, plot_training

pytestmark = pytest.mark.filterwarnings("error")


def table(labels: list[int]) -> pd.DataFrame:
    prob_fake = np.random.default_rng(0).random(len(labels))
    return pd.DataFrame({"label": labels, "prob_fake": prob_fake})


def is_figure(path: Path) -> bool:
    """A PNG with more than one colour."""
    with Image.open(path) as image:
        return image.format == "PNG" and len(image.convert("L").getcolors()) > 1


@pytest.mark.parametrize("labels", [[0, 1] * 10, [0] * 5, [1] * 5], ids=["both", "real", "fake"])
def test_a_benchmark_of_both_or_of_one_class_is_drawn(tmp_path: Path, labels: list[int]) -> None:
    plot_benchmark(table(labels), "phones", tmp_path / "plots", threshold=0.3)
    assert sorted(file.name for file in (tmp_path / "plots").iterdir()) == [
        "confusion_matrix_phones.png",
        "scores_phones.png",
    ]
    assert all(is_figure(file) for file in (tmp_path / "plots").iterdir())


def test_a_comparison_is_drawn_also_without_intervals(tmp_path: Path) -> None:
    rows = {"a": {"roc_auc": 0.8, "roc_auc_low": 0.7, "roc_auc_high": 0.9}, "b": {"roc_auc": 0.6}}
    plot_comparison(rows, "test", tmp_path / "comparison.png")
    assert is_figure(tmp_path / "comparison.png")


def test_a_training_is_drawn_from_what_its_log_holds(tmp_path: Path) -> None:
    history = [
        {"epoch": 0.5, "loss": 0.7, "learning_rate": 1e-3},
        {"epoch": 1.0, "eval_validation_loss": 0.6, "eval_validation_roc_auc": 0.8},
    ]
    plot_training(history, tmp_path)
    assert is_figure(tmp_path / "training_curves.png")


def test_a_training_that_logged_nothing_is_drawn_without_a_warning(tmp_path: Path) -> None:
    plot_training([], tmp_path)
    assert is_figure(tmp_path / "training_curves.png")
