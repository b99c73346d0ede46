from pathlib import Path

import pytest
import torch
from conftest import build_tiny_vit, save_tiny_timm
from transformers import (
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from hf_deepfake.arguments import ModelArguments
from hf_deepfake.errors import InputError
from hf_deepfake.models.checkpoints import load_checkpoint, load_unmerged, save_checkpoint, save_unmerged
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.models.lora import ADAPTER, adapters, add_adapters, merge_adapters, merged_state

IMAGE = torch.zeros(1, 3, 32, 32)


@pytest.fixture(params=["vit", "resnet"])
def detector(request: pytest.FixtureRequest, tmp_path: Path) -> PreTrainedModel:
    return (
        build_tiny_vit(32) if request.param == "vit" else load_detector(str(save_tiny_timm(tmp_path / "base"))).model
    )


def logits(detector: PreTrainedModel) -> torch.Tensor:
    pixel_values = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = detector.eval()(pixel_values=pixel_values).logits
    return found


def learn(detector: PreTrainedModel) -> None:
    for name, parameter in detector.named_parameters():
        if ADAPTER in name:
            torch.nn.init.normal_(parameter, std=0.1)


def test_adapters_change_nothing_until_they_have_learnt(detector: PreTrainedModel) -> None:
    before = logits(detector)
    add_adapters(detector, 2, 4, IMAGE)
    torch.testing.assert_close(logits(detector), before, rtol=0, atol=0)
    learn(detector)
    assert (logits(detector) - before).abs().max() > 1e-3


def test_all_blocks_have_adapters_and_neither_stem_nor_head_has(detector: PreTrainedModel) -> None:
    add_adapters(detector, 2, 4, IMAGE)
    found = adapters(detector)
    if hasattr(detector, "vit"):
        assert len(found) == 2 * 6  # of each layer query, key, value, the projection, and the two of the MLP
    else:
        assert all(name.startswith("timm_model.layer") for name in found)
    assert found


def test_a_checkpoint_holds_the_merged_weights_and_is_plain(detector: PreTrainedModel, tmp_path: Path) -> None:
    add_adapters(detector, 2, 4, IMAGE)
    learn(detector)
    expected = logits(detector)
    save_checkpoint(detector, load_processor(detector), tmp_path / "saved")
    stock, info = AutoModelForImageClassification.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(stock), expected, rtol=1e-4, atol=1e-4)
    merge_adapters(detector)
    assert not adapters(detector)
    torch.testing.assert_close(logits(detector), logits(stock), rtol=0, atol=0)


def test_a_training_goes_on_from_unmerged_weights_exactly(detector: PreTrainedModel, tmp_path: Path) -> None:
    add_adapters(detector, 2, 4, IMAGE)
    learn(detector)
    save_checkpoint(detector, load_processor(detector), tmp_path)
    save_unmerged(detector, tmp_path)
    again = load_checkpoint(tmp_path)
    add_adapters(again, 2, 4, IMAGE)
    load_unmerged(again, tmp_path)
    expected = detector.state_dict()
    assert expected.keys() == again.state_dict().keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_a_detector_without_adapters_is_its_own_merged_state(detector: PreTrainedModel) -> None:
    state = detector.state_dict()
    assert state.keys() == merged_state(detector).keys()


def test_a_layer_that_is_called_as_peft_calls_its_own_is_no_adapter() -> None:
    """DLA has a `base_layer`."""
    with torch.device("meta"):
        detector = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="dla34", num_labels=2))
    assert not adapters(detector)
    assert merged_state(detector).keys() == detector.state_dict().keys()


def test_weights_that_are_standardised_first_have_no_adapters(tmp_path: Path) -> None:
    """Nothing can be merged into those: the standardised sum is not the sum of what was standardised."""
    detector = load_detector(str(save_tiny_timm(tmp_path / "base", "test_nfnet"))).model
    add_adapters(detector, 2, 4, IMAGE)
    learn(detector)
    expected = logits(detector)
    assert adapters(detector)
    merge_adapters(detector)
    torch.testing.assert_close(logits(detector), expected, rtol=1e-4, atol=1e-4)


def test_a_network_without_layers_for_adapters_is_refused() -> None:
    with torch.device("meta"):
        detector = TimmWrapperForImageClassification(TimmWrapperConfig(architecture="resnetv2_50x1_bit", num_labels=2))
    with pytest.raises(InputError, match="--train lora: this network has no layer that an adapter"):
        add_adapters(detector, 2, 4, IMAGE.to("meta"))


def test_a_layer_whose_weights_are_taken_past_it_has_no_adapter() -> None:
    """BEiT multiplies by the weights of `qkv` itself, so that an adapter would never learn."""
    arguments = ModelArguments(
        "beit_base_patch16_224", image_size=32, model_args='{"depth": 1, "embed_dim": 16, "num_heads": 2}'
    )
    detector = new_detector(arguments)[0].train()
    add_adapters(detector, 2, 4, IMAGE)
    assert detector.training
    assert {name.rpartition("blocks.0.")[2] for name in adapters(detector)} == {"attn.proj", "mlp.fc1", "mlp.fc2"}


def test_a_missing_peft_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"--train lora: needs peft; pip install 'hf_deepfake\[lora\]'"):
        add_adapters(build_tiny_vit(32), 2, 4, IMAGE)


def load_processor(detector: PreTrainedModel) -> object:
    from transformers import TimmWrapperImageProcessor, ViTImageProcessor

    if hasattr(detector, "vit"):
        return ViTImageProcessor()
    return TimmWrapperImageProcessor(detector.config.pretrained_cfg, detector.config.architecture)
