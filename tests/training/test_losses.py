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


def test_soft_labels_share_the_loss_between_the_classes() -> None:
    soft = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75], [0.5, 0.5]])
    expected = -(soft * LOGITS.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(cross_entropy(SimpleNamespace(logits=LOGITS), soft), expected)
    smoothed = soft * 0.8 + 0.1
    torch.testing.assert_close(
        cross_entropy(SimpleNamespace(logits=LOGITS), soft, label_smoothing=0.2),
        -(smoothed * LOGITS.log_softmax(1)).sum(1).mean(),
    )


def test_soft_labels_of_accumulated_batches_are_counted_by_image() -> None:
    """Trainer counts the values of the labels, two an image."""
    soft = torch.nn.functional.one_hot(LABELS, 2).float()
    parts = [
        cross_entropy(SimpleNamespace(logits=LOGITS[rows]), soft[rows], num_items_in_batch=8)
        for rows in (slice(0, 1), slice(1, 4))
    ]
    torch.testing.assert_close(sum(parts), torch_cross_entropy(LOGITS, LABELS))
