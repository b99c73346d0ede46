from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from hf_deepfake import InputError
from hf_deepfake.arguments import FittingArguments
from hf_deepfake.training.schedules import check_schedule, schedule_by_epoch


def rates(fitting: FittingArguments, steps: int, warmup_steps: int = 0) -> list[float]:
    """Learning rates of the steps of a training with 4 steps an epoch, of a group with half the rate of the other."""
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": weights[:1], "lr": 0.5}, {"params": weights[1:]}], lr=1.0)
    schedule = schedule_by_epoch(optimizer, fitting, 1.0, steps_per_epoch=4, warmup_steps=warmup_steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[1]["lr"])
        assert optimizer.param_groups[0]["lr"] == pytest.approx(found[-1] / 2)
        optimizer.step()
        schedule.step()
    return found


def test_milestones_hold_from_the_end_of_their_epoch_on() -> None:
    found = rates(FittingArguments(lr_milestones=["1:0.1", "2.5:0.01"]), 12)
    assert found == pytest.approx([1.0] * 4 + [0.1] * 6 + [0.01] * 2)


def test_the_step_schedule_drops_every_so_many_epochs() -> None:
    found = rates(FittingArguments(lr_step_epochs=1.5, lr_step_gamma=0.5), 14)
    assert found == pytest.approx([1.0] * 6 + [0.5] * 6 + [0.25] * 2)


def test_warm_up_comes_before_both() -> None:
    for fitting in (FittingArguments(lr_milestones=["1:0.1"]), FittingArguments(lr_step_epochs=1)):
        assert rates(fitting, 5, warmup_steps=4) == pytest.approx([0, 0.25, 0.5, 0.75, 0.1])


@pytest.mark.parametrize(
    ("choices", "training", "message"),
    [
        ({"lr_milestones": ["2"]}, {}, "--lr_milestones 2: needs EPOCH:RATE"),
        ({"lr_milestones": ["2:x"]}, {}, "--lr_milestones 2:x: needs EPOCH:RATE"),
        ({"lr_milestones": ["1:0.1", "0:0.2"]}, {}, "--lr_milestones 0:0.2: needs EPOCH:RATE"),
        ({"lr_milestones": ["2:0.1", "1:0.2"]}, {}, "--lr_milestones 2:0.1 1:0.2: the epochs have to rise"),
        ({"lr_milestones": ["1:0.1"], "lr_step_epochs": 1}, {}, "are two schedules"),
        ({"lr_milestones": ["1:0.1"]}, {"lr_scheduler_type": "cosine"}, "--lr_scheduler_type cosine: .* leave it or"),
        (
            {"lr_milestones": ["1:0.1"]},
            {"learning_rate": 0.0},
            "--learning_rate 0.0: --lr_milestones needs one above 0",
        ),
        ({"lr_milestones": ["3:0.1"]}, {"num_train_epochs": 3}, "ends after 3 epochs, before .* after epoch 3"),
        ({"lr_step_gamma": 0.5}, {}, "--lr_step_gamma 0.5: does nothing without --lr_step_epochs"),
        ({"lr_step_epochs": 0}, {}, "--lr_step_epochs 0: needs to be above 0"),
        ({"lr_step_epochs": 1, "lr_step_gamma": -0.5}, {}, "--lr_step_gamma -0.5: needs to be above 0"),
    ],
)
def test_schedules_that_cannot_be_followed_are_refused(
    choices: dict[str, Any], training: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_schedule(FittingArguments(**choices), TrainingArguments(use_cpu=True, **training))
