import subprocess
import sys
from types import ModuleType

import pytest

from hf_deepfake import cli
from hf_deepfake.errors import InputError


def command_that(raises: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: list[str]) -> int:
        raise raises

    module = ModuleType("failing_command")
    module.main = fail  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing_command", module)
    monkeypatch.setitem(cli.COMMANDS, "fail", ("failing_command", "fails"))


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    heavy = "torch", "transformers", "datasets", "pandas", "numpy", "sklearn", "PIL", "matplotlib"
    code = (
        "import sys; from hf_deepfake.cli import main; status = main(['--help']); "
        f"print('imported:', [name for name in {heavy} if name in sys.modules], status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "imported: [] 0" in done.stdout
    assert all(f"\n  {name} " in done.stdout for name in cli.COMMANDS)


def test_every_command_has_a_module_with_a_main() -> None:
    for module, _ in cli.COMMANDS.values():
        assert callable(__import__(module, fromlist=["main"]).main)


def test_no_command_prints_the_usage_and_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert capsys.readouterr().out.startswith("usage: hf-deepfake <command>")


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.count(".") == 2


def test_an_unknown_command_is_answered_with_the_right_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert capsys.readouterr().err == f"error: no command 'trian'; the commands are {', '.join(cli.COMMANDS)}\n"


def test_wrong_input_is_one_line_and_exit_status_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(InputError("a.csv: broken\nin line 3"), monkeypatch)
    assert cli.main(["fail"]) == 2
    assert capsys.readouterr().err == "error: a.csv: broken in line 3\n"


def test_a_defect_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    command_that(ZeroDivisionError(), monkeypatch)
    with pytest.raises(ZeroDivisionError):
        cli.main(["fail"])


def test_an_interruption_is_said_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command_that(KeyboardInterrupt(), monkeypatch)
    assert cli.main(["fail"]) == 130
    assert capsys.readouterr().err.startswith("interrupted")
