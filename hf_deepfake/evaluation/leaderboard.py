"""Measure checkpoints on labelled images, side by side."""

import argparse
import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from rich.console import Console

from hf_deepfake.data.checking import report_skipped
from hf_deepfake.data.corruptions import CORRUPTIONS, SEVERITIES
from hf_deepfake.data.fingerprints import content_hashes, load_training_images
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.adversarial import adversarial_robustness, parse_attacks
from hf_deepfake.evaluation.benchmark import benchmark_metrics, environment, load_results, save_results
from hf_deepfake.evaluation.comparing import compare_models
from hf_deepfake.evaluation.plots import plot_benchmark
from hf_deepfake.evaluation.predictions import average_views, jitters, predictions_table, save_predictions
from hf_deepfake.evaluation.robustness import (
    corrupted_metrics,
    corruption_changes,
    parse_severities,
    robustness_rows,
)
from hf_deepfake.evaluation.scores import ScoreStore, fill_stores, fingerprint
from hf_deepfake.evaluation.selective import band_rates
from hf_deepfake.evaluation.sources import by_source, leave_one_source_out
from hf_deepfake.evaluation.tables import adversarial_table, metrics_markdown, metrics_table, robustness_table
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.printing import printable
from hf_deepfake.recipe import DataArguments
from hf_deepfake.writing import whole


@dataclasses.dataclass(frozen=True)
class _Benchmark:
    """Labelled images to measure on, and what of them could be read."""

    name: str
    rows: Dataset
    hashes: list[str]
    unreadable: dict[int, str] = dataclasses.field(default_factory=dict)

    @property
    def readable(self) -> list[int]:
        return [row for row in range(len(self.rows)) if row not in self.unreadable]


@dataclasses.dataclass(frozen=True)
class _Contestant:
    """A model, or its average over the views of test-time augmentation."""

    name: str
    model: str
    tta: int
    folder: Path


