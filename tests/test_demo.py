from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from hf_deepfake import cli, demo

TINY = {
    "pretrained": False,
    "image_size": 32,
    "channels_last": True,
    "learning_rate": 3e-3,
    "num_train_epochs": 2,
    "per_device_train_batch_size": 8,
    "resume_from_checkpoint": True,
    "test_share": 0.15,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture(autouse=True)
def tiny_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "MEMBERS", {"resnet": "test_resnet", "efficientnet": "test_efficientnet"})
    monkeypatch.setattr(demo, "SHARED", TINY)


def test_the_demo_goes_all_the_way_and_run_again_says_what_exists(
    image_folder: Path, tmp_path: Path, capsys: Any
) -> None:
    output_dir = tmp_path / "demo"
    command = ["demo", "--data", str(image_folder), "--output_dir", str(output_dir)]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    for expected in ("resnet", "soft voting", "hard voting", "weighted voting", "prob_fake", "hf-deepfake predict"):
        assert expected in printed
    assert (output_dir / "ensemble" / "plots" / "comparison_test.png").is_file()
    image = next((image_folder / "real").iterdir())
    named = pipeline("deepfake-ensemble", model=str(output_dir / "ensemble"))(str(image))
    assert pipeline("deepfake-ensemble")(str(image)) == named
    before = {path: path.stat().st_mtime_ns for path in output_dir.rglob("*") if path.is_file()}
    assert cli.main(command) == 0
    assert "resnet exists" in capsys.readouterr().out.replace("\n", "")
    assert {path: path.stat().st_mtime_ns for path in output_dir.rglob("*") if path.is_file()} == before


def test_a_demo_of_other_images_is_not_mixed_in(image_folder: Path, tmp_path: Path, capsys: Any) -> None:
    run = tmp_path / "demo" / "resnet"
    run.mkdir(parents=True)
    (run / "recipe.yaml").write_text("dataset_name: elsewhere\n")
    assert cli.main(["demo", "--data", str(image_folder), "--output_dir", str(tmp_path / "demo")]) == 2
    assert f"{run}: was trained on elsewhere, not on {image_folder}" in capsys.readouterr().err
