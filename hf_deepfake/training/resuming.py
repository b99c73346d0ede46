"""What makes an interrupted training go on as if nothing had happened, and what forbids it to."""

import hashlib
import json
import logging
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments, set_seed
from transformers.trainer_utils import rotate_checkpoints, sort_checkpoints

from hf_deepfake.data.fingerprints import content_hashes
from hf_deepfake.data.seeding import SeededRows, derived_seed
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import environment
from hf_deepfake.evaluation.scores import fingerprint
from hf_deepfake.models.detector import LoadedDetector
from hf_deepfake.recipe import load_recipe
from hf_deepfake.writing import whole

COMPLETE = "complete"
"""Empty file of a `checkpoint-N/` that was saved to its end."""

ORIGIN = "origin.json"
"""File of a run directory: fingerprints of data and teacher, git revision and environment that it was begun with."""

_FREE = {
    "output_dir", "overwrite_output_dir", "keep_checkpoints", "save_total_limit", "run_name", "project", "report_to",
    "disable_tqdm", "log_level", "use_cpu", "logging_dir", "logging_strategy", "logging_steps", "logging_first_step",
    "dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_persistent_workers", "dataloader_pin_memory",
    "per_device_eval_batch_size", "push_to_hub", "dataset_name", "image_root", "follow_links",
}  # fmt: skip
"""Keys that change no weight; where the images lie may change too, what they are is checked by `ORIGIN`."""

logger = logging.getLogger(__name__)


class StepSeed(TrainerCallback):
    """Seeds every step by its number, and tells `SeededRows` the epoch.

    So dropout draws the same in a step whether or not the training was interrupted before it. Restoring the generators'
    states, as Trainer does, is not enough: evaluation between a save and the next step draws from them too.
    """

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Tell the rows which epoch begins, or goes on."""
        rows = kwargs["train_dataloader"].dataset
        if isinstance(rows, SeededRows):
            rows.set_epoch(int(state.epoch or 0))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed Python, NumPy and torch; each process has a stream of its own."""
        set_seed(derived_seed(args.seed, args.process_index, state.global_step) % 2**32)


def complete_checkpoints(run: Path) -> list[Path]:
    """The folders `checkpoint-N` of a run that were saved to their end, the latest last."""
    return [path for path in map(Path, sort_checkpoints(str(run))) if (path / COMPLETE).is_file()]


def open_again(run: Path, step: int) -> None:
    """Take the mark of a checkpoint that is written over, as where too large a batch made Trainer start again."""
    (run / f"checkpoint-{step}" / COMPLETE).unlink(missing_ok=True)


def complete_checkpoint(run: Path, state: TrainerState, limit: int | None) -> None:
    """Mark the checkpoint of this step as saved to its end, and only then delete what `limit` no longer keeps.

    The latest and the best one stay whatever the limit. Those of later steps are of a try that was given up, as too large
    a batch makes Trainer do.
    """
    latest = run / f"checkpoint-{state.global_step}"
    (latest / COMPLETE).touch()
    checkpoints = [Path(path) for path in sort_checkpoints(str(run))]
    for later in checkpoints[checkpoints.index(latest) + 1 :]:
        _drop(later)
    best = best_checkpoint(run, state)
    rotate_checkpoints(str(run), limit, str(best) if best is not None else None)


def drop_checkpoints(run: Path, incomplete_only: bool = False) -> None:
    """Delete the folders `checkpoint-N` of a run."""
    for path in map(Path, sort_checkpoints(str(run))):
        if not (incomplete_only and (path / COMPLETE).is_file()):
            _drop(path)


def _drop(checkpoint: Path) -> None:
    (checkpoint / COMPLETE).unlink(missing_ok=True)  # first, so that an interruption leaves none that looks whole
    shutil.rmtree(checkpoint)


def best_checkpoint(run: Path, state: TrainerState) -> Path | None:
    """The checkpoint that validation picked; by its step, since Trainer's path may have been of another place."""
    path = run / f"checkpoint-{state.best_global_step}"
    return path if state.best_global_step and (path / COMPLETE).is_file() else None


