"""Measure checkpoints on labelled images: score what is new, keep it, and write what it is worth."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset, DatasetDict
from rich.console import Console

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.checking import report_skipped
from hf_deepfake.data.corruptions import SEVERITIES
from hf_deepfake.data.fingerprints import content_hashes, load_training_images
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.data.tables import UNKNOWN_SOURCE
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.adversarial import adversarial_robustness, parse_attacks
from hf_deepfake.evaluation.benchmark import benchmark_metrics, environment, load_results, save_results
from hf_deepfake.evaluation.leaderboard import save_comparison
from hf_deepfake.evaluation.plots import plot_benchmark
from hf_deepfake.evaluation.predictions import (
    average_views,
    jitters,
    load_predictions,
    predictions_table,
    save_predictions,
)
from hf_deepfake.evaluation.robustness import corrupted_metrics, corruption_changes, robustness_rows
from hf_deepfake.evaluation.scores import ScoreStore, fill_stores, fingerprint
from hf_deepfake.evaluation.selective import band_rates
from hf_deepfake.evaluation.sources import by_source, leave_one_source_out
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.writing import whole

_TAKEN = ("scores", "predictions", "plots")
"""Folders of an evaluation, which no model can be called."""


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
    `comparison.json` stand beside. Scores are kept (`scores/`): a call that is interrupted goes on where it was, and one
    that names more models, benchmarks, corruptions or attacks scores only what is new and adds it.

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
    for name, value in (("tta", tta), ("adversarial_images", adversarial_images), ("batch_size", batch_size)):
        if value < 1:
            raise InputError(f"--{name} {value}: must be 1 or more.")
    contestants = _contestants(models, tta, output_dir)
    _check_output(output_dir, contestants, benchmarks)
    corrupting = corruption_changes(corruptions, severities)
    parse_attacks(adversarial, epsilons)
    measured = {
        name: _rows_to_measure(load_data(data, both_classes=False), split, data.dataset_name)
        for name, data in benchmarks.items()
    }
    detectors = {one.model: load_detector(one.model) for one in contestants}
    stores = {}
    for one in contestants:
        if one.tta == 1:
            detectors[one.model].model.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]
            stores[one.model] = ScoreStore(_scores(output_dir, one), fingerprint(detectors[one.model]))
    changes = {f"view-{number}": change for number, change in enumerate(jitters(tta))} | corrupting
    scored = []
    for name, rows in measured.items():
        hashes = content_hashes(rows)
        unreadable = fill_stores(stores, detectors, rows, hashes, changes, name, batch_size, num_workers)
        if len(unreadable) == len(rows):
            source = benchmarks[name].dataset_name
            raise InputError(f"{source}: none of the {len(rows)} images can be read: {unreadable[0]}.")
        scored.append(_Benchmark(name, rows, hashes, unreadable))
    attacks = _attacks(contestants, detectors, scored, adversarial, epsilons, adversarial_images, batch_size)
    _give_each_its_folder(output_dir, contestants)
    results, tables = {}, {}
    for one in contestants:
        tables[one.name] = {item.name: _table(item, stores[one.model], one) for item in scored}
        found: dict[str, Any] = {"adversarial": attacks.get(one.name, {})}
        if one.tta == 1:
            found["robustness"] = {
                item.name: _robustness(
                    item, stores[one.model], tables[one.name][item.name], corrupting, detectors[one.model]
                )
                for item in scored
            }
        found = _with_earlier(one.folder, tables[one.name], found)
        results[one.name] = _measure(one, detectors[one.model], scored, tables[one.name]) | found
        if "robustness" in found:
            with whole(one.folder / "robustness.csv") as partial:
                pd.DataFrame(robustness_rows(found["robustness"])).to_csv(partial, index=False)
        save_results(results[one.name], one.folder)
    for item in scored:
        if item.unreadable:
            _report_unreadable(item, output_dir)
    save_comparison(results, tables, output_dir)
    return results, sum(len(item.unreadable) for item in scored)


def evaluate_detector(
    name_or_path: str, benchmarks: Mapping[str, DataArguments], output_dir: Path, **choices: Any
) -> tuple[dict[str, Any], int]:
    """`evaluate_detectors` for one model: its results, and the number of images that could not be read."""
    results, failures = evaluate_detectors([name_or_path], benchmarks, output_dir, **choices)
    return next(iter(results.values())), failures


def _contestants(models: Sequence[str], tta: int, output_dir: Path) -> list[_Contestant]:
    """The models, once each, and their averages over views; those of one folder name are told apart by the one above."""
    paths = {Path(model).resolve(): model for model in reversed(models)}
    known = [path.name for path in paths]
    named = [
        (f"{path.parent.name}-{path.name}" if known.count(path.name) > 1 or path.name in _TAKEN else path.name, model)
        for path, model in reversed(paths.items())
    ]
    names = [name for name, _ in named]
    if len(set(names)) < len(names):
        raise InputError(f"--model: {', '.join(names)} are names of several models; rename a folder.")
    entered = [(name, model, 1) for name, model in named]
    entered += [(f"{name}-tta{tta}", model, tta) for name, model in named if tta > 1]
    return [
        _Contestant(name, model, views, output_dir if len(entered) == 1 else output_dir / name)
        for name, model, views in entered
    ]


def _scores(output_dir: Path, one: _Contestant) -> Path:
    return output_dir / "scores" / f"{one.name.removesuffix(f'-tta{one.tta}')}.parquet"


def _check_output(
    output_dir: Path, contestants: Sequence[_Contestant], benchmarks: Mapping[str, DataArguments]
) -> None:
    """Refuse to overwrite what this call would not write again."""
    if output_dir.is_file():
        raise InputError(f"{output_dir}: is a file; choose another --output_dir.")
    named = {one.name: one for one in contestants}
    for file in [output_dir / "results.json", *output_dir.glob("*/results.json")]:
        if not file.is_file():
            continue
        earlier = load_results(file.parent)
        model, kept = str(earlier.get("model")), sorted(earlier.get("metrics", {}))
        ours = model in named and _scores(output_dir, named[model]).is_file()
        if not ours or not set(kept) <= set(benchmarks):
            raise InputError(
                f"{file}: holds results of {model} on {', '.join(kept)} that would be lost. Name that model and these "
                "benchmarks too, whose scores are kept, or choose another --output_dir."
            )


def _give_each_its_folder(output_dir: Path, contestants: Sequence[_Contestant]) -> None:
    """Move what an earlier call wrote of its only model to a folder, where there are several now."""
    if len(contestants) == 1 or not (output_dir / "results.json").is_file():
        return
    folder = output_dir / load_results(output_dir)["model"]
    folder.mkdir()
    for name in ("predictions", "plots", "robustness.csv", "results.json"):
        if (output_dir / name).exists():
            (output_dir / name).replace(folder / name)


def _with_earlier(folder: Path, tables: Mapping[str, pd.DataFrame], found: dict[str, Any]) -> dict[str, Any]:
    """Corruptions and attacks of this call and of earlier ones, as far as those were on the same images."""
    earlier = load_results(folder) if (folder / "results.json").is_file() else {}
    together: dict[str, Any] = {}
    for name, table in tables.items():
        path = folder / "predictions" / f"{name}.parquet"
        same = path.is_file() and load_predictions(path).equals(table)
        robustness = dict(earlier.get("robustness", {}).get(name, {})) if same else {}
        for corruption, severities in found.get("robustness", {}).get(name, {}).items():
            robustness[corruption] = dict(sorted((robustness.get(corruption, {}) | severities).items()))
        attacks = found["adversarial"].get(name, [])
        made = {(entry["attack"], entry["epsilon"], entry["attacked"]) for entry in attacks}
        kept = earlier.get("adversarial", {}).get(name, []) if same else []
        attacks = [e for e in kept if (e["attack"], e["epsilon"], e["attacked"]) not in made] + attacks
        for key, part in (("robustness", robustness), ("adversarial", attacks)):
            if part:
                together.setdefault(key, {})[name] = part
    return together


def _attacks(
    contestants: Sequence[_Contestant],
    detectors: Mapping[str, LoadedDetector],
    benchmarks: Sequence[_Benchmark],
    methods: Sequence[str],
    epsilons: Sequence[str],
    limit: int,
    batch_size: int,
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """What each model says of the images that were made against each: entries by model and benchmark."""
    attacks: dict[str, dict[str, list[dict[str, Any]]]] = {}
    plain = {one.name: detectors[one.model] for one in contestants if one.tta == 1}
    for item in benchmarks if methods else ():
        rows = item.rows.select(item.readable)
        found, _ = adversarial_robustness(plain, rows, methods, epsilons, limit=limit, batch_size=batch_size)
        for entry in found:
            attacks.setdefault(entry.pop("model"), {}).setdefault(item.name, []).append(entry)
    return attacks


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


def _table(benchmark: _Benchmark, store: ScoreStore, one: _Contestant) -> pd.DataFrame:
    """Predictions of the readable images, averaged over their views."""
    hashes = [benchmark.hashes[row] for row in benchmark.readable]
    views = np.stack([store.logits(hashes, f"view-{number}") for number in range(one.tta)], axis=1)
    logits = average_views(views) if one.tta > 1 else views[:, 0]
    try:
        return predictions_table(benchmark.rows.select(benchmark.readable), logits)
    except InputError as error:
        raise InputError(f"{one.name} on {benchmark.name}: {error}") from error


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
            uncertain = results.setdefault("uncertain", {"band": band, "rates": {}})
            uncertain["rates"][benchmark.name] = band_rates(*scores, threshold, band)
        if "source" in table and table["source"].nunique() > 1:
            known = set(trained["source"]) if trained is not None and "source" in trained else None
            results.setdefault("sources", {})[benchmark.name] = by_source(table, threshold, known)
            results.setdefault("leave_one_source_out", {})[benchmark.name] = leave_one_source_out(table)
    return results | {"environment": environment()}


def _overlap(one: _Contestant, benchmark: _Benchmark, trained: pd.DataFrame | None) -> dict[str, Any]:
    """How many images the model was trained or fitted on, and whether all sources are new to it, where that is known."""
    if trained is None:
        return {}
    hashes = set(trained["sha256"]) - {""}
    seen = sum(benchmark.hashes[row] in hashes for row in benchmark.readable)
    if seen:
        _warn(
            f"WARNING: {seen} of the {len(benchmark.readable)} images of {benchmark.name} are among those that "
            f"{one.name} was trained or fitted on; its figures there are no test result."
        )
    found: dict[str, Any] = {"seen_in_training": seen}
    if "source" in trained and "source" in benchmark.rows.column_names:
        sources, known = set(benchmark.rows["source"][:]), set(trained["source"].dropna())
        if known and UNKNOWN_SOURCE not in sources:
            found["unseen"] = not sources & known
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
