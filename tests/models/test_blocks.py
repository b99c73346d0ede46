import pytest
import torch
from conftest import build_tiny_vit
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    PretrainedConfig,
    ResNetConfig,
    SwinConfig,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from hf_deepfake.errors import InputError
from hf_deepfake.models.blocks import block_classes, middle_block, parameter_blocks
from hf_deepfake.training.freezing import set_trained

NATIVE = [
    (ConvNextConfig(depths=[1, 1, 2, 1], hidden_sizes=[8] * 4), "convnext.encoder.stages.{}.layers.{}.", [1, 1, 2, 1]),
    (
        ResNetConfig(depths=[2, 1], hidden_sizes=[8, 8], embedding_size=8),
        "resnet.encoder.stages.{}.layers.{}.",
        [2, 1],
    ),
    (
        SwinConfig(depths=[2, 1], num_heads=[1, 1], embed_dim=8, image_size=32),
        "swin.encoder.layers.{}.blocks.{}.",
        [2, 1],
    ),
]


def timm_detector(name: str) -> TimmWrapperForImageClassification:
    return TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, num_labels=2))


@pytest.mark.parametrize(("config", "place", "depths"), NATIVE)
def test_a_network_of_stages_has_a_block_for_each_layer(
    config: PretrainedConfig, place: str, depths: list[int]
) -> None:
    with torch.device("meta"):
        detector = AutoModelForImageClassification.from_config(config)
    stem, *blocks, head = parameter_blocks(detector)
    places = [place.format(stage, layer) for stage, count in enumerate(depths) for layer in range(count)]
    assert len(blocks) == len(places)
    for names, inside in zip(blocks, places, strict=True):
        assert any(name.startswith(inside) for name in names)
        assert not any(name.startswith(other) for name in names for other in places if other != inside)
    assert all("embed" in name for name in stem)
    assert all(name.startswith("classifier") for name in head)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "test_vit"])
def test_every_parameter_is_in_one_block(name: str) -> None:
    detector = timm_detector(name)
    blocks = parameter_blocks(detector)
    assert sorted(name for names in blocks for name in names) == sorted(
        name for name, _ in detector.named_parameters()
    )
    classifier = {id(parameter) for parameter in detector.timm_model.get_classifier().parameters()}
    assert classifier <= {id(detector.get_parameter(name)) for name in blocks[-1]}


def test_a_vision_transformer_has_a_block_for_each_layer() -> None:
    stem, first, last, head = parameter_blocks(build_tiny_vit(32))
    assert {name.split(".")[1] for name in stem} == {"embeddings"}
    assert {".".join(name.split(".")[:3]) for name in first} == {"vit.layers.0"}
    assert {".".join(name.split(".")[1:3]) for name in last} == {"layers.1", "layernorm.weight", "layernorm.bias"}
    assert head == ["classifier.weight", "classifier.bias"]


def test_blocks_that_timm_does_not_tell_are_not_guessed() -> None:
    """It can be trained whole all the same."""
    with torch.device("meta"):
        detector = timm_detector("poolformer_s12")
    with pytest.raises(InputError, match=r"poolformer_s12: timm does not tell its blocks.*--train full"):
        set_trained(detector, "probe")
    set_trained(detector, "full")
    assert all(parameter.requires_grad for parameter in detector.parameters())


def test_what_leads_to_the_next_block_is_no_middle() -> None:
    """HRNet's blocks have transitions beside them; what holds both is the whole network."""
    with torch.device("meta"):
        detector = timm_detector("hrnet_w18_small")
    assert middle_block(detector) is detector.timm_model.stage2[0]


def test_the_middle_block_is_whole() -> None:
    """Of a residual network not the branch before it is added to what skips it."""
    with torch.device("meta"):
        resnet = AutoModelForImageClassification.from_config(NATIVE[1][0])
    assert middle_block(resnet) is resnet.resnet.encoder.stages[0].layers[1]
    vit = build_tiny_vit(32)
    assert middle_block(vit) is vit.vit.layers[0]


@pytest.mark.parametrize(
    ("name", "classes"),
    [
        ("vit_tiny_patch16_224", ["Block"]),
        ("resnet18", ["BasicBlock"]),
        ("tf_efficientnet_lite0", ["DepthwiseSeparableConv", "InvertedResidual"]),
        ("swin_tiny_patch4_window7_224", ["SwinTransformerBlock", "SwinTransformerStage"]),
        ("densenet121", []),  # its blocks have no container but the network
        ("poolformer_s12", []),  # does not tell
    ],
)
def test_shards_are_blocks_and_no_containers(name: str, classes: list[str]) -> None:
    with torch.device("meta"):
        assert block_classes(timm_detector(name)) == classes


def test_shards_of_a_network_of_transformers_are_its_layers() -> None:
    assert block_classes(build_tiny_vit(32)) == ["ViTLayer"]
