"""Images a second of `hf-deepfake train` against a bare PyTorch loop, and against Trainer as it comes.

python benchmarks/train_overhead.py --images DIR

DIR holds real/ and fake/. EfficientNet-Lite0 at 192 pixels, batches of 16, random weights and no augmentation. Each way runs
in a fresh process, in turns with what it is compared with, and its first steps are not timed; no way evaluates or saves.

- images in memory: `train`, its training images replaced by tensors, against AdamW, clipping and schedule in a loop by hand,
  with channels_last and freed memory kept in both, so that only the Trainer and our hooks differ.
- image files: `train` with channels_last against Trainer's defaults, PIL and the stock image processor.
"""

import argparse
import itertools
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from readme_table import machine, save_figures
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_deepfake.arguments import ModelArguments
from hf_deepfake.labels import NAMES
from hf_deepfake.models.detector import new_detector
from hf_deepfake.recipe import parse_recipe
from hf_deepfake.training import train as training_module
from hf_deepfake.training.train import RECIPE, _keep_freed_memory, train

BACKBONE, SIDE, BATCH, WARM_UP, RATE = "tf_efficientnet_lite0", 192, 16, 3, 1e-4
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Compare both pairs in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with real/ and fake/")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="timed steps of a run")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)  # of the process that a run starts
    arguments = parser.parse_args()
    if arguments.way is not None:
        print(WAYS[arguments.way](arguments.images, WARM_UP + arguments.steps, arguments.precision))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        _copy_images(arguments.images, Path(folder), (WARM_UP + arguments.steps) * BATCH)
        for data, ours, other in (("in memory", "train in memory", "bare loop"), ("files", "train", "stock Trainer")):
            pairs = [[_run(way, Path(folder), arguments) for way in (ours, other)] for _ in range(arguments.pairs)]
            ratios = sorted(first / second for first, second in pairs)
            first, second = (statistics.median(column) for column in zip(*pairs, strict=True))
            rows.append(
                {
                    "images": data,
                    "precision": arguments.precision,
                    "compared with": other,
                    "its images/s": f"{second:.1f}",
                    "ours, images/s": f"{first:.1f}",
                    "ratio, median": f"{statistics.median(ratios):.2f}",
                    "ratios": ", ".join(f"{ratio:.2f}" for ratio in ratios),
                }
            )
            print(rows[-1], flush=True)
    save_figures(
        "train_overhead",
        title=f"Training {BACKBONE} at {SIDE} pixels, batches of {BATCH}",
        command="python benchmarks/train_overhead.py --images DIR",
        machine=machine(),
        rows=rows,
    )


def _copy_images(source: Path, target: Path, count: int) -> None:
    """As many training images as one run sees, half of them fake, and one of each class to validate on."""
    for name in NAMES:
        paths = sorted((source / name).glob("*.jpg"))
        for number, path in enumerate(itertools.islice(itertools.cycle(paths[1:]), count // 2)):
            folder = target / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / f"{number:05d}.jpg")
        (target / "validation" / name).mkdir(parents=True)
        shutil.copyfile(paths[0], target / "validation" / name / "0.jpg")


def _run(way: str, data: Path, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--images", str(data), "--way", way]
    command += ["--steps", str(arguments.steps), "--precision", arguments.precision]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{way}: {done.stderr[-2000:]}")
    rate = float(done.stdout.splitlines()[-1])
    print(f"{way}: {rate:.1f} images/s", flush=True)
    return rate


class _Clock(TrainerCallback):
    """Times the steps after the warm-up, and ends the run where training ends."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == WARM_UP:
            self.started = _now()
        if state.global_step == state.max_steps:
            raise _Trained((state.max_steps - WARM_UP) * BATCH / (_now() - self.started))


class _Trained(Exception):  # noqa: N818 (it says that all went well)
    """Carries the images a second."""


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class _InMemory(Dataset[dict[str, Any]]):
    """Images of noise, all there, as `ImageTransform` would give them."""

    def __init__(self, count: int) -> None:
        self.images, self.labels = _noise(count)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [{"pixel_values": self.images[index], "labels": int(self.labels[index])} for index in indices]


def _noise(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.rand(count, 3, SIDE, SIDE), torch.arange(count) % 2


def _train(images: Path, steps: int, precision: str, in_memory: bool = False) -> float:
    flags: dict[str, Any] = {
        "dataset_name": images,
        "output_dir": tempfile.mkdtemp(dir=images),
        "model_name_or_path": BACKBONE,
        "image_size": SIDE,
        "channels_last": True,
        "transforms": "none",
        "learning_rate": RATE,
        "per_device_train_batch_size": BATCH,
        "max_steps": steps,
        "eval_strategy": "steps",
        "eval_steps": 2 * steps,
        "save_strategy": "steps",
        "save_steps": 2 * steps,
        "disable_tqdm": True,
    } | ({} if precision == "fp32" else {precision: True})
    build = training_module.build_trainer

    def timed(*args: Any, **kwargs: Any) -> Trainer:
        trainer = build(*args, **kwargs)
        if in_memory:
            trainer.train_dataset = _InMemory(steps * BATCH)
        trainer.add_callback(_Clock())
        return trainer

    training_module.build_trainer = timed  # type: ignore[assignment]
    try:
        train(
            *parse_recipe(RECIPE, [text for key, value in flags.items() for text in (f"--{key}", str(value))], "run")
        )
    except _Trained as trained:
        return float(trained.args[0])
    raise SystemExit("the training ended before its last step")


def _train_in_memory(images: Path, steps: int, precision: str) -> float:
    return _train(images, steps, precision, in_memory=True)


def _stock(images: Path, steps: int, precision: str) -> float:
    """As the examples of transformers do it."""
    from datasets import load_dataset

    detector, processor, _ = new_detector(ModelArguments(BACKBONE, image_size=SIDE))

    def transform(rows: dict[str, Any]) -> dict[str, Any]:
        views = [processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0] for image in rows["image"]]
        return {"pixel_values": views, "labels": rows["label"]}

    options = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=images),
        learning_rate=RATE,
        per_device_train_batch_size=BATCH,
        max_steps=steps,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        **({} if precision == "fp32" else {precision: True}),
    )
    rows = load_dataset("imagefolder", data_dir=str(images / "train"), split="train", cache_dir=str(images / "cache"))
    trainer = Trainer(detector, options, train_dataset=rows.with_transform(transform), callbacks=[_Clock()])
    try:
        trainer.train()
    except _Trained as trained:
        return float(trained.args[0])
    raise SystemExit("the training ended before its last step")


def _bare(images: Path, steps: int, precision: str) -> float:
    """The same updates by hand."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        _keep_freed_memory()
    detector = new_detector(ModelArguments(BACKBONE, image_size=SIDE))[0]
    detector.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=RATE, weight_decay=0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
    for step, (pixel_values, labels) in enumerate(_batches(steps, device)):
        if step == WARM_UP:
            started = _now()
        with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32"):
            logits = detector(pixel_values).logits
        scaler.scale(torch.nn.functional.cross_entropy(logits.float(), labels)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
    return (steps - WARM_UP) * BATCH / (_now() - started)


def _batches(steps: int, device: torch.device) -> Iterator[list[torch.Tensor]]:
    cuda = device.type == "cuda"
    for batch in DataLoader(TensorDataset(*_noise(steps * BATCH)), BATCH, shuffle=True, pin_memory=cuda):
        yield [tensor.to(device, non_blocking=cuda) for tensor in batch]


WAYS = {"train": _train, "train in memory": _train_in_memory, "stock Trainer": _stock, "bare loop": _bare}


if __name__ == "__main__":
    main()
