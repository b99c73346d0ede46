import re
from pathlib import Path

import pytest
from huggingface_hub import HfApi, SpaceCard
from packaging.requirements import Requirement
from standin_hub import Repository, StandInHub

from hf_deepfake import InputError, cli
from hf_deepfake.publishing.space import main, space_files

ROOT = Path(__file__).parents[2]
MODEL = ["--model", "me/faces"]


@pytest.fixture
def model(hub: StandInHub) -> StandInHub:
    """A Hub that has the model."""
    HfApi().create_repo("me/faces")
    hub.requests.clear()
    return hub


def push(*flags: str) -> int:
    return cli.main(["push-space", "--repo_id", "me/page", *MODEL, *flags])


def test_a_space_is_pushed_as_one_commit_with_the_package_and_told_its_model(model: StandInHub) -> None:
    assert push() == 0
    space = model.repositories["spaces/me/page"]
    assert space.variables == {"HF_DEEPFAKE_MODEL": "me/faces"}
    card = SpaceCard(space.files["README.md"].decode()).data
    assert (card["sdk"], card["app_file"], card["models"]) == ("gradio", "app.py", ["me/faces"])
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "hf_deepfake").rglob("*.py")}
    others = {name for name in space.files if not name.endswith(".py")}
    assert package | {"app.py"} == set(space.files) - others
    assert {"README.md", "requirements.txt", "LICENSE", "hf_deepfake/serving/page.css"} <= others
    assert not [name for name in others if re.search(r"\.(jpe?g|png|safetensors|pyc)$", name)]
    assert sum("/commit/" in line for line in model.requests) == 1
    assert model.requests.index("POST /api/spaces/me/page/variables") < len(model.requests) - 1


def test_the_requirements_are_those_of_the_package_with_its_extra() -> None:
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["space"]
    lines = (ROOT / "space" / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#")] == sorted(wanted)


def test_the_card_names_a_gradio_that_the_requirements_allow() -> None:
    stated = SpaceCard((ROOT / "space" / "README.md").read_text()).data["sdk_version"]
    lines = (ROOT / "space" / "requirements.txt").read_text().splitlines()
    (gradio,) = (Requirement(line) for line in lines if line.startswith("gradio"))
    assert stated in gradio.specifier


def test_a_dry_run_lists_the_files_and_touches_nothing(model: StandInHub, capsys: pytest.CaptureFixture[str]) -> None:
    assert push("--dry_run") == 0
    assert "requirements.txt" in capsys.readouterr().out
    assert model.requests == []


def test_a_model_that_is_not_there_is_refused_before_anything_is_made(hub: StandInHub) -> None:
    with pytest.raises(InputError, match=r"me/faces: .* answered 404 .*: there is no such repository"):
        main(["--repo_id", "me/page", *MODEL])
    assert not hub.repositories


def test_a_push_that_fails_leaves_the_space_as_it_was_and_can_be_repeated(model: StandInHub) -> None:
    model.failures = {"POST /api/spaces/me/page/commit": 500}
    assert push() == 2
    assert model.repositories["spaces/me/page"].files == {}
    model.failures = {}
    assert push() == 0
    assert "app.py" in model.repositories["spaces/me/page"].files


def test_a_private_space_stays_private_and_a_public_one_is_refused(model: StandInHub) -> None:
    assert push("--private") == 0
    assert model.repositories["spaces/me/page"].private
    model.repositories["spaces/me/page"] = Repository(private=False)
    with pytest.raises(InputError, match="me/page: is there already, and public"):
        main(["--repo_id", "me/page", *MODEL, "--private"])


def test_names_that_are_none_are_refused(model: StandInHub) -> None:
    with pytest.raises(InputError, match=r"faces: whose repository\?"):
        main(["--repo_id", "me/page", "--model", "faces"])
    with pytest.raises(InputError, match=r"page: whose repository\?"):
        main(["--repo_id", "page", *MODEL])
    assert model.requests == []


def test_the_licence_travels_along() -> None:
    content = space_files("me/faces")["LICENSE"]
    assert isinstance(content, bytes)
    assert content == (ROOT / "LICENSE").read_bytes()
