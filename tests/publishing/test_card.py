import functools
import json
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_deepfake.ensemble.building import build_ensemble
from hf_deepfake.evaluation.metrics import bootstrap_intervals


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    few = functools.partial(bootstrap_intervals, resamples=20)
    monkeypatch.setattr("hf_deepfake.evaluation.benchmark.bootstrap_intervals", few)


def test_a_card_prints_what_results_hold(runs: list[Path], tmp_path: Path) -> None:
    build_ensemble(runs, tmp_path / "ensemble")
    results = json.loads((tmp_path / "ensemble" / "results.json").read_text())
    card = ModelCard.load(tmp_path / "ensemble" / "README.md")
    assert card.data.pipeline_tag == "image-classification"
    assert "deepfake-ensemble" in card.data.tags
    test = results["metrics"]["test"]
    assert f"{test['roc_auc']:.3f} [{test['roc_auc_low']:.3f}, {test['roc_auc_high']:.3f}]" in card.text
    for run in runs:
        assert f"| {run.name} |" in card.text
    assert "## Limits" in card.text


def test_a_card_tells_what_each_threshold_costs_and_what_is_left_open(runs: list[Path], tmp_path: Path) -> None:
    results = build_ensemble(runs, tmp_path / "ensemble", target_error=0.2)
    card = (tmp_path / "ensemble" / "README.md").read_text()
    for purpose, point in results["operating_points"].items():
        rates = point["test"]
        ends = f"{rates['false_positive_rate_low']:.3f}, {rates['false_positive_rate_high']:.3f}"
        assert f"| {purpose} | {point['threshold']:.3f} | {rates['false_positive_rate']:.3f} [{ends}] |" in card
    low, high = results["uncertain"]["band"]
    open_ = 1 - results["uncertain"]["rates"]["test"]["coverage"]
    assert f"Between {low:.3f} and {high:.3f} the verdict is `uncertain`: {open_:.1%} of the images" in card
