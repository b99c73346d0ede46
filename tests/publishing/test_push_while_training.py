import io
from pathlib import Path

import pandas as pd
import pytest
import torch
from standin_hub import StandInHub

from hf_deepfake import InputError, cli
from hf_deepfake.models.detector import load_detector
from hf_deepfake.publishing import push as push_module
from hf_deepfake.training.train import main


def train(data: Path, run: Path, *flags: str) -> list[str]:
    quick = "--model_name_or_path test_resnet --image_size 32 --num_train_epochs 2 --use_cpu --disable_tqdm true"
    words = ["--dataset_name", str(data), "--output_dir", str(run), *quick.split(), "--push_to_hub"]
    return [*words, "--hub_model_id", "me/faces", *flags]


@pytest.mark.slow
def test_a_training_pushes_its_checkpoints_and_then_its_run(
    image_folder: Path, hub: StandInHub, tmp_path: Path
) -> None:
    main(train(image_folder, tmp_path / "run", "--hub_strategy", "checkpoint", "--hub_private_repo", "true"))
    repository = hub.model("me/faces")
    assert repository.private
    during = list(repository.commits.values())[1]
    assert set(during) == {"config.json", "model.safetensors"}
    assert "last-checkpoint/optimizer.pt" in repository.files
    assert "# faces" in repository.files["README.md"].decode()
    assert not [name for files in repository.commits.values() for name in files if name.endswith("training_args.bin")]
    assert b"may-write" not in b"".join(hub.bodies)
    assert "image" not in pd.read_parquet(io.BytesIO(repository.files["training_images.parquet"]))
    weights = [load_detector(name).model.state_dict() for name in ("me/faces", str(tmp_path / "run"))]
    torch.testing.assert_close(*weights)


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_pushed_does_not_stop_the_training(
    image_folder: Path, hub: StandInHub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub.failures = {"POST /api/models/me/faces/commit": 500}
    with pytest.raises(InputError, match=r"The run is whole: hf-deepfake push \S+/run --repo_id me/faces"):
        main(train(image_folder, tmp_path / "run"))
    assert "a checkpoint was not pushed, the training goes on: Server error '500" in caplog.text
    hub.failures = {}
    assert cli.main(["push", str(tmp_path / "run"), "--repo_id", "me/faces"]) == 0
    assert "results.json" in hub.model("me/faces").files


@pytest.mark.parametrize(
    ("flags", "token", "answer"),
    [
        (["--hub_token", "secret"], "may-write", "--hub_token: would stand readable in every checkpoint"),
        (["--hub_model_id", "faces"], "may-write", "faces: whose repository"),
        ([], "may-read", r"me/faces: .* answered 403"),
    ],
)
def test_a_training_that_could_not_push_does_not_begin(
    image_folder: Path,
    hub: StandInHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    flags: list[str],
    token: str,
    answer: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(InputError, match=answer):
        main(train(image_folder, tmp_path / "run", *flags))
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_a_training_without_a_token_does_not_begin(
    image_folder: Path, hub: StandInHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push_module, "get_token", lambda: None)
    with pytest.raises(InputError, match="no token of the Hub is known; log in with hf auth login"):
        main(train(image_folder, tmp_path / "run"))
    assert hub.requests == []
