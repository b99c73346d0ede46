from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import build_tiny_vit, draw_folder, draw_image, save_tiny_vit
from datasets import Dataset
from PIL import Image
from transformers import ViTImageProcessor

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.ensemble.hub.configuration_deepfake_ensemble import EnsembleConfig
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import EnsembleImageProcessor
from hf_deepfake.ensemble.hub.modeling_deepfake_ensemble import EnsembleForImageClassification
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.adversarial import _balanced, adversarial_robustness, attack, log_wrong, parse_attacks
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.models.differentiable import differentiable_views

VIEWS = [
    {"image_processor_type": "ViTImageProcessor", "size": {"height": size, "width": size}, "image_mean": [mean] * 3}
    for size, mean in ((24, 0.3), (32, 0.5))
]


def rows_of(folder: Path) -> Dataset:
    return load_data(DataArguments(str(folder)))["all"]


def build_ensemble(**settings: Any) -> LoadedDetector:
    members = [build_tiny_vit(24, seed=1), build_tiny_vit(32, seed=2)]
    config = EnsembleConfig(members=[member.config.to_dict() for member in members], member_views=[0, 1], **settings)
    ensemble = EnsembleForImageClassification(config).eval()
    for own, member in zip(ensemble.members, members, strict=True):
        own.load_state_dict(member.state_dict())
    return LoadedDetector(ensemble, EnsembleImageProcessor(views=VIEWS), 1)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, LoadedDetector]:
    """An ensemble of two views and a detector that is none of its members."""
    single = load_detector(str(save_tiny_vit(tmp_path_factory.mktemp("vit"), seed=3)))
    return {
        "ensemble": build_ensemble(
            voting="weighted", weights=[0.8, 0.2], temperatures=[2.0, 0.5], fake_columns=[0, 0]
        ),
        "single": single,
    }


def grey(*levels: int) -> list[Image.Image]:
    return [Image.fromarray(np.full((4, 5, 3), level, np.uint8)) for level in levels]


def values(images: list[Image.Image]) -> np.ndarray[Any, Any]:
    return np.stack([np.asarray(image).astype(int) for image in images])


