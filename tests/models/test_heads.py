import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_vit, save_tiny_timm, save_tiny_vit
from torch import nn
from transformers import AutoImageProcessor, AutoModelForImageClassification, TimmWrapperImageProcessor

from hf_deepfake.arguments import ModelArguments
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.errors import InputError
from hf_deepfake.models.checkpoints import load_checkpoint, save_checkpoint
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.models.heads import new_head

MOBILENET_HEAD = {"head": "mlp", "head_layers": [512, 128], "head_dropout": [0.3, 0.1], "head_batch_norm": True}


def arguments(base: Path | str, **choices: Any) -> ModelArguments:
    return ModelArguments(str(base), **({"image_size": 32} if base == "test_resnet" else {}) | choices)


def saved(folder: Path, base: Path | str, **choices: Any) -> Path:
    """A checkpoint with an MLP head whose last layer has learnt something."""
    torch.manual_seed(0)
    detector, processor, _ = new_detector(arguments(base, **MOBILENET_HEAD | choices))
    list_of_linear = [module for module in detector.modules() if isinstance(module, nn.Linear)]
    nn.init.normal_(list_of_linear[-1].weight)
    save_checkpoint(detector, processor, folder)
    return folder


def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_the_head_has_the_layers_of_its_flags() -> None:
    detector, _, _ = new_detector(arguments("test_resnet", **MOBILENET_HEAD))
    found = [str(layer).split(",")[0].split("(")[0] for layer in detector.timm_model.get_classifier()]
    assert found == ["Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear", "ReLU", "Dropout", "Linear"]
    sizes = [layer.out_features for layer in detector.timm_model.get_classifier() if isinstance(layer, nn.Linear)]
    assert sizes == [512, 128, 2]
    assert [layer.p for layer in detector.timm_model.get_classifier() if isinstance(layer, nn.Dropout)] == [0.3, 0.1]
    with torch.no_grad():
        assert not detector.eval()(pixel_values=pixels()).logits.any()  # one half for every image


@pytest.mark.parametrize("family", ["timm", "hf"])
def test_a_checkpoint_with_an_mlp_head_comes_back_whole(family: str, tmp_path: Path) -> None:
    base = "test_resnet" if family == "timm" else save_tiny_vit(tmp_path / "base", 32)
    run = saved(tmp_path / "run", base)
    detector = load_checkpoint(run).eval()
    model, processor, fake_column = load_detector(str(run))
    image = np.random.default_rng(0).integers(0, 255, (50, 40, 3), dtype=np.uint8)
    views = processor([image], return_tensors="pt")
    with torch.no_grad():
        own = detector(**views).logits
        voted = model(**views).logits
    assert fake_column == 1
    assert own.abs().max() > 0.1
    torch.testing.assert_close(voted, own.log_softmax(-1), rtol=1e-4, atol=1e-5)
    kept, plain, origin = new_detector(ModelArguments(str(run)))
    assert origin.endswith("head kept")
    assert isinstance(plain, TimmWrapperImageProcessor) == (family == "timm")
    with torch.no_grad():
        torch.testing.assert_close(kept.eval()(**plain([image], return_tensors="pt")).logits, own, rtol=0, atol=0)


def test_a_detector_with_an_mlp_head_is_a_member_like_any_other(tmp_path: Path) -> None:
    runs = [saved(tmp_path / "mlp", "test_resnet"), save_tiny_timm(tmp_path / "linear", "test_efficientnet")]
    ensemble, processor = assemble(runs, ["mlp", "linear"], Fit(**one_half(2)))
    ensemble.save_pretrained(tmp_path / "ensemble")
    processor.save_pretrained(tmp_path / "ensemble")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "ensemble").eval()
    views = AutoImageProcessor.from_pretrained(tmp_path / "ensemble")(
        [np.zeros((32, 32, 3), np.uint8)], return_tensors="pt"
    )
    with torch.no_grad():
        member = load_checkpoint(runs[0]).eval()(pixel_values=views["pixel_values"]).logits
        torch.testing.assert_close(again(**views).member_logits[:, 0], member, rtol=0, atol=0)


def one_half(members: int) -> dict[str, Any]:
    return {
        "temperatures": [1.0] * members,
        "weights": [1.0] * members,
        "member_thresholds": [0.5] * members,
        "voting": "soft",
        "thresholds": {"soft": 0.5},
    }


@pytest.mark.slow  # another process imports torch
def test_without_this_package_it_loads_with_the_code_beside_it_or_not_at_all(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "test_resnet")
    code = f"""
import sys; sys.modules["hf_deepfake"] = None
import torch
from transformers import AutoModelForImageClassification, pipeline
from PIL import Image
try:
    AutoModelForImageClassification.from_pretrained({str(run)!r}, trust_remote_code=False)
except ValueError as error:
    print("refused", "trust_remote_code" in str(error))
model = AutoModelForImageClassification.from_pretrained({str(run)!r}, trust_remote_code=True).eval()
pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
print(model(pixel_values=pixels).logits.tolist())
"""
    environment = os.environ | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    refused, found = done.stdout.strip().splitlines()[-2:]
    assert refused == "refused True"
    with torch.no_grad():
        expected = load_checkpoint(run).eval()(pixel_values=pixels()).logits.log_softmax(-1)
    np.testing.assert_allclose(eval(found), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"head": "conv"}, "--head conv: must be linear or mlp"),
        ({"head": "mlp"}, r"--head mlp: needs --head_layers.*found \[\]"),
        ({"head": "mlp", "head_layers": [0]}, r"--head mlp: needs --head_layers.*found \[0\]"),
        (
            {"head": "mlp", "head_layers": [8], "head_dropout": [0.1, 0.2]},
            r"--head_dropout \[0.1, 0.2\]: needs 1 values",
        ),
        ({"head": "mlp", "head_layers": [8], "head_dropout": [1.0]}, r"--head_dropout \[1.0\]: needs 1 values"),
        ({"head_layers": [8]}, "--head_layers: does nothing without --head mlp"),
        ({"head_batch_norm": True}, "--head_batch_norm: does nothing without --head mlp"),
    ],
)
def test_flags_of_the_head_that_do_not_go_together_are_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        new_detector(arguments("test_resnet", **choices))


def test_a_second_mlp_head_is_refused(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "test_resnet")
    with pytest.raises(InputError, match=f"{run}: has an MLP head already"):
        new_detector(ModelArguments(str(run), **MOBILENET_HEAD))


def test_a_network_whose_classifier_is_a_convolution_is_refused() -> None:
    detector = build_tiny_vit(32)
    detector.classifier = nn.Conv2d(16, 2, 1)
    with pytest.raises(
        InputError, match="of-convolutions: cannot have an MLP head: its classifier is no linear layer"
    ):
        new_head(detector, ModelArguments("of-convolutions", head="mlp", head_layers=[8]))
