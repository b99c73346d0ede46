import errno
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_vit, training_arguments
from transformers import TrainingArguments

from hf_deepfake import InputError
from hf_deepfake.arguments import ModelArguments
from hf_deepfake.models.detector import new_detector
from hf_deepfake.training import train as training_module
from hf_deepfake.training.guarding import check_last_batch, check_weights, disk_watched, refuse_loss
from hf_deepfake.training.resuming import COMPLETE
from hf_deepfake.training.trainer import build_trainer


def checkpoint(run: Path, step: int, complete: bool = True) -> None:
    (run / f"checkpoint-{step}").mkdir(parents=True)
    if complete:
        (run / f"checkpoint-{step}" / COMPLETE).touch()


def options(run: Path, **choices: Any) -> TrainingArguments:
    return TrainingArguments(output_dir=str(run), use_cpu=True, learning_rate=0.3, **choices)


def test_a_last_batch_of_one_image_is_refused_under_a_batch_norm_of_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = new_detector(ModelArguments("test_resnet", head="mlp", head_layers=[4], head_batch_norm=True))[0]
    with pytest.raises(InputError, match=r"--per_device_train_batch_size 9: of 28 training images .*has one"):
        check_last_batch(detector, 28, options(tmp_path, per_device_train_batch_size=9))
    check_last_batch(detector, 28, options(tmp_path, per_device_train_batch_size=8))
    check_last_batch(detector, 28, options(tmp_path, per_device_train_batch_size=9, dataloader_drop_last=True))
    check_last_batch(build_tiny_vit(32), 28, options(tmp_path, per_device_train_batch_size=9))
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    check_last_batch(detector, 28, options(tmp_path, per_device_train_batch_size=9))
    for batch_size in (1, 3):  # of 25 images two processes would share the last 7 as 2, 2, 2 and 1
        with pytest.raises(InputError, match=f"--per_device_train_batch_size {batch_size}: of 25"):
            check_last_batch(detector, 25, options(tmp_path, per_device_train_batch_size=batch_size))
    check_last_batch(detector, 28, options(tmp_path, per_device_train_batch_size=3))
    with pytest.raises(InputError, match="1 training images are too few for 2 processes"):
        check_last_batch(build_tiny_vit(32), 1, options(tmp_path))


def test_a_loss_that_is_no_number_names_step_images_and_what_to_do(tmp_path: Path) -> None:
    files = [f"real/{number}.jpg" for number in range(7)]
    with pytest.raises(
        InputError, match=r"step 12: the loss is nan on the images real/0\.jpg, .*4\.jpg and 2 more"
    ) as caught:
        refuse_loss(torch.tensor(float("nan")), 12, files, options(tmp_path))
    assert "--learning_rate (now 0.3)" in str(caught.value)
    assert "--fp16" not in str(caught.value)
    assert "Nothing was saved yet." in str(caught.value)


@pytest.mark.parametrize("in_flight", [0, 1])
def test_a_training_stops_at_a_loss_that_is_no_number_before_it_is_measured_or_saved(
    in_flight: int, tmp_path: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a GPU, where a loss is looked at one batch later; here the batch is the last before the evaluation."""
    steps = iter(range(1, 99))

    def loss(outputs: Any, labels: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        return outputs.logits.sum() * (float("nan") if next(steps) == 4 else 1)

    def built(*args: Any, **kwargs: Any) -> Any:
        trainer = build_trainer(*args, **kwargs)
        trainer.compute_loss_func, trainer.losses_in_flight = loss, in_flight
        return trainer

    monkeypatch.setattr(training_module, "build_trainer", built)
    measured = {"eval_strategy": "steps", "eval_steps": 4, "save_strategy": "steps", "save_steps": 4}
    with pytest.raises(InputError, match=r"step 4: the loss is nan on the images \w+/.*png"):
        training_module.train(*training_arguments(image_folder, tmp_path / "run", max_steps=6, **measured))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_after_an_infinite_loss_the_last_whole_checkpoint_is_named(tmp_path: Path) -> None:
    checkpoint(tmp_path, 4)
    checkpoint(tmp_path, 8, complete=False)
    arguments = options(tmp_path)
    arguments.fp16 = True
    with pytest.raises(
        InputError, match=r"loss is inf.*leave out --fp16.*checkpoint-4 is whole.*--resume_anyway true"
    ):
        refuse_loss(torch.tensor(float("inf")), 9, ["a.jpg"], arguments)


def test_weights_that_are_no_numbers_are_not_saved(tmp_path: Path) -> None:
    model = build_tiny_vit(32)
    check_weights(model, 1, options(tmp_path))
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    with pytest.raises(InputError, match=r"step 5: the weights of classifier\.bias are no longer finite"):
        check_weights(model, 5, options(tmp_path))


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 1506368 vs 1506256"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["python", "torch", "safetensors"],
)
def test_a_full_disk_keeps_the_last_whole_checkpoint(error: Exception, tmp_path: Path) -> None:
    checkpoint(tmp_path, 4)
    checkpoint(tmp_path, 8, complete=False)
    with (
        pytest.raises(InputError, match=r"no room left on the disk.*checkpoint-4 is whole: make room"),
        disk_watched(tmp_path),
    ):
        raise error
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-4"]


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), disk_watched(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")
