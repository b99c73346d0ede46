"""What is measured of one table of predictions, and results.json, the only source of published numbers."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.writing import whole


def benchmark_metrics(table: pd.DataFrame, threshold: float = 0.5) -> dict[str, Any]:
    """Metrics of a table of predictions with their 95 % bootstrap intervals, by group where it has groups."""
    groups = table["group"].tolist() if "group" in table else None
    labels, prob_fake = table["label"].to_numpy(), table["prob_fake"].to_numpy()
    return detection_metrics(labels, prob_fake, threshold) | bootstrap_intervals(labels, prob_fake, threshold, groups)


def environment(processes: int = 1) -> dict[str, Any]:
    """Versions and hardware that a figure was measured with."""
    packages = (
        "hf_deepfake",
        "torch",
        "torchvision",
        "transformers",
        "timm",
        "datasets",
        "accelerate",
        "scikit-learn",
    )
    versions = {}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {"python": platform.python_version(), "system": platform.system(), "device": device} | {
        "processes": processes,
        "packages": versions,
    }


def save_results(results: dict[str, Any], folder: Path) -> None:
    """Write results.json, whole or not at all."""
    with whole(folder / "results.json") as partial:
        partial.write_text(json.dumps(results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_results(folder: Path) -> dict[str, Any]:
    """Read the results.json of a folder.

    Raises:
        InputError: If there is none, or it is damaged.
    """
    path = folder / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    return results
