import io
import struct
import zlib

import pytest
from conftest import draw_image
from PIL import Image

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.serving.uploads import FORMATS, UploadError, read_upload


def encoded(format: str, **settings: object) -> bytes:
    file = io.BytesIO()
    draw_image(1, 0).save(file, format, **settings)
    return file.getvalue()


def png_of(width: int, height: int) -> bytes:
    """A PNG of some hundred bytes that says to be this large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"AVIF"} | {"MPO"}))
def test_an_image_is_taken_as_it_is(format: str) -> None:
    content = encoded(format)
    assert read_upload(content) == (content, [])


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 422, "empty"),
        (b"<html>photo.jpg</html>", 415, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", 415, "format"),
        (encoded("PNG")[:20], 422, "damaged"),
        (png_of(50_000, 50_000), 413, "too many pixels"),
        (png_of(12_000, 12_000), 413, "12000x12000 pixels; at most 100,000,000"),
    ],
)
def test_what_is_no_acceptable_image_is_refused_with_the_reason(content: bytes, status: int, reason: str) -> None:
    with pytest.raises(UploadError, match=reason) as refused:
        read_upload(content)
    assert refused.value.status == status


def test_a_file_of_too_many_bytes_is_refused() -> None:
    with pytest.raises(UploadError, match=r"1,000 bytes; at most 999") as refused:
        read_upload(bytes(1000), max_bytes=999)
    assert refused.value.status == 413


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_of_several_frames_or_pages_the_first_is_judged_and_that_is_said(format: str) -> None:
    first, second = Image.new("RGB", (20, 20), "red"), Image.new("RGB", (20, 20), "blue")
    file = io.BytesIO()
    first.save(file, format, save_all=True, append_images=[second])
    upload = read_upload(file.getvalue())
    assert len(upload.notes) == 1
    assert "first" in upload.notes[0]
    red, _, blue = open_rgb(upload.image).getpixel((5, 5))
    assert red > 200 > 50 > blue
