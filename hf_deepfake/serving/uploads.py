"""What an uploaded image may be; told from its first bytes, before anything is decoded."""

import io
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow has more, among them some that start other programs or read other files, and may lack AVIF or WebP."""

Image.init()

MAX_BYTES = 20 * 2**20
"""Of one file."""

MAX_PIXELS = 100_000_000
"""Of one image; decoded they take three bytes each, and more while they are resized."""


class UploadError(Exception):
    """An upload that is not judged.

    Attributes:
        status: The HTTP status that says whose fault it is.
        reason: One sentence for the person who sent it.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason

    @classmethod
    def of(cls, error: UnreadableImageError) -> "UploadError":
        """Of an image whose header was good, and whose rest could not be decoded."""
        return cls(422, f"the image is damaged or incomplete ({str(error).partition(': ')[2]}).")


class Upload(NamedTuple):
    """An image that may be judged.

    Attributes:
        image: The encoded file, since some detectors decode it in their own way.
        notes: What the person who sent it should know, a sentence each.
    """

    image: bytes
    notes: list[str]


def read_upload(content: bytes, max_bytes: int = MAX_BYTES, max_pixels: int = MAX_PIXELS) -> Upload:
    """See whether a file is an image of acceptable size, by its header alone.

    Raises:
        UploadError: If it is empty or damaged (422), no image (415), or too large in bytes or pixels (413).
    """
    if not content:
        raise UploadError(422, "the file is empty.")
    if len(content) > max_bytes:
        raise UploadError(413, f"the file has {len(content):,} bytes; at most {max_bytes:,} are taken.")
    try:
        header = Image.open(io.BytesIO(content), formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError as error:
        raise UploadError(413, f"the image has too many pixels; at most {max_pixels:,} are taken.") from error
    except UnidentifiedImageError as error:
        raise UploadError(415, f"not an image, or of a format other than {', '.join(FORMATS)}.") from error
    except Exception as error:  # headers can be damaged in ways that raise anything from OSError to struct.error
        raise UploadError(422, "the image is damaged: its header cannot be read.") from error
    with header:
        width, height = header.size
        if width * height > max_pixels:
            raise UploadError(413, f"the image has {width}x{height} pixels; at most {max_pixels:,} are taken.")
        several = getattr(header, "is_animated", False)
    return Upload(content, ["The file holds several frames or pages; the first one was judged."] if several else [])
