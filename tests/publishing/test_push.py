import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from conftest import draw_image
from huggingface_hub import HfApi
from standin_hub import Repository, StandInHub, lfs_oid

from hf_deepfake import InputError, cli
from hf_deepfake.evaluation.benchmark import environment, save_results
from hf_deepfake.evaluation.metrics import bootstrap_intervals, detection_metrics
from hf_deepfake.evaluation.predictions import load_predictions
from hf_deepfake.models.detector import LoadedDetector, load_detector
from hf_deepfake.publishing.push import main, push_checkpoint


@pytest.fixture(scope="module")
def detector(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory as a training leaves it, private parts included."""
    run = tmp_path_factory.mktemp("pushed") / "vit"
    shutil.copytree(runs[2], run)
    recipe = {"dataset_name": "/home/someone/faces", "model_name_or_path": "google/vit-base", "output_dir": str(run)}
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    state = {"best_model_checkpoint": str(run / "checkpoint-1"), "log_history": []}
    (run / "trainer_state.json").write_text(json.dumps(state))
    (run / "checkpoint-1").mkdir()
    for name in ("training_args.bin", "checkpoint-1/optimizer.pt", "checkpoint-1/model.safetensors"):
        (run / name).write_bytes(b"hf_token")
    seen = pd.DataFrame({"image": ["anna.png"], "split": ["train"], "sha256": ["ab" * 32]})
    seen.to_parquet(run / "training_images.parquet")
    tables = {split: load_predictions(run / "predictions" / f"{split}.parquet") for split in ("validation", "test")}
    metrics = {
        split: detection_metrics(table["label"], table["prob_fake"])
        | bootstrap_intervals(table["label"], table["prob_fake"], resamples=20)
        for split, table in tables.items()
    }
    save_results({"schema": 1, "model": "vit", "metrics": metrics, "environment": environment()}, run)
    return run


def push(run: Path, *flags: str, name: str = "me/faces") -> int:
    return cli.main(["push", str(run), "--repo_id", name, "--license", "mit", *flags])


def scores(loaded: LoadedDetector) -> torch.Tensor:
    inputs = loaded.processor([draw_image(0, 0), draw_image(1, 1)], return_tensors="pt")
    with torch.no_grad():
        logits: torch.Tensor = loaded.model(**inputs).logits
    return logits


def test_a_detector_is_pushed_without_what_is_nobody_elses_business(detector: Path, hub: StandInHub) -> None:
    assert push(detector) == 0
    files = hub.model("me/faces").files
    assert set(files) == {
        "README.md",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "recipe.yaml",
        "results.json",
        "training_images.parquet",
    }
    everything = b"".join(hub.bodies)
    for private in (b"hf_token", b"/home/someone", str(detector.parent).encode()):
        assert private not in everything
    seen = pd.read_parquet(io.BytesIO(files["training_images.parquet"]))
    assert seen.to_dict("list") == {"split": ["train"], "sha256": ["ab" * 32]}
    assert yaml.safe_load(files["recipe.yaml"]) == {"dataset_name": "…/faces", "model_name_or_path": "google/vit-base"}
    assert lfs_oid((detector / "model.safetensors").read_bytes()) in hub.objects
    assert sum(line.startswith("POST /api/models/me/faces/commit") for line in hub.requests) == 1


def test_what_is_pushed_scores_the_same_when_it_is_loaded_from_the_hub(ensemble: Path, hub: StandInHub) -> None:
    push(ensemble, "--private")
    assert hub.model("me/faces").private
    torch.testing.assert_close(scores(load_detector("me/faces")), scores(load_detector(str(ensemble))))


def test_a_private_repository_is_not_there_for_others(
    detector: Path, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(detector, "--private")
    monkeypatch.setenv("HF_TOKEN", "of-someone-else")
    hub.tokens["of-someone-else"] = "them"
    with pytest.raises(InputError, match="me/faces: cannot be loaded"):
        load_detector("me/faces")


@pytest.mark.parametrize(
    ("strategy", "folder"), [("checkpoint", "last-checkpoint"), ("all_checkpoints", "checkpoint-2")]
)
def test_what_a_training_resumes_from_is_pushed_without_where_it_lies(
    hub: StandInHub, tmp_path: Path, strategy: str, folder: str
) -> None:
    checkpoint = tmp_path / "anna" / "checkpoint-2"
    checkpoint.mkdir(parents=True)
    for name in ("config.json", "modeling_deepfake_ensemble.py", "optimizer.pt", "training_args.bin"):
        (checkpoint / name).write_text("hf_token" if name == "training_args.bin" else "{}")
    state = {"best_model_checkpoint": str(tmp_path / "anna" / "checkpoint-1"), "global_step": 2}
    (checkpoint / "trainer_state.json").write_text(json.dumps(state))
    HfApi().create_repo("me/faces")
    for upload in push_checkpoint(checkpoint, "me/faces", None, strategy):
        upload.result()
    files = hub.model("me/faces").files
    whole = {"config.json", "modeling_deepfake_ensemble.py", "optimizer.pt", "trainer_state.json"}
    root = {"config.json", "modeling_deepfake_ensemble.py"}
    assert set(files) == root | {f"{folder}/{name}" for name in whole}
    assert json.loads(files[f"{folder}/trainer_state.json"]) == state | {"best_model_checkpoint": "checkpoint-1"}
    assert not [body for body in hub.bodies if b"anna" in body or b"hf_token" in body]


def test_a_second_push_sends_only_what_has_changed(detector: Path, hub: StandInHub) -> None:
    push(detector)
    first = hub.model("me/faces").find("main")
    hub.requests.clear()
    push(detector)
    assert hub.model("me/faces").find("main") == first
    assert not [line for line in hub.requests if line.startswith("PUT") or "/commit/" in line]
    hub.bodies.clear()
    push(detector, "--dataset", "someone/faces")
    commit = next(body for body in hub.bodies if b'"key": "header"' in body)
    assert [json.loads(line)["value"]["path"] for line in commit.splitlines()[1:]] == ["README.md"]


@pytest.mark.parametrize(
    ("failing", "status"), [("PUT /lfs/", 400), ("POST /api/models/me/faces/commit/", 500)], ids=["upload", "commit"]
)
def test_a_push_that_fails_leaves_the_branch_as_it_was_and_can_be_repeated(
    detector: Path, hub: StandInHub, capsys: pytest.CaptureFixture[str], failing: str, status: int
) -> None:
    hub.failures = {failing: status}
    assert push(detector) == 2
    assert f"answered {status}" in capsys.readouterr().err
    assert hub.model("me/faces").files == {}
    hub.failures = {}
    assert push(detector) == 0
    assert "model.safetensors" in hub.model("me/faces").files


def test_a_dry_run_lists_every_file_and_touches_nothing(
    ensemble: Path, hub: StandInHub, capsys: pytest.CaptureFixture[str]
) -> None:
    assert push(ensemble, "--dry_run") == 0
    listed = capsys.readouterr().out
    assert hub.requests == []
    push(ensemble)
    assert set(hub.model("me/faces").files) == {
        line.split("│")[1].strip() for line in listed.splitlines() if line.startswith("│")
    }


def test_predictions_are_pushed_only_when_asked_for(detector: Path, hub: StandInHub) -> None:
    push(detector, "--predictions")
    assert "predictions/test.parquet" in hub.model("me/faces").files


def test_a_branch_is_pushed_to_without_touching_main(detector: Path, hub: StandInHub) -> None:
    push(detector, "--revision", "trial")
    assert hub.model("me/faces").files == {}
    card = hub.model("me/faces").commits[hub.model("me/faces").find("trial")]["README.md"].decode()
    assert 'revision="trial"' in card


@pytest.mark.parametrize(
    ("token", "name", "answer"),
    [
        ("unknown", "me/faces", r"me/faces: .* answered 401 .*: the token is not valid"),
        ("may-read", "me/faces", r"me/faces: .* answered 403 .*: the token may not write there"),
        ("may-write", "them/faces", r"them/faces: .* answered 403 .*: the token may not write there"),
        ("may-write", "datasets/me/faces", r"datasets/me/faces: is no USER/NAME"),
        ("may-write", "faces", r"faces: whose repository\? Give it as USER/faces"),
    ],
)
def test_what_the_hub_does_not_let_happen_is_said_with_its_cure(
    detector: Path, hub: StandInHub, monkeypatch: pytest.MonkeyPatch, token: str, name: str, answer: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=answer):
        main([str(detector), "--repo_id", name])
    assert not hub.repositories


def test_a_name_that_is_taken_by_something_else_is_refused(detector: Path, hub: StandInHub) -> None:
    hub.failures = {"POST /api/models/me/faces/preupload": 409}
    with pytest.raises(InputError, match=r"answered 409 .*: the name is taken by a repository of another kind"):
        main([str(detector), "--repo_id", "me/faces"])


def test_a_licence_that_the_hub_does_not_know_is_said(detector: Path, hub: StandInHub) -> None:
    hub.failures = {"POST /api/validate-yaml": 400}
    with pytest.raises(InputError, match=r"answered 400 \(Invalid metadata .*\): .* --license must be one of its ids"):
        main([str(detector), "--repo_id", "me/faces", "--license", "mine"])
    assert hub.model("me/faces").files == {}


def test_a_private_push_to_a_public_repository_is_refused(detector: Path, hub: StandInHub) -> None:
    hub.repositories["models/me/faces"] = Repository(private=False)
    with pytest.raises(InputError, match="me/faces: is there already, and public"):
        main([str(detector), "--repo_id", "me/faces", "--private"])
    assert hub.model("me/faces").files == {}


def test_a_hub_that_cannot_be_reached_is_said(detector: Path, hub: StandInHub) -> None:
    hub.close()
    with pytest.raises(InputError, match=rf"me/faces: {hub.url} cannot be used \(.*refused.*\): try again"):
        main([str(detector), "--repo_id", "me/faces"])


def test_without_network_or_token_nothing_is_tried(
    detector: Path, hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match="HF_HUB_OFFLINE=1 keeps everything off the network"):
            main([str(detector), "--repo_id", "me/faces"])
    monkeypatch.setattr("hf_deepfake.publishing.push.get_token", lambda: None)
    with pytest.raises(InputError, match="no token of the Hub is known"):
        main([str(detector), "--repo_id", "me/faces"])
    assert hub.requests == []


@pytest.mark.parametrize(
    ("file", "text", "answer"),
    [
        ("config.json", None, r"vit: no config.json; push takes what"),
        ("results.json", None, r"vit: no results.json, so it is not finished"),
        ("results.json", "{}", r"results.json: holds no metrics"),
        ("config.json", '{"a": [{"b": "/srv/me/x.onnx"}]}', r"config.json: would publish '/srv/me/x.onnx'"),
        ("config.json", '{"C:\\\\me": 1}', r"config.json: would publish 'C:\\\\me'"),
        ("config.json", '{"a": "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"}', r"config.json: holds a token of the Hub"),
        ("recipe.yaml", f"group_by: '{Path.home()}/(a+)'", rf"README.md: would publish '{Path.home()}'"),
    ],
)
def test_what_is_unfinished_or_would_tell_too_much_is_refused(
    detector: Path, tmp_path: Path, file: str, text: str | None, answer: str
) -> None:
    run = tmp_path / "vit"
    shutil.copytree(detector, run)
    if text is None:
        (run / file).unlink()
    else:
        (run / file).write_text(text)
    with pytest.raises(InputError, match=answer):
        main([str(run), "--repo_id", "me/faces", "--dry_run"])


def test_an_evaluation_is_pushed_with_its_figures(detector: Path, hub: StandInHub, tmp_path: Path) -> None:
    results = json.loads((detector / "results.json").read_text())
    evaluation = {"model": "vit", "metrics": {"phones": results["metrics"]["test"]}}
    save_results(evaluation, tmp_path / "hard" / "vit")
    push(detector, "--evaluation", str(tmp_path / "hard"))
    files = hub.model("me/faces").files
    assert json.loads(files["evaluations/hard/results.json"]) == evaluation
    assert "**phones**" in files["README.md"].decode()
    with pytest.raises(InputError, match=r"hard: another one is called so too"):
        main([str(detector), "--repo_id", "me/faces", "--evaluation", *[str(tmp_path / "hard")] * 2])
    save_results(evaluation | {"model": "other"}, tmp_path / "hard" / "vit")
    with pytest.raises(InputError, match=r"hard: holds no results.json of vit"):
        main([str(detector), "--repo_id", "me/faces", "--evaluation", str(tmp_path / "hard")])


WITHOUT_THE_PACKAGE = """
import json, sys
sys.modules["hf_deepfake"] = None
from transformers import pipeline
scores = {}
for name, trust in (("me/detector", False), ("me/ensemble", True)):
    detector = pipeline("image-classification", model=name, revision="main", trust_remote_code=trust)
    scores[name] = {entry["label"]: entry["score"] for entry in detector(sys.argv[1])}
print(json.dumps(scores))
"""


@pytest.mark.slow
def test_what_is_pushed_scores_the_same_without_this_package(
    detector: Path, ensemble: Path, hub: StandInHub, tmp_path: Path
) -> None:
    push(detector, name="me/detector")
    push(ensemble, "--private", name="me/ensemble")
    draw_image(1, 1).save(tmp_path / "photo.png")
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_PACKAGE, str(tmp_path / "photo.png")],
        env=os.environ | settings,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, folder in (("me/detector", detector), ("me/ensemble", ensemble)):
        expected = scores(load_detector(str(folder))).softmax(-1)[1, 1].item()
        assert found[name]["fake"] == pytest.approx(expected, abs=1e-5)
