"""Random changes of training images that depend on the seed and the place in the training, not on what ran before."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils import data as torch_data


def derived_seed(*parts: Any) -> int:
    """A seed made of what the parts look like, for example `(seed, epoch, index)`.

    Example:
        >>> derived_seed(0, 1) == derived_seed(0, 1) != derived_seed(0, 2)
        True
    """
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:7], "big")


@contextmanager
def drawing_from(seed: int) -> Iterator[None]:
    """Let torch's global CPU generator draw from a stream of its own, and then go on as if nothing had been drawn."""
    state = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)


class SeededRows(torch_data.Dataset[dict[str, Any]]):
    """Rows whose random changes follow from the seed, the epoch and the batch they stand in.

    So neither the number of workers nor an interruption changes what is drawn: a worker's generator depends on how many
    there are, and in a training without workers images and dropout would share one generator, which has drawn for the
    batch after next when a checkpoint is saved. The batch and not the row alone, since a sampler may draw a row twice.

    Args:
        rows: A `datasets.Dataset` with a transform.
        seed: Of the training.
    """

    def __init__(self, rows: Any, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # seen by workers that outlive an epoch

    def set_epoch(self, epoch: int) -> None:
        """Tell which epoch is read next."""
        self.epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The rows of a batch, each with its `row` and the `draw` that its batch was changed by."""
        draw = derived_seed(self.seed, int(self.epoch), *map(int, indices))
        with drawing_from(draw):
            rows: list[dict[str, Any]] = self.rows.__getitems__(indices)
        return [row | {"draw": draw, "row": int(index)} for row, index in zip(rows, indices, strict=True)]


class SeededCollator:
    """A training collator that draws as `SeededRows` does, and says in `rows` which rows are in the batch.

    Args:
        collate: Stacks, and may mix, rows that have a `draw` and a `row`, or in a stream a `file`.
        named: False where several processes share one stream: they pass tensors only.
    """

    def __init__(self, collate: Callable[[list[dict[str, Any]]], dict[str, Any]], named: bool = True) -> None:
        self.collate, self.named = collate, named

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Stack rows; the batch's draws follow from those of the rows, but are others."""
        with drawing_from(derived_seed("batch", rows[0]["draw"])):
            batch = self.collate(rows)
        if "row" in rows[0]:
            return batch | {"rows": torch.tensor([row["row"] for row in rows])}
        return batch | ({"rows": [row["file"] for row in rows]} if self.named else {})