def test_fgsm_on_a_linear_model_goes_by_epsilon_against_the_label() -> None:
    weight = torch.tensor([1.0, -2.0, 0.0]).view(3, 1, 1)  # of a linear log-odds of fake

    def gradient(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return torch.where(labels == 1, -1, 1).view(-1, 1, 1, 1) * weight.expand_as(pixels)

    for method in ("fgsm", "pgd"):
        labels = np.array([0, 1, 0, 1])
        changed = values(attack(grey(100, 100, 254, 2), labels, gradient, method, 3, range(4)))[:, 0, 0]
        assert changed[:, :2].tolist() == [[103, 97], [97, 103], [255, 251], [0, 5]]  # never below 0 or above 255
        if method == "fgsm":
            assert changed[:, 2].tolist() == [100, 100, 254, 2]


def test_pgd_gets_round_a_bend_where_fgsm_overshoots() -> None:
    """Of (x - 101)² with a minus, the top is one level away from 100; FGSM jumps over it to 104."""

    def gradient(pixels: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return 101 / 255 - pixels

    assert set(values(attack(grey(100), np.array([0]), gradient, "fgsm", 4, [0])).ravel()) == {104}
    assert set(values(attack(grey(100), np.array([0]), gradient, "pgd", 4, [0])).ravel()) <= {100, 101, 102}


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray[Any, Any]]:
    """Pixels of what is given to the models to score, batch by batch, which then gets one half."""
    seen: list[np.ndarray[Any, Any]] = []

    def score(models: Any, images: list[Image.Image], batch_size: int) -> np.ndarray[Any, Any]:
        seen.append(values(images))
        return np.full((len(models), len(images)), 0.5)

    monkeypatch.setattr("hf_deepfake.evaluation.adversarial._score", score)
    return seen


@pytest.mark.parametrize(("epsilon", "levels"), [("0", 0), ("1/255", 1), ("0.008", 2), ("8/255", 8)])
def test_the_bound_holds_in_8_bits_and_is_used(
    epsilon: str, levels: int, models: Mapping[str, LoadedDetector], image_folder: Path, scored: list[Any]
) -> None:
    adversarial_robustness(models, rows_of(image_folder), epsilons=[epsilon], attacked=["ensemble"], limit=1, steps=4)
    clean, fgsm, pgd = scored
    for changed in (fgsm, pgd):
        assert np.abs(changed - clean).max() == levels
    assert (np.abs(fgsm - clean) == levels).mean() > 0.9


def test_an_epsilon_of_0_gives_the_figures_without_an_attack(
    models: Mapping[str, LoadedDetector], image_folder: Path
) -> None:
    entries, skipped = adversarial_robustness(models, rows_of(image_folder), epsilons=["0"], limit=4, steps=1)
    assert skipped == []
    assert len(entries) == 8  # 2 attacks, 2 attacked, 2 scored
    for entry in entries:
        same = next(other for other in entries if other["model"] == entry["model"])
        assert entry["flipped"] == 0
        assert entry["images"] == 4
        assert {name: entry[name] for name in ("roc_auc", "accuracy")} == {
            name: same[name] for name in ("roc_auc", "accuracy")
        }


def test_an_attack_hurts_the_model_that_it_sees_most_and_pgd_more_than_fgsm(
    models: Mapping[str, LoadedDetector], image_folder: Path
) -> None:
    rows = rows_of(image_folder)
    unchanged, _ = adversarial_robustness(models, rows, ["fgsm"], ["0"], ["single"], limit=12)
    entries, _ = adversarial_robustness(models, rows, epsilons=["8/255"], limit=12, steps=4)
    clean = {entry["model"]: entry["roc_auc"] for entry in unchanged}
    left = {(entry["attacked"], entry["model"], entry["attack"]): entry["roc_auc"] for entry in entries}
    for name, other in (("ensemble", "single"), ("single", "ensemble")):
        assert left[name, name, "pgd"] <= left[name, name, "fgsm"] < clean[name] - 0.3
        assert clean[name] - left[name, name, "pgd"] > clean[other] - left[name, other, "pgd"]
    names = ("attack", "epsilon", "attacked", "model")
    assert [entries[0][name] for name in names] == ["fgsm", "8/255", "ensemble", "ensemble"]
    assert {"false_positive_rate", "false_negative_rate", "accuracy", "flipped", "images"} <= set(entries[0])


def test_a_seed_gives_the_same_images_whatever_the_batch(
    models: Mapping[str, LoadedDetector], image_folder: Path, scored: list[Any]
) -> None:
    def attacked(batch_size: int, seed: int) -> Any:
        scored.clear()
        rows, settings = rows_of(image_folder), {"limit": 4, "batch_size": batch_size, "steps": 2, "seed": seed}
        adversarial_robustness(models, rows, ["pgd"], ["4/255"], ["single"], **settings)
        return np.concatenate(scored[1::2])  # every other time they are clean

    first = attacked(1, seed=0)
    np.testing.assert_array_equal(attacked(3, seed=0), first)
    assert (attacked(1, seed=1) != first).any()


def test_both_classes_are_attacked_alike_and_the_seed_draws_the_images() -> None:
    labels = np.array([0] * 30 + [1] * 8)
    assert np.bincount(labels[_balanced(labels, 10, 0)]).tolist() == [5, 5]
    assert np.bincount(labels[_balanced(labels, 20, 0)]).tolist() == [12, 8]
    assert _balanced(labels, None, 0) == list(range(38))
    assert _balanced(labels, 10, 0) != _balanced(labels, 10, 1)


def test_the_wrong_class_gets_its_share_of_the_calibrated_vote() -> None:
    member_logits = torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]).expand(2, 2, 2)  # log-odds of fake 2 and -1
    output, labels = SimpleNamespace(member_logits=member_logits), torch.tensor([0, 1])
    settings = {"temperatures": [2.0, 0.5], "biases": [0.0, 1.0], "weights": [3.0, 1.0]}
    fake = torch.sigmoid(torch.tensor([1.0, -1.0]))
    for voting, voted in (("weighted", (3 * fake[0] + fake[1]) / 4), ("soft", fake.mean()), ("hard", fake.mean())):
        found = log_wrong(output, labels, SimpleNamespace(voting=voting, **settings), 1)
        torch.testing.assert_close(found.exp(), torch.stack([voted, 1 - voted]))
    single = SimpleNamespace(logits=torch.tensor([[2.0, 0.0]]))
    torch.testing.assert_close(
        log_wrong(single, labels[:1], SimpleNamespace(), 0).exp(), torch.sigmoid(torch.tensor([2.0]))
    )


def test_a_model_that_is_quite_sure_still_has_a_gradient() -> None:
    """The cross-entropy of log-odds 200 is 0 and so is its gradient, in 32 bits."""
    logits = torch.tensor([[[0.0, 200.0], [0.0, 150.0]]], requires_grad=True)
    log_wrong(SimpleNamespace(member_logits=logits), torch.tensor([1]), SimpleNamespace(), 1).sum().backward()
    assert logits.grad is not None
    assert logits.grad[0, 1].tolist() == pytest.approx([1, -1])  # the member that is nearest to turning


