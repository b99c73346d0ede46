import json
from typing import Any

import pytest
import torch
from conftest import build_tiny_vit, draw_image
from test_scores import build_ensemble, tensor
from transformers import (
    AutoModelForImageClassification,
    BeitConfig,
    BitImageProcessor,
    CLIPImageProcessor,
    ConvNextConfig,
    ConvNextImageProcessor,
    DeiTConfig,
    DeiTForImageClassification,
    Dinov2Config,
    Dinov2WithRegistersConfig,
    PretrainedConfig,
    ResNetConfig,
    SwinConfig,
    TimmWrapperImageProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from hf_deepfake import labels
from hf_deepfake.arguments import ModelArguments
from hf_deepfake.errors import InputError
from hf_deepfake.explain.cams import _cam, attention, grad_cam
from hf_deepfake.explain.layers import place, recorded, to_grid
from hf_deepfake.explain.scores import Score
from hf_deepfake.models.detector import LoadedDetector, new_detector

LABELS = {"id2label": labels.ID2LABEL, "label2id": labels.LABEL2ID}
TOKENS = LABELS | {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 64,
    "patch_size": 16,
    "initializer_range": 0.5,
}
WINDOWS = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "image_size": 64, "window_size": 4}
TRANSFORMERS: dict[str, PretrainedConfig] = {
    "vit": ViTConfig(**TOKENS),
    "deit": DeiTConfig(**TOKENS),
    "beit": BeitConfig(**TOKENS),
    "dinov2": Dinov2Config(**TOKENS),
    "dinov2_with_registers": Dinov2WithRegistersConfig(**TOKENS),
    "swin": SwinConfig(**WINDOWS, **LABELS),
    "convnext": ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, **LABELS),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **LABELS),
}
TIMM = {
    "test_resnet": {},
    "test_efficientnet": {},
    "test_convnext": {},
    "test_vit": {},
    "test_vit3": {},
    "mobilenetv3_small_050": {},
    "swin_tiny_patch4_window7_224": {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4},
}
GLOBAL_ATTENTION = ("vit", "deit", "beit", "dinov2", "dinov2_with_registers", "test_vit", "test_vit3")


def build(name: str, seed: int = 0) -> LoadedDetector:
    """Untrained, 64 pixels."""
    torch.manual_seed(seed)
    if name in TRANSFORMERS:
        config = TRANSFORMERS[name]
        model = (
            DeiTForImageClassification(config)
            if name == "deit"
            else AutoModelForImageClassification.from_config(config)
        )
    else:
        arguments = ModelArguments(name, image_size=64, model_args=json.dumps(TIMM[name]))
        model = new_detector(arguments)[0]
        for parameter in model.timm_model.get_classifier().parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return LoadedDetector(model.eval(), ViTImageProcessor(size={"height": 64, "width": 64}), 1)


@pytest.mark.parametrize("name", [*TRANSFORMERS, *TIMM])
def test_of_every_family_the_map_is_not_empty_and_depends_on_the_image(name: str) -> None:
    """For one of the two targets at least: what speaks for fake nowhere speaks for real."""
    detector = build(name)
    for plus_plus in (False, True):
        first, second = (
            torch.stack(
                [grad_cam(Score(detector, target), tensor(draw_image(1, seed)), plus_plus) for target in labels.NAMES]
            )
            for seed in (0, 1)
        )
        assert first.std(dim=(1, 2)).max() > 0
        assert not torch.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize("name", [*TRANSFORMERS, *TIMM])
def test_attention_is_followed_where_it_is_between_all_parts_and_refused_elsewhere(name: str) -> None:
    detector = build(name)
    for weighted in (False, True):
        if name not in GLOBAL_ATTENTION:
            with pytest.raises(InputError, match=f"{name}: of attention there is .* explain it by grad_cam"):
                attention(Score(detector), tensor(draw_image(1, 0)), weighted)
            continue
        first, second = (attention(Score(detector), tensor(draw_image(1, seed)), weighted) for seed in (0, 1))
        assert first.std() > 0
        assert not torch.allclose(first, second, rtol=1e-3)


@pytest.mark.parametrize("name", ["vit", "test_vit"])
def test_a_model_is_as_it_was_afterwards_also_after_an_error(name: str) -> None:
    model: Any = build(name).model
    pixels = torch.rand(1, 3, 64, 64)
    own = [vars(module).copy() for module in model.modules()]
    hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())
    implementation, before = model.config._attn_implementation, model(pixel_values=pixels).logits

    def broken() -> None:
        with recorded(model, attention=True) as record:
            model(pixel_values=pixels)
            assert len(record.attentions) == len(record.attended) > 0
            raise KeyError(name)

    with pytest.raises(KeyError):
        broken()
    assert model.config._attn_implementation == implementation
    assert sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()) == hooks
    assert [part.get("fused_attn") for part in own] == [vars(part).get("fused_attn") for part in model.modules()]
    assert [set(part) for part in own] == [set(vars(part)) for part in model.modules()]
    assert torch.equal(model(pixel_values=pixels).logits, before)


def test_a_hand_solved_grad_cam() -> None:
    """Two channels: gradients that sum to 2 and -1 over the map, so 2 A_0 - A_1, cut off at 0."""
    activation = torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[0.0, 3.0], [1.0, 2.0]]])
    gradient = torch.tensor([[[0.5, 0.5], [0.5, 0.5]], [[-1.0, 0.0], [0.0, 0.0]]])
    assert _cam(activation, gradient, plus_plus=False).tolist() == [[2, 0], [3, 0]]
    # of channel 0, 0.25 / (0.5 + 0.125 * 4) = 0.25 times each gradient; of channel 1 nothing is positive
    assert _cam(activation, gradient, plus_plus=True).tolist() == [[0.5, 0], [1, 0.5]]


