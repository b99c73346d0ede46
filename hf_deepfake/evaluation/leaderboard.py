"""Models side by side: who is best on a benchmark, and by more than chance."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hf_deepfake.evaluation.comparing import compare_models
from hf_deepfake.evaluation.tables import metrics_markdown
from hf_deepfake.writing import whole


def save_comparison(
    results: Mapping[str, dict[str, Any]], tables: Mapping[str, Mapping[str, pd.DataFrame]], output_dir: Path
) -> None:
    """Write the leaderboard, and every pair of models against each other on the same images."""
    rows, sections, paired = [], [], {}
    for name in next(iter(tables.values())):
        ranked = ranking(results, name)
        rows += [{"benchmark": name, "model": model} | _flat(metrics) for model, metrics in ranked.items()]
        marked = {marked_name(model, metrics): metrics for model, metrics in ranked.items()}
        sections.append(f"## {name}\n\n{metrics_markdown(marked, 'model')}\n")
        thresholds = {model: metrics["threshold"] for model, metrics in ranked.items()}
        paired[name] = compare_models({model: of_model[name] for model, of_model in tables.items()}, thresholds)
    with whole(output_dir / "leaderboard.csv") as partial:
        pd.DataFrame(rows).to_csv(partial, index=False)
    with whole(output_dir / "leaderboard.md") as partial:
        note = "95 % bootstrap intervals in brackets; rates are at each model's own threshold.\n"
        partial.write_text("\n".join([*sections, note]), encoding="utf-8")
    with whole(output_dir / "comparison.json") as partial:
        partial.write_text(json.dumps(paired, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def ranking(results: Mapping[str, dict[str, Any]], benchmark: str) -> dict[str, dict[str, Any]]:
    """Metrics of every model on a benchmark, the best first: by ROC AUC, or by accuracy where there is one class."""
    metrics = {model: result["metrics"][benchmark] for model, result in results.items()}
    return dict(sorted(metrics.items(), key=lambda item: -item[1].get("roc_auc", item[1]["accuracy"])))


def marked_name(model: str, metrics: dict[str, Any]) -> str:
    """A model's name, and what must be known before its figures are read."""
    seen = metrics.get("seen_in_training", 0)
    marks = [f"SEEN in training: {seen} of {metrics['images']} images"] if seen else []
    marks += ["unseen sources"] if metrics.get("unseen") else []
    return f"{model} ({'; '.join(marks)})" if marks else model


def _flat(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if not isinstance(value, dict | list)}
