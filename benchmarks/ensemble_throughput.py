"""Images a second of an ensemble of three in one pipeline, against three stock pipelines over the same files.

python benchmarks/ensemble_throughput.py --data DIR [--images 500] [--rounds 5] [--side 1024]

DIR has photographs as JPEG; with --side they are cut square and written anew at that many pixels, with the grain that enlarging
takes away. EfficientNet-B0, ResNet-18 and ConvNeXt-Atto read 224 pixels, with random weights. In every round, in turns: three
stock `pipeline("image-classification")`, `pipeline("deepfake-ensemble")` in float32 and in bfloat16 (batches of 16), and the
members alone on as many ready tensors, in each precision. Ratios are medians over the rounds.
"""

import argparse
import io
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from readme_table import machine, save_figures
from transformers import pipeline

from hf_deepfake.arguments import ModelArguments
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.ensemble.hub.running_deepfake_ensemble import has_instructions_for
from hf_deepfake.models.detector import new_detector

NAMES, BATCH = ("efficientnet_b0", "resnet18", "convnext_atto"), 16
HALF = torch.bfloat16


def main() -> None:
    """Time all ways in turns, compare their scores and store the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--side", type=int, help="pixels of the JPEGs; by default the files as they are")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = _files(arguments.data, arguments.images, arguments.side, Path(folder))
        runs = [_detector(name, Path(folder) / name) for name in NAMES]
        for part in assemble(runs, NAMES, Fit("soft", [1.0] * 3, [1.0] * 3, [0.5] * 3, {"soft": 0.5})):
            part.save_pretrained(Path(folder) / "ensemble")
        ways = _ways(runs, Path(folder) / "ensemble", files)
        for way in ways.values():
            way(files[:BATCH])
        rounds: list[dict[str, float]] = []
        scores: dict[str, Any] = {}
        for _ in range(arguments.rounds):
            rounds.append({})
            for name, way in ways.items():
                started = time.perf_counter()
                scores[name] = way(files)
                rounds[-1][name] = time.perf_counter() - started
            print({name: f"{len(files) / seconds:.1f}/s" for name, seconds in rounds[-1].items()}, flush=True)
    rows = [_row(precision, rounds, scores, len(files)) for precision in ("float32", "bfloat16")]
    native = "with" if has_instructions_for(HALF, torch.device("cpu")) else "without"
    size = f"{arguments.side}-pixel" if arguments.side else "their own size in"
    save_figures(
        "ensemble_throughput",
        title=f"An ensemble of three ({', '.join(NAMES)}, 224 pixels) over {len(files)} files, {size} JPEG",
        command="python benchmarks/ensemble_throughput.py --data DIR"
        + (f" --side {arguments.side}" if arguments.side else ""),
        machine=f"{machine()}, {native} bfloat16 instructions, {torch.get_num_threads()} threads",
        rows=rows,
    )
    for row in rows:
        print(row)


def _files(data: Path, images: int, side: int | None, folder: Path) -> list[str]:
    """That many JPEG files, the photographs of the folder one after the other and again from the start."""
    found = sorted(path for path in data.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg"))
    files = []
    for number, path in zip(range(images), itertools.cycle(found), strict=False):
        files.append(str(folder / f"{number:04d}.jpg"))
        Path(files[-1]).write_bytes(path.read_bytes() if side is None else _enlarged(path, side))
    return files


def _enlarged(path: Path, side: int) -> bytes:
    image = Image.open(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    grain = np.random.default_rng(0).normal(0, 3, (side, side, 3))
    encoded = io.BytesIO()
    Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def _detector(name: str, folder: Path) -> Path:
    """A detector of random weights whose scores differ from image to image."""
    torch.manual_seed(0)
    detector: Any = new_detector(ModelArguments(model_name_or_path=name, image_size=224))[0]
    for parameter in detector.timm_model.get_classifier().parameters():
        torch.nn.init.normal_(parameter)
    detector.save_pretrained(folder)
    return folder


def _ways(runs: Sequence[Path], ensemble: Path, files: Sequence[str]) -> dict[str, Callable[[Sequence[str]], Any]]:
    """By name, what gives a probability of fake for each file, or only the forward passes for as many."""
    stock = [pipeline("image-classification", model=str(run), batch_size=BATCH, device=-1) for run in runs]
    settings = {"model": str(ensemble), "batch_size": BATCH, "device": -1}
    ours = {dtype: pipeline("deepfake-ensemble", dtype=dtype, **settings) for dtype in (torch.float32, HALF)}
    ways: dict[str, Callable[[Sequence[str]], Any]] = {
        "stock": lambda files: np.mean([_scores(one(list(files))) for one in stock], axis=0)
    }
    for dtype, one in ours.items():
        name = str(dtype).removeprefix("torch.")
        ways[name] = lambda files, one=one: _scores(one(list(files)))  # type: ignore[misc]
        ways[f"{name} bare"] = _bare(one, files)
    return ways


def _bare(ours: Any, files: Sequence[str]) -> Callable[[Sequence[str]], None]:
    """The same networks in the same precision and layout, on ready tensors."""
    model = ours.model
    views = ours.image_processor(list(files[:BATCH])).to(model.dtype)

    def run(files: Sequence[str]) -> None:
        with torch.inference_mode():
            for start in range(0, len(files), BATCH):
                rows = min(BATCH, len(files) - start)
                for member, view in zip(model.members, model.config.member_views, strict=True):
                    member(pixel_values=list(views.values())[view][:rows])

    return run


def _scores(answers: list[Any]) -> np.ndarray[Any, Any]:
    return np.array([next(one["score"] for one in answer if one["label"] == "fake") for answer in answers])


def _row(name: str, rounds: Sequence[dict[str, float]], scores: dict[str, Any], images: int) -> dict[str, str]:
    seconds = {way: statistics.median(turn[way] for turn in rounds) for way in rounds[0]}
    ratios = sorted(turn["stock"] / turn[name] for turn in rounds)
    of_bare = statistics.median(turn[f"{name} bare"] / turn[name] for turn in rounds)
    apart = np.abs(scores[name] - scores["stock"]).max()
    same = np.mean((scores[name] >= 0.5) == (scores["stock"] >= 0.5))
    return {
        "asked for": name,
        "three stock pipelines, images/s": f"{images / seconds['stock']:.1f}",
        "ensemble, images/s": f"{images / seconds[name]:.1f}",
        "ratio": f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
        "of bare forward passes": f"{of_bare:.2f}",
        "largest difference of scores": f"{apart:.1e}",
        "equal verdicts": f"{same:.1%}",
    }


if __name__ == "__main__":
    main()
