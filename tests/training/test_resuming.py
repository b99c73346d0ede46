import json
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import draw_image, save_tiny_vit, training_arguments
from transformers import TrainerState

from hf_deepfake import InputError
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.fingerprints import training_images
from hf_deepfake.data.loading import load_splits
from hf_deepfake.models.detector import load_detector
from hf_deepfake.recipe import default_recipe, resolved_recipe, save_recipe
from hf_deepfake.training import finishing, resuming
from hf_deepfake.training.arguments import DetectorTrainingArguments, checkpoint_to_resume
from hf_deepfake.training.resuming import (
    COMPLETE,
    ORIGIN,
    begun_with,
    check_same_origin,
    check_same_recipe,
    complete_checkpoint,
    complete_checkpoints,
    git_revision,
    save_origin,
)
from hf_deepfake.training.train import train
from hf_deepfake.training.trainer import DetectorTrainer


@pytest.fixture(scope="module", autouse=True)
def _no_plots() -> Iterator[None]:
    """They take longer than these trainings."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(finishing, "plot_benchmark", lambda *args: None)
        patched.setattr(finishing, "plot_training", lambda *args: None)
        yield


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With dropout, so that a generator in another state gives other weights."""
    folder = save_tiny_vit(tmp_path_factory.mktemp("vit"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.2}))
    return folder


def arguments(data: Path, run: Path, model: Path, **choices: Any) -> tuple[Any, ...]:
    steps = {
        "num_train_epochs": 3,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": 3,
        "save_steps": 3,
    }
    return training_arguments(data, run, **{"model_name_or_path": model, "mixup_alpha": 0.4} | steps | choices)


