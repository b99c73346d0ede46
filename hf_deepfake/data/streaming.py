"""Training images that are streamed from shards or the Hub instead of being listed first."""

import dataclasses
import itertools
import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from datasets import DatasetDict, Image, IterableDataset
from torch.utils import data as torch_data

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import groups_of, in_splits
from hf_deepfake.data.seeding import derived_seed, drawing_from
from hf_deepfake.data.shards import hold, open_streams
from hf_deepfake.data.splitting import check_classes
from hf_deepfake.data.tables import find_columns, name_in_shard, read_labels, standardise
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError
from hf_deepfake.errors import InputError
from hf_deepfake.printing import first_line, printable

_MOST_LISTED, _MOST_UNREADABLE = 10, 100

logger = logging.getLogger(__name__)


def load_streaming(data: DataArguments, both_classes: bool = True) -> tuple[IterableDataset, DatasetDict]:
    """Read a data set whose training images are too many to be listed, downloaded or held.

    It is a Hub id, or WebDataset (`.tar`) or Parquet shards: a folder of them or a pattern (`DIR/*.tar`), whose file
    names, or the names of the folders that they stand in, tell their split. A sample of a WebDataset shard has one
    image (jpg, jpeg, png, webp) and its label in `cls` (0 real, 1 fake) or in a field of `json`, which may also tell
    `source` and `group`.

    Args:
        data: What to read. Nothing is cut off the training images, so the shares do not matter.
        both_classes: False where the splits to measure on may have real photographs only.

    Returns:
        The training rows as they come, to be read by `TrainingStream`, and the splits `validation` and, if it is
        there, `test`. Their columns are those of `load_data`, the images undecoded. The second are held in memory.

    Raises:
        InputError: If there is nothing to stream, no `train` or no `validation` split, or labels cannot be told. A
            training row whose label was not among those of `validation`, or whose group is measured on, raises it
            when it is read.
    """
    source = data.dataset_name
    if data.shuffle_buffer < 1:
        raise InputError(f"--shuffle_buffer {data.shuffle_buffer}: must be at least 1.")
    streams = open_streams(data)
    if not {"train", "validation"} <= streams.keys():
        raise InputError(
            f"{source}: a stream needs a train and a validation split; found {sorted(streams)}. Name shards "
            "for them, or leave --streaming out to have the data split."
        )
    held = DatasetDict({name: hold(rows, name, source) for name, rows in streams.items() if name != "train"})
    splits = in_splits(standardise(held, data, True, source), data)
    check_classes(splits, source, both_classes)
    columns = find_columns(held["validation"], data, True, source)
    reader = read_labels(held["validation"], columns["label"], data.fake_label, source)
    grouped = [(name, rows["group"][:]) for name, rows in splits.items() if "group" in rows.column_names]
    held_out = {group: name for name, groups in grouped for group in groups}
    standard = _Standardise(columns, reader, held_out, data.group_by, source)
    train = streams["train"].cast_column(columns["image"], Image(decode=False))
    return train.map(standard, with_indices=True, remove_columns=train.column_names), splits


class TrainingStream(torch_data.IterableDataset[dict[str, Any]]):
    """Endless passes over the rows of a training stream: shuffled, transformed, without what cannot be read.

    Each pass reads every row once, in an order of its own: shards are shuffled, and rows within a buffer, of which
    each worker of a `DataLoader` holds one. Workers share the shards, so more workers than shards stay idle. The same
    seed and number of workers give the same images in the same order, so that `Trainer`, which skips the batches of a
    resumed training by reading them again, goes on where it was. Each worker lists the first ten images that it cannot
    read and counts them in the first pass; of several processes the first reads for all.

    Args:
        rows: Training rows of `load_streaming`.
        transform: Gives `pixel_values` and `labels` for a batch of rows, as `ImageTransform` does.
        shuffle_buffer: Undecoded rows to shuffle within.
        seed: Seed of the order.
    """

    def __init__(
        self,
        rows: IterableDataset,
        transform: Callable[[dict[str, list[Any]]], dict[str, list[Any]]],
        shuffle_buffer: int = 1000,
        seed: int = 0,
    ) -> None:
        self.rows = rows
        self.transform = transform
        self.shuffle_buffer = shuffle_buffer
        self.seed = seed

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Items of `pixel_values`, `labels`, `file` and the `draw` that they were changed by.

        Raises:
            InputError: If a shard cannot be read on, a row's label cannot be told, or no image can be read.
        """
        for passed in itertools.count():
            read, unreadable = 0, 0
            for row in self._shuffled(passed):
                draw = derived_seed(self.seed, passed, row["file"])
                try:
                    with drawing_from(draw):
                        batch = self.transform({name: [value] for name, value in row.items()})
                except UnreadableImageError as error:
                    unreadable += 1
                    if passed == 0 and unreadable <= _MOST_LISTED:
                        logger.warning("left out: %s", printable(f"{row['file']}: {error}"))
                    if not read and unreadable == _MOST_UNREADABLE:
                        break
                else:
                    read += 1
                    yield {name: values[0] for name, values in batch.items()} | {"draw": draw, "file": row["file"]}
            if unreadable and not read:
                raise InputError(
                    f"none of the first {unreadable} training images can be read; the reasons stand above."
                )
            if not read:
                return  # a worker without shards
            if unreadable and passed == 0:
                logger.warning("%d of %d training images cannot be read", unreadable, read + unreadable)

    def _shuffled(self, passed: int) -> Iterator[dict[str, Any]]:
        generator = np.random.default_rng([self.seed, passed])
        try:
            yield from self.rows.shuffle(generator=generator, buffer_size=self.shuffle_buffer)
        except InputError:
            raise
        except Exception as error:  # of the network, of Arrow, of tarfile
            raise InputError(f"the stream of training images broke off: {first_line(error)}") from error


@dataclasses.dataclass(frozen=True)
class _Standardise:
    """Gives a training row our columns."""

    columns: dict[str, str]
    readings: dict[str, int]  # label of each value
    held_out: dict[str, str]  # split of each group that is measured on
    group_by: str | None
    source: str

    def __call__(self, row: dict[str, Any], index: int) -> dict[str, Any]:
        file = name_in_shard(row["__url__"], row["__key__"]) if "__key__" in row else f"train/{index}"
        value = str(row[self.columns["label"]])
        if value not in self.readings:
            raise InputError(
                f"{self.source}: {file}: {self.columns['label']} is {value!r}, but the validation split, which tells "
                f"what labels there are, has {sorted(self.readings)}."
            )
        known = {name: str(row[column]) for name, column in self.columns.items() if name in ("source", "group")}
        if self.group_by is not None and "group" not in known:
            known["group"] = groups_of([file], self.group_by, self.source)[0]
        if known.get("group") in self.held_out:
            raise InputError(
                f"{self.source}: {file}: group {known['group']!r} stands in {self.held_out[known['group']]} and in "
                "train, which is a leak; keep each group in one split."
            )
        return {"image": row[self.columns["image"]], "label": self.readings[value], "file": file} | known
