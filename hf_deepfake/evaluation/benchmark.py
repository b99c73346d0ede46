"""Measure a checkpoint on labelled images; results.json, the only source of published numbers."""

import argparse
import json
import platform
import re
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import DatasetDict
from rich.console import Console
from tqdm.auto import tqdm

from hf_deepfake.data.checking import report_skipped
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.plots import plot_benchmark
from hf_deepfake.evaluation.predictions import predictions_table, save_predictions, score_images
from hf_deepfake.evaluation.tables import metrics_table
from hf_deepfake.models.detector import load_detector
from hf_deepfake.recipe import DataArguments
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


def evaluate_detector(
    name_or_path: str,
    benchmarks: dict[str, DataArguments],
    output_dir: Path,
    split: str | None = None,
    batch_size: int = 16,
    num_workers: int = 0,
) -> tuple[dict[str, Any], int]:
    """Score labelled images and write results.json, predictions and plots.

    Args:
        name_or_path: A detector or an ensemble.
        benchmarks: Name of each benchmark and its images.
        output_dir: Where to write; it must hold no results.json.
        split: Split to measure on; by default `test` where there is one, else `validation`, else all images.
        batch_size: Images a forward pass.
        num_workers: Processes that decode.

    Returns:
        What results.json holds, and the number of images that could not be read.

    Raises:
        InputError: If the results exist, the model or images cannot be loaded, or no image of a benchmark can be read.
    """
    if output_dir.is_file() or (output_dir / "results.json").exists():
        raise InputError(f"{output_dir}: is a file or holds a results.json already; choose another --output_dir.")
    model, processor, fake_column = load_detector(name_or_path)
    model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
    threshold = float(getattr(model.config, "threshold", 0.5))
    measured = {
        name: _rows_to_measure(load_data(data, both_classes=False), split, data.dataset_name)
        for name, data in benchmarks.items()
    }
    metrics, failures = {}, 0
    for name, rows in measured.items():
        logits = np.full((len(rows), 2), np.nan)
        errors: dict[int, str] = {}
        with tqdm(total=len(rows), desc=f"Scoring {name}", unit="image") as progress:
            for indices, scores, wrong in score_images(
                model, processor, rows["image"], fake_column, batch_size, num_workers
            ):
                logits[indices] = scores
                errors |= wrong
                progress.update(len(indices) + len(wrong))
        if len(errors) == len(rows):
            raise InputError(
                f"{benchmarks[name].dataset_name}: none of the {len(rows)} images can be read: {errors[0]}."
            )
        if errors:
            skipped = [(rows[index]["file"], reason) for index, reason in sorted(errors.items())]
            report = report_skipped(skipped, output_dir / f"skipped_{name}.csv")
            Console(stderr=True).print(report, markup=False, highlight=False, soft_wrap=True)
        kept = [index for index in range(len(rows)) if index not in errors]
        table = predictions_table(rows.select(kept), logits[kept])
        save_predictions(table, output_dir / "predictions" / f"{name}.parquet")
        plot_benchmark(table, name, output_dir / "plots", threshold)
        metrics[name] = benchmark_metrics(table, threshold)
        failures += len(errors)
    results = {
        "schema": 1,
        "model": Path(name_or_path).resolve().name,
        "metrics": metrics,
        "environment": environment(),
    }
    save_results(results, output_dir)
    return results, failures


def _rows_to_measure(splits: DatasetDict, split: str | None, source: str) -> Any:
    if split is not None:
        if split not in splits:
            raise InputError(f"{source}: no split {split!r}; its splits are {list(splits)}.")
        return splits[split]
    found = next((name for name in ("test", "validation") if name in splits), None)
    return splits[found] if found else everything(splits)


def _named_benchmarks(items: Sequence[str]) -> dict[str, str]:
    """Names and data sets of `[NAME=]DATA`; names become those of files."""
    benchmarks: dict[str, str] = {}
    for item in items:
        name, separator, source = item.partition("=")
        if not separator or Path(item).exists():
            name, source = Path(item).resolve().stem, item
        if not re.fullmatch(r"\w[\w .-]*", name) or name in benchmarks:
            what = "is the name of two benchmarks" if name in benchmarks else "cannot be part of a file name"
            raise InputError(f"--data {item}: {name!r} {what}; give it one: --data NAME={source}")
        benchmarks[name] = source
    return benchmarks


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake evaluate`: one checkpoint on one or more labelled data sets."""
    parser = argparse.ArgumentParser(
        prog="hf-deepfake evaluate", description="Measure a checkpoint on labelled images."
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="detector or ensemble: folder or Hub id")
    parser.add_argument("--data", required=True, nargs="+", metavar="[NAME=]DATA", help="folder, table or Hub id")
    parser.add_argument("--output_dir", type=Path, help="default: evaluations/MODEL")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="default: test, else validation, else all"
    )
    parser.add_argument("--image_root", help="folder that a table's image names start from")
    parser.add_argument("--fake_label", help="label or folder name that means fake, where the names do not tell")
    parser.add_argument("--group_by", help="column or regular expression; intervals are then taken by group")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode")
    arguments = parser.parse_args(argv)
    output_dir = arguments.output_dir or Path("evaluations") / Path(arguments.model).resolve().name
    benchmarks = {
        name: DataArguments(
            dataset_name=source,
            image_root=arguments.image_root,
            fake_label=arguments.fake_label,
            group_by=arguments.group_by,
            follow_links=arguments.follow_links,
        )
        for name, source in _named_benchmarks(arguments.data).items()
    }
    results, failures = evaluate_detector(
        arguments.model, benchmarks, output_dir, arguments.split, arguments.batch_size, arguments.num_workers
    )
    console = Console()
    console.print(metrics_table({name: results["metrics"][name] for name in benchmarks}, first_column="benchmark"))
    console.print(f"wrote {output_dir} (results.json, predictions, plots)", markup=False, soft_wrap=True)
    return 1 if failures else 0
