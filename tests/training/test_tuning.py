import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import (
    assert_same_weights,
    build_tiny_vit,
    draw_folder,
    launch,
    save_tiny_vit,
    train_until,
    training_arguments,
    training_flags,
)
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, Trainer, TrainerCallback

from hf_deepfake.arguments import DataArguments, TuningArguments
from hf_deepfake.data.loading import load_splits
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.predictions import score_images
from hf_deepfake.models.detector import load_detector
from hf_deepfake.training import losses
from hf_deepfake.training import train as training_module
from hf_deepfake.training.arguments import DetectorTrainingArguments
from hf_deepfake.training.train import train
from hf_deepfake.training.tuning import check_tuning, prepare_tuning, refuse_sharding


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"lora_rank": 4}, "--lora_rank 4: does nothing without --train lora"),
        ({"lora_alpha": 4}, "--lora_alpha 4: does nothing without --train lora"),
        ({"train": "lora", "lora_rank": 0}, "--lora_rank 0: needs to be above 0"),
        ({"layer_decay": 1.5}, "--layer_decay 1.5: needs to be above 0 and below 1"),
        ({"layer_decay": 0.5, "train": "probe"}, "--layer_decay 0.5: does nothing where the head alone is trained"),
        ({"fourier_weight": -1.0}, "--fourier_weight -1.0: cannot be below 0"),
        ({"fourier_growth": 0.1}, "--fourier_growth 0.1: does nothing without --fourier_weight"),
        ({"fourier_growth": 0.0, "fourier_weight": 1.0}, "--fourier_growth 0.0: needs to be above 0"),
        (
            {"fourier_weight": 1.0, "train": "probe"},
            "--fourier_weight 1.0: does nothing where the head alone is trained",
        ),
        ({"train": "probe", "unfreeze_at": ["3:full"]}, "--unfreeze_at 3:full: never comes in 3 epochs"),
    ],
)
def test_flags_that_would_do_nothing_or_harm_are_refused(
    choices: dict[str, Any], message: str, tmp_path: Path
) -> None:
    training = DetectorTrainingArguments(str(tmp_path / "run"), num_train_epochs=3, use_cpu=True)
    with pytest.raises(InputError, match=message):
        check_tuning(TuningArguments(**choices), DataArguments("images"), training)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"train": "probe", "unfreeze_at": ["1:full"]}, "--unfreeze_at: a stream has no epochs"),
        ({"fourier_weight": 1.0, "fourier_growth": 0.1}, "--fourier_growth 0.1: a stream has no epochs"),
    ],
)
def test_a_stream_has_no_epochs_to_go_by(choices: dict[str, Any], message: str, tmp_path: Path) -> None:
    training = DetectorTrainingArguments(str(tmp_path / "run"), max_steps=3, use_cpu=True)
    with pytest.raises(InputError, match=message):
        check_tuning(TuningArguments(**choices), DataArguments("images", streaming=True), training)


def test_fourier_supervision_is_refused_where_several_gpus_share_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = DetectorTrainingArguments(str(tmp_path / "run"), use_cpu=True)
    monkeypatch.setattr(DetectorTrainingArguments, "n_gpu", 4)
    with pytest.raises(InputError, match=r"--fourier_weight 1\.0: 4 GPUs in one process"):
        check_tuning(TuningArguments(fourier_weight=1.0), DataArguments("images"), training)


