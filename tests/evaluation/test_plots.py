from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hf_deepfake.evaluation.metrics import expected_calibration_error
from hf_deepfake.evaluation.plots import (
    draw_reliability,
    plot_benchmark,
    plot_comparison,
    plot_reliability,
    plot_training,
    reliability_bins,
)

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


def test_bins_of_a_reliability_diagram_are_solved_by_hand() -> None:
    bins = reliability_bins([0, 1, 1, 1], [0.1, 0.3, 0.9, 1.0], bins=2)
    assert bins.to_dict("list") == {"prob_fake": [0.2, 0.95], "share_fake": [0.5, 1.0], "images": [2, 2]}


def test_the_points_of_a_reliability_diagram_give_its_calibration_error() -> None:
    generator = np.random.default_rng(0)
    prob_fake, labels = generator.random(200), generator.integers(2, size=200)
    bins = reliability_bins(labels, prob_fake)
    gaps = (bins["prob_fake"] - bins["share_fake"]).abs() * bins["images"]
    assert gaps.sum() / 200 == pytest.approx(expected_calibration_error(labels, prob_fake))


def test_a_reliability_diagram_names_each_curve_with_its_error_and_shows_how_many_images_it_has() -> None:
    figure = Figure()
    curves = {"before": [0.0, 0.0, 1.0, 1.0], "after": [0.25, 0.25, 0.75, 0.75]}
    draw_reliability(figure, np.array([0, 1, 0, 1]), {name: np.array(part) for name, part in curves.items()}, "Vote")
    diagram, sizes = figure.axes
    legend = [text.get_text() for text in diagram.get_legend().get_texts()]
    assert legend == ["perfect", "before, ECE 0.500", "after, ECE 0.250"]
    counts = [patch.get_data().values for patch in sizes.patches]
    assert [int(part.sum()) for part in counts] == [4, 4]
    assert counts[0][[0, -1]].tolist() == [2, 2]


def test_a_reliability_diagram_becomes_a_file(tmp_path: Path) -> None:
    curves = {"before": np.array([0.1, 0.9]), "after": np.array([0.2, 0.8])}
    plot_reliability(np.array([0, 1]), curves, "Vote", tmp_path / "plots" / "reliability.png")
    assert is_figure(tmp_path / "plots" / "reliability.png")
