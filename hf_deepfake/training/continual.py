"""Going on from an earlier detector with new images, without losing sight of the old ones."""

import dataclasses
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import Dataset, DatasetDict, concatenate_datasets
from rich.table import Table
from transformers import AutoConfig, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_deepfake import labels
from hf_deepfake.arguments import AugmentationArguments, ContinuingArguments, DataArguments
from hf_deepfake.data.checking import drop_unreadable
from hf_deepfake.data.fingerprints import content_hashes, load_training_images
from hf_deepfake.data.loading import load_splits
from hf_deepfake.data.splitting import check_classes
from hf_deepfake.data.transforms import add_blends
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.benchmark import benchmark_metrics
from hf_deepfake.evaluation.predictions import predictions_table
from hf_deepfake.evaluation.tables import format_metric
from hf_deepfake.recipe import load_recipe
from hf_deepfake.writing import whole

OLD_VALIDATION = "old_validation"
"""Split of a continued training: what the earlier run was validated on."""

BEFORE = "before.json"
"""File of a continued run: metrics of the earlier detector, before anything was trained."""

_SHOWN = {"roc_auc": "ROC AUC", "balanced_accuracy": "balanced accuracy", "false_positive_rate": "FPR"}

logger = logging.getLogger(__name__)


class Replay(NamedTuple):
    """The images of a continued training.

    Attributes:
        splits: New images, the replayed ones among those to train on, and `OLD_VALIDATION` where it is still there.
        summary: What of it stands in results.json.
    """

    splits: DatasetDict
    summary: dict[str, Any]


def check_earlier(continuing: ContinuingArguments, image_size: int | None, output_dir: str) -> None:
    """Refuse an `init_from` that is no finished run of a detector, reads another size, or is to be written itself.

    Raises:
        InputError: If so.
    """
    run = Path(str(continuing.init_from))
    missing = [name for name in ("config.json", "recipe.yaml", "results.json") if not (run / name).is_file()]
    if missing:
        raise InputError(f"--init_from {run}: no finished run directory; {', '.join(missing)} is not there.")
    if run.resolve() == Path(output_dir).resolve():
        raise InputError(f"--init_from {run}: is only read; choose another --output_dir.")
    config = AutoConfig.from_pretrained(run)
    labels.fake_column(config.id2label, source=str(run))
    size = _image_size(run, config)
    if image_size not in (None, size):
        raise InputError(f"--image_size {image_size}: {run} reads {size} pixels; leave --image_size out.")


def _image_size(run: Path, config: Any) -> int:
    """Pixels of the longer side of what the detector reads."""
    path = run / "preprocessor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    view = settings.get("views", [settings])[0]  # a detector with an MLP head is an ensemble of one
    timm = getattr(config, "pretrained_cfg", view.get("pretrained_cfg"))
    sides = timm["input_size"][1:] if timm else view["size"].values()
    return int(max(side for side in sides if side is not None))


def with_old_images(
    splits: DatasetDict, continuing: ContinuingArguments, augmentation: AugmentationArguments, seed: int, quiet: bool
) -> Replay:
    """Add a share of the earlier run's training images, and its validation images to measure on.

    New images that the earlier run was trained or validated on already are left out, found by their content: else a
    folder that has grown would be split anew, with images to measure on among those that were learned from.

    Args:
        splits: Of the new data set.
        continuing: `init_from` and `replay_share` are read.
        augmentation: Whether fakes are made of real photographs, which the earlier run then did as well.
        seed: Of what is replayed.
        quiet: No progress bars.

    Raises:
        InputError: If nothing new is left to train or to measure on, or the old images are to be replayed and cannot be
            read.
    """
    run = Path(str(continuing.init_from))
    if continuing.replay_share > 0 and "train" not in splits:
        raise InputError("--replay_share: old images cannot be mixed into a stream; pass --replay_share 0.")
    splits, known = _without_known(splits, run, quiet)
    try:
        old = _old_splits(run, augmentation, quiet)
    except InputError as error:
        if continuing.replay_share > 0:
            raise InputError(
                f"--init_from {run}: its images cannot be read: {error} Bring them back, or go on without them: "
                "--replay_share 0."
            ) from error
        logger.warning("the old images are gone, so what is forgotten cannot be measured: %s", error)
        old = DatasetDict()
    replayed = _share(old["train"], continuing.replay_share, seed) if "train" in old else None
    if replayed is not None:
        splits["train"] = _joined(splits["train"], replayed)
    if "validation" in old:
        splits[OLD_VALIDATION] = old["validation"]
    summary = {
        "init_from": run.resolve().name,
        "replay_share": continuing.replay_share,
        "replayed": len(replayed) if replayed is not None else 0,
        "known": known,
    }
    logger.info("replaying %d old images; left out %d new ones that %s knows", summary["replayed"], known, run)
    return Replay(splits, summary)


