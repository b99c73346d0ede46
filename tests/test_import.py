import subprocess
import sys

import pytest

import hf_deepfake


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'torchvision', 'transformers', 'numpy', 'pandas', 'datasets', 'timm', 'sklearn', 'matplotlib', 'PIL'}"
    assert run_python(f"import sys, hf_deepfake, hf_deepfake.cli; print(sorted({heavy} & set(sys.modules)))") == "[]"


def test_every_public_name_resolves() -> None:
    assert set(hf_deepfake.__all__) <= set(dir(hf_deepfake))
    for name in hf_deepfake.__all__:
        value = getattr(hf_deepfake, name)
        assert name == "__version__" or value.__name__ == name


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'hf_deepfake' has no attribute 'nothing'"):
        _ = hf_deepfake.nothing
