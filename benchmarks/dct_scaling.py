"""What decoding JPEGs at a smaller scale costs: ROC AUC of detectors that read at half the images' size.

python benchmarks/dct_scaling.py --data DIR --output_dir runs/dct_scaling

DIR is an image folder with `train` and `validation`, each with `real` and `fake`, of 256-pixel JPEGs. Two detectors that read
128 pixels are trained alike, one with `--dct_scaling`; the third row reads scaled what was trained unscaled, as a pipeline
does that decodes otherwise than its training did.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from readme_table import ROOT, machine, save_figures

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.evaluation.benchmark import benchmark_metrics
from hf_deepfake.evaluation.predictions import load_predictions, predictions_table, score_images
from hf_deepfake.evaluation.tables import format_metric
from hf_deepfake.models.detector import load_detector

SIDE, EPOCHS = 128, 3


def main() -> None:
    """Train both and score three ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/dct_scaling"))
    arguments = parser.parse_args()
    rows = []
    for scaled in (False, True):
        run = arguments.output_dir / ("scaled" if scaled else "whole")
        if not (run / "results.json").is_file():
            recipe = ROOT / "recipes" / "configs" / "cpu_efficientnet_lite0.yaml"
            flags = {"config": recipe, "dataset_name": arguments.data, "output_dir": run, "dct_scaling": scaled}
            flags |= {"image_size": SIDE, "train_crop_size": SIDE, "num_train_epochs": EPOCHS}
            words = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
            subprocess.run([sys.executable, "-m", "hf_deepfake.cli", "train", *words], check=True)
        table = load_predictions(run / "predictions" / "validation.parquet")
        rows.append(_row(f"{run.name} in training and scoring", table))
        if not scaled:
            rows.append(_row("whole in training, scaled in scoring", _read_scaled(run, arguments.data)))
    title = f"JPEGs decoded whole or at a smaller scale (`dct_scaling`): 256 pixels read at {SIDE}"
    command = "python benchmarks/dct_scaling.py --data DIR"
    save_figures("dct_scaling", title=title, command=command, machine=machine(), rows=rows)


def _read_scaled(run: Path, data: str) -> pd.DataFrame:
    model, processor, _ = load_detector(str(run))
    model.config.reading = {"smallest_side": SIDE}
    rows = load_data(DataArguments(dataset_name=data))["validation"]
    logits = [scores for _, scores, _ in score_images(model, processor, rows["image"])]
    return predictions_table(rows, np.concatenate(logits))


def _row(name: str, table: pd.DataFrame) -> dict[str, str]:
    metrics = benchmark_metrics(table)
    shown = {"decoded": name} | {
        label: format_metric(metrics, key) for key, label in (("roc_auc", "ROC AUC"), ("accuracy", "accuracy"))
    }
    print(shown, flush=True)
    return shown


if __name__ == "__main__":
    main()