def die(*args: Any, **kwargs: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def begin(work: Callable[[], Any]) -> Any:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    return process


def killed(work: Callable[[], Any]) -> None:
    process = begin(work)
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(image_folder: Path, vit: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Weights of a training that nobody interrupted."""
    run = tmp_path_factory.mktemp("whole") / "run"
    return (train(*arguments(image_folder, run, vit)) / "model.safetensors").read_bytes()


def _die_at_step(step: int) -> None:
    seed = resuming.StepSeed.on_step_begin

    def on_step_begin(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            die()
        seed(self, args, state, control, **kwargs)

    resuming.StepSeed.on_step_begin = on_step_begin  # type: ignore[method-assign]


def _die_while_saving(step: int) -> None:
    save = DetectorTrainer._save_optimizer_and_scheduler

    def half(self: Any, output_dir: str) -> None:
        if self.state.global_step == step:
            (Path(output_dir) / "optimizer.pt").write_bytes(b"half")
            die()
        save(self, output_dir)

    DetectorTrainer._save_optimizer_and_scheduler = half  # type: ignore[method-assign]


def _die_in_moving_files() -> None:
    replace = Path.replace

    def half(self: Path, target: Any) -> Path:
        if self.name == "config.json":
            die()
        return replace(self, target)

    Path.replace = half  # type: ignore[assignment,method-assign]


MOMENTS: dict[str, Callable[[], None]] = {
    "in the middle of an epoch": lambda: _die_at_step(5),
    "before the first checkpoint": lambda: _die_at_step(2),
    "between the last checkpoint and the end": lambda: _die_at_step(11),
    "while a checkpoint is written": lambda: _die_while_saving(6),
    "while the last checkpoint is written": lambda: _die_while_saving(12),
    "while files are moved to the root": _die_in_moving_files,
    "before results.json": lambda: setattr(finishing, "save_results", die),
    "after results.json": lambda: setattr(finishing, "drop_checkpoints", die),
}


@pytest.mark.parametrize(
    "moment",
    [name if number == 0 else pytest.param(name, marks=pytest.mark.slow) for number, name in enumerate(MOMENTS)],
)
def test_a_killed_training_resumes_to_the_same_bits(
    moment: str, image_folder: Path, vit: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    run = tmp_path / "run"

    def doomed() -> None:
        MOMENTS[moment]()
        train(*arguments(image_folder, run, vit))

    killed(doomed)
    train(*arguments(image_folder, run, vit, resume_from_checkpoint=True))
    assert (run / "model.safetensors").read_bytes() == undisturbed
    assert (run / "results.json").is_file()
    assert not list(run.glob("checkpoint*"))


@pytest.mark.slow
def test_a_training_with_workers_killed_at_any_time_gives_the_bits_of_one_without(
    image_folder: Path, vit: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    generator = np.random.default_rng(0)
    run, kills = tmp_path / "run", 0
    choices = {"dataloader_num_workers": 2, "resume_from_checkpoint": True}
    while not (run / "results.json").is_file():
        process = begin(lambda: train(*arguments(image_folder, run, vit, **choices)))
        process.join(generator.uniform(0.3, 1.2) * (1 + kills))  # longer each time, so that it ends
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills > 1
    assert (run / "model.safetensors").read_bytes() == undisturbed


@pytest.mark.slow
def test_a_full_disk_costs_what_came_after_the_last_checkpoint(
    image_folder: Path, vit: Path, tmp_path: Path, undisturbed: bytes
) -> None:
    run = tmp_path / "run"

    def doomed() -> None:
        save = DetectorTrainer._save_optimizer_and_scheduler

        def limited(self: Any, output_dir: str) -> None:
            if self.state.global_step == 6:
                resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            save(self, output_dir)

        DetectorTrainer._save_optimizer_and_scheduler = limited  # type: ignore[method-assign]
        with pytest.raises(InputError, match=r"no room left on the disk .*checkpoint-3 is whole"):
            train(*arguments(image_folder, run, vit))
        die()

    killed(doomed)
    assert [path.name for path in run.glob("checkpoint-*")] == ["checkpoint-3"]
    train(*arguments(image_folder, run, vit, resume_from_checkpoint=True))
    assert (run / "model.safetensors").read_bytes() == undisturbed


@pytest.fixture
def interrupted(image_folder: Path, vit: Path, tmp_path: Path) -> Path:
    """A run directory as an interruption leaves it, without the training."""
    run = tmp_path / "run"
    options = arguments(image_folder, run, vit)
    splits = load_splits(options[0])
    save_recipe(options, run / "recipe.yaml")
    save_origin(begun_with(splits, training_images(splits, quiet=True), 1), run)
    _checkpoint(run, 3)
    return run


def _checkpoint(run: Path, step: int, complete: bool = True) -> None:
    (run / f"checkpoint-{step}").mkdir(parents=True)
    if complete:
        (run / f"checkpoint-{step}" / COMPLETE).touch()


def resume(data: Path, run: Path, model: Path, **choices: Any) -> None:
    train(*arguments(data, run, model, resume_from_checkpoint=True, **choices))


def test_another_recipe_is_refused_naming_what_differs(interrupted: Path, image_folder: Path, vit: Path) -> None:
    with pytest.raises(
        InputError, match=r"another recipe: learning_rate 0\.003, now 0\.001; mixup_alpha 0\.4, now 0\.0"
    ):
        resume(image_folder, interrupted, vit, learning_rate=1e-3, mixup_alpha=0.0)


def test_a_key_that_a_recipe_leaves_out_counts_as_its_default(
    interrupted: Path, image_folder: Path, vit: Path
) -> None:
    with pytest.raises(InputError, match=r"another recipe: seed 42, now 7; weight_decay 0\.0, now 0\.1"):
        resume(image_folder, interrupted, vit, seed=7, weight_decay=0.1)


def test_what_changes_no_weight_may_differ(interrupted: Path, image_folder: Path, vit: Path, tmp_path: Path) -> None:
    options = arguments(
        tmp_path, tmp_path / "moved", vit, logging_steps=7, dataloader_num_workers=2, keep_checkpoints=True
    )
    check_same_recipe(resolved_recipe(options), interrupted, default_recipe(options))


def test_other_images_are_refused_naming_the_split(
    interrupted: Path, image_folder: Path, vit: Path, tmp_path: Path
) -> None:
    data = shutil.copytree(image_folder, tmp_path / "data")
    changed = data / load_splits(DataArguments(str(data)))["validation"]["file"][0]
    draw_image(0, 99).save(changed)
    with pytest.raises(
        InputError, match=r"other data: the images or labels of validation differ.*--resume_anyway true"
    ):
        resume(data, interrupted, vit)


def test_another_teacher_at_the_same_path_is_refused(interrupted: Path, image_folder: Path, vit: Path) -> None:
    options = arguments(image_folder, interrupted, vit)
    splits = load_splits(options[0])
    seen = training_images(splits, quiet=True)
    save_origin(begun_with(splits, seen, 1, load_detector(str(vit))), interrupted)
    check_same_origin(begun_with(splits, seen, 1, load_detector(str(vit))), interrupted)
    other = load_detector(str(vit))
    with torch.no_grad():
        next(other.model.parameters()).add_(1)
    with pytest.raises(InputError, match="began with another teacher, whatever its path is"):
        check_same_origin(begun_with(splits, seen, 1, other), interrupted)


def test_another_number_of_processes_is_refused(interrupted: Path) -> None:
    now = json.loads((interrupted / ORIGIN).read_text())
    now["environment"]["processes"] = 2
    with pytest.raises(InputError, match="began with 1 processes, now there are 2"):
        check_same_origin(now, interrupted)


def test_a_run_that_does_not_tell_how_it_began_is_refused(interrupted: Path, image_folder: Path, vit: Path) -> None:
    now = json.loads((interrupted / ORIGIN).read_text())
    (interrupted / ORIGIN).write_text("{")
    with pytest.raises(InputError, match=r"origin\.json: cannot be read.*--resume_anyway true"):
        check_same_origin(now, interrupted)
    (interrupted / "recipe.yaml").unlink()
    with pytest.raises(InputError, match=r"recipe\.yaml: is missing"):
        resume(image_folder, interrupted, vit)


def test_a_finished_run_is_left_as_it_is(
    interrupted: Path, image_folder: Path, vit: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (interrupted / "results.json").write_text("{}")
    caplog.set_level("INFO")
    resume(image_folder, interrupted, vit)
    assert f"{interrupted} is finished; nothing to do" in caplog.text
    assert not list(interrupted.glob("checkpoint-*"))
    with pytest.raises(InputError, match=r"another recipe: num_train_epochs 3\.0, now 5\.0"):
        resume(image_folder, interrupted, vit, num_train_epochs=5)
    with pytest.raises(InputError, match=f"checkpoints are deleted.*--init_from {interrupted}"):
        resume(image_folder, interrupted, vit, num_train_epochs=5, resume_anyway=True)


def test_a_half_written_checkpoint_is_never_resumed(tmp_path: Path) -> None:
    _checkpoint(tmp_path, 4)
    _checkpoint(tmp_path, 12)
    _checkpoint(tmp_path, 16, complete=False)
    options = DetectorTrainingArguments(output_dir=str(tmp_path), use_cpu=True, resume_from_checkpoint="true")
    assert checkpoint_to_resume(options, tmp_path) == str(tmp_path / "checkpoint-12")
    options.resume_from_checkpoint = str(tmp_path / "checkpoint-16")
    with pytest.raises(InputError, match="checkpoint-16: was not saved to its end"):
        checkpoint_to_resume(options, tmp_path)


def test_older_checkpoints_go_once_the_new_one_is_whole(tmp_path: Path) -> None:
    for step in (4, 8, 12):
        _checkpoint(tmp_path, step, complete=step < 12)
    complete_checkpoint(tmp_path, TrainerState(global_step=12, best_global_step=4), limit=1)
    assert [path.name for path in complete_checkpoints(tmp_path)] == ["checkpoint-4", "checkpoint-12"]


def test_the_revision_of_the_working_directory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert git_revision() is None
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], [*author, "commit", "-q", "--allow-empty", "-m", "first"]):
        subprocess.run(["git", *words], check=True)
    revision = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert git_revision() == {"revision": revision, "changed": False}