def _without_known(splits: DatasetDict, run: Path, quiet: bool) -> tuple[DatasetDict, int]:
    table = load_training_images(run)
    old = set(table["sha256"]) - {""} if table is not None else set()
    kept, known = DatasetDict(), 0
    for name, rows in splits.items():
        new = [index for index, digest in enumerate(content_hashes(rows, quiet)) if digest not in old]
        known += len(rows) - len(new)
        if new:
            kept[name] = rows.select(new)
        elif name in ("train", "validation"):
            raise InputError(f"--init_from {run}: it knows all {len(rows)} images to go on with ({name}) already.")
        else:
            logger.warning("--init_from %s: it knows all %s images already, so they measure nothing", run, name)
    picking = DatasetDict({"validation": kept["validation"]})
    check_classes(picking, f"--init_from {run}: without the images that it knows")
    return kept, known


def _old_splits(run: Path, augmentation: AugmentationArguments, quiet: bool) -> DatasetDict:
    recipe = load_recipe(run / "recipe.yaml")
    names = {field.name for field in dataclasses.fields(DataArguments)}
    data = DataArguments(**{key: value for key, value in recipe.items() if key in names})
    blended = recipe.get("self_blend_prob", 0) > 0
    if blended and augmentation.self_blend_prob == 0:
        raise InputError("it made fakes of real photographs, and this run does not; pass --self_blend_prob.")
    if data.streaming:
        raise InputError("they were a stream, of which no share can be taken.")
    splits, _ = drop_unreadable(load_splits(data, both_classes=not blended), data.dataset_name, quiet)
    splits = _as_they_were(splits, run, data.dataset_name, quiet)
    return add_blends(splits, data.split_seed) if blended else splits


def _as_they_were(splits: DatasetDict, run: Path, source: str, quiet: bool) -> DatasetDict:
    """What the earlier run was trained and validated on, by its content: its folder may have grown and be split anew."""
    table = load_training_images(run)
    if table is None:
        return splits
    places = dict(zip(table["sha256"], table["split"], strict=True))
    rows = concatenate_datasets(list(splits.values()))
    found = [places.get(digest) for digest in content_hashes(rows, quiet)]
    old = {name: [i for i, place in enumerate(found) if place == name] for name in ("train", "validation")}
    if not all(old.values()):
        raise InputError(f"{source} no longer has the images that it was trained and validated on.")
    return DatasetDict({name: rows.select(indices) for name, indices in old.items()})


def _share(rows: Dataset, share: float, seed: int) -> Dataset | None:
    """A seeded part of the rows, of each class alike; None for none."""
    if share == 0:
        return None
    generator = np.random.default_rng(seed)
    column = np.array(rows["label"][:])
    parts = [np.flatnonzero(column == label) for label in np.unique(column)]
    chosen = [generator.choice(part, max(1, round(share * len(part))), replace=False) for part in parts]
    return rows.select(np.sort(np.concatenate(chosen)))


def _joined(new: Dataset, old: Dataset) -> Dataset:
    """Both, with the columns that both have."""
    columns = [name for name in new.column_names if name in old.column_names]
    return concatenate_datasets([new.select_columns(columns), old.select_columns(columns)])


class MeasureBefore(TrainerCallback):
    """Keeps metrics of the earlier detector on new and old validation images in `BEFORE`.

    Where the training begins, and not sooner: what accelerate has prepared to be scored is then not prepared to be
    trained, and several processes would train a detector each. A resumed run has them already.

    Args:
        trainer: Scores the images.
        views: Images by split as the detector reads them.
        splits: The same images with their labels.
        run: Run directory.
    """

    def __init__(self, trainer: Any, views: Mapping[str, Any], splits: DatasetDict, run: Path) -> None:
        self.trainer, self.views, self.splits, self.run = trainer, views, splits, run
        self.measured = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Measure once, also where smaller batches make the training begin again."""
        if self.measured or state.global_step > 0:
            return
        self.measured = True
        before = {}
        for name in ("validation", OLD_VALIDATION):
            if name in self.splits:
                output = self.trainer.predict(self.views[name])
                before[name] = benchmark_metrics(predictions_table(self.splits[name], np.asarray(output.predictions)))
        if state.is_world_process_zero:
            with whole(self.run / BEFORE) as partial:
                partial.write_text(json.dumps(before), encoding="utf-8")


def forgetting_table(results: Mapping[str, Any]) -> Table:
    """What was learned and what was forgotten, for a terminal.

    Args:
        results: The results.json of a continued run.
    """
    continual = results["continual"]
    table = Table(title=f"gone on from {continual['init_from']}, {continual['replayed']} old images replayed")
    for column in ("validation images", "metric", "before", "after"):
        table.add_column(column)
    for name, before in continual["before"].items():
        for number, (metric, title) in enumerate(_SHOWN.items()):
            whose = {"validation": "new", OLD_VALIDATION: "old"}[name] if number == 0 else ""
            after = results["metrics"][name]
            cells = (format_metric(metrics, metric).replace(" [", "\n[") for metrics in (before, after))
            table.add_row(whose, title, *cells)
    return table
