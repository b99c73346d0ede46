"""Images a second of `hf-deepfake train` against a bare PyTorch loop, and against Trainer as it comes.

python benchmarks/train_overhead.py --images DIR [--backbone NAME --image_size N --batch_size N --precision fp16 --steps N]

DIR holds real/ and fake/. Random weights and no augmentation. Each way runs in a fresh process, in turns with what it is
compared with, and its first steps are not timed; no way evaluates or saves. On a GPU it stores `train_overhead_gpu`.

- images in memory: `train`, its training images replaced by tensors, against AdamW, clipping and schedule in a loop by hand,
  with channels_last and freed memory kept in both, so that only the Trainer and our hooks differ.
- image files: `train` with channels_last against Trainer's defaults, PIL and the stock image processor.
"""

import argparse
import itertools
import math
import multiprocessing
import os
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from readme_table import machine, save_figures
from torch.utils.data import DataLoader, Dataset, TensorDataset
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_deepfake.arguments import ModelArguments
from hf_deepfake.labels import NAMES
from hf_deepfake.memory import keep_freed_memory
from hf_deepfake.models.detector import new_detector
from hf_deepfake.recipe import parse_recipe
from hf_deepfake.training import train as training_module
from hf_deepfake.training.train import RECIPE, train

RATE = 1e-4
PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


class Setting(NamedTuple):
    """What is trained, and how long.

    Attributes:
        backbone: timm name.
        image_size: Pixels.
        batch_size: Images.
        precision: One of `PRECISIONS`.
        warm_up: Steps that are not timed.
        steps: Steps that are.
    """

    backbone: str = "tf_efficientnet_lite0"
    image_size: int = 192
    batch_size: int = 16
    precision: str = "fp32"
    warm_up: int = 3
    steps: int = 8

    @property
    def images(self) -> int:
        """Images that one run sees."""
        return (self.warm_up + self.steps) * self.batch_size


def main() -> None:
    """Compare both pairs in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with real/ and fake/")
    parser.add_argument("--pairs", type=int, default=5)
    for name, value in Setting()._asdict().items():
        choices = PRECISIONS if name == "precision" else None
        parser.add_argument(f"--{name}", type=type(value), default=value, choices=choices)
    arguments = vars(parser.parse_args())
    images, pairs = (arguments.pop(name) for name in ("images", "pairs"))
    setting = Setting(**arguments)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = copy_images(images, Path(folder), setting.images)
        for data, ours, other in (("in memory", "train in memory", "bare loop"), ("files", "train", "stock Trainer")):
            measured = [[run(way, Path(folder), setting).rate for way in (ours, other)] for _ in range(pairs)]
            ratios = sorted(first / second for first, second in measured)
            first, second = (statistics.median(column) for column in zip(*measured, strict=True))
            rows.append(
                {
                    "images": data,
                    "compared with": other,
                    "its images/s": f"{second:.1f}",
                    "ours, images/s": f"{first:.1f}",
                    "ratio, median": f"{statistics.median(ratios):.2f}",
                    "ratios": ", ".join(f"{ratio:.2f}" for ratio in ratios),
                }
            )
            print(rows[-1], flush=True)
    flags = [f"--{name} {value}" for name, value in setting._asdict().items() if value != Setting()._asdict()[name]]
    save_figures(
        "train_overhead_gpu" if torch.cuda.is_available() else "train_overhead",
        title=f"Training {setting.backbone} at {setting.image_size} pixels, batches of {setting.batch_size}, "
        f"{setting.precision}; {files}",
        command=" ".join(["python benchmarks/train_overhead.py --images DIR", *flags]),
        machine=machine(),
        rows=rows,
    )


def copy_images(source: Path, target: Path, count: int) -> str:
    """As many training images as one run sees, half of them fake, and one of each class to validate on; what they are."""
    for name in NAMES:
        paths = sorted((source / name).glob("*.jpg"))
        for number, path in enumerate(itertools.islice(itertools.cycle(paths[1:]), count // 2)):
            folder = target / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / f"{number:05d}.jpg")
        (target / "validation" / name).mkdir(parents=True)
        shutil.copyfile(paths[0], target / "validation" / name / "0.jpg")
    with Image.open(paths[0]) as image:
        return f"JPEG files of about {image.width}x{image.height} pixels"


class Measured(NamedTuple):
    """What a run was.

    Attributes:
        rate: Images a second.
        busy: Share of the time in which anything ran on the GPU, in per cent; NaN where nobody looked.
    """

    rate: float
    busy: float = math.nan


# A process that has imported the package and done nothing else; every run is a fork of it.
_FRESH = multiprocessing.get_context("forkserver")
_FRESH.set_forkserver_preload([training_module.__name__])


def run(way: str, data: Path, setting: Setting) -> Measured:
    """A way in a fresh process."""
    with ProcessPoolExecutor(1, _FRESH, _be_quiet) as process:
        measured = process.submit(WAYS[way], data, setting).result()
    print(f"{way}: {measured.rate:.1f} images/s", flush=True)
    return measured


def _be_quiet() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


class _Clock(TrainerCallback):
    """Times the steps after the warm-up, and ends the run where training ends."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.ended, self.shares = setting, threading.Event(), list[int]()
        self.watch = threading.Thread(target=self._sample)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.setting.warm_up:
            self.started = _now()
            self.watch.start()
        if state.global_step == state.max_steps:
            rate = self.setting.steps * self.setting.batch_size / (_now() - self.started)
            self.ended.set()
            self.watch.join()
            raise _Trained(rate, statistics.mean(self.shares) if self.shares else math.nan)

    def _sample(self) -> None:
        while torch.cuda.is_available() and not self.ended.wait(0.2):
            self.shares.append(torch.cuda.utilization())


