"""Averaged weights, balanced sampling, schedules and a teacher in whole trainings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import (
    assert_same_weights,
    build_tiny_vit,
    draw_folder,
    launch,
    save_tiny_timm,
    save_tiny_vit,
    train_until,
    training_arguments,
    training_flags,
)
from safetensors.torch import load_file
from transformers import (
    BeitConfig,
    BeitForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
    ViTForImageClassification,
    ViTImageProcessor,
)

from hf_deepfake.arguments import AugmentationArguments, DataArguments, DistillationArguments, FittingArguments
from hf_deepfake.data.loading import load_splits
from hf_deepfake.data.mixing import MixingCollator
from hf_deepfake.data.transforms import ImageTransform
from hf_deepfake.labels import ID2LABEL, LABEL2ID
from hf_deepfake.models.detector import load_detector
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.averaging import UNAVERAGED
from hf_deepfake.training.distillation import Lessons, teacher_views
from hf_deepfake.training.train import train
from hf_deepfake.training.trainer import build_trainer

ROOT = Path(__file__).resolve().parents[2]


FITTED = {
    "num_train_epochs": 3,
    "lr_milestones": ["1.5:0.001"],
    "ema_decay": 0.9,
    "balanced_sampling": "class",
    "class_weights": ["1", "1.5"],
    "focal_gamma": 1.0,
    "eval_strategy": "steps",
    "save_strategy": "steps",
    "eval_steps": 3,
    "save_steps": 3,
    "metric_for_best_model": "eval_validation_loss",
}
"""All that this file is about."""


@pytest.mark.slow  # two trainings and a half
def test_an_interrupted_student_resumes_within_its_epoch_to_the_same_averaged_weights(
    runs: list[Path], image_folder: Path, tmp_path: Path
) -> None:
    """Four steps an epoch, saved after three and six: what was drawn, averaged and taught goes on where it was."""
    start = save_tiny_timm(tmp_path / "start")
    choices = FITTED | {"model_name_or_path": start, "teacher": runs[2]}
    whole = train(*training_arguments(image_folder, tmp_path / "whole", **choices))
    train_until(7, training_arguments(image_folder, tmp_path / "resumed", **choices))
    train(*training_arguments(image_folder, tmp_path / "resumed", **choices, resume_from_checkpoint=True))
    assert_same_weights(tmp_path / "resumed" / "model.safetensors", whole / "model.safetensors")
    logs = [
        json.loads((run / "trainer_state.json").read_text())["log_history"] for run in (whole, tmp_path / "resumed")
    ]
    losses = [[entry["eval_validation_loss"] for entry in log if "eval_validation_loss" in entry] for log in logs]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == len(losses[0])


def test_what_is_evaluated_and_saved_is_the_average(image_folder: Path, tmp_path: Path) -> None:
    model = build_tiny_vit(32)
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    augmentation = AugmentationArguments(transforms=["none"])
    rows = load_splits(DataArguments(dataset_name=str(image_folder)))
    views = dict(rows.with_transform(ImageTransform(processor)))
    options = DetectorTrainingArguments(
        output_dir=str(tmp_path),
        max_steps=3,
        learning_rate=0.05,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        use_cpu=True,
        disable_tqdm=True,
    )
    fitting = FittingArguments(ema_decay=0.9)
    trainer = build_trainer(model, processor, views, MixingCollator(augmentation), fitting, options)
    trainer.train()
    checkpoint = tmp_path / "checkpoint-3"
    saved = ViTForImageClassification.from_pretrained(checkpoint)
    average, weights = saved.state_dict(), load_file(checkpoint / UNAVERAGED)
    assert all(not torch.equal(average[name], weights[name]) for name in average if "bias" not in name)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in average.items())
    logged = [entry["eval_validation_loss"] for entry in trainer.state.log_history if "eval_validation_loss" in entry]
    images = torch.stack([row["pixel_values"] for row in views["validation"]])
    logits = saved(images).logits
    expected = torch.nn.functional.cross_entropy(logits, torch.tensor(rows["validation"]["label"][:]))
    assert logged == pytest.approx([expected.item()], rel=1e-4)


FAMILIES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "resnet": (
        ResNetConfig,
        ResNetForImageClassification,
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ),
    "beit": (
        BeitConfig,
        BeitForImageClassification,
        {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "patch_size": 8,
        },
    ),
    "mobilenet_v2": (MobileNetV2Config, MobileNetV2ForImageClassification, {"depth_multiplier": 0.25}),
    "convnext": (
        ConvNextConfig,
        ConvNextForImageClassification,
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
}


def new_model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if family == "vit":
        return build_tiny_vit(32)
    config, model, settings = FAMILIES[family]
    built: PreTrainedModel = model(config(image_size=32, id2label=ID2LABEL, label2id=LABEL2ID, **settings))
    return built


@pytest.mark.parametrize("family", ["vit", *(pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES)])
def test_accumulated_steps_of_every_loss_equal_one_large_batch(
    family: str, runs: list[Path], image_folder: Path, tmp_path: Path
) -> None:
    """Weighted, focal, smoothed, taught, of mixed labels or not: four batches of 4 give the weights of one of 16."""
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    teacher = load_detector(str(runs[2]))
    rows = load_splits(DataArguments(dataset_name=str(image_folder)))
    augmentation = AugmentationArguments(transforms=["none"])
    view = ImageTransform(processor, augmentation, others=teacher_views(teacher, teacher.model.config))
    lessons = Lessons(DistillationArguments("teacher"), teacher)
    fitting = FittingArguments(class_weights=["balanced"], focal_gamma=1.5)
    weights = []
    for batch, steps in ((16, 1), (4, 4)):
        model = new_model(family).eval()
        model.train = lambda mode=True: None  # type: ignore[method-assign,assignment,return-value] # no batch statistics
        options = DetectorTrainingArguments(
            output_dir=str(tmp_path / f"run-{batch}"),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=steps,
            max_steps=2,
            learning_rate=0.1,
            label_smoothing_factor=0.1,
            optim="sgd",
            max_grad_norm=0,
            use_cpu=True,
            disable_tqdm=True,
            save_strategy="no",
            eval_strategy="no",
        )
        views = rows.with_transform(view)
        collator = MixingCollator(augmentation)
        trainer = build_trainer(model, processor, views, collator, fitting, options, rows["train"], lessons)
        trainer.train()
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    before = new_model(family).state_dict()
    assert not all(torch.equal(before[name], tensor) for name, tensor in weights[0].items())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow  # two processes import torch and wait for each other
def test_two_processes_fit_as_one_does(tmp_path: Path) -> None:
    """The same images a step, drawn, weighted, averaged and taught alike."""
    data = tmp_path / "data"
    for split, count in (("train", 16), ("validation", 4), ("test", 5)):
        draw_folder(data / split, count)
    for path in sorted((data / "train" / "fake").iterdir())[:9]:
        path.unlink()
    base, teacher = save_tiny_vit(tmp_path / "base"), save_tiny_vit(tmp_path / "teacher", 32, seed=1)
    choices = FITTED | {"model_name_or_path": base, "teacher": teacher, "transforms": "none", "learning_rate": 1e-3}
    choices |= {"per_device_eval_batch_size": 4, "use_cpu": None}
    tables = []
    for config, batch in (("cpu", 8), ("cpu_2_processes", 4)):
        run = tmp_path / config
        flags = training_flags(data, run, per_device_train_batch_size=batch, **choices)
        launch(config, flags, HF_DATASETS_CACHE=str(tmp_path))
        tables.append(pd.read_parquet(run / "predictions" / "test.parquet"))
    assert tables[0]["image"].tolist() == tables[1]["image"].tolist()
    np.testing.assert_allclose(tables[0]["logit_fake"], tables[1]["logit_fake"], atol=2e-3)
