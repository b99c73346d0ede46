"""How much of a network has to be trained to find faces that were edited by hand, and what forensic transforms add.

python benchmarks/edited_faces.py --data LABELS.csv --image_root DIR --output_dir runs/edited-faces

Three recipes on one split, tested on 30 % of the images. A finished run directory is not trained again.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

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
    rows, images = [], {}
    for way, recipe in RECIPES.items():
        run = arguments.output_dir / recipe
        if not (run / "results.json").is_file():
            command = ["train", "--config", str(ROOT / "recipes" / "configs" / f"{recipe}.yaml")]
            command += ["--dataset_name", arguments.data, "--image_root", arguments.image_root]
            command += ["--validation_share", "0.15", "--test_share", "0.3", "--output_dir", str(run)]
            command += ["--resume_from_checkpoint", "true"]
            subprocess.run([sys.executable, "-m", "hf_deepfake.cli", *command], check=True)
        results = json.loads((run / "results.json").read_text(encoding="utf-8"))
        images = results["data"]
        test = results["metrics"]["test"]
        cells = {label: format_metric(test, metric) for label, metric in METRICS.items()}
        rows.append({"test": way} | cells | {"minutes": f"{results['training']['seconds'] / 60:.1f}"})
    counts = ", ".join(f"{split}: {count['real']} real and {count['fake']} fake" for split, count in images.items())
    save_figures(
        "edited_faces",
        title=f"Faces edited by hand (ciplab), one seed. Images: {counts}",
        command="python benchmarks/edited_faces.py --data LABELS.csv --image_root DIR",
        machine=machine(),
        rows=rows,
    )


if __name__ == "__main__":
    main()