def test_the_votes_cam_is_that_of_the_members_by_their_share_in_its_gradient() -> None:
    detector = build_ensemble(voting="weighted", weights=[1.0, 2.0])
    pixels = tensor(draw_image(1, 0))
    score = Score(detector)
    log_odds = score.log_odds(pixels).detach().requires_grad_()
    shares = torch.autograd.grad(score.vote(log_odds).sum(), log_odds)[0][0]
    parts = [grad_cam(Score(detector, member=name), pixels) for name in score.names]
    expected = sum(share * part for share, part in zip(shares, parts, strict=True))
    torch.testing.assert_close(grad_cam(score, pixels), expected, rtol=1e-3, atol=1e-5)


def test_a_member_without_weight_is_left_out() -> None:
    detector = build_ensemble(voting="weighted", weights=[0.0, 1.0])
    pixels = tensor(draw_image(1, 0))
    torch.testing.assert_close(
        grad_cam(Score(detector), pixels), grad_cam(Score(detector, member="large"), pixels), rtol=1e-4, atol=1e-6
    )


def test_rollout_of_one_layer_is_its_mean_attention() -> None:
    """Half of the class token's row is its own; what is left goes to the patches as its attention says."""
    torch.manual_seed(0)
    config = ViTConfig(**TOKENS | {"num_hidden_layers": 1})
    model = AutoModelForImageClassification.from_config(config).eval()
    score = Score(LoadedDetector(model, ViTImageProcessor(size={"height": 64, "width": 64}), 1))
    pixels = torch.rand(1, 3, 4, 4)  # a pixel a patch, so that nothing lies between the patches' middles
    with recorded(model, attention=True) as record:
        score(pixels)
    expected = record.attentions[0][0].mean(dim=0)[0, 1:].reshape(4, 4) / 2 * 16
    torch.testing.assert_close(attention(score, pixels), expected.detach(), rtol=1e-3, atol=1e-4)


def test_a_network_without_a_feature_map_is_refused() -> None:
    detector = build_ensemble()
    score = Score(detector, member="small")
    for parameter in score.models[0].classifier.parameters():
        torch.nn.init.zeros_(parameter)
    with pytest.raises(InputError, match=r"vit: no feature map .* integrated_gradients or occlusion"):
        grad_cam(score, tensor(draw_image(1, 0)))


def test_tokens_that_are_no_grid_are_refused() -> None:
    model = build_tiny_vit(32)
    with recorded(model) as record:
        model(pixel_values=torch.rand(1, 3, 32, 32))
    assert to_grid(record, torch.rand(1, 17, 5)).shape == (5, 4, 4)
    with pytest.raises(InputError, match="vit: its 17 tokens are no grid"):
        to_grid(record, torch.rand(1, 18, 5))


PROCESSORS: dict[str, Any] = {
    "whole": ViTImageProcessor(size={"height": 96, "width": 80}),
    "crop": CLIPImageProcessor(size={"shortest_edge": 96}, crop_size={"height": 96, "width": 96}),
    "scaled crop": BitImageProcessor(size={"shortest_edge": 110}, crop_size={"height": 96, "width": 96}),
    "ConvNeXt": ConvNextImageProcessor(size={"shortest_edge": 96}),
    "timm": TimmWrapperImageProcessor(
        {
            "input_size": (3, 96, 96),
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": (0.5,) * 3,
            "std": (0.5,) * 3,
        },
        "test_resnet",
    ),
}


@pytest.mark.parametrize("name", PROCESSORS)
@pytest.mark.parametrize("size", [(120, 200), (90, 64)], ids=str)
def test_a_map_is_laid_where_its_view_was_cut(name: str, size: tuple[int, int]) -> None:
    """The view of a smooth image, laid back, is that image where the view reaches and 0 elsewhere."""
    score = Score(LoadedDetector(build_tiny_vit(32), PROCESSORS[name], 1))
    rows, columns = (torch.linspace(0, 3, side) for side in size)
    image = (0.5 + 0.4 * torch.sin(rows)[:, None] * torch.cos(columns)).expand(1, 3, -1, -1)
    black, white, view = (score.views(part)["pixel_values"][0, 0] for part in (0 * image, 0 * image + 1, image))
    found = place(score, "pixel_values", (view - black) / (white - black), image)
    reached = place(score, "pixel_values", torch.ones(3, 3), image)
    torch.testing.assert_close(reached, reached.round(), atol=1e-5, rtol=0)
    torch.testing.assert_close(found, image[0, 0] * reached, atol=0.02, rtol=0)
    outside = {"whole": 0, "crop": 1 - min(size) / max(size)}.get(name)
    if outside is not None:
        assert 1 - reached.mean().item() == pytest.approx(outside, abs=0.02)


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (300, 1)], ids=str)
def test_a_tiny_image_is_covered(size: tuple[int, int]) -> None:
    score = Score(LoadedDetector(build_tiny_vit(32), ViTImageProcessor(size={"height": 32, "width": 32}), 1))
    found = place(score, "pixel_values", torch.ones(4, 4), torch.rand(1, 3, *size))
    torch.testing.assert_close(found, torch.ones(size))
