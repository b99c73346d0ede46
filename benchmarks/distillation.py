"""What a small student gains from a teacher, and from Fourier supervision besides, on printed faces.

python benchmarks/distillation.py --data DIR [--seeds 3] [--epochs 12] --output_dir runs/distillation

Images that show one picture, and those whose numbers share all but the last digit (frames of one recording), stay in one
split, which every training shares. A finished run directory is not trained again.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from readme_table import machine, save_figures

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.audit import everything
from hf_deepfake.data.duplicates import connected, near_duplicates
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.measuring import measure_images

TEACHER, STUDENT = "tf_efficientnet_lite0", "mobilenetv2_075"
METRICS = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "F1": "f1",
    "FPR": "false_positive_rate",
    "ROC AUC": "roc_auc",
    "EER": "eer",
    "PR AUC": "pr_auc",
    "AP": "average_precision",
}


def save_groups(data: Path, table: Path) -> None:
    """Write a table of the images with the group that each has to stay with."""
    rows = everything(load_data(DataArguments(str(data)), both_classes=False))
    files = [Path(image["path"]) for image in rows["image"]]
    first: dict[tuple[str, int], int] = {}
    frames = [
        (first.setdefault((path.parent.name, int(re.findall(r"\d+", path.stem)[-1]) // 10), row), row)
        for row, path in enumerate(files)
    ]
    group = np.arange(len(rows))
    for members in connected([*near_duplicates(measure_images(rows)), *frames], len(rows)):
        group[members] = members[0]
    columns = {"image": list(map(str, files)), "label": rows["label"][:], "group": [f"group {row}" for row in group]}
    table.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(table, index=False)
    print(f"{len(rows)} images in {len(set(group))} groups")


def train(table: Path, run: Path, model: str, seed: int, epochs: int, image_size: int, *flags: str) -> dict[str, Any]:
    """A finished run's results."""
    if not (run / "results.json").is_file():
        command = [
            sys.executable,
            "-m",
            "hf_deepfake.cli",
            "train",
            "--dataset_name",
            str(table),
            "--group_by",
            "group",
        ]
        command += ["--validation_share", "0.2", "--test_share", "0.3", "--model_name_or_path", model, "--pretrained"]
        command += ["--image_size", str(image_size), "--channels_last", "true", "--learning_rate", "5e-4"]
        command += ["--weight_decay", "0.05", "--lr_scheduler_type", "cosine", "--warmup_steps", "0.1"]
        command += ["--per_device_train_batch_size", "16", "--num_train_epochs", str(epochs), "--seed", str(seed)]
        command += ["--resume_from_checkpoint", "true", "--output_dir", str(run), *flags]
        subprocess.run(command, check=True)
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return results


def main() -> None:
    """Train the teacher and the students, and publish their test figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/distillation"))
    arguments = parser.parse_args()
    table = arguments.output_dir / "images.csv"
    if not table.is_file():
        save_groups(arguments.data, table)
    settings = (arguments.epochs, arguments.image_size)
    teacher = arguments.output_dir / "teacher"
    results = {f"teacher ({TEACHER})": [train(table, teacher, TEACHER, 0, *settings)]}
    distilled = ("--teacher", str(teacher), "--distillation_alpha", "0.7")
    ways = {
        "student alone": (),
        "student, distilled": distilled,
        "student, distilled, Fourier": (*distilled, "--fourier_weight", "0.1"),
    }
    for way, flags in ways.items():
        runs = [
            arguments.output_dir / f"{way.replace(', ', '-').replace(' ', '-')}-{s}" for s in range(arguments.seeds)
        ]
        results[way] = [train(table, run, STUDENT, s, *settings, *flags) for s, run in enumerate(runs)]
    counts = results["student alone"][0]["data"]
    images = ", ".join(f"{name}: {count['real']} real and {count['fake']} fake" for name, count in counts.items())
    save_figures(
        "distillation",
        title=f"A student ({STUDENT}) of printed faces (print_attack), test images, mean and standard deviation over "
        f"{arguments.seeds} seeds. Images: {images}",
        command=f"python benchmarks/distillation.py --data DIR --seeds {arguments.seeds} --epochs {arguments.epochs}",
        machine=machine(),
        rows=[
            {"way": way} | {label: _cell(found, key) for label, key in METRICS.items()}
            for way, found in results.items()
        ],
    )


def _cell(results: list[dict[str, Any]], metric: str) -> str:
    values = [run["metrics"]["test"].get(metric) for run in results]
    if None in values:
        return "not defined"
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