def is_trained(checkpoint: Path) -> bool:
    """Whether a training was at its end when it saved this checkpoint; Trainer would go on with one more step."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    control = state["stateful_callbacks"]["TrainerControl"]["args"]
    return bool(control["should_training_stop"])


def check_same_recipe(recipe: Mapping[str, Any], run: Path, defaults: Mapping[str, Any]) -> None:
    """Refuse to resume a run with another recipe than it began with.

    What changes no weight may differ: logging, trackers, workers, evaluation's batch size, which checkpoints are kept,
    and where run and images lie. The number of epochs may not: most schedules depend on it.

    Args:
        recipe: What `resolved_recipe` gives now.
        run: Has the `recipe.yaml` that it began with.
        defaults: Of the keys that a recipe leaves out.

    Raises:
        InputError: If they differ, naming each difference.
    """
    path = run / "recipe.yaml"
    if not path.is_file():
        raise InputError(
            f"{path}: is missing, so it cannot be told whether the recipe is the same; --resume_anyway true."
        )
    before = load_recipe(path)
    differences = [
        f"{key} {_value(before, key, defaults)!r}, now {_value(recipe, key, defaults)!r}"
        for key in sorted((before.keys() | recipe.keys()) - _FREE)
        if _value(before, key, defaults) != _value(recipe, key, defaults)
    ]
    if differences:
        raise InputError(
            f"{run}: began with another recipe: {'; '.join(differences)}. Resume it as it began, choose another "
            "--output_dir, or go on nevertheless: --resume_anyway true."
        )


def _value(recipe: Mapping[str, Any], key: str, defaults: Mapping[str, Any]) -> Any:
    value = recipe.get(key, defaults.get(key))
    return None if value in ("", "none", []) else value


def begun_with(
    splits: Mapping[str, Dataset], seen: pd.DataFrame, processes: int, teacher: LoadedDetector | None = None
) -> dict[str, Any]:
    """What `ORIGIN` holds.

    Args:
        splits: As loaded.
        seen: `training_images` of them.
        processes: That train together.
        teacher: Of a distillation.
    """
    return {
        "data": {name: _fingerprint(name, rows, seen) for name, rows in splits.items()},
        "teacher": fingerprint(teacher) if teacher is not None else None,
        "git": git_revision(),
        "environment": environment(processes),
    }


def _fingerprint(name: str, rows: Dataset, seen: pd.DataFrame) -> str:
    """SHA-256 over name, label and content of every image, in their order: a sampler draws by number."""
    known = seen.loc[seen["split"] == name, "sha256"].tolist()
    hashes = known if len(known) == len(rows) else content_hashes(rows, quiet=True)
    lines = zip(rows["file"][:], rows["label"][:], hashes, strict=True)
    return hashlib.sha256("\n".join(map(repr, lines)).encode()).hexdigest()


def git_revision() -> dict[str, Any] | None:
    """Revision of the working directory and whether files differ from it; None outside of a git repository."""

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        revision = git("rev-parse", "HEAD")
        return {"revision": revision, "changed": bool(git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def check_same_origin(now: Mapping[str, Any], run: Path) -> None:
    """Refuse to resume a run with other images, labels, another teacher or number of processes than it began with.

    Raises:
        InputError: If they differ, naming what.
    """
    path = run / ORIGIN
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read, so it cannot be told whether the data are the same ({error}); --resume_anyway true."
        ) from error
    names = sorted(before["data"].keys() | now["data"].keys())
    differences = [name for name in names if before["data"].get(name) != now["data"].get(name)]
    processes = [where["environment"]["processes"] for where in (before, now)]
    if differences:
        raise InputError(
            f"{run}: began with other data: the images or labels of {', '.join(differences)} differ. Bring back what "
            "there was, choose another --output_dir, or go on nevertheless: --resume_anyway true."
        )
    if before.get("teacher") != now["teacher"]:
        raise InputError(
            f"{run}: began with another teacher, whatever its path is. Bring it back, choose another --output_dir, or go on "
            "nevertheless: --resume_anyway true."
        )
    if processes[0] != processes[1]:
        raise InputError(
            f"{run}: began with {processes[0]} processes, now there are {processes[1]}, which draw other batches. Launch "
            "as many, or go on nevertheless: --resume_anyway true."
        )


def save_origin(now: Mapping[str, Any], run: Path) -> None:
    """Write `ORIGIN`."""
    with whole(run / ORIGIN) as partial:
        partial.write_text(json.dumps(now, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
