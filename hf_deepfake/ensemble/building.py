"""Combine run directories into one checkpoint."""

import argparse
import dataclasses
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.fingerprints import load_training_images, save_training_images
from hf_deepfake.ensemble.choosing import choice_table, choose_fit
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.ensemble.fusing import apply_fusion, fuse_tables, load_fusion
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import VOTINGS, EnsembleConfig
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.ensemble.measuring import measure_fit
from hf_deepfake.ensemble.pruning import member_cost, prune
from hf_deepfake.ensemble.refitting import refit_ensemble
from hf_deepfake.ensemble.weighting import WEIGHTINGS
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import benchmark_metrics, environment, save_results
from hf_deepfake.evaluation.calibration import CALIBRATIONS
from hf_deepfake.evaluation.predictions import load_predictions
from hf_deepfake.evaluation.tables import metrics_table
from hf_deepfake.models.detector import load_detector
from hf_deepfake.models.exported import refuse_exported
from hf_deepfake.models.heads import single_detector, view_settings
from hf_deepfake.printing import printable
from hf_deepfake.publishing.card import save_card
from hf_deepfake.writing import require_empty, require_table_suffix, save_table, whole

logger = logging.getLogger(__name__)


def build_ensemble(
    runs: Sequence[Path],
    output_dir: Path,
    max_params: float | None = None,
    max_latency_ms: float | None = None,
    **choices: Any,
) -> dict[str, Any]:
    """Fit an ensemble on its members' validation predictions and write it as one checkpoint.

    Beside the checkpoint stand the voted `predictions/`, `plots/`, `README.md` and `results.json`, whose `comparison`
    holds every member (uncalibrated, at 0.5) against soft, hard and weighted voting on each split, `choice` why it votes as
    it does, `calibration` each member and the vote before and after (cross-fitted), `operating_points` the error rates at
    each purpose's threshold, and `diversity` how differently the members err.

    Args:
        runs: Run directories of the members, in the order in which they are named.
        output_dir: A folder that does not exist yet or is empty.
        max_params: Parameters that the members may have together; the best of them are kept, see `prune`.
        max_latency_ms: Milliseconds that their forward passes may take together for one image on this machine.
        choices: `voting`, `weighting`, `weights`, `calibration`, `threshold` and `target_error` of `fit_ensemble`; `voting` may
            be left open, see `choose_fit`.

    Returns:
        What results.json holds.

    Raises:
        InputError: If members are missing, were scored on different images or are not of two classes, or
            `output_dir` is a file or not empty.
    """
    require_empty(output_dir)
    members = dict(zip(_member_names(runs), runs, strict=True))
    validation = _load_split(members, "validation")
    limits = {"params": max_params, "latency_ms": max_latency_ms}
    budgets = {kind: most for kind, most in limits.items() if most is not None}
    pruning = {}
    if budgets:
        costs = {name: member_cost(run) for name, run in members.items()}
        pruning = {"pruning": prune(validation, costs, budgets, choices.get("calibration", "temperature"))}
        members = {name: members[name] for name in pruning["pruning"]["kept"]}
        validation = {name: validation[name] for name in members}
    names, runs = list(members), list(members.values())
    fit, choice = choose_fit(validation, choices)
    tables = {"validation": validation}
    if all((run / "predictions" / "test.parquet").is_file() for run in runs):
        tables["test"] = _load_split(members, "test")
    with whole(output_dir) as folder:
        model, processor = assemble(runs, names, fit)
        model.save_pretrained(folder, max_shard_size="100GB")
        processor.save_pretrained(folder)
        results = {
            "schema": 1,
            "model": output_dir.name,
            **measure_fit(tables, fit, choices, folder),
            "choice": choice,
            **pruning,
            "environment": environment(),
        }
        seen = [table for run in runs if (table := load_training_images(run)) is not None]
        if len(seen) == len(runs):  # else it is not known what the ensemble has seen
            save_training_images(pd.concat(seen).drop_duplicates(ignore_index=True), folder)
        for name, run in members.items():  # which tell the card what the members were trained on
            if (run / "recipe.yaml").is_file():
                (folder / "recipes").mkdir(exist_ok=True)
                shutil.copyfile(run / "recipe.yaml", folder / "recipes" / f"{name}.yaml")
        save_card(results, folder)
        save_results(results, folder)
    return results


