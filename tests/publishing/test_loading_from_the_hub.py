from pathlib import Path

import pytest
from standin_hub import Repository, StandInHub

from hf_deepfake import InputError
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data


@pytest.fixture
def images(hub: StandInHub, image_folder: Path) -> list[Path]:
    """Five images, which a private data set of the Hub holds."""
    files = sorted(image_folder.rglob("*.png"))[::8]
    repository = hub.repositories["datasets/me/images"] = Repository(private=True)
    repository.commit("main", {file.relative_to(image_folder).as_posix(): file.read_bytes() for file in files})
    return files


def test_a_data_set_of_the_hub_is_labelled_by_its_folders(images: list[Path]) -> None:
    rows = load_data(DataArguments(dataset_name="me/images"))["train"]
    wanted = [int(file.parent.name == "fake") for file in images]
    assert list(rows["label"]) == wanted
    held = [Path(row["path"]).read_bytes() if row["bytes"] is None else row["bytes"] for row in rows["image"]]
    assert held == [file.read_bytes() for file in images]


def test_a_private_data_set_is_not_there_for_others(
    images: list[Path], hub: StandInHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.tokens["of-someone-else"] = "them"
    monkeypatch.setenv("HF_TOKEN", "of-someone-else")
    with pytest.raises(InputError, match="me/images: no such file or folder here, and the Hub did not give it"):
        load_data(DataArguments(dataset_name="me/images"))
