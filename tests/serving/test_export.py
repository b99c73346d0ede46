"""Exports: scores equal to PyTorch's, folders whole or not at all, and what is refused."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_folder, draw_image, save_tiny_timm, save_tiny_vit
from transformers import ViTForImageClassification

from hf_deepfake import cli, predict
from hf_deepfake.arguments import ModelArguments
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.errors import InputError
from hf_deepfake.models import exported as exported_module
from hf_deepfake.models.checkpoints import save_checkpoint
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.serving.export import export

for package in ("onnx", "onnxscript", "onnxruntime", "openvino"):
    pytest.importorskip(package)

CURVE = [[-3.0, -1.0, 0.5, 2.0], [0.05, 0.2, 0.6, 0.9]]
VOTES: dict[str, dict[str, Any]] = {
    "log_odds": {"voting": "weighted", "pooling": "log_odds", "isotonic": [None, CURVE], "biases": [0.5, 0.0]},
    "hard": {"voting": "hard"},
    "soft": {},
    "isotonic": {"isotonic": [CURVE, None], "vote_calibrations": {"soft": {"isotonic": CURVE}}},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Images of several sizes, more than a batch, and one that cannot be read."""
    folder = tmp_path_factory.mktemp("files")
    for seed in range(20):
        draw_image(seed % 2, seed, 30 + 7 * seed).save(folder / f"{seed:02d}.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return sorted(folder.iterdir())


def vote_of(folder: Path, runs: list[Path], **settings: Any) -> Path:
    count = len(runs)
    fit = {"voting": "soft", "temperatures": [1.3] * count, "weights": [2.0] + [1.0] * (count - 1)}
    halves = {"member_thresholds": [0.5] * count, "thresholds": {}}
    for part in assemble(runs, [run.name for run in runs], Fit(**(fit | halves | settings))):
        part.save_pretrained(folder)
    return folder


def assert_same(model: Path, graph: Path, files: list[Path], tolerance: float = 1e-5, **choices: Any) -> None:
    """`predict` of both gives the same table."""
    wanted, found = (predict(str(one), files, **choices) for one in (model, graph))
    numbers = [name for name in wanted if name.startswith("prob_fake")]
    assert list(found) == list(wanted)
    assert wanted["prob_fake"].std() > 1e-3, "scores that are all alike would prove nothing"
    np.testing.assert_allclose(found[numbers], wanted[numbers], atol=tolerance)
    pd.testing.assert_frame_equal(found.drop(columns=numbers), wanted.drop(columns=numbers))


def test_predict_gives_the_table_of_the_checkpoint(pair: Path, exported: Path, files: list[Path]) -> None:
    assert_same(pair, exported, files, members=True)
    assert_same(pair, exported, files, batch_size=3, tta=2, num_workers=1)


@pytest.mark.parametrize(
    "voting", ["log_odds", *(pytest.param(name, marks=pytest.mark.slow) for name in ("hard", "soft", "isotonic"))]
)
def test_every_vote_and_calibration_is_in_the_graph(voting: str, pair: Path, tmp_path: Path) -> None:
    runs = [pair.parent / "first", pair.parent / "second"]
    model = vote_of(tmp_path / "voted", runs, **VOTES[voting])
    export(str(model), tmp_path / "graph")
    images = [draw_image(seed % 2, seed) for seed in range(12)]
    with torch.inference_mode():
        wanted, found = (
            one.model(**one.processor(images))
            for one in (load_detector(str(model)), load_detector(str(tmp_path / "graph")))
        )
    torch.testing.assert_close(found.logits, wanted.logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.member_logits, wanted.member_logits, atol=1e-5, rtol=1e-5)


def test_openvino_gives_the_same_scores_and_asks_nobody(
    pair: Path, files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("something reaches for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    record = export(str(pair), tmp_path / "graph", "openvino")
    assert sorted(record["files"]) == ["model.bin", "model.xml"]
    assert_same(pair, tmp_path / "graph", files, members=True)


@pytest.mark.parametrize("precision", ["bf16", pytest.param("fp16", marks=pytest.mark.slow)])
def test_half_precision_halves_the_weights_and_says_what_it_costs(
    precision: str, pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = export(str(pair), tmp_path / "half", "openvino", precision)
    weights = sum(weight.numel() for weight in load_detector(str(pair)).model.parameters())
    assert (tmp_path / "half" / "model.bin").stat().st_size < 1.1 * 2 * weights
    assert 1e-6 < record["compared"]["noise"]["largest_difference"] < 0.1

    warned: list[str] = []
    monkeypatch.setattr(exported_module, "has_instructions_for", lambda *_: False)
    monkeypatch.setattr(exported_module._LOGGER, "warning", warned.append)
    images = [draw_image(0, seed) for seed in range(4)]
    wanted, found = (load_detector(str(folder)) for folder in (pair, tmp_path / "half"))
    assert warned == ["This processor has no instructions for bfloat16; the graph runs in float32."] * (
        precision == "bf16"
    )
    with torch.inference_mode():
        wanted, found = (one.model(**one.processor(images)).member_logits for one in (wanted, found))
    torch.testing.assert_close(found, wanted, atol=0.01, rtol=0.01)


def test_int8_is_smaller_and_compared_on_images_that_it_was_not_calibrated_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = save_tiny_timm(tmp_path / "run", "test_resnet", 32), draw_folder(tmp_path / "data", 15)
    flags = ["--format", "onnx", "--quantize", "int8", "--calibration_data", str(data)]
    assert cli.main(["export", "--model", str(run), *flags, "--output_dir", str(tmp_path / "int8")]) == 0
    printed = capsys.readouterr().out
    record = json.loads((tmp_path / "int8" / "export.json").read_text(encoding="utf-8"))
    compared = record["compared"]["images"]
    assert compared["images"] == 10
    assert 0 < compared["largest_difference"] < 0.2
    assert f"10 images: probabilities differ from PyTorch's by up to {compared['largest_difference']:.1e}" in printed
    assert (tmp_path / "int8" / "model.onnx").stat().st_size < 0.5 * (run / "model.safetensors").stat().st_size
    assert_same(run, tmp_path / "int8", [data], tolerance=0.2)


@pytest.mark.parametrize(("equal", "advised"), [(0.637, True), (0.99, False)])
def test_an_export_with_many_other_verdicts_is_advised_against(
    equal: float, advised: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compared = {"images": 9, "largest_difference": 0.9, "equal_verdicts": equal}
    record = {"files": {}, "compared": {"noise": compared | {"equal_verdicts": 1.0}, "images": compared}}
    monkeypatch.setattr("hf_deepfake.serving.export.export", lambda *_: record)
    assert cli.main("export --model run --format onnx --quantize int8 --output_dir out".split()) == 0
    assert ("do not rely on it: 36.3% of the verdicts are others" in capsys.readouterr().out) == advised


def test_a_detector_of_transformers_whose_first_logit_means_fake(files: list[Path], tmp_path: Path) -> None:
    run = save_tiny_vit(tmp_path / "run")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    config |= {"id2label": {"0": "fake", "1": "real"}, "label2id": {"fake": 0, "real": 1}}
    (run / "config.json").write_text(json.dumps(config), encoding="utf-8")
    export(str(run), tmp_path / "graph")
    assert_same(run, tmp_path / "graph", files)


def test_a_detector_with_hidden_layers_that_scales_in_decoding(files: list[Path], tmp_path: Path) -> None:
    arguments = ModelArguments(
        model_name_or_path="test_resnet", image_size=32, head="mlp", head_layers=[8], dct_scaling=True
    )
    detector, processor, _ = new_detector(arguments)
    for parameter in detector.timm_model.get_classifier().parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save_checkpoint(detector.eval(), processor, tmp_path / "run")
    draw_image(1, 1, 300).save(tmp_path / "large.jpg")
    export(str(tmp_path / "run"), tmp_path / "graph")
    assert_same(tmp_path / "run", tmp_path / "graph", [*files, tmp_path / "large.jpg"])


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_members_of_three_families_and_two_sizes(
    format: str, ensemble: Path, files: list[Path], image_folder: Path, tmp_path: Path
) -> None:
    record = export(str(ensemble), tmp_path / "graph", format, calibration_data=str(image_folder))
    assert record["compared"]["images"]["images"] == 40
    assert_same(ensemble, tmp_path / "graph", files, members=True)
    flags = ["--model", str(ensemble), str(tmp_path / "graph"), "--data", f"drawn={image_folder}"]
    assert cli.main(["evaluate", *flags, "--output_dir", str(tmp_path / "evaluated")]) == 0
    results = [
        json.loads(file.read_text(encoding="utf-8")) for file in (tmp_path / "evaluated").glob("*/results.json")
    ]
    assert len({round(result["metrics"]["drawn"]["roc_auc"], 6) for result in results}) == 1


def test_the_graph_does_not_tell_of_the_code_that_it_was_traced_from(exported: Path) -> None:
    content = (exported / "model.onnx").read_bytes()
    assert b"logits" in content
    assert not any(word in content for word in (b"stack_trace", b"site-packages", b"hf_deepfake/", b".py"))


def test_the_record_names_the_source_without_its_folder(exported: Path) -> None:
    record = json.loads((exported / "export.json").read_text(encoding="utf-8"))
    assert record["source"] == "ensemble"
    assert {"onnx", "onnxruntime", "torch"} <= set(record["environment"]["packages"])
    assert record["compared"]["noise"]["largest_difference"] <= 1e-4


def test_scores_that_differ_leave_nothing_behind(pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_deepfake.serving.export.LARGEST_DIFFERENCE", 0.0)
    with pytest.raises(InputError, match=r"ensemble: probabilities of the graph are off by up to \d\.\de-0\d, and 0e"):
        export(str(pair), tmp_path / "graph")
    assert not list(tmp_path.iterdir())


def test_a_network_that_cannot_be_traced_is_said_to_be_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = save_tiny_vit(tmp_path / "run")
    forward = ViTForImageClassification.forward

    def choosy(self: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
        return forward(self, pixel_values if pixel_values.sum() > 0 else -pixel_values, **kwargs)

    monkeypatch.setattr(ViTForImageClassification, "forward", choosy)
    with pytest.raises(InputError, match="run: torch cannot trace its networks to ONNX: "):
        export(str(run), tmp_path / "graph")
    assert not (tmp_path / "graph").exists()


def test_weights_that_one_file_cannot_hold_are_refused(
    pair: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_deepfake.serving.graph.LARGEST", 1000)
    with pytest.raises(InputError, match=r"ensemble: its weights, .* do not fit into one ONNX file"):
        export(str(pair), tmp_path / "graph")


REFUSED = {
    "--quantize int8: openvino is written in fp32, fp16, bf16": {"format": "openvino", "precision": "int8"},
    "--quantize bf16: onnx is written in fp32, int8": {"precision": "bf16"},
    "--quantize int8: needs --calibration_data": {"precision": "int8"},
    "--format tflite: must be onnx or openvino": {"format": "tflite"},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_go_together_is_refused(message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        export("no/matter", tmp_path / "graph", **REFUSED[message])


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "openvino"])
def test_a_missing_package_is_named_before_anything_is_loaded(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"{package} is not installed; pip install 'hf_deepfake\[export\]'"):
        export("no/matter", tmp_path / "graph", "openvino")


def test_too_few_images_are_refused(pair: Path, files: list[Path], tmp_path: Path) -> None:
    few = draw_folder(tmp_path / "few", 4)
    with pytest.raises(InputError, match=r"--calibration_data .*few: has 8 readable images; give 20 or more"):
        export(str(pair), tmp_path / "graph", precision="int8", calibration_data=str(few))


def test_a_folder_that_holds_something_is_left_alone(pair: Path, exported: Path) -> None:
    with pytest.raises(InputError, match="exported: stands there already"):
        export(str(pair), exported)
