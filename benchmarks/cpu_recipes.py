"""Every recipe for a CPU that needs nothing but images, and of those a teacher, side by side on one split.

python benchmarks/cpu_recipes.py --data DIR [--output_dir runs/cpu-recipes]

A fifth of the training images is kept for testing; the checkpoints are picked on validation images. What is finished is not
trained again.
"""

import argparse
from pathlib import Path

from edited_faces import train_once
from readme_table import ROOT, machine, save_figures

from hf_deepfake.evaluation.tables import COLUMNS, format_metric

RECIPES = (
    "probe",
    "lora",
    "mobilenetv2_mlp_head",
    "fourier",
    "piecewise",
    "efficientnet_lite0",
    "mobilenetv2",
    "mnasnet",
    "distilled",
    "distilled --distillation_alpha 0",  # the same student without its teacher
    "probe --train full --learning_rate 3e-4 --num_train_epochs 8",  # cpu_fourier without its supervision
)
TEACHER = "fourier"


def main() -> None:
    """Train by each recipe and publish its test figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--output_dir", type=Path, default=Path("runs/cpu-recipes"))
    arguments = parser.parse_args()
    rows = []
    for recipe in RECIPES:
        name, *changes = recipe.split()
        config = str(ROOT / "recipes" / "configs" / f"cpu_{name}.yaml")
        if name == "distilled":
            changes += ["--teacher", str(arguments.output_dir / TEACHER)]
        flags = ["--config", config, "--dataset_name", arguments.data, "--test_share", "0.2", *changes]
        results = train_once(arguments.output_dir / recipe.replace(" --", "-").replace(" ", "-"), flags)
        figures = {words: format_metric(results["metrics"]["test"], metric) for metric, words in COLUMNS.items()}
        rows.append({"recipe": f"cpu_{recipe}"} | figures | {"minutes": f"{results['training']['seconds'] / 60:.1f}"})
    counts = ", ".join(
        f"{split}: {count['real']} real and {count['fake']} fake" for split, count in results["data"].items()
    )
    save_figures(
        "cpu_recipes",
        title=f"Recipes for a CPU on photographs (FFHQ) and StyleGAN faces, one seed. Images: {counts}",
        command="python benchmarks/cpu_recipes.py --data DIR",
        machine=machine(),
        rows=rows,
    )


if __name__ == "__main__":
    main()
