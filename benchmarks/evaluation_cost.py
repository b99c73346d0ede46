"""What an evaluation under corruptions costs beside the forward passes that it cannot do without.

python benchmarks/evaluation_cost.py --models RUN RUN RUN --data DIR [--images 40] [--pairs 5]

Each pair of runs, side by side on one machine: images from encoded files through 5 corruptions at 5 severities and all
models, and the models alone on as many ready tensors in the same batches.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image
from readme_table import machine, save_figures

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.evaluation import predictions
from hf_deepfake.evaluation.robustness import corruption_changes
from hf_deepfake.models.detector import LoadedDetector, load_detector

CORRUPTIONS = ("jpeg", "resize", "blur", "noise", "contrast")


def main() -> None:
    """Time both in turns and store the median ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--images", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    detectors = [load_detector(model) for model in arguments.models]
    rows = everything(load_data(DataArguments(dataset_name=arguments.data), both_classes=False))
    images = rows.shuffle(seed=0).select(range(arguments.images))["image"][:]
    changes = list(corruption_changes(CORRUPTIONS, range(1, 6)).values())
    _evaluate(detectors, images[:4], changes)
    measured = [
        (_evaluate(detectors, images, changes), _forward(detectors, images, len(changes)))
        for _ in range(arguments.pairs)
    ]
    ratios = [whole / bare for (whole, _), bare in measured]
    decoded = {count for (_, count), _ in measured}
    row = {
        "evaluation": f"{arguments.images} images, {len(changes)} corrupted versions, {len(detectors)} models",
        "seconds, median": f"{statistics.median(whole for (whole, _), _ in measured):.1f}",
        "seconds of bare forward passes": f"{statistics.median(bare for _, bare in measured):.1f}",
        "ratio, median": f"{statistics.median(ratios):.2f}",
        "ratios": ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios)),
        "decodings of each image": "/".join(f"{count / arguments.images:g}" for count in sorted(decoded)),
    }
    save_figures(
        "evaluation_cost",
        title=f"Evaluation under corruptions ({', '.join(CORRUPTIONS)}, severities 1 to 5)",
        command="python benchmarks/evaluation_cost.py --models RUN RUN RUN --data DIR",
        machine=machine(),
        rows=[row],
    )
    print(row)


def _evaluate(detectors: Sequence[LoadedDetector], images: Sequence[Any], changes: Sequence[Any]) -> tuple[float, int]:
    """Seconds from encoded files to scores, and how many images were decoded."""
    decoded = 0
    original = predictions.open_rgb

    def counting(image: Any) -> Any:
        nonlocal decoded
        decoded += 1
        return original(image)

    predictions.open_rgb = counting
    started = time.perf_counter()
    scored = sum(len(indices) for indices, _, _ in predictions.score_changes(detectors, images, changes))
    seconds = time.perf_counter() - started
    predictions.open_rgb = original
    assert scored == len(images)
    return seconds, decoded


def _forward(detectors: Sequence[LoadedDetector], images: Sequence[Any], versions: int) -> float:
    """Seconds of the same number of forward passes in the same batches, on tensors that are there already."""
    views = [detector.processor(images=[_gray()] * versions, return_tensors="pt") for detector in detectors]
    started = time.perf_counter()
    for _ in images:
        for detector, batch in zip(detectors, views, strict=True):
            predictions._logits(detector, dict(batch), 16)
    return time.perf_counter() - started


def _gray() -> Image.Image:
    return Image.new("RGB", (256, 256), "gray")


if __name__ == "__main__":
    main()
