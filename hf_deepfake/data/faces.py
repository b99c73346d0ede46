"""The face detector that a flag names, tried before anything long begins."""

import logging

from PIL import Image

from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper
from hf_deepfake.errors import InputError
from hf_deepfake.printing import first_line

logger = logging.getLogger(__name__)


def find_cropper(detector: str, flag: str, margin: float = 0.3) -> FaceCropper | None:
    """Load what `FaceCropper` calls `detector`; None for `none`, and for `auto` where no detector is installed.

    Args:
        detector: `auto`, `centerface`, `yunet`, the path of a YuNet `.onnx` file, or `none`.
        flag: What the user chose it with, for the error.
        margin: Of the crops, as a share of the face's box on each side.

    Raises:
        InputError: If a package is missing, the margin is negative, or the detector cannot be had.
    """
    if detector == "none":
        return None
    try:
        cropper = FaceCropper(margin, detector)
        cropper.detect(Image.new("RGB", (32, 32)))
    except ImportError as error:
        if detector != "auto":
            raise InputError(f"{flag} {detector}: {error}") from error
        logger.warning("faces are not looked for: %s", error)
        return None
    except Exception as error:  # of the Hub, or of OpenCV reading a file
        raise InputError(f"{flag} {detector}: {first_line(error)}") from error
    return cropper
