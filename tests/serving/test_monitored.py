from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_tiny_vit, draw_image, save_tiny_timm
from PIL import Image
from torch import nn
from transformers import ViTForImageClassification

from hf_deepfake import InputError
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.ensemble.hub.running_deepfake_ensemble import run_within_memory
from hf_deepfake.models.detector import load_detector
from hf_deepfake.serving.monitored import DIMENSIONS, EmbeddingRecorder, image_statistics


def test_statistics_are_those_solved_by_hand(tmp_path: Path) -> None:
    stripes = np.zeros((40, 60), np.uint8)
    stripes[:, ::2] = 100
    Image.fromarray(stripes).save(tmp_path / "stripes.png")
    row = image_statistics([str(tmp_path / "stripes.png")]).iloc[0]
    assert row[["width", "height"]].tolist() == [60, 40]
    assert row["file_bytes"] == (tmp_path / "stripes.png").stat().st_size
    assert row[["brightness", "contrast"]].tolist() == pytest.approx([50, 50])
    laplacian = np.where(np.arange(60) % 2, 200, -200)  # twice the neighbour less twice itself
    laplacian[-1] = 100  # at the right end, whose own value is repeated
    laplacian[0] = -100
    assert row["sharpness"] == pytest.approx(laplacian.var())


def test_statistics_are_of_the_upright_image_in_every_form_that_is_scored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    draw_image(1, 0).crop((0, 0, 40, 20)).save(path, exif=exif)
    held = {"bytes": path.read_bytes(), "path": None}
    table = image_statistics([str(path), path, {"bytes": None, "path": str(path)}, held])
    assert table[["width", "height"]].iloc[0].tolist() == [20, 40]
    assert len(table.drop_duplicates()) == 1


def test_blurring_lowers_sharpness_and_darkening_brightness(tmp_path: Path) -> None:
    image = draw_image(0, 0)
    changes = {"plain": image, "dark": image.point(lambda value: value // 2), "blurred": image.resize((10, 10))}
    for name, changed in changes.items():
        changed.resize(image.size).save(tmp_path / f"{name}.png")
    table = image_statistics([str(tmp_path / f"{name}.png") for name in changes])
    assert table["brightness"][1] == pytest.approx(table["brightness"][0] / 2, abs=1)
    assert table["brightness"][2] == pytest.approx(table["brightness"][0], abs=1)
    assert table["sharpness"][2] < table["sharpness"][0] / 10


def test_what_cannot_be_read_and_addresses_have_no_statistics(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    table = image_statistics([str(tmp_path / "text.jpg"), str(tmp_path / "none.jpg"), "https://example.org/a.jpg"])
    assert table.isna().all(axis=None)


def test_an_embedding_is_the_projected_input_of_the_last_layer(tiny_vit: ViTForImageClassification) -> None:
    recorder = EmbeddingRecorder(tiny_vit)
    pixels = torch.rand(5, 3, 32, 32)
    with torch.inference_mode():
        features = tiny_vit.vit(pixels).last_hidden_state[:, 0].double().numpy()
        tiny_vit(pixels[:3])
        tiny_vit(pixels[3:])
    projection = np.random.RandomState(0).normal(size=(16, DIMENSIONS)) / 8
    np.testing.assert_allclose(recorder.take(5), features @ projection, rtol=1e-5, atol=1e-6)


def test_embeddings_are_taken_once_and_of_an_images_own_view(tiny_vit: ViTForImageClassification) -> None:
    recorder, pixels = EmbeddingRecorder(tiny_vit), torch.rand(4, 3, 32, 32)
    with torch.inference_mode():
        tiny_vit(pixels)
        each = recorder.take(4)
        tiny_vit(pixels)
        own = recorder.take(2)  # of two images with two views
    np.testing.assert_array_equal(own, each[::2])


def test_distances_between_images_survive_the_projection(tmp_path: Path) -> None:
    """With many features: the mean ratio is 1, and 64 dimensions scatter it by some 18 %."""
    detector = build_tiny_vit(32)
    detector.classifier = nn.Linear(1000, 2)
    recorder = EmbeddingRecorder(detector)
    features = torch.randn(40, 1000, generator=torch.Generator().manual_seed(0))
    detector.classifier(features)
    recorder._keep()
    first, second = np.triu_indices(40, 1)
    embeddings = recorder.take(40)
    projected = np.square(embeddings[first] - embeddings[second]).sum(axis=1)
    ratios = projected / np.square((features[first] - features[second]).numpy()).sum(axis=1)
    assert ratios.mean() == pytest.approx(1, abs=0.1)
    assert ratios.std() == pytest.approx((2 / DIMENSIONS) ** 0.5, abs=0.08)


def test_the_members_of_an_ensemble_all_count(tmp_path: Path) -> None:
    members = [build_tiny_vit(32, seed) for seed in range(2)]
    ensemble = EnsembleForImageClassification(EnsembleConfig(members=[member.config.to_dict() for member in members]))
    for slot, member in zip(ensemble.members, members, strict=True):
        slot.load_state_dict(member.state_dict())
    pixels = torch.rand(3, 3, 32, 32)
    recorder = EmbeddingRecorder(ensemble.eval())
    with torch.inference_mode():
        ensemble(pixels)
        features = [member.vit(pixels).last_hidden_state[:, 0].double().numpy() for member in members]
    projection = np.random.RandomState(0).normal(size=(32, DIMENSIONS)) / 8
    np.testing.assert_allclose(recorder.take(3), np.hstack(features) @ projection, rtol=1e-5, atol=1e-6)


def test_a_batch_that_is_repeated_in_halves_counts_once() -> None:
    member = build_tiny_vit(32)
    ensemble = EnsembleForImageClassification(EnsembleConfig(members=[member.config.to_dict()] * 2)).eval()
    recorder, pixels = EmbeddingRecorder(ensemble), torch.rand(4, 3, 32, 32)

    def two_images_fit(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with torch.inference_mode():
        ensemble(pixels)
        whole = recorder.take(4)
        ensemble.members[1].classifier.register_forward_pre_hook(two_images_fit)
        run_within_memory(ensemble, {"pixel_values": pixels})
    np.testing.assert_allclose(recorder.take(4), whole, atol=1e-5)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext"])
def test_the_last_layer_of_timm_networks_is_found(tmp_path: Path, name: str) -> None:
    detector, _, _ = load_detector(str(save_tiny_timm(tmp_path / name, name)))
    recorder = EmbeddingRecorder(detector)
    side = detector.config.pretrained_cfg["input_size"][-1]
    with torch.inference_mode():
        logits = detector(torch.rand(3, 3, side, side)).logits
        features = recorder._inputs[0][0]
        assert recorder.take(3).shape == (3, DIMENSIONS)
        torch.testing.assert_close(detector.timm_model.get_classifier()(features), logits)


def test_a_network_without_a_last_layer_of_two_is_refused(tiny_vit: ViTForImageClassification) -> None:
    tiny_vit.classifier = nn.Identity()
    with pytest.raises(InputError, match=r"--monitoring: ViTForImageClassification has no last layer"):
        EmbeddingRecorder(tiny_vit)
