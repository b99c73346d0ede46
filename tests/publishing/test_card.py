import json
from pathlib import Path

from huggingface_hub import ModelCard

from hf_deepfake.ensemble.building import build_ensemble


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
