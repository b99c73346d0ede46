"""Combine run directories into one checkpoint."""

import argparse
import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from transformers import BaseImageProcessor, PreTrainedModel, TimmWrapperImageProcessor

from hf_deepfake.data.fingerprints import load_training_images, save_training_images
from hf_deepfake.ensemble.fitting import WEIGHTINGS, Fit, fit_ensemble, member_logits
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import VOTINGS, EnsembleConfig
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.ensemble.measuring import measure_calibration, measure_thresholds, measure_votes
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import environment, save_results
from hf_deepfake.evaluation.calibration import CALIBRATIONS
from hf_deepfake.evaluation.predictions import load_predictions
from hf_deepfake.evaluation.tables import metrics_table
from hf_deepfake.models.detector import load_detector
from hf_deepfake.publishing.card import save_ensemble_card
from hf_deepfake.writing import whole

logger = logging.getLogger(__name__)


def build_ensemble(runs: Sequence[Path], output_dir: Path, **choices: Any) -> dict[str, Any]:
    """Fit an ensemble on its members' validation predictions and write it as one checkpoint.

    Beside the checkpoint stand the voted `predictions/`, `plots/`, `README.md` and `results.json`, whose `comparison`
    holds every member (uncalibrated, at 0.5) against soft, hard and weighted voting on each split, `calibration` each
    member and the vote before and after (cross-fitted), and `operating_points` the error rates at each purpose's threshold.

    Args:
        runs: Run directories of the members, in the order in which they are named.
        output_dir: A folder that does not exist yet or is empty.
        choices: `voting`, `weighting`, `weights`, `calibration`, `threshold` and `target_error` of `fit_ensemble`.

    Returns:
        What results.json holds.

    Raises:
        InputError: If members are missing, were scored on different images or are not of two classes, or
            `output_dir` is a file or not empty.
    """
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise InputError(f"{output_dir}: stands there already and is no empty folder; choose another --output_dir.")
    names = _member_names(runs)
    validation = {
        name: load_predictions(run / "predictions" / "validation.parquet")
        for name, run in zip(names, runs, strict=True)
    }
    logits, labels = member_logits(validation)
    fit = fit_ensemble(logits, labels, **choices)
    tables = {"validation": validation}
    if all((run / "predictions" / "test.parquet").is_file() for run in runs):
        tables["test"] = {
            name: load_predictions(run / "predictions" / "test.parquet") for name, run in zip(names, runs, strict=True)
        }
    if output_dir.is_dir():
        output_dir.rmdir()
    with whole(output_dir) as folder:
        model, processor = assemble(runs, names, fit)
        model.save_pretrained(folder, max_shard_size="100GB")
        processor.save_pretrained(folder)
        results = {
            "schema": 1,
            "model": output_dir.name,
            **measure_votes(tables, fit, folder),
            "calibration": measure_calibration(validation, choices, folder),
            **measure_thresholds(tables, fit, choices),
            "ensemble": {"members": names} | dataclasses.asdict(fit),
            "environment": environment(),
        }
        seen = [table for run in runs if (table := load_training_images(run)) is not None]
        if len(seen) == len(runs):  # else it is not known what the ensemble has seen
            save_training_images(pd.concat(seen).drop_duplicates(ignore_index=True), folder)
        save_ensemble_card(results, folder)
        save_results(results, folder)
    return results


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


def view_settings(member: PreTrainedModel, processor: BaseImageProcessor) -> dict[str, Any]:
    """Settings from which the ensemble's processor rebuilds how a member reads images and its own processor."""
    reading = {"reading": member.config.reading} if getattr(member.config, "reading", None) else {}
    if isinstance(processor, TimmWrapperImageProcessor):
        resolved = processor.data_config  # what timm's transform depends on, without names and addresses
        pretrained_cfg = {name: list(value) if isinstance(value, tuple) else value for name, value in resolved.items()}
        return reading | {"image_processor_type": "TimmWrapperImageProcessor", "pretrained_cfg": pretrained_cfg}
    settings: dict[str, Any] = processor.to_dict()
    kept = {name: value for name, value in settings.items() if name != "auto_map" and not name.startswith("_")}
    return reading | kept


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake ensemble`: run directories in, one checkpoint out."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(prog="hf-deepfake ensemble", description="Combine checkpoints into one.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory of a member")
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--voting", choices=VOTINGS, default="soft")
    parser.add_argument("--weighting", choices=WEIGHTINGS, default="logloss", help="of the weighted vote")
    parser.add_argument("--weights", type=float, nargs="+", help="one a member, with --weighting manual")
    parser.add_argument("--calibration", choices=CALIBRATIONS, default="temperature", help="of members and vote")
    parser.add_argument(
        "--threshold", default="youden", help="fixed, youden, eer, f1 or fpr=RATE; fitted on validation"
    )
    parser.add_argument(
        "--target_error",
        type=float,
        metavar="RATE",
        help="call images near the threshold uncertain, so that at most this share of the other verdicts is wrong",
    )
    arguments = parser.parse_args(argv)
    names = ("voting", "weighting", "weights", "calibration", "threshold", "target_error")
    choices = {name: getattr(arguments, name) for name in names}
    results = build_ensemble(arguments.runs, arguments.output_dir, **choices)
    console = Console()
    for benchmark, rows in results["comparison"].items():
        console.print(metrics_table(rows, first_column="model", title=benchmark))
    if "test" not in results["comparison"]:
        console.print("no test split: these figures are of the images that the vote was fitted on, and optimistic")
    if "uncertain" in results:
        low, high = results["uncertain"]["band"]
        console.print(f"uncertain between {low:.3f} and {high:.3f}:")
        for split, rates in results["uncertain"]["rates"].items():
            wrong = (
                f"{rates['error_rate']:.1%} of its verdicts wrong" if "error_rate" in rates else "no verdict at all"
            )
            console.print(f"  {split}: a verdict on {rates['coverage']:.1%} of the images, {wrong}")
    console.print(
        f"wrote {arguments.output_dir} (checkpoint, predictions, plots, README.md, results.json)\n"
        f"next: hf-deepfake predict --model {arguments.output_dir} IMAGE…",
        markup=False,
        soft_wrap=True,
    )
    return 0
