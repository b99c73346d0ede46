"""The saved ensemble: its code, members of every kind, and what is said of damaged folders."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw_image, save_tiny_timm, save_tiny_vit
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextImageProcessor,
    ResNetConfig,
    SwinConfig,
    ViTImageProcessor,
    pipeline,
)

import hf_deepfake
from hf_deepfake import cli, labels
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.models.detector import load_detector

HUB = Path(hf_deepfake.__file__).parent / "ensemble" / "hub"
HALVES = dict.fromkeys(("soft", "hard", "weighted"), 0.5)
IMAGES = [draw_image(1, 0, 50), draw_image(0, 1, 36)]

_CLASSES = {"id2label": labels.ID2LABEL, "label2id": labels.LABEL2ID}
_NETWORKS = {
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], **_CLASSES),
    "convnext": ConvNextConfig(hidden_sizes=[8, 8], depths=[1, 1], num_stages=2, initializer_range=0.5, **_CLASSES),
    "swin": SwinConfig(image_size=32, embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=4, **_CLASSES),
}


def save_network(folder: Path, name: str) -> Path:
    """A tiny network of transformers with the image processor of its family."""
    torch.manual_seed(0)
    AutoModelForImageClassification.from_config(_NETWORKS[name]).save_pretrained(folder)
    mean = [0.1, 0.2, 0.3]
    if name == "swin":
        ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=mean).save_pretrained(folder)
    else:
        ConvNextImageProcessor(size={"shortest_edge": 28}, crop_pct=0.8, image_mean=mean).save_pretrained(folder)
    return folder


def save_ensemble(folder: Path, runs: list[Path]) -> Path:
    count = len(runs)
    fit = Fit("soft", [1.0] * count, [1.0] * count, [0.5] * count, HALVES)
    names = [f"{run.name}-{index}" for index, run in enumerate(runs)]
    for part in assemble(runs, names, fit):
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Five detectors of both libraries, of four sizes and four normalisations."""
    root = tmp_path_factory.mktemp("members")
    own = [save_network(root / name, name) for name in _NETWORKS]
    return [*own, save_tiny_vit(root / "vit", 24), save_tiny_timm(root / "test_resnet", "test_resnet", 48)]


