"""What a finished training leaves: the best checkpoint and everything measured of it."""

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, DatasetDict
from transformers import AutoModelForImageClassification

from hf_deepfake.evaluation.benchmark import benchmark_metrics, environment, save_results
from hf_deepfake.evaluation.plots import plot_benchmark, plot_training
from hf_deepfake.evaluation.predictions import predictions_table, save_predictions
from hf_deepfake.publishing.card import save_detector_card
from hf_deepfake.training.trainer import DetectorTrainer
from hf_deepfake.writing import whole

logger = logging.getLogger(__name__)


def finish(trainer: DetectorTrainer, views: dict[str, Any], splits: DatasetDict, started: float) -> None:
    """Put the best checkpoint at the root of the run directory and everything measured of it beside it."""
    run = Path(str(trainer.args.output_dir))
    best = trainer.state.best_model_checkpoint
    if best is None:
        logger.warning("validation never took place before the end, so the last weights are kept")
    else:
        weights = AutoModelForImageClassification.from_pretrained(best).state_dict()
        trainer.accelerator.unwrap_model(trainer.model).load_state_dict(weights)
    tables = {}
    for name in ("validation", "test"):
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
    save_detector_card(results, run)
    save_results(results, run)


def _save_detector(trainer: DetectorTrainer, run: Path) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.problem_type = "single_label_classification"
    with whole(run / "checkpoint") as folder:
        model.save_pretrained(folder)
        if trainer.processing_class is not None:
            trainer.processing_class.save_pretrained(folder)
    for file in (run / "checkpoint").iterdir():
        file.replace(run / file.name)
    (run / "checkpoint").rmdir()


def _counts(rows: Dataset) -> dict[str, int]:
    fakes = sum(rows["label"])
    return {"real": len(rows) - fakes, "fake": fakes}
