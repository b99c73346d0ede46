import functools
import importlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import draw_image, save_tiny_timm, save_tiny_vit
from datasets import Dataset, Image
from transformers import AutoModelForImageClassification, ImageClassificationPipeline, pipeline
from transformers.pipelines.pt_utils import KeyDataset

import hf_deepfake
from hf_deepfake import DeepfakeEnsemblePipeline, InputError
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.default import install_default
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, jittered, open_rgb
from hf_deepfake.models.detector import load_detector

HUB_CODE = sorted((Path(hf_deepfake.__file__).parent / "ensemble" / "hub").glob("*_deepfake_ensemble.py"))
THRESHOLDS = {"soft": 0.4, "hard": 0.5, "weighted": 0.6}


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm network and a ViT with weights 3 to 1."""
    root = tmp_path_factory.mktemp("ensemble")
    members = [save_tiny_timm(root / "resnet", "test_resnet", 32), save_tiny_vit(root / "vit", 24)]
    fit = Fit("soft", [1.0, 2.0], [3.0, 1.0], [0.5, 0.5], THRESHOLDS)
    model, processor = assemble(members, ["resnet", "vit"], fit)
    model.save_pretrained(root / "both")
    processor.save_pretrained(root / "both")
    return root / "both"


@pytest.fixture(scope="module")
def detect(ensemble: Path) -> DeepfakeEnsemblePipeline:
    return pipeline("deepfake-ensemble", model=str(ensemble))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three images of different sizes."""
    folder = tmp_path_factory.mktemp("files")
    for seed, size in enumerate((40, 64, 90)):
        draw_image(seed % 2, seed, size).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def expected(detect: DeepfakeEnsemblePipeline, files: list[Path]) -> list[Any]:
    """What each image scores by itself, as a path."""
    scores = [detect(str(file)) for file in files]
    assert len({score[0]["score"] for score in scores}) == 3
    return scores


