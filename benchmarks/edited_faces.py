"""How much of a network has to be trained to find faces that were edited by hand, and what forensic transforms add.

python benchmarks/edited_faces.py --data LABELS.csv --image_root DIR --output_dir runs/edited-faces

Three recipes on one split, and the vote of the two that train all of the network, tested on 30 % of the images. What is
finished is not made again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from readme_table import ROOT, machine, save_figures

from hf_deepfake.evaluation.tables import format_metric

RECIPES = {
    "frozen backbone, MLP head": "cpu_frozen_mlp_head",
    "full": "cpu_full",
    "full, forensic transforms": "cpu_full_forensic",
}
METRICS = {"accuracy": "accuracy", "ROC AUC": "roc_auc", "balanced acc.": "balanced_accuracy", "EER": "eer"}


def main() -> None:
    """Train each recipe and publish its test figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--image_root", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/edited-faces"))
    arguments = parser.parse_args()
    results = {}
    for way, recipe in RECIPES.items():
        command = ["train", "--config", ROOT / "recipes" / "configs" / f"{recipe}.yaml"]
        command += ["--dataset_name", arguments.data, "--image_root", arguments.image_root]
        command += ["--validation_share", "0.15", "--test_share", "0.3", "--resume_from_checkpoint", "true"]
        results[way] = _made(arguments.output_dir / recipe, *command)
    voters = [arguments.output_dir / recipe for way, recipe in RECIPES.items() if way.startswith("full")]
    results["vote of the full ones"] = _made(arguments.output_dir / "vote", "ensemble", *voters)
    rows = [
        {"test": way}
        | {label: format_metric(found["metrics"]["test"], metric) for label, metric in METRICS.items()}
        | {"minutes": f"{found['training']['seconds'] / 60:.1f}" if "training" in found else "-"}
        for way, found in results.items()
    ]
    data = results["full"]["data"]
    counts = ", ".join(f"{split}: {count['real']} real and {count['fake']} fake" for split, count in data.items())
    save_figures(
        "edited_faces",
        title=f"Faces edited by hand (ciplab), one seed. Images: {counts}",
        command="python benchmarks/edited_faces.py --data LABELS.csv --image_root DIR",
        machine=machine(),
        rows=rows,
    )


def _made(output: Path, *command: str | Path) -> dict[str, Any]:
    """The results of a command, which is run unless they are there."""
    if not (output / "results.json").is_file():
        words = [*map(str, command), "--output_dir", str(output)]
        subprocess.run([sys.executable, "-m", "hf_deepfake.cli", *words], check=True)
    found: dict[str, Any] = json.loads((output / "results.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    main()