def evaluate_detectors(
    models: Sequence[str],
    benchmarks: Mapping[str, DataArguments],
    output_dir: Path,
    split: str | None = None,
    tta: int = 1,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    adversarial: Sequence[str] = (),
    epsilons: Sequence[str] = ("2/255",),
    adversarial_images: int = 100,
    batch_size: int = 16,
    num_workers: int = 0,
) -> tuple[dict[str, dict[str, Any]], int]:
    """Score labelled images with every model and write results, predictions and plots of each, and how they compare.

    One model is written to `output_dir`, several each to a folder of it; `leaderboard.csv`, `leaderboard.md` and
    `comparison.json` stand beside. Scores are kept (`scores.parquet`): a call that is interrupted goes on where it was,
    and one that names more models, benchmarks or corruptions scores only what is new.

    Args:
        models: Detectors or ensembles: folders or Hub ids.
        benchmarks: Name of each benchmark and its images.
        output_dir: Where to write. An earlier evaluation there is extended: its models and benchmarks must be named too.
        split: Split to measure on; by default `test` where there is one, else `validation`, else all images.
        tta: Above 1, each model is also measured with its probability averaged over that many views of an image.
        corruptions: Names of corruptions to measure under, or `all`.
        severities: Of the corruptions.
        adversarial: `fgsm` or `pgd`: attack every model and score all models on what was made against each.
        epsilons: Largest change of a pixel in an attack, white being 1: `2/255` or `0.008`.
        adversarial_images: How many images of a benchmark are attacked.
        batch_size: Views a forward pass.
        num_workers: Processes that decode.

    Returns:
        What results.json holds, by model, and the number of images that could not be read.

    Raises:
        InputError: If results would be lost, a model or images cannot be loaded, or no image of a benchmark can be read.
    """
    contestants = _contestants(models, tta, output_dir)
    _check_output(output_dir, contestants, benchmarks)
    corrupting = corruption_changes(corruptions, severities)
    parse_attacks(adversarial, epsilons)
    jittering = {f"view-{number}": change for number, change in enumerate(jitters(tta))}
    measured = {
        name: _rows_to_measure(load_data(data, both_classes=False), split, data.dataset_name)
        for name, data in benchmarks.items()
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detectors = {one.model: load_detector(one.model) for one in contestants}
    stores = {}
    for one in contestants:
        if one.model not in stores:
            detectors[one.model].model.to(device)  # type: ignore[arg-type]
            stores[one.model] = ScoreStore(one.folder / "scores.parquet", fingerprint(detectors[one.model]))
    scored = []
    for name, rows in measured.items():
        hashes = content_hashes(rows)
        unreadable = fill_stores(
            stores, detectors, rows, hashes, jittering | corrupting, name, batch_size, num_workers
        )
        if len(unreadable) == len(rows):
            source = benchmarks[name].dataset_name
            raise InputError(f"{source}: none of the {len(rows)} images can be read: {unreadable[0]}.")
        scored.append(_Benchmark(name, rows, hashes, unreadable))
    for benchmark in scored:
        if benchmark.unreadable:
            _report_unreadable(benchmark, output_dir)
    results, tables = {}, {}
    for one in contestants:
        tables[one.name] = {item.name: _table(item, stores[one.model], one.tta) for item in scored}
        detector = detectors[one.model]
        results[one.name] = _measure(one, detector, scored, tables[one.name])
        if corrupting and one.tta == 1:
            robustness = {
                item.name: _robustness(item, stores[one.model], tables[one.name][item.name], corrupting, detector)
                for item in scored
            }
            results[one.name]["robustness"] = robustness
            with whole(one.folder / "robustness.csv") as partial:
                pd.DataFrame(robustness_rows(robustness)).to_csv(partial, index=False)
    if adversarial:
        plain = {one.name: detectors[one.model] for one in contestants if one.tta == 1}
        for item in scored:
            rows = item.rows.select(item.readable)
            found, _ = adversarial_robustness(
                plain, rows, adversarial, epsilons, limit=adversarial_images, batch_size=batch_size
            )
            for entry in found:
                of_model = results[entry.pop("model")].setdefault("adversarial", {})
                of_model.setdefault(item.name, []).append(entry)
    for one in contestants:
        save_results(results[one.name], one.folder)
    _save_comparison(results, tables, output_dir)
    return results, sum(len(item.unreadable) for item in scored)


def evaluate_detector(
    name_or_path: str, benchmarks: Mapping[str, DataArguments], output_dir: Path, **choices: Any
) -> tuple[dict[str, Any], int]:
    """`evaluate_detectors` for one model: its results, and the number of images that could not be read."""
    results, failures = evaluate_detectors([name_or_path], benchmarks, output_dir, **choices)
    return next(iter(results.values())), failures


def _contestants(models: Sequence[str], tta: int, output_dir: Path) -> list[_Contestant]:
    if tta < 1:
        raise InputError(f"--tta {tta}: must be 1 (the image alone) or more.")
    paths = {model: Path(model).resolve() for model in dict.fromkeys(models)}
    known = [path.name for path in paths.values()]
    names = {
        model: path.name if known.count(path.name) == 1 else f"{path.parent.name}-{path.name}"
        for model, path in paths.items()
    }
    if len(set(names.values())) < len(names):
        raise InputError(f"--model: {sorted(names.values())} are names of two models; rename one's folder.")
    named = [(name, model, 1) for model, name in names.items()]
    named += [(f"{name}-tta{tta}", model, tta) for model, name in names.items() if tta > 1]
    return [
        _Contestant(name, model, views, output_dir if len(named) == 1 else output_dir / name)
        for name, model, views in named
    ]


def _check_output(
    output_dir: Path, contestants: Sequence[_Contestant], benchmarks: Mapping[str, DataArguments]
) -> None:
    """Refuse to overwrite what this call would not write again."""
    if output_dir.is_file():
        raise InputError(f"{output_dir}: is a file; choose another --output_dir.")
    folders = {one.folder for one in contestants}
    for file in [output_dir / "results.json", *output_dir.glob("*/results.json")]:
        if file.is_file():
            kept = set(load_results(file.parent).get("metrics", {}))
            if file.parent not in folders or not kept <= set(benchmarks) or not _scores(file.parent).is_file():
                raise InputError(
                    f"{file}: holds results of {', '.join(sorted(kept))} that would be lost. Name its model and benchmarks "
                    "too, whose scores are kept, or choose another --output_dir."
                )


def _scores(folder: Path) -> Path:
    return folder / "scores.parquet"


def _rows_to_measure(splits: DatasetDict, split: str | None, source: str) -> Dataset:
    if split is not None:
        if split not in splits:
            raise InputError(f"{source}: no split {split!r}; its splits are {list(splits)}.")
        return splits[split]
    found = next((name for name in ("test", "validation") if name in splits), None)
    return splits[found] if found else everything(splits)


def _report_unreadable(benchmark: _Benchmark, output_dir: Path) -> None:
    files = benchmark.rows["file"]
    skipped = [(files[row], reason) for row, reason in sorted(benchmark.unreadable.items())]
    report = report_skipped(skipped, output_dir / f"skipped_{benchmark.name}.csv")
    _warn(report)


def _warn(text: str) -> None:
    Console(stderr=True).print(text, markup=False, highlight=False, soft_wrap=True)


def _table(benchmark: _Benchmark, store: ScoreStore, tta: int) -> pd.DataFrame:
    """Predictions of the readable images, averaged over their views."""
    hashes = [benchmark.hashes[row] for row in benchmark.readable]
    views = np.stack([store.logits(hashes, f"view-{number}") for number in range(tta)], axis=1)
    logits = average_views(views) if tta > 1 else views[:, 0]
    return predictions_table(benchmark.rows.select(benchmark.readable), logits)


def _measure(
    one: _Contestant, detector: LoadedDetector, benchmarks: Sequence[_Benchmark], tables: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """Measure, save and draw one contestant's predictions."""
    threshold = float(getattr(detector.model.config, "threshold", 0.5))
    band = getattr(detector.model.config, "uncertain_band", None)
    trained = load_training_images(one.model)
    results: dict[str, Any] = {"schema": 1, "model": one.name, "metrics": {}}
    for benchmark in benchmarks:
        table = tables[benchmark.name]
        save_predictions(table, one.folder / "predictions" / f"{benchmark.name}.parquet")
        plot_benchmark(table, benchmark.name, one.folder / "plots", threshold)
        metrics = benchmark_metrics(table, threshold) | _overlap(one, benchmark, trained)
        results["metrics"][benchmark.name] = metrics
        if band is not None:
            scores = table["label"].to_numpy(), table["prob_fake"].to_numpy()
            results.setdefault("uncertain", {"band": band})[benchmark.name] = band_rates(*scores, threshold, band)
        if "source" in table and table["source"].nunique() > 1:
            known = set(trained["source"].dropna()) if trained is not None and "source" in trained else None
            results.setdefault("sources", {})[benchmark.name] = by_source(table, threshold, known)
            results.setdefault("leave_one_source_out", {})[benchmark.name] = leave_one_source_out(table)
    return results | {"environment": environment()}


def _overlap(one: _Contestant, benchmark: _Benchmark, trained: pd.DataFrame | None) -> dict[str, Any]:
    """How many images the model was trained or fitted on, and whether all sources are new to it, where that is known."""
    if trained is None:
        return {}
    known = set(trained["sha256"]) - {""}
    seen = sum(benchmark.hashes[row] in known for row in benchmark.readable)
    if seen:
        _warn(
            f"WARNING: {seen} of the {len(benchmark.readable)} images of {benchmark.name} are among those that "
            f"{one.name} was trained or fitted on; its figures there are no test result."
        )
    found: dict[str, Any] = {"seen_in_training": seen}
    if "source" in trained and "source" in benchmark.rows.column_names:
        found["unseen"] = not set(benchmark.rows["source"][:]) & set(trained["source"])
    return found


def _robustness(
    benchmark: _Benchmark, store: ScoreStore, clean: pd.DataFrame, changes: Mapping[str, Any], detector: LoadedDetector
) -> dict[str, dict[str, Any]]:
    threshold = float(getattr(detector.model.config, "threshold", 0.5))
    hashes = [benchmark.hashes[row] for row in benchmark.readable]
    rows = benchmark.rows.select(benchmark.readable)
    found: dict[str, dict[str, Any]] = {}
    for change in changes:
        name, _, severity = change.rpartition("-")
        prob_fake = predictions_table(rows, store.logits(hashes, change))["prob_fake"].to_numpy()
        found.setdefault(name, {})[severity] = corrupted_metrics(clean, prob_fake, threshold)
    return found


def _save_comparison(
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


def named_benchmarks(items: Sequence[str]) -> dict[str, str]:
    """Names and data sets of `[NAME=]DATA`; names become those of files.

    Raises:
        InputError: If two have one name, or a name cannot be a file's.
    """
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
    """`hf-deepfake evaluate`: checkpoints on labelled data sets, clean and corrupted."""
    arguments = _parser().parse_args(argv)
    first = Path(arguments.model[0]).resolve().name
    output_dir = arguments.output_dir or Path("evaluations") / first
    shared = {name: getattr(arguments, name) for name in ("image_root", "fake_label", "group_by", "follow_links")}
    benchmarks = {
        name: DataArguments(dataset_name=source, **shared) for name, source in named_benchmarks(arguments.data).items()
    }
    results, failures = evaluate_detectors(
        arguments.model,
        benchmarks,
        output_dir,
        split=arguments.split,
        tta=arguments.tta,
        corruptions=arguments.corruptions,
        severities=parse_severities(arguments.severities),
        adversarial=arguments.adversarial,
        epsilons=arguments.epsilon,
        adversarial_images=arguments.adversarial_images,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
    )
    console = Console()
    for name in benchmarks:
        ranked = {marked_name(model, metrics): metrics for model, metrics in ranking(results, name).items()}
        console.print(metrics_table(ranked, first_column="model", title=printable(name)))
        for model, result in results.items():
            if "robustness" in result:
                console.print(robustness_table(result["robustness"][name], f"{model} on {printable(name)}, corrupted"))
        attacks = {model: result["adversarial"][name] for model, result in results.items() if "adversarial" in result}
        if attacks:
            console.print(adversarial_table(attacks, f"{printable(name)}, attacked"))
    written = "results.json, predictions, plots" if len(results) == 1 else "a folder a model"
    console.print(
        f"wrote {output_dir} ({written}, leaderboard.csv, comparison.json)\n"
        f"next: hf-deepfake report {output_dir} --output report.html",
        markup=False,
        soft_wrap=True,
    )
    return 1 if failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-deepfake evaluate", description="Measure checkpoints on labelled images, side by side."
    )
    parser.add_argument(
        "--model", required=True, nargs="+", metavar="DIR", help="detectors, ensembles: folder or Hub id"
    )
    parser.add_argument("--data", required=True, nargs="+", metavar="[NAME=]DATA", help="folder, table or Hub id")
    parser.add_argument("--output_dir", type=Path, help="default: evaluations/MODEL; an evaluation there is extended")
    parser.add_argument(
        "--split", choices=("train", "validation", "test"), help="default: test, else validation, else all"
    )
    parser.add_argument("--image_root", help="folder that a table's image names start from")
    parser.add_argument("--fake_label", help="label or folder name that means fake, where the names do not tell")
    parser.add_argument("--group_by", help="column or regular expression; intervals are then taken by group")
    parser.add_argument("--follow_links", action="store_true", help="follow links that lead out of a folder")
    parser.add_argument("--tta", type=int, default=1, metavar="N", help="also average over N views of each image")
    parser.add_argument(
        "--corruptions", nargs="+", default=[], metavar="NAME", help=f"all, or some of {', '.join(CORRUPTIONS)}"
    )
    parser.add_argument("--severities", default="1-5", help="of the corruptions: 3, 1,3,5 or 1-5 (default)")
    parser.add_argument("--adversarial", nargs="+", default=[], metavar="METHOD", help="fgsm, pgd: attack every model")
    parser.add_argument("--epsilon", nargs="+", default=["2/255"], help="largest change of a pixel, white being 1")
    parser.add_argument("--adversarial_images", type=int, default=100, help="attacked of each benchmark (default 100)")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode")
    return parser