@pytest.fixture(scope="module")
def saved(members: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One member of each library."""
    return save_ensemble(tmp_path_factory.mktemp("saved") / "ensemble", members[3:])


def prob_fake_of(run: Path) -> torch.Tensor:
    model, processor, fake_column = load_detector(str(run))
    with torch.no_grad():
        logits = model(**processor(IMAGES, return_tensors="pt")).logits
    return logits.softmax(-1)[:, fake_column]


@pytest.mark.parametrize("count", [1, 5, pytest.param(20, marks=pytest.mark.slow)])
def test_a_saved_ensemble_of_any_members_votes_the_mean_of_the_members_run_alone(
    members: list[Path], tmp_path: Path, count: int
) -> None:
    runs = (members * 4)[:count]
    alone = {run: prob_fake_of(run) for run in set(runs)}
    assert all((prob[0] - prob[1]).abs() > 1e-5 for prob in alone.values())
    assert torch.allclose(
        prob_fake_of(save_ensemble(tmp_path / "ensemble", runs)),
        torch.stack([alone[run] for run in runs]).mean(0),
        atol=1e-5,
        rtol=0,
    )


def test_a_member_whose_labels_are_in_the_other_order_counts_for_fake(members: list[Path], tmp_path: Path) -> None:
    turned = shutil.copytree(members[3], tmp_path / "turned")
    settings = json.loads((turned / "config.json").read_text())
    settings |= {"id2label": {"0": "fake", "1": "real"}, "label2id": {"fake": 0, "real": 1}}
    (turned / "config.json").write_text(json.dumps(settings))  # the same weights, so the two cancel
    both = save_ensemble(tmp_path / "ensemble", [members[3], turned])
    torch.testing.assert_close(prob_fake_of(both), torch.tensor([0.5, 0.5]))


def test_the_saved_folder_holds_all_of_the_code_and_nothing_else(saved: Path) -> None:
    code = {file.name for file in HUB.glob("*_deepfake_ensemble.py")}
    assert {file.name for file in saved.iterdir()} == code | {
        "config.json",
        "preprocessor_config.json",
        "model.safetensors",
    }


def test_where_the_package_is_installed_nothing_asks_for_trust(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    for task, trust in (("image-classification", None), ("deepfake-ensemble", None), ("deepfake-ensemble", True)):
        detect = pipeline(task, model=str(saved), trust_remote_code=trust)
        assert type(detect.model) is hf_deepfake.EnsembleForImageClassification
    assert type(detect) is hf_deepfake.DeepfakeEnsemblePipeline
    assert asked == []


_WITHOUT = """
import json, sys
sys.modules["hf_deepfake"] = None
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
folder, image, resaved = sys.argv[1:]
trust = {"trust_remote_code": True}
model = AutoModelForImageClassification.from_pretrained(folder, **trust)
views = AutoImageProcessor.from_pretrained(folder, **trust)([image], return_tensors="pt")
found = {"classes": [1 - (fake := float(model(**views).logits.softmax(-1)[0, 1])), fake]}
tasks = {name: pipeline(name, model=folder, **trust) for name in ("image-classification", "deepfake-ensemble")}
tasks["deepfake-ensemble"].save_pretrained(resaved)
tasks["saved again"] = pipeline(model=resaved, **trust)
for name, detect in tasks.items():
    found[name] = [score["score"] for score in sorted(detect(image), key=lambda score: score["label"], reverse=True)]
print(json.dumps(found | {"kind": type(tasks["saved again"]).__name__}))
"""


@pytest.mark.slow  # a process of its own that imports everything again
def test_without_the_package_every_way_in_gives_the_same_scores(saved: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.png"
    IMAGES[0].save(image)
    fake = float(prob_fake_of(saved)[0])
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT, str(saved), str(image), str(tmp_path / "again")],
        env=os.environ | {"HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("kind") == "DeepfakeEnsemblePipeline"
    assert list(found) == ["classes", "image-classification", "deepfake-ensemble", "saved again"]
    for scores in found.values():
        assert scores == pytest.approx([1 - fake, fake], abs=1e-6)
    assert {file.name for file in (tmp_path / "again").iterdir()} == {file.name for file in saved.iterdir()}
    assert type(pipeline("deepfake-ensemble", model=str(tmp_path / "again"))) is hf_deepfake.DeepfakeEnsemblePipeline


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        settings = json.loads((folder / name).read_text())
        change(settings)
        (folder / name).write_text(json.dumps(settings))

    return edit


def without_weights(start: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        kept = {name: weight for name, weight in load_file(file).items() if not name.startswith(start)}
        save_file(kept, file, metadata={"format": "pt"})

    return edit


def misshapen(folder: Path) -> None:
    file = folder / "model.safetensors"
    save_file(load_file(file) | {"members.0.classifier.bias": torch.zeros(3)}, file, metadata={"format": "pt"})


def shortened(length: int) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        file = folder / "model.safetensors"
        file.write_bytes(file.read_bytes()[:length])

    return edit


def drop_last_member(settings: dict[str, Any]) -> None:
    for value in settings.values():
        if isinstance(value, list) and len(value) == 2:
            value.pop()


def config(**values: Any) -> Callable[[Path], None]:
    return edited("config.json", lambda settings: settings.update(values))


def member(**values: Any) -> Callable[[Path], None]:
    return edited("config.json", lambda settings: settings["members"][1].update(values))


def view(**values: Any) -> Callable[[Path], None]:
    return edited("preprocessor_config.json", lambda settings: settings["views"][0].update(values))


DAMAGE = {
    "truncated weights": (shortened(5000), r"model\.safetensors is damaged \(.*\); copy the whole folder again"),
    "empty weights": (shortened(0), r"model\.safetensors is damaged"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), r"no file named model\.safetensors"),
    "a missing tensor": (
        without_weights("members.0.classifier.bias"),
        r"missing weights: 1, such as members\.0\.classifier\.bias of member vit-0; copy the whole folder again",
    ),
    "a missing member": (without_weights("members.1."), r"missing weights: .* of member test_resnet-1"),
    "a misshapen tensor": (misshapen, r"misshapen weights: 1, such as members\.0\.classifier\.bias of member vit-0"),
    "a member too few": (
        edited("config.json", drop_last_member),
        r"surplus weights: .* members\.1\..* of none of vit-0",
    ),
    "another count": (
        edited("config.json", lambda settings: settings["members"].pop()),
        "1 members but 2 member_names",
    ),
    "a negative weight": (config(weights=[1, -2]), r"weights must be 0 or more; found \[-2\] for test_resnet-1"),
    "a text as weight": (config(weights=["1", 2]), r"weights must be 0 or more; found \['1'\] for vit-0"),
    "no list": (config(weights=3), "2 members but 3 weights"),
    "no bias": (config(biases=[None, 0]), r"biases must be numbers; found \[None\] for vit-0"),
    "a falling curve": (config(isotonic=[None, [[1, 0], [0.1, 0.2]]]), r"isotonic must be null, or .* test_resnet-1"),
    "a view below 0": (config(member_views=[0, -1]), r"member_views must be 0 or more; found \[-1\]"),
    "a threshold": (config(thresholds={"soft": 7}), "the threshold of the soft vote is 7"),
    "another vote": (config(uncertain_bands={"best": [0, 1]}), r"uncertain_bands are given for \['best'\]"),
    "a vote's calibration": (
        config(vote_calibrations={"soft": {"temperature": 0}}),
        r"the calibration of the soft vote is \{'temperature': 0\}",
    ),
    "an unknown family": (member(model_type="nonesuch"), r"config\.json: member test_resnet-1 cannot be .*'nonesuch'"),
    "an unknown network": (
        member(architecture="none"),
        "member test_resnet-1 cannot be .* update transformers and timm",
    ),
    "no family": (member(model_type=None), "members must be configurations with a model_type; .* for test_resnet-1"),
    "another processor": (view(image_processor_type="None"), r"preprocessor_config\.json: .* has no 'None'\); undo"),
    "another reading": (view(reading={"none": 1}), r"preprocessor_config\.json: .* argument 'none'\); undo"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_ensemble_is_refused_and_the_part_named(saved: Path, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    folder = shutil.copytree(saved, tmp_path / "ensemble")
    damage(folder)
    with pytest.raises((ValueError, OSError), match=message):  # noqa: PT012 (one of the two finds it)
        AutoModelForImageClassification.from_pretrained(folder)
        AutoImageProcessor.from_pretrained(folder)


def test_the_command_line_says_it_in_one_line(saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(saved, tmp_path / "ensemble")
    without_weights("members.1.")(folder)
    IMAGES[0].save(tmp_path / "image.png")
    assert cli.main(["predict", "--model", str(folder), str(tmp_path / "image.png")]) == 2
    (line,) = (line for line in capfd.readouterr().err.splitlines() if "Loading weights" not in line)
    assert re.match(rf"error: {folder}: cannot be loaded: .* missing weights: .* of member test_resnet-1; copy", line)


@pytest.mark.parametrize("kind", ["EnsembleImageProcessor", "ViTImageProcessor"])
def test_a_processor_of_something_else_is_refused(saved: Path, tmp_path: Path, kind: str) -> None:
    folder = shutil.copytree(saved, tmp_path / "ensemble")
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind}))
    with pytest.raises(
        ValueError, match=r"0 views of an image, and none for vit-0 \(view 0\), test_resnet-1 \(view 1\)"
    ):
        pipeline("deepfake-ensemble", model=str(folder))
