"""What a finished training leaves: the best checkpoint and everything measured of it."""

import json
import logging
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import benchmark_metrics, environment, save_results
from hf_deepfake.evaluation.plots import plot_benchmark, plot_training
from hf_deepfake.evaluation.predictions import predictions_table, save_predictions
from hf_deepfake.models.checkpoints import load_checkpoint, save_checkpoint
from hf_deepfake.models.lora import merge_adapters
from hf_deepfake.publishing.card import Publication, save_card
from hf_deepfake.publishing.contents import contents
from hf_deepfake.publishing.push import push
from hf_deepfake.training.continual import BEFORE, OLD_VALIDATION
from hf_deepfake.training.resuming import best_checkpoint, drop_checkpoints
from hf_deepfake.training.trainer import DetectorTrainer
from hf_deepfake.writing import whole

logger = logging.getLogger(__name__)


def finish(
    trainer: DetectorTrainer,
    views: dict[str, Any],
    splits: DatasetDict,
    started: float,
    continual: dict[str, Any] | None = None,
    keep_checkpoints: bool = False,
) -> None:
    """Put the best checkpoint at the root of the run directory and everything measured of it beside it.

    The folders `checkpoint-N` are deleted once results.json is whole, unless they are to be kept.
    """
    run = Path(str(trainer.args.output_dir))
    best = best_checkpoint(run, trainer.state)
    if trainer.is_fsdp_enabled:
        _gather(trainer, best)
    model = trainer.accelerator.unwrap_model(trainer.model)
    merge_adapters(model)
    if best is None:
        logger.warning("validation never took place before the end, so the last weights are kept")
    else:
        model.load_state_dict(load_checkpoint(best).state_dict())
    tables = {}
    for name in ("validation", "test", OLD_VALIDATION):
        if name in splits:
            output = trainer.predict(views[name])
            tables[name] = predictions_table(splits[name], np.asarray(output.predictions))
    if not trainer.is_world_process_zero():
        return
    _save_detector(trainer, run)
    trainer.state.save_to_json(str(run / "trainer_state.json"))
    for name, table in tables.items():
        save_predictions(table, run / "predictions" / f"{name}.parquet")
        plot_benchmark(table, name, run / "plots")
    plot_training(trainer.state.log_history, run / "plots")
    results = {
        "schema": 1,
        "model": run.name,
        "metrics": {name: benchmark_metrics(table) for name, table in tables.items()},
        "data": {name: _counts(rows) for name, rows in splits.items()},
        "training": {
            "best_step": trainer.state.best_global_step,
            "steps": trainer.state.global_step,
            "seconds": round(time.monotonic() - started, 1),
        },
        "environment": environment(trainer.args.world_size),
    }
    if continual is not None:
        results["continual"] = continual | {"before": json.loads((run / BEFORE).read_text(encoding="utf-8"))}
    save_card(results, run)
    save_results(results, run)
    if trainer.args.push_to_hub:
        _push(trainer, results, run)
    if not keep_checkpoints:
        drop_checkpoints(run)


def _gather(trainer: DetectorTrainer, best: Path | None) -> None:
    """Go on with a whole copy of the best checkpoint in every process, since shards can be neither filled nor saved."""
    if best is None:
        raise InputError(
            "FSDP: no checkpoint was saved, from which the whole network could be loaded; evaluate and save before the end."
        )
    trainer.is_fsdp_enabled = False
    trainer.accelerator.free_memory()
    trainer.model = trainer.model_wrapped = load_checkpoint(best).to(trainer.args.device)  # type: ignore[arg-type]


def _save_detector(trainer: DetectorTrainer, run: Path) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.problem_type = "single_label_classification"
    shutil.rmtree(run / "checkpoint", ignore_errors=True)  # of a run that was stopped here
    with whole(run / "checkpoint") as folder:
        save_checkpoint(model, trainer.image_processor, folder)
    for file in (run / "checkpoint").iterdir():
        file.replace(run / file.name)
    (run / "checkpoint").rmdir()


def _counts(rows: Dataset) -> dict[str, int]:
    fakes = sum(rows["label"])
    return {"real": len(rows) - fakes, "fake": fakes}


def _push(trainer: DetectorTrainer, results: dict[str, Any], run: Path) -> None:
    """Put the finished run on the Hub, whose card replaces what was there during the training."""
    name, revision = str(trainer.hub_model_id), trainer.args.hub_revision or "main"
    try:
        files = contents(run, results, Publication(repo_id=name, revision=revision), {})
        push(files, name, bool(trainer.args.hub_private_repo), revision)
    except InputError as error:
        raise InputError(f"{error} The run is whole: hf-deepfake push {run} --repo_id {name}") from error
