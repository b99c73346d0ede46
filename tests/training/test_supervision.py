from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_deepfake.arguments import ModelArguments
from hf_deepfake.models.detector import new_detector
from hf_deepfake.models.fourier import FourierHead
from hf_deepfake.training.losses import cross_entropy
from hf_deepfake.training.supervision import FourierLoss


class Errors(torch.nn.Module):
    """A head whose errors are known."""

    def errors(self) -> torch.Tensor | None:
        return torch.tensor([1.0, 3.0]) if self.training else None


OUTPUTS = SimpleNamespace(logits=torch.zeros(2, 2))
LABELS = torch.tensor([0, 1])


def supervised(head: Any, weight: float, growth: float | None, epoch: float | None) -> FourierLoss:
    loss = FourierLoss(cross_entropy, head, weight, growth, Accelerator(cpu=True))
    loss.on_epoch_begin(TrainingArguments("none", use_cpu=True), TrainerState(epoch=epoch), TrainerControl())
    return loss


@pytest.mark.parametrize(
    ("growth", "epoch", "weight"),
    [
        (None, None, 0.5),
        (None, 3.0, 0.5),
        (0.2, None, 0.2),
        (0.2, 1.0, 0.4),
        (0.2, 1.7, 0.4),
        (0.2, 2.0, 0.5),
        (0.2, 9.0, 0.5),
    ],
)
def test_the_weight_grows_by_epoch_to_its_cap(growth: float | None, epoch: float | None, weight: float) -> None:
    assert supervised(Errors(), 0.5, growth, epoch).weight == pytest.approx(weight)


def test_the_mean_error_of_the_images_is_added_in_training_alone() -> None:
    loss = supervised(Errors(), 0.5, None, None)
    alone = cross_entropy(OUTPUTS, LABELS)
    assert loss(OUTPUTS, LABELS).item() == pytest.approx(alone.item() + 0.5 * 2)
    loss.head.eval()
    assert loss(OUTPUTS, LABELS).item() == alone.item()


@pytest.mark.parametrize("labels", [LABELS, torch.tensor([[0.3, 0.7], [1, 0]])])
def test_accumulated_batches_are_averaged_over_all_their_images(labels: torch.Tensor) -> None:
    """A batch of 2 in a step of 8 images: each image counts an eighth, with soft labels too."""
    loss = supervised(Errors(), 0.5, None, None)
    alone = cross_entropy(OUTPUTS, labels, 4 * labels.numel())
    assert loss(OUTPUTS, labels, 4 * labels.numel()).item() == pytest.approx(alone.item() + 0.5 * (1 + 3) / 8)


def test_the_head_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    heads = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        detector = new_detector(ModelArguments("test_resnet", image_size=32))[0]
        heads.append(FourierHead(detector, torch.zeros(1, 3, 32, 32)))
    supervised(heads[0], 1, None, None).save(tmp_path)
    supervised(heads[1], 1, None, None).load(tmp_path)
    expected = heads[0].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in heads[1].state_dict().items())


def test_the_gradient_of_a_step_is_of_that_step_alone() -> None:
    """Trainer calls `zero_grad` of the model, which the head is no part of."""
    head = torch.nn.Linear(1, 1)
    loss = supervised(head, 1, None, None)
    for _ in range(2):
        loss.on_step_begin(TrainingArguments("none", use_cpu=True), TrainerState(), TrainerControl())
        head(torch.ones(1)).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.item() == 1
