"""Tiny models and images, built here; nothing reaches the network."""

import functools
import os
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from standin_hub import StandInHub
from transformers import (
    PreTrainedModel,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    set_seed,
)

from hf_deepfake import labels
from hf_deepfake.arguments import DataArguments, ModelArguments
from hf_deepfake.data.loading import load_splits
from hf_deepfake.ensemble.building import assemble, build_ensemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.evaluation.metrics import bootstrap_intervals
from hf_deepfake.evaluation.predictions import predictions_table, save_predictions, score_images
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.recipe import parse_recipe
from hf_deepfake.serving.export import export
from hf_deepfake.training.resuming import StepSeed
from hf_deepfake.training.train import RECIPE, train

torch.set_num_threads(1)


def pytest_runtest_setup() -> None:
    """Random weights of a test are the same whichever tests ran before in its process."""
    set_seed(0)


@pytest.fixture(autouse=True)
def own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Default ensembles are looked up and installed in a folder of the test's own."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HF_HOME", str(home))
    monkeypatch.setattr("hf_deepfake.ensemble.default.HF_HOME", str(home))


def draw_image(label: int, seed: int, size: int = 40) -> Image.Image:
    """Noise; a fake has a brighter square in it."""
    pixels = np.random.default_rng([label, seed]).normal(100, 10, (size, size, 3))
    if label == labels.FAKE:
        pixels[size // 4 : -size // 4, size // 4 : -size // 4] += 60
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_folder(root: Path, count: int, names: tuple[str, str] = ("real", "fake"), suffix: str = ".png") -> Path:
    """Write `count` images of each class below `root/<class name>`."""
    for label, name in enumerate(names):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(count):
            draw_image(label, seed).save(folder / f"{seed:03d}{suffix}")
    return root


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`real/` and `fake/` with 20 images each."""
    return draw_folder(tmp_path_factory.mktemp("images"), 20)


@pytest.fixture
def tiny_vit() -> ViTForImageClassification:
    """Two layers, 32 pixels, labels real and fake."""
    return build_tiny_vit(32)


def build_tiny_vit(image_size: int, seed: int = 0) -> ViTForImageClassification:
    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=image_size,
        patch_size=8,
        id2label=labels.ID2LABEL,
        label2id=labels.LABEL2ID,
        initializer_range=0.5,
    )
    return ViTForImageClassification(config).eval()


def save_tiny_vit(folder: Path, image_size: int = 24, mean: float = 0.3, seed: int = 0) -> Path:
    """A plain HF checkpoint with its image processor."""
    build_tiny_vit(image_size, seed).save_pretrained(folder)
    size = {"height": image_size, "width": image_size}
    ViTImageProcessor(size=size, image_mean=[mean] * 3, image_std=[0.4] * 3).save_pretrained(folder)
    return folder


def save_tiny_timm(folder: Path, name: str = "test_resnet", image_size: int = 32, seed: int = 0) -> Path:
    """A run's checkpoint of a tiny timm network with random weights."""
    torch.manual_seed(seed)
    arguments = ModelArguments(model_name_or_path=name, image_size=image_size)
    detector: PreTrainedModel = new_detector(arguments)[0]
    for parameter in detector.timm_model.get_classifier().parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # a new head is zero, which gives every image the same score
    detector.save_pretrained(folder)
    return folder


def add_predictions(run: Path, data: Path) -> Path:
    """Score validation and test images with a checkpoint, as a training does at its end."""
    splits = load_splits(DataArguments(dataset_name=str(data)))
    model, processor, fake_column = load_detector(str(run))
    for split in ("validation", "test"):
        rows = splits[split]
        logits = np.zeros((len(rows), 2))
        for indices, scores, _ in score_images(model, processor, rows["image"], fake_column):
            logits[indices] = scores
        save_predictions(predictions_table(rows, logits), run / "predictions" / f"{split}.parquet")
    return run


def training_flags(data: Path, run: Path, **choices: Any) -> list[str]:
    """Of a quick training of four steps an epoch on `image_folder`; a choice of None leaves its flag out."""
    flags = {
        "dataset_name": data,
        "output_dir": run,
        "model_name_or_path": "test_resnet",
        "num_train_epochs": 2,
        "learning_rate": 3e-3,
        "per_device_train_batch_size": 8,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    if "model_name_or_path" not in choices:
        flags["image_size"] = 32
    return [
        str(word)
        for name, value in (flags | choices).items()
        if value is not None
        for word in (f"--{name}", *(value if isinstance(value, list) else [value]))
    ]


def training_arguments(data: Path, run: Path, **choices: Any) -> tuple[Any, ...]:
    """`training_flags`, parsed for `train`."""
    return parse_recipe(RECIPE, training_flags(data, run, **choices), "test")


def train_until(step: int, arguments: tuple[Any, ...]) -> None:
    """Train as `arguments` say, and stop by Ctrl-C where a step begins."""
    seed = StepSeed.on_step_begin

    def interrupted(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            raise KeyboardInterrupt
        seed(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepSeed, "on_step_begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments)


def launch(config: str, flags: Sequence[str], **environment: str) -> str:
    """Train in processes of their own, as many as an accelerate configuration of `recipes/` says; what they said."""
    tests = Path(__file__).resolve().parent
    recipes = tests.parent / "recipes"
    start = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    script = tests / "fsdp_on_a_cpu.py" if config == "fsdp" else recipes / "train.py"
    command = [*start, str(recipes / "accelerate" / f"{config}.yaml"), str(script), *flags]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tests.parent)} | environment
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stderr


def assert_same_weights(file: Path, expected: Path) -> None:
    """Two files of safetensors hold the same bits."""
    tensors, others = load_file(file), load_file(expected)
    assert tensors.keys() == others.keys()
    for name, tensor in others.items():
        assert torch.equal(tensors[name], tensor), name


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, image_folder: Path) -> list[Path]:
    """Three untrained members of three families, two image sizes and two normalisations, with their predictions."""
    root = tmp_path_factory.mktemp("runs")
    members = [
        save_tiny_timm(root / "resnet", "test_resnet", 32),
        save_tiny_timm(root / "efficientnet", "test_efficientnet", 32, seed=1),
        save_tiny_vit(root / "vit", 24),
    ]
    return [add_predictions(run, image_folder) for run in members]


@pytest.fixture(scope="session")
def ensemble(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three members voted and measured, with an uncertain band; its intervals are rough."""
    folder = tmp_path_factory.mktemp("built") / "ensemble"
    with pytest.MonkeyPatch.context() as patch:
        few = functools.partial(bootstrap_intervals, resamples=20)
        patch.setattr("hf_deepfake.evaluation.benchmark.bootstrap_intervals", few)
        build_ensemble(runs, folder, voting="soft", target_error=0.2)
    return folder


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny detectors of one size and two normalisations, calibrated and weighted, with an uncertain band."""
    root = tmp_path_factory.mktemp("pair")
    runs = [save_tiny_vit(root / "first"), save_tiny_vit(root / "second", mean=0.5, seed=1)]
    fit = Fit(
        "weighted",
        [1.5, 0.7],
        [3.0, 1.0],
        [0.4, 0.5],
        {"weighted": 0.45},
        biases=[0.2, -0.3],
        vote_calibrations={"weighted": {"temperature": 0.8, "bias": 0.1}},
        uncertain_bands={"weighted": [0.44, 0.47]},
    )
    for part in assemble(runs, ["first", "second"], fit):
        part.save_pretrained(root / "ensemble")
    return root / "ensemble"


@pytest.fixture(scope="session")
def exported(pair: Path) -> Path:
    """The two as an ONNX graph."""
    export(str(pair), pair.parent / "exported")
    return pair.parent / "exported"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A stand-in Hub that huggingface_hub's own client talks to in this test, as a user who may write."""
    server = StandInHub()
    monkeypatch.setenv("HF_TOKEN", "may-write")
    for name, value in {
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": os.path.join(os.environ["HF_HOME"], "hub"),
    }.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    for name, value in {"HF_ENDPOINT": server.url, "HF_HUB_OFFLINE": False}.items():
        monkeypatch.setattr(datasets.config, name, value)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", os.path.join(os.environ["HF_HOME"], "datasets"))
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # keeps the address that it was made with
    yield server
    server.close()
