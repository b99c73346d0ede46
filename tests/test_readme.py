"""What README and recipes say can be typed as it stands."""

import importlib.util
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from hf_deepfake import cli
from hf_deepfake.recipe import parse_recipe
from hf_deepfake.training.train import RECIPE

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BASH = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
COMMANDS = [
    shlex.split(command.strip())
    for block in BASH
    for line in block.splitlines()
    for command in line.split("&&")
    if command.strip()
]
RECIPES = sorted((ROOT / "recipes" / "configs").glob("*.yaml"))


def test_the_two_set_up_commands_are_there() -> None:
    assert 'pip install ".[demo]" && hf-deepfake demo' in README
    assert 'pip install -e ".[dev]" && pytest' in README


@pytest.mark.parametrize("command", [command for command in COMMANDS if command[0] == "hf-deepfake"], ids=" ".join)
def test_every_command_exists_with_its_flags(command: list[str], capsys: Any) -> None:
    name, flags = command[1], [word for word in command[2:] if word.startswith("--")]
    assert name in cli.COMMANDS
    with pytest.raises(SystemExit) as exited:
        cli.main([name, "--help"])
    assert exited.value.code == 0
    printed = capsys.readouterr().out
    for flag in flags:
        assert re.search(rf"{flag}\b", printed), f"{name} has no {flag}"
    for file in command:
        if file.startswith("recipes/"):
            assert (ROOT / file).is_file()


def test_every_extra_exists() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    extras = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
    for extra in re.findall(r"\[(\w+)\]\"", " ".join(BASH)):
        assert re.search(rf"^{extra} = ", extras, flags=re.MULTILINE)


def test_python_blocks_are_python() -> None:
    for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL):
        compile(block, "README.md", "exec")


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_tables_are_those_that_the_results_print() -> None:
    spec = importlib.util.spec_from_file_location("readme_table", ROOT / "benchmarks" / "readme_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for readme, table in module.TABLES.items():
        assert module.between(readme) == f"\n{table()}\n"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_parses(recipe: Path) -> None:
    flags = ["--config", str(recipe), "--dataset_name", "DATA", "--use_cpu", "--bf16", "false"]
    arguments = parse_recipe(RECIPE, flags, "test")
    assert next(group for group in arguments if hasattr(group, "output_dir")).output_dir.startswith("runs/")
    assert f"`{recipe.stem}`" in (ROOT / "recipes" / "README.md").read_text(encoding="utf-8")
