"""Exported graphs as models: in pipelines, in threads, in commands, and where their files are not what they were."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import draw_image
from transformers import AutoModelForImageClassification, pipeline

from hf_deepfake import cli
from hf_deepfake.arguments import DataArguments, DistillationArguments, ModelArguments
from hf_deepfake.data.loading import load_splits
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.adversarial import adversarial_robustness
from hf_deepfake.evaluation.scores import fingerprint
from hf_deepfake.explain.attributions import explain
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.serving.export import export
from hf_deepfake.training.distillation import load_teacher

pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

IMAGES = [draw_image(seed % 2, seed, size) for seed, size in enumerate((40, 25, 64, 33))]


def copied(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


@pytest.mark.parametrize("task", ["deepfake-ensemble", "image-classification"])
def test_pipelines_give_the_scores_of_the_checkpoint_without_asking_for_trust(
    pair: Path, exported: Path, task: str
) -> None:
    wanted, found = (pipeline(task, model=str(model))(IMAGES, batch_size=3) for model in (pair, exported))
    for one, other in zip(wanted, found, strict=True):
        assert [part["label"] for part in other] == [part["label"] for part in one]
        assert [part["score"] for part in other] == pytest.approx([part["score"] for part in one], abs=1e-5)


@pytest.mark.parametrize("voting", [None, "soft", "hard", "weighted"])
def test_details_are_those_of_the_checkpoint_in_every_kind_of_voting(
    pair: Path, exported: Path, voting: str | None
) -> None:
    choices = {"details": True} | ({"voting": voting} if voting else {})
    wanted, found = (pipeline("deepfake-ensemble", model=str(model))(IMAGES, **choices) for model in (pair, exported))
    for one, other in zip(wanted, found, strict=True):
        members, other_members = one.pop("members"), other.pop("members")
        assert other | {"prob_fake": 0} == one | {"prob_fake": 0}
        assert other["prob_fake"] == pytest.approx(one["prob_fake"], abs=1e-5)
        for member, other_member in zip(members, other_members, strict=True):
            assert other_member == {**member, "prob_fake": pytest.approx(member["prob_fake"], abs=1e-5)}


def test_an_image_is_given_once_and_in_8_bits_to_members_that_differ_in_normalisation(exported: Path) -> None:
    model, processor, _ = load_detector(str(exported))
    pixels = processor(IMAGES)
    assert {name: (pixel.dtype, pixel.shape) for name, pixel in pixels.items()} == {
        "pixel_values": (torch.uint8, (4, 3, 24, 24))
    }
    assert model.dtype == torch.uint8


def test_threads_that_score_at_once_get_what_they_would_get_alone(exported: Path) -> None:
    model, processor, _ = load_detector(str(exported))
    batches = [processor(IMAGES[: 1 + number % 4]) for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda batch: model(**batch).logits, batches))
    for batch, logits in zip(batches, together, strict=True):
        torch.testing.assert_close(logits, model(**batch).logits)


def test_other_weights_are_another_model_to_an_evaluation(exported: Path) -> None:
    one, other = load_detector(str(exported)), load_detector(str(exported))
    assert fingerprint(one) == fingerprint(other)
    other.model.config.graph["files"]["model.onnx"] = "0" * 64
    assert fingerprint(one) != fingerprint(other)


def test_a_graph_that_is_not_the_exported_one_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path / "changed")
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=r"changed/model\.onnx: is not the file that was exported with config\.json"):
        load_detector(str(folder))


def test_a_folder_without_its_graph_is_refused(exported: Path, tmp_path: Path) -> None:
    folder = copied(exported, tmp_path / "emptied")
    (folder / "model.onnx").unlink()
    with pytest.raises(InputError, match=r"emptied.*model\.onnx"):
        load_detector(str(folder))


def test_a_missing_runtime_is_named_with_its_extra(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(InputError, match=r"onnxruntime is not installed; pip install 'hf_deepfake\[export\]'"):
        load_detector(str(exported))


def test_a_precision_is_chosen_when_exporting(exported: Path) -> None:
    with pytest.raises(InputError, match="exported: an exported graph keeps its precision"):
        AutoModelForImageClassification.from_pretrained(str(exported), dtype=torch.bfloat16)


def test_a_graph_is_copied_and_not_saved(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="copy: an exported graph cannot be saved again; copy its folder"):
        load_detector(str(exported)).model.save_pretrained(tmp_path / "copy")


def test_it_may_be_the_first_module_that_a_program_imports() -> None:
    code = "from hf_deepfake.models.exported import ExportedConfig; print(ExportedConfig.model_type)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "deepfake-exported\n", done.stderr


def _attack(exported: Path, data: Path) -> None:
    rows = load_splits(DataArguments(dataset_name=str(data)))["test"]
    adversarial_robustness({"mine": load_detector(str(exported))}, rows, ["fgsm"], ["2/255"])


def _teach(exported: Path, data: Path) -> None:
    load_teacher(DistillationArguments(teacher=str(exported)))


USES: dict[str, Callable[[Path, Path], object]] = {
    "explain": lambda exported, _: explain(load_detector(str(exported)), IMAGES[0]),
    "train": lambda exported, _: new_detector(ModelArguments(model_name_or_path=str(exported))),
    "--adversarial": _attack,
    "--teacher": _teach,
    "ensemble": lambda exported, _: assemble([exported], ["one"], Fit("soft", [1.0], [1.0], [0.5], {})),
    "export": lambda exported, data: export(str(exported), data.parent / "again"),
}


@pytest.mark.parametrize("use", USES)
def test_what_needs_layers_or_gradients_names_the_checkpoint_instead(
    exported: Path, image_folder: Path, use: str
) -> None:
    with pytest.raises(InputError, match=f"{use}: .*exported is an exported graph.*name the checkpoint"):
        USES[use](exported, image_folder)


@pytest.mark.parametrize(
    "flags", [["--cascade"], ["--compile"], ["--dtype", "auto"], ["--every_face"]], ids=lambda flags: flags[0]
)
def test_predict_refuses_what_a_graph_cannot_do(
    exported: Path, image_folder: Path, flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "--model", str(exported), str(image_folder), *flags]) == 2
    assert f"error: {flags[0]}: {exported} is an exported graph" in capsys.readouterr().err
