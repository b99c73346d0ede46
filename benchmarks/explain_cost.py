"""What heatmaps cost beside the passes that they cannot do without, and how complete Integrated Gradients are.

python benchmarks/explain_cost.py --model ENSEMBLE --data DIR [--pairs 5] [--images 20]

Each pair, side by side on one machine: a method on one image, and as many forward and backward passes of the same score
in the same batches.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from readme_table import machine, save_figures
from torchvision.transforms.v2 import functional

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.explain import integrated
from hf_deepfake.explain.attributions import explain
from hf_deepfake.explain.cams import grad_cam
from hf_deepfake.explain.integrated import integrated_gradients
from hf_deepfake.explain.scores import Score
from hf_deepfake.models.detector import LoadedDetector, load_detector

STEPS, BATCH = 32, 16


def main() -> None:
    """Time in turns and store the median ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=20, help="to measure completeness on")
    arguments = parser.parse_args()
    detector = load_detector(arguments.model)
    rows = everything(load_data(DataArguments(dataset_name=arguments.data), both_classes=False)).shuffle(seed=0)
    images = [open_rgb(image) for image in rows["image"][: arguments.images]]
    score = Score(detector)
    pixels = [functional.pil_to_tensor(image)[None] / 255 for image in images[: arguments.pairs]]
    cam = _ratios(pixels, lambda image: grad_cam(score, image), lambda image: _passes(score, image, 1))
    most, integrated.MOST_STEPS = integrated.MOST_STEPS, STEPS  # the first round alone; more steps are more passes
    gradients = _ratios(
        pixels,
        lambda image: integrated_gradients(score, image, BATCH),
        lambda image: _passes(score, image, STEPS),
    )
    integrated.MOST_STEPS = most
    rows_of = {"grad_cam beside 1 pass": cam, f"integrated_gradients beside {STEPS} passes": gradients}
    measured = [
        {"what": what, "ratio, median": f"{statistics.median(ratios):.2f}", "ratios": _listed(ratios)}
        for what, ratios in rows_of.items()
    ]
    measured.append(_completeness(detector, images))
    for row in measured:
        print(row)
    save_figures(
        "explain_cost",
        title=f"Cost of heatmaps of an ensemble of {len(score.names)}",
        command="python benchmarks/explain_cost.py --model ENSEMBLE --data DIR",
        machine=machine(),
        rows=measured,
    )


def _ratios(
    images: Sequence[torch.Tensor], method: Callable[[torch.Tensor], Any], passes: Callable[[torch.Tensor], Any]
) -> list[float]:
    method(images[0])
    return [_seconds(method, image) / _seconds(passes, image) for image in images]


def _seconds(run: Callable[[torch.Tensor], Any], image: torch.Tensor) -> float:
    started = time.perf_counter()
    run(image)
    return time.perf_counter() - started


def _passes(score: Score, image: torch.Tensor, count: int) -> None:
    for start in range(0, count, BATCH):
        batch = image.repeat(min(BATCH, count - start), 1, 1, 1).requires_grad_()
        torch.autograd.grad(score(batch).sum(), batch)


def _completeness(detector: LoadedDetector, images: Sequence[Image.Image]) -> dict[str, Any]:
    """How far the attributions' sum is from the difference of scores, as a share of it."""
    gaps = np.array([explain(detector, image, "integrated_gradients").convergence_delta for image in images])
    return {
        "what": f"integrated_gradients of {len(gaps)} images: missing share of the difference of scores",
        "ratio, median": f"{np.median(gaps):.4f}",
        "ratios": f"below 0.01 for {(gaps < integrated.GAP).sum()} of {len(gaps)}, at most {gaps.max():.4f}",
    }


def _listed(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.2f}" for ratio in sorted(ratios))


if __name__ == "__main__":
    main()
