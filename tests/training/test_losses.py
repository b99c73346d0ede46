from types import SimpleNamespace

import pytest
import torch
from torch.nn.functional import cross_entropy as torch_cross_entropy
from transformers import TrainingArguments

from hf_deepfake import InputError
from hf_deepfake.arguments import FittingArguments
from hf_deepfake.training.losses import check_loss, cross_entropy, parse_class_weights

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


def test_class_weights_multiply_the_loss_of_their_images() -> None:
    each = torch_cross_entropy(LOGITS, LABELS, reduction="none")
    expected = (each * torch.tensor([0.5, 3.0, 3.0, 0.5])).mean()
    for gamma in (0.0, 1e-9):  # both branches
        found = cross_entropy(SimpleNamespace(logits=LOGITS), LABELS, class_weights=(0.5, 3.0), focal_gamma=gamma)
        torch.testing.assert_close(found, expected)


def test_the_focal_loss_multiplies_by_the_probability_of_being_wrong() -> None:
    p = LOGITS.softmax(1)[torch.arange(4), LABELS]
    found = cross_entropy(SimpleNamespace(logits=LOGITS), LABELS, focal_gamma=2.0)
    torch.testing.assert_close(found, -((1 - p) ** 2 * p.log()).mean())


def test_an_image_that_is_surely_right_has_a_finite_focal_gradient() -> None:
    logits = torch.tensor([[60.0, -60.0]], requires_grad=True)
    cross_entropy(SimpleNamespace(logits=logits), torch.tensor([0]), focal_gamma=0.5).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_every_loss_of_accumulated_batches_adds_up_to_that_of_the_whole() -> None:
    """Of hard and of soft labels, which Trainer counts twice; the parts are of unlike classes."""
    soft = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75], [0.5, 0.5]])
    for labels in (LABELS, soft):
        for choices in ({"class_weights": (0.5, 3.0)}, {"focal_gamma": 2.0, "label_smoothing": 0.1}):
            whole = cross_entropy(SimpleNamespace(logits=LOGITS), labels, **choices)  # type: ignore[arg-type]
            parts = [
                cross_entropy(SimpleNamespace(logits=LOGITS[rows]), labels[rows], labels.numel(), **choices)  # type: ignore[arg-type]
                for rows in (slice(0, 1), slice(1, 4))
            ]
            torch.testing.assert_close(sum(parts), whole)


def test_balanced_weights_make_up_for_the_counts_and_average_one() -> None:
    weights = parse_class_weights(["balanced"], [0, 0, 0, 1])
    assert weights == pytest.approx((2 / 3, 2))
    assert parse_class_weights(["1", "2.5"], None) == (1, 2.5)
    assert parse_class_weights([], None) is None


@pytest.mark.parametrize("texts", [["1"], ["balanced", "1"], ["0", "1"], ["equal"], ["nan", "1"]])
def test_other_class_weights_are_refused(texts: list[str]) -> None:
    with pytest.raises(InputError, match=f"--class_weights {' '.join(texts)}: needs balanced, or two numbers"):
        check_loss(FittingArguments(class_weights=texts), TrainingArguments(use_cpu=True))


def test_weights_of_one_class_cannot_be_balanced() -> None:
    with pytest.raises(InputError, match="--class_weights balanced: there are 2 real and 0 fake images"):
        parse_class_weights(["balanced"], [0, 0])


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_smoothing_by_no_share_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=f"--label_smoothing_factor {share}: a share from 0 to below 1"):
        check_loss(FittingArguments(), TrainingArguments(use_cpu=True, label_smoothing_factor=share))


def test_a_negative_focal_exponent_is_refused() -> None:
    with pytest.raises(InputError, match=r"--focal_gamma -1\.0: cannot be below 0"):
        check_loss(FittingArguments(focal_gamma=-1.0), TrainingArguments(use_cpu=True))
