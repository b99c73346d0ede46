import math

import pytest
import torch
from conftest import build_tiny_vit
from torch import nn
from transformers import PreTrainedModel, SwinConfig, SwinForImageClassification

from hf_deepfake.arguments import ModelArguments
from hf_deepfake.models.blocks import parameter_blocks
from hf_deepfake.models.detector import new_detector
from hf_deepfake.models.fourier import FourierHead, log_spectrum


def test_the_spectrum_of_a_constant_image_is_its_middle() -> None:
    found = log_spectrum(torch.ones(1, 3, 8, 8), (8, 8))
    expected = torch.zeros(1, 8, 8)
    expected[0, 4, 4] = 1
    torch.testing.assert_close(found, expected)


def test_a_wave_lies_as_far_from_the_middle_as_it_has_periods() -> None:
    wave = torch.cos(2 * math.pi * 3 * torch.arange(16) / 16).expand(1, 3, 16, 16)
    found = log_spectrum(wave, (16, 16))[0]
    assert found[8].argsort(descending=True)[:2].sort().values.tolist() == [5, 11]
    assert found[8, 5] == pytest.approx(1)
    assert found.sum() == pytest.approx(2, abs=0.1)


def test_it_keeps_within_zero_and_one_at_any_size() -> None:
    pixel_values = torch.randn(2, 3, 30, 20, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1e-3, 1e3]
    ).view(2, 1, 1, 1)
    for size in ((5, 7), (40, 40)):
        found = log_spectrum(pixel_values, size)
        assert found.shape == (2, *size)
        assert found.min() >= 0
        assert found.max() <= 1
    assert log_spectrum(torch.zeros(1, 3, 4, 4), (4, 4)).isfinite().all()


def network(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if name == "vit":
        return build_tiny_vit(32)
    if name == "swin":
        config = SwinConfig(depths=[1, 1, 1], num_heads=[1, 1, 1], embed_dim=8, image_size=32, window_size=2)
        return SwinForImageClassification(config)
    detector: PreTrainedModel = new_detector(ModelArguments(name, image_size=None if name == "test_vit" else 32))[0]
    return detector


@pytest.mark.parametrize("name", ["vit", "swin", "test_resnet", "test_convnext", "test_efficientnet", "test_vit"])
def test_its_gradient_reaches_the_lower_half_of_every_backbone(name: str) -> None:
    detector = network(name)
    side = 160 if name == "test_vit" else 32
    pixel_values = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    before = set(detector.state_dict())
    head = FourierHead(detector, torch.zeros(1, 3, side, side))
    detector.train()(pixel_values=pixel_values)
    errors = head.errors()
    assert errors is not None
    assert errors.shape == (2,)
    errors.sum().backward()
    blocks = parameter_blocks(detector)
    reached = [any(is_moved(detector.get_parameter(name)) for name in names) for names in blocks]
    assert reached == [index <= (len(blocks) - 1) // 2 for index in range(len(blocks))]
    assert all(is_moved(parameter) for parameter in head.layers[-1].parameters())
    assert set(detector.state_dict()) == before


def is_moved(parameter: nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def test_nothing_is_asked_of_it_in_evaluation() -> None:
    detector = network("test_resnet")
    statistics = {name: tensor.clone() for name, tensor in detector.named_buffers()}
    head = FourierHead(detector, torch.zeros(1, 3, 32, 32))
    assert all(torch.equal(tensor, statistics[name]) for name, tensor in detector.named_buffers())
    assert head.errors() is None
    with torch.no_grad():
        detector.eval()(pixel_values=torch.zeros(1, 3, 32, 32))
    assert head.errors() is None
