from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from hf_deepfake import InputError
from hf_deepfake.arguments import FittingArguments
from hf_deepfake.training.averaging import UNAVERAGED, WeightAveraging, check_decay


def network(value: float) -> nn.Sequential:
    """A frozen layer and a batch norm, every float of them `value`, which has counted `value` batches."""
    model = nn.Sequential(nn.Linear(2, 2).requires_grad_(False), nn.BatchNorm1d(2))
    for tensor in model.state_dict().values():
        tensor.fill_(value)
    return model


def step(averaging: WeightAveraging, model: nn.Module, number: int) -> None:
    averaging.on_step_end(None, SimpleNamespace(global_step=number), None, model=model)  # type: ignore[arg-type]


def started(value: float, decay: float) -> tuple[WeightAveraging, nn.Sequential]:
    averaging, model = WeightAveraging(decay), network(value)
    averaging.on_train_begin(None, None, None, model=model)  # type: ignore[arg-type]
    return averaging, model


def fill(model: nn.Module, value: float) -> None:
    for tensor in model.state_dict().values():
        tensor.fill_(value)


def values(tensors: dict[str, Any]) -> set[float]:
    return {round(float(value), 6) for tensor in tensors.values() for value in tensor.flatten()}


def test_the_average_of_weights_and_buffers_moves_as_the_decay_says() -> None:
    averaging, model = started(0.0, decay=0.5)
    fill(model, 8.0)
    step(averaging, model, 1)  # decay (1 + 1) / (10 + 1)
    counts = {name for name in averaging.average if "num_batches" in name}
    moved = {name: tensor for name, tensor in averaging.average.items() if name not in counts}
    assert values(moved) == {round(8 * 9 / 11, 6)}
    assert {int(averaging.average[name]) for name in counts} == {8}
    step(averaging, model, 100)  # the warm-up is over: 0.5
    assert values(moved) == {round(8 - 8 * 2 / 11 / 2, 6)}


def test_the_average_stands_in_for_the_weights_in_the_block_and_after_the_training_alone() -> None:
    averaging, model = started(0.0, decay=0.9)
    weight = model[1].weight
    fill(model, 11.0)
    step(averaging, model, 1)
    with averaging.applied(model):
        with averaging.applied(model):
            assert values({"weight": model[1].weight.detach()}) == {9.0}
        assert values({"weight": model[1].weight.detach()}) == {9.0}
    assert model[1].weight is weight  # which the optimizer holds
    assert values(model.state_dict()) == {11.0}
    averaging.on_train_end(None, None, None, model=model)  # type: ignore[arg-type]
    assert values(model[1].state_dict()) == {9.0, 11.0}  # the counter of batches is no average
    with averaging.applied(model):
        assert values({"weight": model[1].weight.detach()}) == {9.0}


def test_a_checkpoint_brings_back_both(tmp_path: Path) -> None:
    averaging, model = started(1.0, decay=0.9)
    model.to(memory_format=torch.channels_last)
    fill(model, 3.0)
    step(averaging, model, 50)
    averaging.save(model, tmp_path)
    again, loaded = WeightAveraging(0.9), network(0.0)
    loaded.load_state_dict(averaging.average)  # as the checkpoint's model file has it
    again.load(loaded, tmp_path)
    again.on_train_begin(None, None, None, model=loaded)  # type: ignore[arg-type]
    assert values(loaded.state_dict()) == {3.0}
    for name, tensor in averaging.average.items():
        assert torch.equal(again.average[name], tensor)


def test_a_checkpoint_without_an_average_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{tmp_path}: has no {UNAVERAGED}"):
        WeightAveraging(0.9).load(network(0.0), tmp_path)


@pytest.mark.parametrize("decay", [0.0, 1.0, float("nan")])
def test_a_decay_is_between_0_and_1(decay: float) -> None:
    with pytest.raises(InputError, match=f"--ema_decay {decay}: needs to be between 0 and 1"):
        check_decay(FittingArguments(ema_decay=decay))
