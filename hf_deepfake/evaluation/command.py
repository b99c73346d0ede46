"""`hf-deepfake evaluate`: checkpoints on labelled data sets, clean, corrupted and attacked."""

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.corruptions import CORRUPTIONS
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.contest import evaluate_detectors
from hf_deepfake.evaluation.leaderboard import marked_name, ranking
from hf_deepfake.evaluation.robustness import parse_severities
from hf_deepfake.evaluation.tables import adversarial_table, metrics_table, robustness_table
from hf_deepfake.memory import keep_freed_memory
from hf_deepfake.printing import printable


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake evaluate`: checkpoints on labelled data sets, clean and corrupted."""
    arguments = _parser().parse_args(argv)
    keep_freed_memory()
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
        epsilons=arguments.epsilon or ["2/255"],
        adversarial_images=arguments.adversarial_images,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
    )
    console = Console()
    for name in benchmarks:
        ranked = {marked_name(model, metrics): metrics for model, metrics in ranking(results, name).items()}
        console.print(metrics_table(ranked, first_column="model", title=printable(name)))
        for model, result in results.items():
            corrupted = result.get("robustness", {}).get(name)
            if corrupted:
                console.print(robustness_table(corrupted, f"{model} on {printable(name)}, corrupted"))
        attacks = {model: result.get("adversarial", {}).get(name, []) for model, result in results.items()}
        if any(attacks.values()):
            console.print(adversarial_table(attacks, f"{printable(name)}, attacked"))
    written = "results.json, predictions, plots" if len(results) == 1 else "a folder a model"
    console.print(
        f"wrote {output_dir} ({written}, leaderboard.csv, comparison.json)\n"
        f"next: hf-deepfake report {output_dir} --data {' '.join(arguments.data)} --output report.html",
        markup=False,
        soft_wrap=True,
    )
    return 1 if failures else 0


def named_benchmarks(items: Sequence[str]) -> dict[str, str]:
    """Names and data sets of `[NAME=]DATA`; names become those of files.

    Raises:
        InputError: If two have one name, or a name cannot be a file's.
    """
    benchmarks: dict[str, str] = {}
    for item in items:
        name, separator, source = item.partition("=")
        if not separator or os.path.exists(item):
            name, source = Path(item).resolve().stem, item
        if not source:
            raise InputError(f"--data {item}: names no data; give a folder, a table or a Hub id.")
        if not re.fullmatch(r"\w[\w .-]*", name) or name in benchmarks:
            what = "is the name of two benchmarks" if name in benchmarks else "cannot be part of a file name"
            raise InputError(f"--data {item}: {name!r} {what}; give it one: --data NAME={source}")
        benchmarks[name] = source
    return benchmarks


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-deepfake evaluate", description="Measure checkpoints on labelled images, side by side."
    )
    parser.add_argument(
        "--model",
        required=True,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="detectors, ensembles: folder or Hub id",
    )
    parser.add_argument(
        "--data", required=True, nargs="+", action="extend", metavar="[NAME=]DATA", help="folder, table or Hub id"
    )
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
        "--corruptions",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help=f"all, or some of {', '.join(CORRUPTIONS)}",
    )
    parser.add_argument("--severities", default="1-5", help="of the corruptions: 3, 1,3,5 or 1-5 (default)")
    parser.add_argument(
        "--adversarial", nargs="+", action="extend", default=[], metavar="METHOD", help="fgsm, pgd: attack every model"
    )
    parser.add_argument(
        "--epsilon", nargs="+", action="extend", help="largest change of a pixel, white being 1; default: 2/255"
    )
    parser.add_argument("--adversarial_images", type=int, default=100, help="attacked of each benchmark (default 100)")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode")
    return parser
