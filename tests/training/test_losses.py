from types import SimpleNamespace

import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy

from hf_deepfake.training.losses import cross_entropy

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.5, 0.5], [-1.0, 3.0]])
LABELS = torch.tensor([0, 1, 1, 0])


def test_the_loss_of_a_batch_is_its_mean() -> None:
    loss = cross_entropy(SimpleNamespace(logits=LOGITS), LABELS)
    torch.testing.assert_close(loss, torch_cross_entropy(LOGITS, LABELS))


def test_parts_of_an_accumulated_batch_add_up_to_the_mean_of_the_whole() -> None:
    parts = [
        cross_entropy(SimpleNamespace(logits=LOGITS[rows]), LABELS[rows], num_items_in_batch=4)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), torch_cross_entropy(LOGITS, LABELS))


def test_label_smoothing_is_not_lost() -> None:
    loss = cross_entropy(SimpleNamespace(logits=LOGITS), LABELS, label_smoothing=0.2)
    torch.testing.assert_close(loss, torch_cross_entropy(LOGITS, LABELS, label_smoothing=0.2))
