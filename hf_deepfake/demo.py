"""The whole way in one command: images, three members, their ensemble, a table and a first verdict."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import pipeline

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.demo import GROUP_PATTERN, make_demo_images
from hf_deepfake.data.loading import load_splits
from hf_deepfake.ensemble.building import build_ensemble
from hf_deepfake.ensemble.default import install_default
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import load_results
from hf_deepfake.evaluation.tables import metrics_table
from hf_deepfake.recipe import load_recipe, parse_recipe
from hf_deepfake.training.train import RECIPE, train

MEMBERS = {
    "efficientnet-lite0": "tf_efficientnet_lite0",
    "mobilenetv2": "mobilenetv2_100",
    "mnasnet": "mnasnet_100",
}
"""Three families; the first starts from ImageNet weights of its own, the others from what fits them of those."""

SHARED: dict[str, Any] = {
    "pretrained": True,
    "image_size": 128,
    "channels_last": True,
    "learning_rate": 5e-4,
    "num_train_epochs": 4,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "weight_decay": 0.05,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "resume_from_checkpoint": True,
    "test_share": 0.15,  # used where the data have no test split
}


def run_demo(data: Path | None, output_dir: Path, group_by: str | None = None) -> dict[str, Any]:
    """Train what is missing below `output_dir`, vote and install the ensemble as this user's default.

    Args:
        data: Labelled images; by default crops of packaged photographs and self-blends of them.
        output_dir: Gets `data/` (without `data`), a run directory a member and `ensemble/`; what stands there already
            is kept, and an interrupted training goes on.
        group_by: Column or regular expression on the path of what must share a split.

    Returns:
        The ensemble's results.json.
    """
    console = Console()
    if data is None:
        source, group_by = make_demo_images(output_dir / "data"), GROUP_PATTERN
    else:
        source = data
    runs = [output_dir / name for name in MEMBERS]
    for number, (run, backbone) in enumerate(zip(runs, MEMBERS.values(), strict=True), start=1):
        _check_same_data(run, source)
        if (run / "results.json").is_file():
            console.print(f"member {number} of {len(runs)}: {run} exists", markup=False)
            continue
        console.print(f"member {number} of {len(runs)}: training {run}", markup=False)
        choices = SHARED | {"dataset_name": source, "model_name_or_path": backbone, "output_dir": run}
        if group_by is not None:
            choices["group_by"] = group_by
        train(*parse_recipe(RECIPE, _flags(choices), "hf-deepfake demo"))
    ensemble = output_dir / "ensemble"
    if (ensemble / "results.json").is_file():
        console.print(f"ensemble: {ensemble} exists", markup=False)
    else:
        build_ensemble(runs, ensemble)
    install_default(ensemble)
    return load_results(ensemble)


def _flags(choices: dict[str, Any]) -> list[str]:
    return [text for key, value in choices.items() for text in (f"--{key}", str(value))]


def _check_same_data(run: Path, source: Path) -> None:
    recipe = run / "recipe.yaml"
    if recipe.is_file():
        before = load_recipe(recipe)["dataset_name"]
        if Path(before).resolve() != source.resolve():
            raise InputError(f"{run}: was trained on {before}, not on {source}; choose another --output_dir.")


def main(argv: Sequence[str] | None = None) -> int:
    """`hf-deepfake demo`: everything once, on packaged photographs or on the user's images."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    parser = argparse.ArgumentParser(prog="hf-deepfake demo", description="Train, vote and score, start to finish.")
    parser.add_argument("--data", type=Path, metavar="DIR", help="your own real and fake images")
    parser.add_argument("--group_by", help="column or regular expression on the path of what must share a split")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/demo"))
    arguments = parser.parse_args(argv)
    results = run_demo(arguments.data, arguments.output_dir, arguments.group_by)
    ensemble = arguments.output_dir / "ensemble"
    console = Console()
    console.print(metrics_table(results["comparison"]["test"], first_column="model", title="test images"))
    source = arguments.data if arguments.data is not None else arguments.output_dir / "data"
    group_by = arguments.group_by if arguments.data is not None else GROUP_PATTERN
    splits = load_splits(DataArguments(str(source), group_by=group_by, test_share=SHARED["test_share"]))
    image = splits["test"][0]["image"]["path"]
    detector = pipeline("deepfake-ensemble", model=str(ensemble))  # type: ignore[call-overload]
    verdict = detector(image, details=True)
    console.print(f'pipeline("deepfake-ensemble")("{image}", details=True) says', markup=False, soft_wrap=True)
    console.print_json(json.dumps(verdict))
    for line in (
        f"wrote {ensemble}, now the default of pipeline('deepfake-ensemble'); plots in {ensemble / 'plots'}",
        "next:",
        f"  hf-deepfake predict --model {ensemble} IMAGE_OR_FOLDER…",
        f"  hf-deepfake serve --model {ensemble}  # pip install 'hf_deepfake[serve,space]'",
        f"  hf-deepfake report {arguments.output_dir} --output report.html",
        f"  hf-deepfake evaluate --model {ensemble} --data FOLDER_WITH_real_AND_fake",
        "  hf-deepfake demo --data FOLDER_WITH_real_AND_fake --output_dir runs/mine",
    ):
        console.print(line, markup=False, soft_wrap=True)
    return 0
