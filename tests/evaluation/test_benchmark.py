import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from hf_deepfake import InputError
from hf_deepfake.evaluation import benchmark
from hf_deepfake.evaluation.benchmark import environment, load_results, save_results


def test_results_are_read_back_and_damaged_ones_are_refused(tmp_path: Path) -> None:
    results = {"schema": 1, "metrics": {"test": {"roc_auc": 0.5}}, "model": "é"}
    save_results(results, tmp_path)
    assert load_results(tmp_path) == results
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(InputError, match=r"results\.json: cannot be read: Expecting"):
        load_results(tmp_path)
    with pytest.raises(InputError, match=r"none/results\.json: cannot be read: .*No such file"):
        load_results(tmp_path / "none")


def test_the_environment_names_versions_and_the_device() -> None:
    found = environment(processes=2)
    assert found["processes"] == 2
    assert found["packages"]["torch"] == version("torch")
    assert found["device"]
    assert json.loads(json.dumps(found)) == found


def test_a_package_that_is_not_installed_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr(benchmark, "version", missing)
    assert set(environment()["packages"].values()) == {"not installed"}
