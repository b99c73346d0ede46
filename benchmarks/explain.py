"""How far the heatmaps of each method can be trusted, and what they cost.

python benchmarks/explain.py --model ENSEMBLE --data DIR --blend_model RUN --blend_data DIR [--images 12] [--blends 50]

Faithfulness is measured on fakes of --data that the detector calls fake, which alone have evidence to be found; pointing
on self-blends of the photographs of --blend_data, by a detector that knows such fakes. A method that does not fit the model
has no row. Rows are stored as they come; those of methods that are not asked for are kept.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image
from readme_table import RESULTS, machine, save_figures

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.predictions import score_images
from hf_deepfake.explain.attributions import METHODS, explain
from hf_deepfake.explain.faithfulness import faithfulness, randomisation_check
from hf_deepfake.explain.ground_truth import pointing_on_blends, rate_interval
from hf_deepfake.explain.scores import Score
from hf_deepfake.labels import FAKE, REAL
from hf_deepfake.models.detector import LoadedDetector, load_detector


def main() -> None:
    """Measure method by method and store the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="fakes that the ensemble was not trained on")
    parser.add_argument("--images", type=int, default=12, help="fakes to explain")
    parser.add_argument("--blends", type=int, default=50, help="photographs to blend")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--blend_model", required=True, help="detector that knows self-blends, for pointing")
    parser.add_argument("--blend_data", required=True, help="photographs that it was not trained on")
    arguments = parser.parse_args()
    detector, blend_detector = load_detector(arguments.model), load_detector(arguments.blend_model)
    fakes = _called_fake(detector, _images(arguments.data, FAKE), arguments.images)
    photographs = list(map(open_rgb, _images(arguments.blend_data, REAL)[: arguments.blends]))
    title = f"Heatmaps of {len(fakes)} fakes that the ensemble calls fake, and of {len(photographs)} self-blends"
    measured = _stored(title)
    for method in arguments.methods:
        try:
            row = _measure(detector, fakes, method) | _point(blend_detector, photographs, method)
        except InputError as error:
            print(f"{method}: left out: {error}")
            continue
        print(row)
        measured[method] = row
        save_figures(
            "explain",
            title=title,
            command="python benchmarks/explain.py --model ENSEMBLE --data DIR --blend_model RUN --blend_data DIR",
            machine=machine(),
            rows=[measured[name] for name in METHODS if name in measured],
        )


def _stored(title: str) -> dict[str, dict[str, Any]]:
    """Rows by method of an earlier run on as many images."""
    path = RESULTS / "explain.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {row["method"]: row for row in figures["rows"]} if figures.get("title") == title else {}


def _images(data: str, label: int) -> Sequence[Any]:
    rows = everything(load_data(DataArguments(dataset_name=data), both_classes=False)).shuffle(seed=0)
    return rows.select(np.flatnonzero(np.array(rows["label"][:]) == label))["image"]


def _called_fake(detector: LoadedDetector, images: Sequence[Any], count: int) -> list[Image.Image]:
    found: list[Image.Image] = []
    threshold = float(getattr(detector.model.config, "threshold", 0.5))
    for start in range(0, len(images), 16):
        part = [open_rgb(image) for image in images[start : start + 16]]
        for indices, logits, _ in score_images(*detector[:2], part, detector.fake_column):
            prob_fake = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
            found += [part[index] for index, prob in zip(indices, prob_fake, strict=True) if prob >= threshold]
        if len(found) >= count:
            break
    return found[:count]


def _measure(detector: LoadedDetector, images: Sequence[Image.Image], method: str) -> dict[str, Any]:
    """Faithfulness, dependence on the weights and seconds of one method, means over the images."""
    score = Score(detector)
    seconds, measured, correlations = [], [], []
    for index, image in enumerate(images):
        started = time.perf_counter()
        explanation = explain(detector, image, method)
        seconds.append(time.perf_counter() - started)
        measured.append(faithfulness(score, np.asarray(image), explanation.heatmap, seed=index))
        again = functools.partial(explain, detector, image, method)
        correlations.append(randomisation_check(lambda again=again: again().heatmap, detector.model, seed=index))
    better = sum(one.better_than_random for one in measured)
    low, high = rate_interval(better, len(measured))
    areas = {
        f"{which} AUC (random)": f"{_mean(measured, f'{which}_auc'):.3f} ({_mean(measured, f'random_{which}_auc'):.3f})"
        for which in ("deletion", "insertion")
    }
    return {
        "method": method,
        **areas,
        "beats random": f"{better / len(measured):.2f} [{low:.2f}, {high:.2f}]",
        "correlation with random weights": f"{statistics.mean(correlations):.2f}",
        "seconds an image": f"{statistics.median(seconds):.2f}",
    }


def _mean(measured: Sequence[Any], name: str) -> float:
    return statistics.mean(getattr(one, name) for one in measured)


def _point(detector: LoadedDetector, photographs: Sequence[Image.Image], method: str) -> dict[str, Any]:
    found = pointing_on_blends(detector, photographs, method)
    return {
        "points into the blend": f"{found.pointing:.2f} [{found.pointing_low:.2f}, {found.pointing_high:.2f}]",
        "random pixel": f"{found.pointing_chance:.2f}",
        "into others' blends": f"{found.pointing_elsewhere:.2f}",
    }


if __name__ == "__main__":
    main()
