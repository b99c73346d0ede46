"""A detector trained on real photographs and their self-blends alone, on people and fakes that it never saw.

python benchmarks/self_blended.py --data DIR --unseen NAME=DATA… [--image_root DIR] --output_dir runs/self-blended

DIR is a folder of photographs, one a person; a quarter of the people is kept for testing.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from readme_table import ROOT, machine, save_figures

from hf_deepfake.evaluation.tables import format_metric


def main() -> None:
    """Train, test on self-blends of the people kept back, and evaluate on the unseen sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--unseen", nargs="*", default=[], metavar="NAME=DATA")
    parser.add_argument("--image_root")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/self-blended"))
    arguments = parser.parse_args()
    run, unseen = arguments.output_dir / "detector", arguments.output_dir / "unseen"
    cli = [sys.executable, "-m", "hf_deepfake.cli"]
    if not (run / "results.json").is_file():
        recipe = ROOT / "recipes" / "configs" / "cpu_self_blended.yaml"
        command = ["train", "--config", recipe, "--dataset_name", arguments.data, "--test_share", "0.25"]
        subprocess.run([*cli, *map(str, command), "--output_dir", str(run)], check=True)
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    metrics = {
        f"self-blends of unseen people ({split})": results["metrics"][split] for split in ("validation", "test")
    }
    if arguments.unseen:
        root = ["--image_root", arguments.image_root] if arguments.image_root else []
        command = ["evaluate", "--model", run, "--data", *arguments.unseen, *root, "--output_dir", unseen]
        if not (unseen / "results.json").is_file():
            subprocess.run([*cli, *map(str, command)], check=True)
        metrics |= json.loads((unseen / "results.json").read_text(encoding="utf-8"))["metrics"]
    minutes = results["training"]["seconds"] / 60
    train = results["data"]["train"]["real"]
    save_figures(
        "self_blended",
        title=f"Trained on {train} real photographs and their self-blends alone, {minutes:.1f} min",
        command="python benchmarks/self_blended.py --data DIR --unseen ciplab=DIR --image_root DIR",
        machine=machine(),
        rows=[
            {"test images": name, "images": values["images"]}
            | {label: format_metric(values, key) for key, label in (("roc_auc", "ROC AUC"), ("accuracy", "accuracy"))}
            for name, values in metrics.items()
        ],
    )


if __name__ == "__main__":
    main()
