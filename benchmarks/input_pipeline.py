"""Images a second and core from encoded JPEG to `pixel_values`, against PIL and the stock image processor.

python benchmarks/input_pipeline.py --images DIR

Takes 40 photographs of DIR, makes JPEGs of 1024 and of 256 pixels of them, and brings them to 224 pixels in both ways, in
turns, on one core: `ImageTransform` as training uses it (without augmentation), also with decoding at a smaller scale
(`dct_scaling`), and the stock way. The ratios are medians of seven turns.
"""

import argparse
import io
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from readme_table import machine, save_figures
from transformers import TimmWrapperImageProcessor, ViTImageProcessor

from hf_deepfake.arguments import AugmentationArguments
from hf_deepfake.data.transforms import ImageTransform
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import ImageReader

SIDE, TURNS = 224, 7


def main() -> None:
    """Measure both sizes and both kinds of processor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    photographs = [Image.open(path).convert("RGB") for path in sorted(parser.parse_args().images.glob("*.jpg"))[:40]]
    torch.set_num_threads(1)
    normalisation = {"mean": [0.5] * 3, "std": [0.5] * 3}
    timm = {"input_size": (3, SIDE, SIDE), "crop_pct": 1.0, "interpolation": "bicubic"} | normalisation
    processors = {
        "timm": TimmWrapperImageProcessor(timm, "tf_efficientnet_lite0"),
        "ViT": ViTImageProcessor(size={"height": SIDE, "width": SIDE}, resample=3),
    }
    rows = []
    for pixels in (1024, 256):
        encoded = [_encoded(image, pixels) for image in photographs]
        for name, processor in processors.items():
            rows.append({"processor": name, "JPEG": f"{pixels} px"} | _compare(processor, encoded))
            print(rows[-1], flush=True)
    save_figures(
        "input_pipeline",
        title="Input pipeline: encoded JPEG to a 224-pixel tensor, one core",
        command="python benchmarks/input_pipeline.py --images DIR",
        machine=machine(),
        rows=rows,
    )


def _encoded(image: Image.Image, side: int) -> bytes:
    """A JPEG of that side with fine grain, as cameras leave it: upscaled photographs alone would decode too fast."""
    resized = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float64)
    grain = np.random.default_rng(0).normal(0, 3, resized.shape)
    encoded = io.BytesIO()
    Image.fromarray((resized + grain).clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
    return encoded.getvalue()


def _compare(processor: Any, encoded: list[bytes]) -> dict[str, Any]:
    plain = AugmentationArguments(transforms=["none"])
    ours = ImageTransform(processor, plain)
    scaled = ImageTransform(processor, plain, ImageReader(smallest_side=SIDE))
    ways: dict[str, Callable[[bytes], torch.Tensor]] = {
        "stock": lambda content: processor(Image.open(io.BytesIO(content)).convert("RGB"), return_tensors="pt")[
            "pixel_values"
        ][0],
        "ours": lambda content: _through(ours, content),
        "dct_scaling": lambda content: _through(scaled, content),
    }
    grey = float(np.mean(processor.to_dict().get("image_std", [0.5]))) * 255
    distance = max(float((ways["stock"](content) - ways["ours"](content)).abs().max()) * grey for content in encoded)
    turns = [{name: _rate(way, encoded) for name, way in ways.items()} for _ in range(TURNS)]
    ratio = {name: statistics.median(turn[name] / turn["stock"] for turn in turns) for name in ways}
    return {
        "stock, images/s": round(statistics.median(turn["stock"] for turn in turns)),
        "ours, images/s": round(statistics.median(turn["ours"] for turn in turns)),
        "ratio": round(ratio["ours"], 2),
        "ratio with dct_scaling": round(ratio["dct_scaling"], 2),
        "largest difference, grey levels": round(distance, 2),
    }


def _through(transform: ImageTransform, content: bytes) -> torch.Tensor:
    row = {"image": [{"bytes": content, "path": None}], "label": [0]}
    found: torch.Tensor = transform(row)["pixel_values"][0]
    return found


def _rate(way: Callable[[bytes], torch.Tensor], encoded: list[bytes]) -> float:
    started = time.perf_counter()
    for content in encoded:
        way(content)
    return len(encoded) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