class _Trained(Exception):  # noqa: N818 (it says that all went well)
    """Carries what `Measured` holds."""


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


class _InMemory(Dataset[dict[str, Any]]):
    """Images of noise, all there, as `ImageTransform` would give them."""

    def __init__(self, setting: Setting) -> None:
        self.images, self.labels = _noise(setting)

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        return [{"pixel_values": self.images[index], "labels": int(self.labels[index])} for index in indices]


def _noise(setting: Setting) -> tuple[torch.Tensor, torch.Tensor]:
    side = setting.image_size
    return torch.rand(setting.images, 3, side, side), torch.arange(setting.images) % 2


def _train(images: Path, setting: Setting, in_memory: bool = False) -> Measured:
    def timed(trainer: Trainer) -> None:
        if in_memory:
            trainer.train_dataset = _InMemory(setting)
        trainer.add_callback(_Clock(setting))

    try:
        _with_trainer(images, setting, timed)
    except _Trained as trained:
        return Measured(*trained.args)
    raise SystemExit("the training ended before its last step")


def _train_in_memory(images: Path, setting: Setting) -> Measured:
    return _train(images, setting, in_memory=True)


def _pipeline(images: Path, setting: Setting) -> Measured:
    """The images that training would be given, without training on them."""

    def read(trainer: Trainer) -> None:
        started = 0.0
        for step, _ in enumerate(trainer.get_train_dataloader()):
            if step == setting.warm_up:
                started = _now()
        raise _Trained((step - setting.warm_up) * setting.batch_size / (_now() - started))

    try:
        _with_trainer(images, setting, read)
    except _Trained as trained:
        return Measured(*trained.args)
    raise SystemExit("nothing was read")


def _with_trainer(images: Path, setting: Setting, use: Callable[[Trainer], None]) -> None:
    """Let `train` build its trainer, and hand that to a function before it trains."""
    steps = setting.warm_up + setting.steps
    flags: dict[str, Any] = {
        "dataset_name": images,
        "output_dir": tempfile.mkdtemp(dir=images),
        "model_name_or_path": setting.backbone,
        "image_size": setting.image_size,
        "channels_last": True,
        "transforms": "none",
        "learning_rate": RATE,
        "per_device_train_batch_size": setting.batch_size,
        "max_steps": steps,
        "eval_strategy": "steps",
        "eval_steps": 2 * steps,
        "save_strategy": "steps",
        "save_steps": 2 * steps,
        "disable_tqdm": True,
    } | ({} if setting.precision == "fp32" else {setting.precision: True})
    build = training_module.build_trainer

    def built(*args: Any, **kwargs: Any) -> Trainer:
        trainer = build(*args, **kwargs)
        use(trainer)
        return trainer

    training_module.build_trainer = built  # type: ignore[assignment]
    texts = [text for key, value in flags.items() for text in (f"--{key}", str(value))]
    train(*parse_recipe(RECIPE, texts, "run"))


def _stock(images: Path, setting: Setting) -> Measured:
    """As the examples of transformers do it."""
    from datasets import load_dataset

    detector, processor, _ = new_detector(ModelArguments(setting.backbone, image_size=setting.image_size))

    def transform(rows: dict[str, Any]) -> dict[str, Any]:
        views = [processor(image.convert("RGB"), return_tensors="pt")["pixel_values"][0] for image in rows["image"]]
        return {"pixel_values": views, "labels": rows["label"]}

    options = TrainingArguments(
        output_dir=tempfile.mkdtemp(dir=images),
        learning_rate=RATE,
        per_device_train_batch_size=setting.batch_size,
        max_steps=setting.warm_up + setting.steps,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        **({} if setting.precision == "fp32" else {setting.precision: True}),
    )
    rows = load_dataset("imagefolder", data_dir=str(images / "train"), split="train", cache_dir=str(images / "cache"))
    clock = _Clock(setting)
    trainer = Trainer(detector, options, train_dataset=rows.with_transform(transform), callbacks=[clock])
    try:
        trainer.train()
    except _Trained as trained:
        return Measured(*trained.args)
    raise SystemExit("the training ended before its last step")


def _bare(images: Path, setting: Setting) -> Measured:
    """The same updates by hand."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        keep_freed_memory()
    detector = new_detector(ModelArguments(setting.backbone, image_size=setting.image_size))[0]
    detector.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(detector.parameters(), lr=RATE, weight_decay=0, fused=True)
    steps = setting.warm_up + setting.steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    scaler = torch.amp.GradScaler(device.type, enabled=setting.precision == "fp16")
    halved = {"dtype": PRECISIONS[setting.precision], "enabled": setting.precision != "fp32"}
    for step, (pixel_values, labels) in enumerate(_batches(setting, device)):
        if step == setting.warm_up:
            started = _now()
        with torch.autocast(device.type, **halved):
            logits = detector(pixel_values).logits
        scaler.scale(torch.nn.functional.cross_entropy(logits.float(), labels)).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(detector.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        optimizer.zero_grad()
    return Measured(setting.steps * setting.batch_size / (_now() - started))


def _batches(setting: Setting, device: torch.device) -> Iterator[list[torch.Tensor]]:
    cuda = device.type == "cuda"
    images = TensorDataset(*_noise(setting))
    for batch in DataLoader(images, setting.batch_size, shuffle=True, pin_memory=cuda):
        yield [tensor.to(device, non_blocking=cuda) for tensor in batch]


WAYS = {
    "train": _train,
    "train in memory": _train_in_memory,
    "pipeline": _pipeline,
    "stock Trainer": _stock,
    "bare loop": _bare,
}


if __name__ == "__main__":
    main()
