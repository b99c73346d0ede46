from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from hf_deepfake.data.seeding import SeededCollator, SeededRows, drawing_from


def _noise(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {"value": [torch.rand(()) for _ in batch["row"]]}


def _collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    return {"value": torch.stack([row["value"] for row in rows]) + 10 * torch.rand(())}


def drawn(epochs: int = 2, **loading: Any) -> list[list[torch.Tensor]]:
    rows = SeededRows(Dataset.from_dict({"row": list(range(8))}).with_transform(_noise), seed=1)
    loader = DataLoader(rows, batch_size=4, collate_fn=SeededCollator(_collate), **loading)  # type: ignore[arg-type]
    passes = []
    for epoch in range(epochs):
        rows.set_epoch(epoch)
        passes.append([batch["value"] for batch in loader])
    return passes


def test_the_number_of_workers_changes_no_draw() -> None:
    alone = torch.stack([torch.cat(batches) for batches in drawn()])
    for loading in ({"num_workers": 2}, {"num_workers": 1, "persistent_workers": True}):
        torch.rand(3)  # what else was drawn does not matter either
        assert torch.equal(torch.stack([torch.cat(batches) for batches in drawn(**loading)]), alone)


def test_every_epoch_and_every_batch_is_drawn_anew() -> None:
    first, second = drawn()
    assert len({float(value) for batch in first + second for value in batch}) == 16


def test_a_batch_says_which_rows_are_in_it() -> None:
    rows = SeededRows(Dataset.from_dict({"row": [5, 6, 7]}).with_transform(_noise), seed=1)
    batch = SeededCollator(_collate)(rows.__getitems__([2, 0]))
    assert batch["rows"].tolist() == [2, 0]
    streamed = [{"value": torch.zeros(()), "draw": 3, "file": "a.jpg"}]
    assert SeededCollator(_collate)(streamed)["rows"] == ["a.jpg"]
    assert "rows" not in SeededCollator(_collate, named=False)(streamed)


def test_drawing_from_a_seed_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    first = torch.rand(())
    with drawing_from(5):
        torch.rand(100)
    assert torch.equal(torch.stack([first, torch.rand(())]), expected)