def _load_split(members: Mapping[str, Path], split: str) -> dict[str, pd.DataFrame]:
    return {name: load_predictions(run / "predictions" / f"{split}.parquet") for name, run in members.items()}


def _member_names(runs: Sequence[Path]) -> list[str]:
    names = [run.resolve().name for run in runs]
    if not names:
        raise InputError("an ensemble needs at least one run directory.")
    for run in runs:
        if not (run / "config.json").is_file():
            raise InputError(f"{run}: no config.json; a member is a run directory that hf-deepfake train wrote.")
    return names if len(set(names)) == len(names) else [f"{name}-{index}" for index, name in enumerate(names)]


def assemble(
    runs: Sequence[Path], names: Sequence[str], fit: Fit
) -> tuple[EnsembleForImageClassification, EnsembleImageProcessor]:
    """Put checkpoints and a fit together in one model and one image processor, each distinct view once."""
    members, views, member_views, fake_columns = [], [], [], []
    for run in runs:
        member, processor, fake_column = load_detector(str(run))
        refuse_exported(member, "ensemble")
        if isinstance(processor, EnsembleImageProcessor) and member is not single_detector(member):
            member, processor = single_detector(member), processor.processors[0]
        if isinstance(member, EnsembleForImageClassification):
            raise InputError(f"{run}: is an ensemble itself; name its members' run directories instead.")
        view = view_settings(member, processor)
        if view not in views:
            views.append(view)
        members.append(member)
        member_views.append(views.index(view))
        fake_columns.append(fake_column)
    configs = [member.config.to_dict() for member in members]
    for member_config in configs:
        member_config.pop("_name_or_path", None)  # the maker's own folder is nobody else's business
    config = EnsembleConfig(
        members=configs,
        member_names=list(names),
        member_views=member_views,
        fake_columns=fake_columns,
        **dataclasses.asdict(fit),
    )
    ensemble = EnsembleForImageClassification(config)
    for slot, member in zip(ensemble.members, members, strict=True):
        slot.load_state_dict(member.state_dict())
    return ensemble.eval(), EnsembleImageProcessor(views=views)


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake ensemble`: run directories, tables of scores or corrections in, an ensemble out."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    arguments = _parser().parse_args(argv)
    _require_one_task(arguments)
    if arguments.apply is not None:
        return _apply(arguments)
    names = ("voting", "weighting", "weights", "calibration", "threshold", "target_error")
    choices = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.refit is not None:
        corrected = DataArguments(dataset_name=arguments.labels, image_root=arguments.image_root)
        results = refit_ensemble(arguments.refit, corrected, arguments.output_dir, **choices)
    elif arguments.predictions:
        results = fuse_tables(arguments.predictions, arguments.output_dir, **choices)
    else:
        budgets = {"max_params": arguments.max_params, "max_latency_ms": arguments.max_latency_ms}
        results = build_ensemble(arguments.runs, arguments.output_dir, **budgets, **choices)
    _print(results, Console())
    use = f"predict --model {arguments.output_dir} IMAGE…"
    if arguments.predictions:
        use = f"ensemble --apply {arguments.output_dir} --predictions TABLE… --output voted.csv"
    holds = "fit.json" if arguments.predictions else "checkpoint"
    _say(f"wrote {arguments.output_dir} ({holds}, predictions, plots, README.md, results.json)")
    _say(f"next: hf-deepfake {use}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hf-deepfake ensemble",
        description="Combine checkpoints, or plain tables of detectors' scores, into one calibrated vote.",
    )
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run directory of a member")
    parser.add_argument("--output_dir", type=Path, metavar="DIR")
    parser.add_argument(
        "--predictions",
        nargs="+",
        metavar="TABLE",
        help="in place of runs: scores of any detectors, TABLE or NAME=TABLE",
    )
    parser.add_argument(
        "--voting", choices=VOTINGS, help="default: weighted where that is better beyond noise, else soft"
    )
    parser.add_argument("--weighting", choices=WEIGHTINGS, help="of the weighted vote; default: stacking")
    parser.add_argument("--weights", type=float, nargs="+", help="one a member, with --weighting manual")
    parser.add_argument(
        "--calibration", choices=CALIBRATIONS, help="of members and vote; default: temperature, of tables platt"
    )
    parser.add_argument("--threshold", help="youden (default), eer, f1, fixed or fpr=RATE; fitted on validation")
    parser.add_argument(
        "--target_error",
        type=float,
        metavar="RATE",
        help="call images near the threshold uncertain, so that at most this share of the other verdicts is wrong",
    )
    parser.add_argument(
        "--max_params", type=float, help="keep the best members with at most so many parameters together"
    )
    parser.add_argument(
        "--max_latency_ms", type=float, help="… whose forward passes take at most so long together here"
    )
    parser.add_argument("--apply", type=Path, metavar="DIR", help="vote on --predictions by what was fitted on tables")
    parser.add_argument(
        "--output", type=Path, metavar="TABLE", help="with --apply: write a .csv, .jsonl or .parquet table"
    )
    parser.add_argument("--refit", type=Path, metavar="DIR", help="fit this ensemble again, with --labels")
    parser.add_argument(
        "--labels", metavar="DATA", help="with --refit: images that a person relabelled (image, label)"
    )
    parser.add_argument("--image_root", help="with --refit: folder that the image names of --labels start from")
    return parser


def _require_one_task(arguments: argparse.Namespace) -> None:
    """Refuse flags that do not go together, before anything is read."""
    given = {name for name, value in vars(arguments).items() if value not in (None, [])}
    choices = {"voting", "weighting", "weights", "calibration", "threshold", "target_error"}
    if "apply" in given:
        task, needs, takes = "--apply", {"predictions", "output"}, set()
    elif "refit" in given:
        task, needs, takes = "--refit", {"labels", "output_dir"}, choices | {"image_root"}
    elif "predictions" in given:
        task, needs, takes = "--predictions", {"output_dir"}, choices
    else:
        task, needs, takes = (
            "an ensemble of run directories",
            {"output_dir", "runs"},
            choices | {"max_params", "max_latency_ms"},
        )
    missing, strange = sorted(needs - given), sorted(given - needs - takes - {task.removeprefix("--")})
    if arguments.voting == "hard" and arguments.target_error is not None:
        raise InputError("--target_error: a share of hard votes is no probability that a band could be fitted on.")
    if missing:
        raise InputError(f"{task} needs {_flags(missing)}.")
    if strange:
        raise InputError(f"{task} does not take {_flags(strange)}.")


def _flags(names: Sequence[str]) -> str:
    return ", ".join("RUN…" if name == "runs" else f"--{name}" for name in names)


def _apply(arguments: argparse.Namespace) -> int:
    require_table_suffix(arguments.output)
    table = apply_fusion(arguments.apply, arguments.predictions)
    save_table(table, arguments.output)
    if "truth" in table and table["truth"].nunique() == 2:
        _, fit = load_fusion(arguments.apply)
        measured = benchmark_metrics(table.assign(label=table["truth"]), fit.thresholds[fit.voting])
        Console().print(metrics_table({f"{fit.voting} voting": measured}, first_column="vote"))
    _say(f"wrote {arguments.output} ({len(table)} images)")
    return 0


def _print(results: Mapping[str, Any], console: Console) -> None:
    for benchmark, rows in results["comparison"].items():
        console.print(metrics_table(rows, first_column="model", title=benchmark))
    if "test" not in results["comparison"]:
        console.print("no test split: these figures are of the images that the vote was fitted on, and optimistic")
    if "cross_fitted" in results["choice"]:
        console.print(choice_table(results["choice"]))
    _say(f"{results['choice']['voting']} voting: {results['choice']['because']}")
    if "pruning" in results:
        pruning = results["pruning"]
        total = f"{pruning['total']['params'] / 1e6:.1f} million parameters, {pruning['total']['latency_ms']:.1f} ms"
        _say(
            f"within the budget: {', '.join(pruning['kept'])} ({total}); left out: {', '.join(pruning['left_out']) or 'none'}"
        )
    for doubt in results.get("refit", {}).get("doubts", []):
        _say(doubt)
    if "uncertain" in results:
        low, high = results["uncertain"]["band"]
        console.print(f"uncertain between {low:.3f} and {high:.3f}:")
        for split, rates in results["uncertain"]["rates"].items():
            wrong = (
                f"{rates['error_rate']:.1%} of its verdicts wrong" if "error_rate" in rates else "no verdict at all"
            )
            console.print(f"  {split}: a verdict on {rates['coverage']:.1%} of the images, {wrong}")


def _say(line: str) -> None:
    Console().print(printable(line), markup=False, highlight=False, soft_wrap=True)