@pytest.mark.slow  # two processes import torch and wait for each other
def test_two_processes_unfreeze_as_one_does(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for split, count in (("train", 8), ("validation", 4), ("test", 4)):
        draw_folder(data / split, count)
    choices = {"model_name_or_path": save_tiny_vit(tmp_path / "base"), "transforms": "none", "learning_rate": 1e-3}
    choices |= {"train": "probe", "unfreeze_at": ["1:head+1", "2:full"], "num_train_epochs": 4, "use_cpu": None}
    choices |= {"activation_checkpointing": True, "keep_checkpoints": True}
    for config, batch in (("cpu", 8), ("cpu_2_processes", 4)):
        said = launch(config, training_flags(data, tmp_path / config, per_device_train_batch_size=batch, **choices))
        assert said.count("epoch 1: training head+1") == 1
    one, two = (
        load_file(tmp_path / config / "checkpoint-8" / "model.safetensors") for config in ("cpu", "cpu_2_processes")
    )
    base = load_file(tmp_path / "base" / "model.safetensors")
    for name, tensor in two.items():
        assert not torch.equal(tensor, base[name]), name
        if "key.bias" not in name:  # on which nothing depends, so that its gradient is rounding alone
            torch.testing.assert_close(tensor, one[name], rtol=1e-4, atol=1e-5)


def test_what_begins_anew_with_smaller_batches_unfreezes_anew(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """And shows several processes all that is ever trained, when they agree on it."""
    loss, calls, agreed = losses.cross_entropy, itertools.count(1), []
    wrap = Trainer._wrap_model

    def failing(outputs: Any, labels: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if torch.is_grad_enabled() and next(calls) > 5 and len(labels) > 7:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return loss(outputs, labels, *args, **kwargs)

    def wrapped(trainer: Trainer, model: torch.nn.Module, training: bool = True, *args: Any) -> Any:
        if training:
            agreed.append(all(parameter.requires_grad for parameter in model.parameters()))
        return wrap(trainer, model, training, *args)

    monkeypatch.setattr("hf_deepfake.training.trainer.cross_entropy", failing)
    monkeypatch.setattr(Trainer, "_wrap_model", wrapped)
    caplog.set_level("INFO")
    choices = {"auto_find_batch_size": True, "train": "probe", "unfreeze_at": "1:full", "num_train_epochs": 2}
    train(*training_arguments(image_folder, tmp_path / "run", **choices))
    assert agreed == [True, True]
    stages = [record.message for record in caplog.records if ": training " in record.message]
    assert stages == ["epoch 0: training probe", "epoch 1: training full"] * 2


def test_fourier_supervision_of_nothing_that_is_trained_is_refused() -> None:
    tuning = TuningArguments(train="head+1", fourier_weight=1.0)
    with pytest.raises(
        InputError, match=r"--fourier_weight 1.0: does nothing .* --train head\+1 trains later ones only"
    ):
        prepare_tuning(build_tiny_vit(32), tuning, [])
    prepare_tuning(build_tiny_vit(32), TuningArguments(train="head+1", unfreeze_at=["2:full"], fourier_weight=1.0), [])


WAYS = {
    "stages": {"train": "probe", "unfreeze_at": ["1:head+1", "3:full"], "layer_decay": 0.5},
    "fourier": {
        "fourier_weight": 0.5,
        "fourier_growth": 0.2,
        "mixup_alpha": 0.3,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 2,
    },
    "lora": {"train": "lora", "lora_rank": 4, "head": "mlp", "head_layers": [8], "head_batch_norm": True},
    "lora averaged": {"train": "lora", "ema_decay": 0.8},
}


def choices_of(way: str, folder: Path) -> dict[str, Any]:
    base = {} if way == "stages" else {"model_name_or_path": save_tiny_vit(folder / "base", 32)}
    return base | WAYS[way] | {"num_train_epochs": 4}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_an_interrupted_training_resumes_to_the_same_weights_however_it_is_tuned(
    way: str, image_folder: Path, tmp_path: Path
) -> None:
    choices = choices_of(way, tmp_path) | {"keep_checkpoints": True}
    train(*training_arguments(image_folder, tmp_path / "whole", **choices))
    train_until(11, training_arguments(image_folder, tmp_path / "resumed", **choices))
    train(*training_arguments(image_folder, tmp_path / "resumed", resume_from_checkpoint=True, **choices))
    for file in (tmp_path / "whole" / "checkpoint-16").glob("*.safetensors"):
        assert_same_weights(tmp_path / "resumed" / "checkpoint-16" / file.name, file)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["stages", "fourier", "lora averaged"])
def test_the_checkpoint_is_plain_and_scores_as_the_training_did(way: str, image_folder: Path, tmp_path: Path) -> None:
    run = train(*training_arguments(image_folder, tmp_path / "run", **choices_of(way, tmp_path)))
    stock, info = AutoModelForImageClassification.from_pretrained(run, output_loading_info=True)
    assert type(stock).__name__ in ("ViTForImageClassification", "TimmWrapperForImageClassification")
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not list(run.glob("fourier*"))
    saved = pd.read_parquet(run / "predictions" / "test.parquet")
    rows = load_splits(DataArguments(dataset_name=str(image_folder)))["test"]
    model, processor, fake_column = load_detector(str(run))
    logits = torch.cat(
        [torch.as_tensor(part) for _, part, _ in score_images(model, processor, rows["image"], fake_column)]
    )
    torch.testing.assert_close(
        logits, torch.tensor(saved[["logit_real", "logit_fake"]].to_numpy()), atol=1e-4, rtol=1e-4, check_dtype=False
    )


@pytest.mark.slow
def test_stages_train_what_they_say_at_the_rates_they_say(
    image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the epoch, which blocks have moved."""
    moved: list[set[str]] = []

    class Watch(TrainerCallback):
        def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            self.before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

        def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            names = {
                name for name, parameter in model.named_parameters() if not torch.equal(parameter, self.before[name])
            }
            moved.append({".".join(name.split(".")[1:2]) for name in names})

    build = training_module.build_trainer

    def watched(*args: Any) -> Any:
        trainer = build(*args)
        trainer.add_callback(Watch())
        return trainer

    monkeypatch.setattr(training_module, "build_trainer", watched)
    run = train(*training_arguments(image_folder, tmp_path / "run", **choices_of("stages", tmp_path)))
    assert moved == [
        {"fc"},
        {"fc", "layer4"},
        {"fc", "layer4"},
        {"fc", "layer4", "layer3", "layer2", "layer1", "conv1", "bn1"},
    ]
    log = json.loads((run / "trainer_state.json").read_text())["log_history"]
    assert next(entry["learning_rate"] for entry in log if "learning_rate" in entry) > 1e-3


@pytest.mark.parametrize(("fsdp", "name"), [(True, "FSDP"), (False, "DeepSpeed")])
def test_sharded_weights_are_refused_where_all_are_needed(fsdp: bool, name: str) -> None:
    trainer: Any = SimpleNamespace(is_fsdp_enabled=fsdp, is_deepspeed_enabled=not fsdp)
    with pytest.raises(InputError, match=f"need every process to hold all weights, which {name} divides"):
        refuse_sharding(trainer)