@pytest.mark.parametrize("voting", ["soft", "weighted", "hard"])
def test_the_gradient_of_an_ensemble_agrees_with_finite_differences(voting: str) -> None:
    model, processor, _ = build_ensemble(voting=voting, weights=[0.7, 0.3], temperatures=[2.0, 3.0])
    model.double()
    views, generator = differentiable_views(processor), torch.Generator().manual_seed(0)
    labels = torch.tensor([1])

    def loss(pixels: torch.Tensor) -> torch.Tensor:
        return log_wrong(model(**views(pixels)), labels, model.config, 1)[0]

    pixels = (0.3 + 0.4 * torch.rand(1, 3, 40, 30, generator=generator).double()).requires_grad_()
    [gradient] = torch.autograd.grad(loss(pixels), pixels)
    for direction in (gradient / gradient.norm(), torch.randn(pixels.shape, generator=generator).double()):
        with torch.no_grad():
            difference = (loss(pixels + 1e-3 * direction) - loss(pixels - 1e-3 * direction)) / 2e-3
        assert float(difference) == pytest.approx(float((gradient * direction).sum()), rel=0.01, abs=1e-3)


def test_images_of_several_sizes_and_unreadable_ones_are_coped_with(
    models: Mapping[str, LoadedDetector], tmp_path: Path
) -> None:
    draw_folder(tmp_path, 3)
    draw_image(0, 9, 50).convert("L").save(tmp_path / "real" / "001.png")
    (tmp_path / "fake" / "002.png").write_text("no image")
    entries, skipped = adversarial_robustness(models, rows_of(tmp_path), ["fgsm"], limit=None, attacked=["single"])
    assert [entry["images"] for entry in entries] == [5, 5]
    assert [file for file, _ in skipped] == ["fake/002.png"]
    assert "not an image" in skipped[0][1]
    for path in tmp_path.rglob("*.png"):
        path.write_text("no image")
    with pytest.raises(InputError, match=r"none of the 6 images to attack can be read: .*000\.png: not an image"):
        adversarial_robustness(models, rows_of(tmp_path), attacked=["single"])


def test_one_class_leaves_out_what_it_cannot_answer(models: Mapping[str, LoadedDetector], image_folder: Path) -> None:
    rows = rows_of(image_folder).filter(lambda row: row["label"] == 0)
    entry = adversarial_robustness(models, rows, ["fgsm"], limit=2, attacked=["single"])[0][0]
    assert "roc_auc" not in entry
    assert "false_negative_rate" not in entry
    assert entry["accuracy"] == 1 - entry["false_positive_rate"]


def test_the_verdict_is_taken_at_the_stored_threshold(image_folder: Path) -> None:
    model = build_ensemble(thresholds={"soft": 1.0})
    entry = adversarial_robustness({"m": model}, rows_of(image_folder), ["fgsm"], ["0"], limit=6)[0][0]
    assert (entry["false_positive_rate"], entry["false_negative_rate"], entry["accuracy"]) == (0, 1, 0.5)


@pytest.mark.parametrize(
    ("methods", "epsilons", "reason"),
    [
        (["fgms"], ["2/255"], "fgms: no such attack; there are fgsm, pgd. Did you mean fgsm"),
        (["pgd"], ["0.1", "two"], "epsilon two: no number"),
        (["pgd"], ["1/0"], "epsilon 1/0: no number"),
        (["pgd"], ["nan"], "epsilon nan: no number"),
        (["pgd"], ["-1/255"], "epsilon -1/255: .* from 0 to 1"),
        (["pgd"], ["8"], "epsilon 8: .* such as 2/255"),
        (["pgd"], ["0.003"], "epsilon 0.003: less than a grey level"),
    ],
)
def test_unknown_attacks_and_impossible_epsilons_are_refused(
    methods: list[str], epsilons: list[str], reason: str
) -> None:
    with pytest.raises(InputError, match=reason):
        parse_attacks(methods, epsilons)


def test_attacks_given_twice_are_run_once() -> None:
    assert parse_attacks(["pgd", "pgd"], ["8/255", "8/255"]) == [("pgd", "8/255", 8)]


def test_models_that_cannot_be_attacked_are_refused_by_name(
    models: Mapping[str, LoadedDetector], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, single = rows_of(image_folder), models["single"]
    with pytest.raises(InputError, match="other: no such model to attack; there are ensemble, single"):
        adversarial_robustness(models, rows, attacked=["other"])
    box = single._replace(processor=ViTImageProcessor(size={"height": 24, "width": 24}, resample=4))
    with pytest.raises(InputError, match="box: ViTImageProcessor: cannot be differentiated"):
        adversarial_robustness({"box": box}, rows)
    cut = single._replace(model=build_tiny_vit(24))
    forward = type(cut.model).forward
    for flag in (True, False):  # the image is cut off, then the network is frozen as well
        cut.model.requires_grad_(flag)
        monkeypatch.setattr(cut.model, "forward", lambda pixel_values: forward(cut.model, pixel_values.detach()))
        with pytest.raises(InputError, match="cut: no gradient leads from its logits back to the image"):
            adversarial_robustness({"cut": cut}, rows, limit=2)
    cut.model.config.reading = {"face_crop": {"margin": 0.3}}
    with pytest.raises(InputError, match="cut: it reads a face crop"):
        adversarial_robustness({"cut": cut}, rows)
