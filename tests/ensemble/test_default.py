from pathlib import Path

import pytest

from hf_deepfake import InputError
from hf_deepfake.ensemble import default
from hf_deepfake.ensemble.default import default_ensemble, install_default


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_the_ensemble_installed_last_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = checkpoint(tmp_path / "first"), checkpoint(tmp_path / "second")
    install_default(first)
    monkeypatch.chdir(tmp_path)
    install_default(Path("second"))
    monkeypatch.chdir("/")
    assert default_ensemble() == str(second)


def test_a_default_that_was_removed_is_no_default(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ensemble")
    install_default(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match="no default ensemble on this machine"):
        default_ensemble()


def test_the_published_ensemble_is_taken_where_none_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(default, "PUBLISHED_ENSEMBLE", "user/ensemble")
    assert default_ensemble() == "user/ensemble"
    install_default(checkpoint(tmp_path / "ensemble"))
    assert default_ensemble() == str(tmp_path / "ensemble")


def test_without_either_the_command_that_makes_one_is_named() -> None:
    with pytest.raises(
        InputError, match=r"`hf-deepfake demo`, or name one: pipeline\('deepfake-ensemble', model=DIR\)"
    ):
        default_ensemble()