@pytest.fixture
def address(files: list[Path]) -> Iterator[str]:
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(files[0].parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Files(torch.utils.data.Dataset[str]):
    def __init__(self, files: list[Path]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> str:
        return str(self.files[index])


def test_the_task_is_known_and_the_format_is_that_of_image_classification(
    detect: DeepfakeEnsemblePipeline, ensemble: Path, files: list[Path], expected: list[Any]
) -> None:
    assert isinstance(detect, DeepfakeEnsemblePipeline)
    stock = pipeline("image-classification", model=str(ensemble))
    assert type(stock) is ImageClassificationPipeline
    for file, ours in zip(files, expected, strict=True):
        theirs = stock(str(file))
        assert [score["label"] for score in ours] == [score["label"] for score in theirs]
        assert [score["score"] for score in ours] == pytest.approx([score["score"] for score in theirs], abs=1e-6)
    assert detect(str(files[0]), top_k=1) == expected[0][:1]


@pytest.mark.parametrize("kind", ["Path", "bytes", "PIL"])
def test_one_image_of_any_kind_scores_as_its_path(
    detect: DeepfakeEnsemblePipeline, files: list[Path], expected: list[Any], kind: str
) -> None:
    image = {"Path": files[1], "bytes": files[1].read_bytes(), "PIL": draw_image(1, 1, 64)}[kind]
    assert detect(image) == expected[1]


def test_an_address_scores_as_the_file_behind_it(
    detect: DeepfakeEnsemblePipeline, address: str, expected: list[Any]
) -> None:
    assert detect(f"{address}/2.png") == expected[2]
    with pytest.raises(UnreadableImageError, match=r"none\.png: "):
        detect(f"{address}/none.png", timeout=5)


@pytest.mark.parametrize(
    "kind",
    [
        "list",
        "mixed list",
        "generator",
        "data set",
        "column",
        "undecoded column",
        "stream",
        "KeyDataset",
        "torch data set",
    ],
)
@pytest.mark.parametrize("batch_size", [1, "auto"])
def test_many_images_of_any_kind_score_as_each_alone(
    detect: DeepfakeEnsemblePipeline, files: list[Path], expected: list[Any], kind: str, batch_size: int
) -> None:
    rows = Dataset.from_dict({"image": list(map(str, files))}).cast_column("image", Image())
    inputs: Any = {
        "list": list(map(str, files)),
        "mixed list": [files[0], files[1].read_bytes(), draw_image(0, 2, 90)],
        "generator": (file for file in files),
        "data set": rows,
        "column": rows["image"],
        "stream": rows.to_iterable_dataset(),
        "KeyDataset": KeyDataset(rows, "image"),
        "torch data set": Files(files),
        "undecoded column": rows.cast_column("image", Image(decode=False))["image"],
    }[kind]
    outputs = list(detect(inputs, batch_size=batch_size))
    for output, alone in zip(outputs, expected, strict=True):
        assert [score["label"] for score in output] == [score["label"] for score in alone]
        assert output[0]["score"] == pytest.approx(alone[0]["score"], abs=1e-6)


@pytest.mark.parametrize("kind", ["list", "column"])
def test_workers_read_images_as_the_process_itself_does(
    detect: DeepfakeEnsemblePipeline, files: list[Path], expected: list[Any], kind: str
) -> None:
    rows = Dataset.from_dict({"image": list(map(str, files))}).cast_column("image", Image())
    outputs = detect(files if kind == "list" else rows["image"], num_workers=2, batch_size=2)
    assert [output[0]["score"] for output in outputs] == pytest.approx([one[0]["score"] for one in expected], abs=1e-6)


@pytest.mark.parametrize(
    "settings",
    [{"dtype": torch.bfloat16}, {"dtype": "bfloat16", "device_map": "auto"}, {"device_map": "cpu"}],
    ids=str,
)
def test_precision_and_device_are_chosen_as_in_stock_pipelines(
    ensemble: Path,
    files: list[Path],
    expected: list[Any],
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    detect = pipeline("deepfake-ensemble", model=ensemble, **settings)
    assert detect.model.dtype == (torch.bfloat16 if "dtype" in settings else torch.float32)
    for file, alone in zip(files, expected, strict=True):
        assert detect(file)[0]["score"] == pytest.approx(alone[0]["score"], abs=0.02 if "dtype" in settings else 1e-6)


def test_a_batch_that_does_not_fit_into_memory_is_halved(
    detect: DeepfakeEnsemblePipeline, files: list[Path], expected: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    forward = detect.model.forward

    def one_image_fits(pixel_values: torch.Tensor, **views: torch.Tensor) -> Any:
        sizes.append(len(pixel_values))
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return forward(pixel_values, **views)

    monkeypatch.setattr(detect.model, "forward", one_image_fits)
    outputs = detect(files, batch_size=3)
    assert sizes == [3, 2, 1, 1, 1]
    assert [output[0]["score"] for output in outputs] == pytest.approx([one[0]["score"] for one in expected], abs=1e-6)


@pytest.mark.parametrize(("fits", "largest"), [(5, 4), (8, 8), (10_000, 256)])
def test_on_a_gpu_the_automatic_batch_is_the_largest_power_of_two_that_fits(
    ensemble: Path, monkeypatch: pytest.MonkeyPatch, fits: int, largest: int
) -> None:
    detect = pipeline("deepfake-ensemble", model=str(ensemble), batch_size="auto")

    def so_many_fit(pixel_values: torch.Tensor, **views: torch.Tensor) -> None:
        if len(pixel_values) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(detect.model, "forward", so_many_fit)
    monkeypatch.setattr(detect, "device", torch.device("cuda"))
    monkeypatch.setattr(detect, "_ensure_tensor_on_device", lambda views, device: views)
    assert detect._auto_batch_size == largest


def test_what_is_no_vote_is_refused_as_score(detect: DeepfakeEnsemblePipeline, files: list[Path]) -> None:
    with pytest.raises(ValueError, match="function_to_apply is 'none'"):
        detect(files[0], function_to_apply="none")
    assert detect(files[0], function_to_apply="softmax") == detect(files[0])


def test_details_are_given_for_each_image_of_a_column(detect: DeepfakeEnsemblePipeline, files: list[Path]) -> None:
    rows = Dataset.from_dict({"image": list(map(str, files))}).cast_column("image", Image())
    outputs = detect(rows["image"], details=True, batch_size=2)
    assert [output["prob_fake"] for output in outputs] == pytest.approx(
        [detect(file, details=True)["prob_fake"] for file in files], abs=1e-6
    )


def test_details_hold_the_verdict_and_each_members_vote(
    detect: DeepfakeEnsemblePipeline, ensemble: Path, files: list[Path]
) -> None:
    details = detect(files[0], details=True)
    assert list(details) == ["label", "prob_fake", "threshold", "voting", "agreement", "members"]
    assert (details["threshold"], details["voting"]) == (0.4, "soft")
    members = details["members"]
    assert [member["name"] for member in members] == ["resnet", "vit"]
    assert [member["weight"] for member in members] == [0.5, 0.5]  # of a soft vote, whatever the stored weights
    weighted = detect(files[0], details=True, voting="weighted")["members"]
    assert [member["weight"] for member in weighted] == [0.75, 0.25]
    for member, temperature in zip(members, (1, 2), strict=True):
        model, processor, _ = load_detector(str(ensemble.parent / member["name"]))
        logits = model(**processor([draw_image(0, 0)], return_tensors="pt")).logits[0]
        assert member["prob_fake"] == pytest.approx(float((logits / temperature).softmax(-1)[1].detach()), abs=1e-5)
        assert member["label"] == ("fake" if member["prob_fake"] >= 0.5 else "real")
    assert details["prob_fake"] == pytest.approx(sum(member["prob_fake"] for member in members) / 2)
    assert details["label"] == ("fake" if details["prob_fake"] >= 0.4 else "real")
    agreeing = [member for member in members if member["label"] == details["label"]]
    assert details["agreement"] == len(agreeing) / 2


def test_the_vote_is_chosen_at_call_time_with_the_threshold_that_was_fitted_for_it(
    detect: DeepfakeEnsemblePipeline, files: list[Path]
) -> None:
    soft, hard, weighted = (detect(files[0], voting=kind, details=True) for kind in THRESHOLDS)
    first, second = (member["prob_fake"] for member in soft["members"])
    assert soft["prob_fake"] == pytest.approx((first + second) / 2)
    assert weighted["prob_fake"] == pytest.approx((3 * first + second) / 4)
    assert hard["prob_fake"] == pytest.approx(
        0.5 + (soft["prob_fake"] - 0.5) / 2 if (first >= 0.5) != (second >= 0.5) else float(first >= 0.5)
    )
    assert [output["threshold"] for output in (soft, hard, weighted)] == [0.4, 0.5, 0.6]
    assert {score["label"]: score["score"] for score in detect(files[0], voting="weighted")} == pytest.approx(
        {"fake": weighted["prob_fake"], "real": 1 - weighted["prob_fake"]}
    )


def test_the_threshold_is_chosen_at_call_time_or_for_good(
    detect: DeepfakeEnsemblePipeline, ensemble: Path, files: list[Path]
) -> None:
    prob_fake = detect(files[0], details=True)["prob_fake"]
    assert detect(files[0], threshold=prob_fake, details=True)["label"] == "fake"
    assert detect(files[0], threshold=prob_fake + 1e-6, details=True)["label"] == "real"
    assert detect(files[0], threshold=0, details=True)["threshold"] == 0
    strict = pipeline("deepfake-ensemble", model=str(ensemble), threshold=0.9, details=True)
    assert strict(files[0])["threshold"] == 0.9


def test_a_vote_or_threshold_that_cannot_be_is_refused(detect: DeepfakeEnsemblePipeline, files: list[Path]) -> None:
    with pytest.raises(ValueError, match="voting is 'median'; it must be soft, hard or weighted"):
        detect(files[0], voting="median")
    with pytest.raises(ValueError, match=r"threshold is 1\.5; it must be between 0 and 1"):
        detect(files[0], threshold=1.5)


def test_a_missing_file_is_called_missing(detect: DeepfakeEnsemblePipeline, tmp_path: Path) -> None:
    for name in (str(tmp_path / "none.jpg"), tmp_path / "none.jpg"):
        with pytest.raises(UnreadableImageError, match=r"none\.jpg: no such file"):
            detect(name)


def save_labelled_vit(folder: Path, id2label: dict[str, str]) -> Path:
    save_tiny_vit(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"id2label": id2label, "label2id": {name: int(index) for index, name in id2label.items()}}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_single_detector_is_an_ensemble_of_one(tmp_path: Path, files: list[Path]) -> None:
    detector = save_labelled_vit(tmp_path / "vit", {"0": "real", "1": "fake"})
    stock = {
        score["label"]: score["score"]
        for score in pipeline("image-classification", model=str(detector))(str(files[0]))
    }
    detect = pipeline("deepfake-ensemble", model=str(detector))
    assert {score["label"]: score["score"] for score in detect(files[0])} == pytest.approx(stock, abs=1e-6)
    details = detect(files[0], details=True)
    assert (details["threshold"], details["voting"], details["agreement"]) == (0.5, "soft", 1)
    assert details["members"] == [
        {"name": "detector", "prob_fake": pytest.approx(stock["fake"]), "weight": 1, "label": details["label"]}
    ]


@pytest.mark.parametrize("names", [("fake", "real"), ("Deepfake", "Realism")])
def test_a_single_detector_with_reversed_labels_is_turned(
    tmp_path: Path, files: list[Path], names: tuple[str, str]
) -> None:
    straight = save_labelled_vit(tmp_path / "straight", {"0": "real", "1": "fake"})
    turned = save_labelled_vit(tmp_path / "turned", dict(enumerate(names)))  # the same weights
    first, second = (pipeline("deepfake-ensemble", model=str(folder)) for folder in (straight, turned))
    assert first(files[0], details=True)["prob_fake"] == pytest.approx(
        1 - second(files[0], details=True)["prob_fake"], abs=1e-6
    )


def test_a_single_detector_whose_labels_do_not_tell_is_refused(tmp_path: Path, files: list[Path]) -> None:
    detect = pipeline(
        "deepfake-ensemble", model=str(save_labelled_vit(tmp_path / "vit", {"0": "LABEL_0", "1": "LABEL_1"}))
    )
    with pytest.raises(InputError, match=r"id2label is .*LABEL_0"):
        detect(files[0])


def test_without_a_model_the_installed_default_is_taken(
    ensemble: Path, files: list[Path], expected: list[Any]
) -> None:
    install_default(ensemble)
    assert pipeline("deepfake-ensemble")(files[0]) == expected[0]


def test_without_a_model_and_without_a_default_the_command_that_makes_one_is_named() -> None:
    with pytest.raises(InputError, match="Make one with `hf-deepfake demo`"):
        pipeline("deepfake-ensemble")


def test_other_tasks_and_models_load_as_before(tmp_path: Path) -> None:
    detector = save_tiny_vit(tmp_path / "vit")
    assert type(AutoModelForImageClassification.from_pretrained(detector)).__name__ == "ViTForImageClassification"


ORDERS = {
    "ours first": "import hf_deepfake; import transformers; from transformers import pipeline",
    "transformers first": "import transformers; import hf_deepfake; from transformers import pipeline",
    "names first": "from transformers import pipeline, AutoConfig; import hf_deepfake",
    "inner module first": "import transformers.models.auto.modeling_auto; import hf_deepfake; from transformers import pipeline",
    "hub code first": "from hf_deepfake.ensemble.hub import modeling_deepfake_ensemble; from transformers import pipeline",
    "public name first": "from hf_deepfake import EnsembleForImageClassification; from transformers import pipeline",
    "pipelines between": "import transformers.utils; import hf_deepfake; from transformers.pipelines import pipeline",
    "ours, then inner module": "import hf_deepfake; from transformers.models.auto import AutoConfig; from transformers import pipeline",
}


@pytest.mark.slow  # each order is a process of its own
@pytest.mark.parametrize("order", ORDERS)
def test_any_order_of_imports_registers_the_task_and_the_auto_classes(
    order: str, ensemble: Path, files: list[Path], expected: list[Any]
) -> None:
    code = f"{ORDERS[order]}; print(pipeline('deepfake-ensemble', model={str(ensemble)!r})({str(files[0])!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(expected[0]), done.stderr
    assert "Falling back" not in done.stderr


def test_the_hub_code_does_not_import_the_package() -> None:
    assert len(HUB_CODE) == 7
    for file in HUB_CODE:
        lines = [line.strip() for line in file.read_text().splitlines()]
        assert not [line for line in lines if line.startswith(("import hf_deepfake", "from hf_deepfake", "from .."))]


def test_the_hub_code_runs_from_a_copy_and_then_reads_the_labels_real_and_fake_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "travelled").mkdir()
    for file in HUB_CODE:
        shutil.copy(file, tmp_path / "travelled")
    monkeypatch.syspath_prepend(tmp_path)
    copied = importlib.import_module("travelled.pipeline_deepfake_ensemble").DeepfakeEnsemblePipeline
    assert copied.fake_column({0: "fake", 1: "real"}) == 0
    with pytest.raises(ValueError, match=r"labels must be real and fake; id2label is .*Deepfake"):
        copied.fake_column({0: "Deepfake", 1: "Realism"})


def test_views_of_test_time_augmentation_are_averaged(detect: DeepfakeEnsemblePipeline, files: list[Path]) -> None:
    views = [jittered(open_rgb(files[0]), number) for number in range(3)]
    alone = detect(views, details=True)
    averaged = detect(files[0], tta=3, details=True)
    assert averaged["prob_fake"] == pytest.approx(sum(view["prob_fake"] for view in alone) / 3, abs=1e-6)
    for position, member in enumerate(averaged["members"]):
        of_views = [view["members"][position]["prob_fake"] for view in alone]
        assert member["prob_fake"] == pytest.approx(sum(of_views) / 3, abs=1e-6)
    batched = detect(files, tta=3, details=True, batch_size=2)
    assert batched[0]["prob_fake"] == pytest.approx(averaged["prob_fake"], abs=1e-6)
    with pytest.raises(ValueError, match="tta is 0"):
        detect(files[0], tta=0)


def test_views_of_a_single_detector_are_averaged(ensemble: Path, files: list[Path]) -> None:
    detect = pipeline("deepfake-ensemble", model=str(ensemble.parent / "vit"))
    alone = detect([jittered(open_rgb(files[0]), number) for number in range(2)], details=True)
    averaged = detect(files[0], tta=2, details=True)
    assert averaged["prob_fake"] == pytest.approx((alone[0]["prob_fake"] + alone[1]["prob_fake"]) / 2, abs=1e-6)


def test_between_the_ends_of_the_stored_band_the_verdict_is_uncertain(
    detect: DeepfakeEnsemblePipeline, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = detect(files[0], details=True)
    assert "uncertain_band" not in plain
    monkeypatch.setattr(detect.model.config, "uncertain_bands", {"soft": [0.0, 1.0]})
    open_ = detect(files[0], details=True)
    assert (open_["label"], open_["uncertain_band"]) == ("uncertain", [0.0, 1.0])
    assert open_["agreement"] == plain["agreement"]
    assert detect(files[0], details=True, threshold=0.4)["label"] == plain["label"]  # given by hand: no band
    assert detect(files[0], details=True, voting="weighted")["label"] != "uncertain"  # which has none
