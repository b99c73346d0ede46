"""The notebooks hold no outputs, and run from start to end with tiny settings."""

import re
from pathlib import Path
from typing import Any

import pytest

from hf_deepfake import cli

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOKS = Path(__file__).resolve().parents[1] / "recipes" / "notebooks"
TINY = {
    "quickstart.ipynb": """
crops, image_size, epochs = 4, 64, 1
members = {"resnet": "test_resnet", "efficientnet": "test_efficientnet"}
start = ""
""",
    "kaggle_2xT4.ipynb": """
members = {"resnet": "--model_name_or_path test_resnet", "efficientnet": "--model_name_or_path test_efficientnet"}
settings = "--image_size 32 --num_train_epochs 1 --per_device_train_batch_size 8"
""",
}


def read(name: str) -> Any:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


def execute(name: str, folder: Path, settings: str = "", replaced: tuple[str, str] = ("\0", "")) -> str:
    """Everything that the notebook printed, its parameters overridden and one piece of its code replaced."""
    notebook = read(name)
    for cell in notebook.cells:
        cell.source = cell.source.replace(*replaced)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    parameters.source += f"\nwork = Path({str(folder / 'work')!r})\n{TINY[name]}{settings}"
    nbclient.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") for output in outputs)


def test_every_notebook_is_tested() -> None:
    assert {path.name for path in NOTEBOOKS.glob("*.ipynb")} == TINY.keys()


@pytest.mark.parametrize("name", TINY)
def test_notebooks_are_kept_without_outputs(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) > 5
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("name", TINY)
def test_the_commands_of_notebooks_exist(name: str) -> None:
    text = "\n".join(cell.source for cell in read(name).cells)
    commands = re.findall(r'(?:run\(|command =)\s*f"(\w+) ', text) + re.findall(
        r"^hf-deepfake (\w+) ", text, re.MULTILINE
    )
    assert len(commands) >= 4
    assert set(commands) <= cli.COMMANDS.keys()


@pytest.mark.slow  # trains
def test_the_quickstart_goes_from_images_to_a_report(tmp_path: Path) -> None:
    printed = execute("quickstart.ipynb", tmp_path)
    assert re.search(r"'prob_fake': 0\.\d+", printed)
    work = tmp_path / "work"
    assert (work / "evaluation" / "robustness.csv").is_file()
    assert list((work / "explanation").rglob("*.png"))
    assert "resnet" in (work / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow  # trains
@pytest.mark.parametrize("processes", [1, 2])
def test_the_launcher_of_the_kaggle_notebook_trains_in_its_processes(
    processes: int, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU two processes have to be asked for."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    data = f"data = Path({str(image_folder)!r})"
    printed = execute("kaggle_2xT4.ipynb", tmp_path, data, ("max(1, gpus)", str(processes)))
    assert f"{processes} processes" in printed
    results = (tmp_path / "work" / "resnet" / "results.json").read_text()
    assert f'"processes": {processes}' in results
    assert (tmp_path / "work" / "report.html").is_file()
