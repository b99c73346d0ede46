"""Size, speed and AUC of an ensemble's exports, from files to scores, against PyTorch.

python benchmarks/export.py --model ENSEMBLE --data DIR --calibration_data DIR --exports DIR [--rounds 5]

DATA is labelled, `--calibration_data` is for int8 and holds other images. Exports that `--exports` lacks are made first. Every
way scores all files in every round, in turns and in batches of 16. "Eager" is the ensemble as transformers loads it: float32,
contiguous, files opened by PIL and resized by each member's own processor in one thread. "Ours" is what `hf-deepfake predict`
does with the checkpoint, and with each export.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from readme_table import machine, save_figures
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import view_key
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import verdict
from hf_deepfake.ensemble.hub.running_deepfake_ensemble import has_instructions_for, speed_up
from hf_deepfake.evaluation.predictions import score_images
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.serving.export import PRECISIONS, export

BATCH = 16
EAGER, OURS = "PyTorch, eager", "PyTorch, ours"

Way = Callable[[Sequence[str]], NDArray[np.float64]]
"""Gives a probability of fake for each file."""


def main() -> None:
    """Export what is missing, time all ways in turns, compare their scores and store the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--calibration_data", required=True)
    parser.add_argument("--exports", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rows = everything(load_data(DataArguments(dataset_name=arguments.data)))
    files, labels = [image["path"] for image in rows["image"]], np.array(rows["label"][:])
    folders = _exports(arguments.model, arguments.exports, arguments.calibration_data)
    ways = _ways(arguments.model, folders)
    scores, rounds = _timed(ways, files, arguments.rounds)
    config: Any = load_detector(str(arguments.model)).model.config
    sizes = {
        name: _megabytes(folder)
        for name, folder in ({EAGER: arguments.model, OURS: arguments.model} | folders).items()
    }
    table = [_row(name, sizes[name], rounds, scores, labels, config) for name in ways]
    native = "with" if has_instructions_for(torch.bfloat16, torch.device("cpu")) else "without"
    save_figures(
        "export",
        title=f"An ensemble of three ({', '.join(config.member_names)}) as one graph, {len(files)} files in and scores out",
        command="python benchmarks/export.py --model ENSEMBLE --data DIR --calibration_data DIR --exports DIR",
        machine=f"{machine()}, {native} bfloat16 instructions, {torch.get_num_threads()} threads",
        rows=table,
    )
    for row in table:
        print(row)


def _exports(model: Path, folder: Path, calibration_data: str) -> dict[str, Path]:
    """The folder of each export by its name."""
    folders = {}
    for format, precisions in PRECISIONS.items():
        for precision in precisions:
            name = f"{format} {precision}"
            folders[name] = folder / name.replace(" ", "-")
            if not folders[name].is_dir():
                data = calibration_data if precision == "int8" else None
                export(str(model), folders[name], format, precision, data)
    return folders


def _ways(model: Path, folders: dict[str, Path]) -> dict[str, Way]:
    ours = load_detector(str(model))
    speed_up(ours.model)
    eager = load_detector(str(model))
    ways: dict[str, Way] = {EAGER: partial(_eager, eager), OURS: partial(_predicted, ours)}
    return ways | {name: partial(_predicted, load_detector(str(folder))) for name, folder in folders.items()}


def _eager(detector: LoadedDetector, files: Sequence[str]) -> NDArray[np.float64]:
    processors = detector.processor.processors
    parts = []
    for start in range(0, len(files), BATCH):
        images = [Image.open(file).convert("RGB") for file in files[start : start + BATCH]]
        views = {
            view_key(index): one(images, return_tensors="pt")["pixel_values"] for index, one in enumerate(processors)
        }
        with torch.inference_mode():
            parts.append(detector.model(**views).logits.softmax(dim=-1)[:, 1])
    return torch.cat(parts).double().numpy()


def _predicted(detector: LoadedDetector, files: Sequence[str]) -> NDArray[np.float64]:
    scored = score_images(*detector[:2], files, detector.fake_column, BATCH)
    return np.concatenate([expit(logits[:, 1] - logits[:, 0]) for _, logits, _ in scored])


def _timed(
    ways: dict[str, Way], files: Sequence[str], count: int
) -> tuple[dict[str, NDArray[np.float64]], list[dict[str, float]]]:
    """Scores of each way, and its seconds in each round."""
    for way in ways.values():
        way(files[:BATCH])
    scores, rounds = {}, []
    for _ in range(count):
        seconds = {}
        for name, way in ways.items():
            started = time.perf_counter()
            scores[name] = way(files)
            seconds[name] = time.perf_counter() - started
        rounds.append(seconds)
        print({name: f"{len(files) / spent:.1f}/s" for name, spent in seconds.items()}, flush=True)
    return scores, rounds


def _megabytes(folder: Path) -> float:
    kept = [path for path in folder.iterdir() if path.suffix in (".safetensors", ".onnx", ".xml", ".bin")]
    return sum(path.stat().st_size for path in kept) / 1e6


def _row(
    name: str,
    megabytes: float,
    rounds: Sequence[dict[str, float]],
    scores: dict[str, NDArray[np.float64]],
    labels: NDArray[np.int64],
    config: Any,
) -> dict[str, str]:
    found, wanted = scores[name], scores[EAGER]
    aucs = [roc_auc_score(labels, one) for one in (wanted, found)]
    verdicts = [[verdict(prob, config.threshold, config.uncertain_band) for prob in one] for one in (wanted, found)]
    return {
        "way": name,
        "MB": f"{megabytes:.1f}",
        "images/s": f"{len(labels) / statistics.median(turn[name] for turn in rounds):.0f}",
        f"times {EAGER}": _ratio([turn[EAGER] / turn[name] for turn in rounds]),
        f"times {OURS}": _ratio([turn[OURS] / turn[name] for turn in rounds]),
        "ROC AUC": f"{aucs[1]:.4f}",
        "AUC lost": f"{aucs[0] - aucs[1]:.4f}",
        "equal verdicts": f"{np.mean([one == other for one, other in zip(*verdicts, strict=True)]):.1%}",
        "largest difference of scores": f"{np.abs(found - wanted).max():.1e}",
    }


def _ratio(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


if __name__ == "__main__":
    main()
