"""Which images an epoch draws where classes or sources are of unequal size, and how processes share them."""

from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate.data_loader import BatchSamplerShard
from datasets import Dataset
from numpy.typing import NDArray

from hf_deepfake.arguments import AugmentationArguments, DataArguments, FittingArguments
from hf_deepfake.errors import InputError


def check_balancing(data: DataArguments, augmentation: AugmentationArguments, fitting: FittingArguments) -> None:
    """Refuse what cannot be balanced, or would be twice.

    Raises:
        InputError: If so, saying why.
    """
    if fitting.balanced_sampling not in (None, "class", "source"):
        raise InputError(f"--balanced_sampling {fitting.balanced_sampling}: needs to be class or source.")
    wanted = ["--balanced_sampling"] if fitting.balanced_sampling else []
    wanted += ["--class_weights balanced"] if fitting.class_weights == ["balanced"] else []
    if len(wanted) == 2:
        raise InputError(f"{' and '.join(wanted)} make up for the same imbalance; leave one out.")
    if wanted and data.streaming:
        raise InputError(f"{wanted[0]}: a stream's classes are not counted; leave it or --streaming out.")
    if wanted and augmentation.self_blend_prob > 0:
        raise InputError(f"{wanted[0]}: the share of fakes is what --self_blend_prob makes it; set that instead.")


def balanced_shares(rows: Dataset, by: str, name: str = "the training images") -> NDArray[np.float64]:
    """Chance of each image to be drawn: real and fake equal, and with `by="source"` the sources within each as well.

    Args:
        rows: Training images.
        by: `class` or `source`; images without a source count as one of their own.
        name: For the error.

    Returns:
        Shape `(images,)`, sum 1.

    Raises:
        InputError: If only one class, or no source is there.
    """
    labels = pd.Series(rows["label"][:])
    if labels.nunique() < 2:
        raise InputError(f"--balanced_sampling: {name} are all of one class.")
    if by == "source" and "source" not in rows.column_names:
        raise InputError(
            f"--balanced_sampling source: {name} have no column source; they have {rows.column_names}. "
            "Name it in a table, or pass --balanced_sampling class."
        )
    keys = [labels]
    if by == "source":
        keys.append(pd.Series(rows["source"][:], dtype=object).fillna(""))
    table = pd.concat(keys, axis=1, keys=range(len(keys)))
    sizes = table.groupby(list(table))[0].transform("size")
    kinds = table.drop_duplicates()[0].value_counts()
    return np.asarray(1 / (sizes * labels.map(kinds) * labels.nunique()), dtype=np.float64)


class BalancedSampler(torch.utils.data.Sampler[int]):
    """Draws as many images an epoch as there are, with replacement.

    What is drawn depends on the seed and the epoch alone: all processes draw the same list, of which accelerate gives
    each its part, and a resumed epoch goes on in the list that it began.

    Args:
        shares: Chance of each image, sum 1.
        seed: Of the draw.
        epoch: Says which epoch begins.
    """

    def __init__(self, shares: NDArray[np.float64], seed: int, epoch: Callable[[], int]) -> None:
        self.shares, self.seed, self.epoch = shares, seed, epoch

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng([self.seed, self.epoch()])
        yield from generator.choice(len(self), size=len(self), p=self.shares).tolist()


class SharedBatches(torch.utils.data.BatchSampler):
    """Batches of which several processes take one each in turn, where every image of the epoch is in one batch alone.

    accelerate fills the last batches up with images that the epoch has had. Here they are of nearly equal size instead,
    and where one process would get a single image or none, those of the turn before as well: a step is the same images
    in any number of processes, but for these last two.

    Args:
        sampler: Draws the images of an epoch, alike in every process.
        batch_size: Of a process, at least 2.
        processes: At most as many as there are images.
    """

    def __init__(self, sampler: Collection[int], batch_size: int, processes: int) -> None:
        super().__init__(sampler, batch_size, drop_last=False)
        self.images, self.processes = len(sampler), processes

    def __len__(self) -> int:
        return -(-self.images // (self.batch_size * self.processes)) * self.processes

    def __iter__(self) -> Iterator[list[int]]:
        drawn = list(self.sampler)
        in_full = self.images // self.batch_size // self.processes * self.processes
        if in_full and 0 < self.images - in_full * self.batch_size < 2 * self.processes:
            in_full -= self.processes
        for batch in range(in_full):
            yield drawn[batch * self.batch_size : (batch + 1) * self.batch_size]
        if in_full < len(self):
            for last in np.array_split(drawn[in_full * self.batch_size :], len(self) - in_full):
                yield last.tolist()


def share_batches(loader: torch.utils.data.DataLoader[Any]) -> None:
    """Let several processes share the batches of a loader that accelerate has prepared as `SharedBatches` does."""
    share: Any = loader.batch_sampler
    filled_up = isinstance(share, BatchSamplerShard) and not (share.drop_last or share.split_batches)
    if filled_up and share.batch_size > 1:
        share.batch_sampler = SharedBatches(share.batch_sampler.sampler, share.batch_size, share.num_processes)
        share.batch_size = None  # else it waits for a last batch that is full
