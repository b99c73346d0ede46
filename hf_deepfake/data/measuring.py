"""One pass over the files of a data set: hashes, file properties, colour and spectrum of every image."""

import functools
import hashlib
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import imagehash
import numpy as np
import pandas as pd
import scipy.fft
from numpy.typing import NDArray
from PIL import Image, ImageStat
from PIL.JpegImagePlugin import JpegImageFile, get_sampling
from scipy.ndimage import gaussian_filter
from tqdm.auto import tqdm

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb

BANDS = 16
"""Bands of the radial power spectrum; each is 1/32 cycles a pixel wide."""

SIGNATURE_SIDE = 32
"""Pixels of a side of the picture's signature."""

_THREADS = min(os.cpu_count() or 1, 4)  # Python's lock wastes more of them, and each holds a whole image
_CROP = 256
_FLAT = 0.5  # grey levels of detail below which there is nothing but rounding
_SUBSAMPLINGS = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_QUIET = 1e-2  # power of an eighth of the noise that rounding to whole grey levels makes
_MEANS = [f"mean_{colour}" for colour in ("red", "green", "blue")]
_SPECTRUM = [f"spectrum_{band:02d}" for band in range(BANDS)]
_UNREAD: dict[str, Any] = {
    "error": None,
    "sha256": "",
    "phash": b"",
    "signature": b"",
    "width": 0,
    "height": 0,
    "bytes": 0,
    "bits_per_pixel": np.nan,
    "format": "",
    "mode": "",
    "extension_matches": True,
    "jpeg_quality": np.nan,
    "jpeg_subsampling": "",
    "jpeg_tables": "",
    "exif": False,
    "frames": 0,
    **dict.fromkeys([*_MEANS, *_SPECTRUM], np.nan),
}


def measure_images(rows: datasets.Dataset, quiet: bool = False) -> pd.DataFrame:
    """Read and decode every image once, and keep numbers only.

    Args:
        rows: Images in the columns of `load_data`.
        quiet: Show no progress bar.

    Returns:
        One row an image, in data order. What could not be read is empty, 0 or NaN.

        - `error`: None, or why the image cannot be read.
        - `sha256` of the file's content, of broken files too; empty where there is no file.
        - `phash`: 64 bits, packed. `signature`: the picture's detail in `SIGNATURE_SIDE` by `SIGNATURE_SIDE`
          int8, all zeros for a picture without any.
        - `width`, `height` as stored, before the EXIF orientation; `bytes`; `bits_per_pixel`; `format` and `mode` as
          PIL names them; `extension_matches`: False for a PNG that is named .jpg; `exif`; `frames`.
        - `jpeg_quality`: the libjpeg quality with the nearest quantisation table; `jpeg_subsampling` ("4:2:0");
          `jpeg_tables`: the same for equal tables.
        - `mean_red`, `mean_green`, `mean_blue` in [0, 255].
        - `spectrum_00` …: natural logarithm of the power of the luminance between `band / 32` and `(band + 1) / 32`
          cycles a pixel, of at most 256 by 256 pixels at the centre. They are not resized, as it is the finest detail
          that an upsampling generator gets wrong (Durall et al., Watch your Up-Convolution, CVPR 2020).
    """
    Image.init()  # the plugins are registered once, not by several threads at a time
    parts = []
    with (
        tqdm(total=len(rows), desc="Measuring images", unit="image", disable=quiet, delay=1) as progress,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for batch in rows.select_columns(["image", "file"]).iter(batch_size=256):  # embedded images are not all held
            records = []
            for record in pool.map(_measure, batch["image"], batch["file"]):
                records.append(record)
                progress.update()
            errors = pd.Series([record["error"] for record in records], dtype=object)  # None would become NaN
            parts.append(pd.DataFrame(records).assign(error=errors))
    return pd.concat(parts, ignore_index=True)


def _measure(image: dict[str, Any], file: str) -> dict[str, Any]:
    record = dict(_UNREAD)
    name = image.get("path") or file
    try:
        content = image["bytes"] if image.get("bytes") is not None else Path(name).read_bytes()
        record |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        opened = open_rgb({"bytes": content, "path": name})
        record |= _header(content, name) | _picture(opened) | _spectrum(opened)
    except UnreadableImageError as error:
        record["error"] = str(error) if content else f"{name}: the file is empty"
    except OSError as error:
        record["error"] = f"{name}: {error.strerror or error}"
    return record


def _header(content: bytes, name: str) -> dict[str, Any]:
    with Image.open(io.BytesIO(content)) as opened:
        width, height = opened.size
        named = Image.registered_extensions().get(Path(name).suffix.lower())
        header = {
            "width": width,
            "height": height,
            "bits_per_pixel": 8 * len(content) / (width * height),
            "format": opened.format,
            "mode": opened.mode,
            "extension_matches": named in (None, opened.format) or (named, opened.format) == ("JPEG", "MPO"),
            "exif": "exif" in opened.info,
            "frames": _frames(opened),
        }
        return header | (_compression(opened) if isinstance(opened, JpegImageFile) else {})


def _frames(opened: Image.Image) -> int:
    try:
        return getattr(opened, "n_frames", 1)
    except Exception:  # the first frame is whole, or it would not have been opened; what follows it need not be
        return 1


def _compression(opened: JpegImageFile) -> dict[str, Any]:
    tables = sorted(opened.quantization.items())
    distances = np.abs(_standard_tables() - np.array(tables[0][1])).sum(axis=1)
    return {
        "jpeg_quality": float(distances.argmin() + 1),
        "jpeg_subsampling": _SUBSAMPLINGS.get(get_sampling(opened), "other") if opened.layers > 1 else "",
        "jpeg_tables": hashlib.sha256(repr(tables).encode()).hexdigest()[:8],
    }


@functools.cache
def _standard_tables() -> NDArray[np.int64]:
    """Luminance tables of libjpeg for the qualities 1 to 100, shape `(100, 64)`."""
    tables = []
    for quality in range(1, 101):
        buffer = io.BytesIO()
        Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
        buffer.seek(0)
        tables.append(JpegImageFile(buffer).quantization[0])
    return np.array(tables)


def _picture(image: Image.Image) -> dict[str, Any]:
    """What the picture shows, in a few bytes, and its mean colour."""
    side = (SIGNATURE_SIDE, SIGNATURE_SIDE)
    thumbnail = image.resize(side, Image.Resampling.LANCZOS, reducing_gap=3).convert("L")
    grey = np.asarray(thumbnail, np.float32)
    detail = gaussian_filter(grey, 0.7) - gaussian_filter(grey, 2)
    scale = 127 / np.abs(detail).max() if detail.std() >= _FLAT else 0
    return {
        "phash": np.packbits(imagehash.phash(thumbnail).hash).tobytes(),
        "signature": np.rint(detail * scale).astype(np.int8).tobytes(),
        **dict(zip(_MEANS, ImageStat.Stat(image).mean, strict=True)),
    }


def _spectrum(image: Image.Image) -> dict[str, float]:
    width, height = image.size
    side = min(width, height, _CROP)
    left, top = (width - side) // 2, (height - side) // 2
    luminance = np.asarray(image.crop((left, top, left + side, top + side)).convert("L"), np.float32)
    window, bands, counts = _rings(side)
    power = np.square(np.abs(scipy.fft.rfft2((luminance - luminance.mean()) * window)))
    sums = np.bincount(bands.ravel(), power.ravel(), minlength=BANDS)[:BANDS]
    means = np.divide(sums, counts, out=np.full(BANDS, np.nan), where=counts > 0)
    return dict(zip(_SPECTRUM, np.log(means + _QUIET).tolist(), strict=True))


@functools.lru_cache(maxsize=8)
def _rings(side: int) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """A Hann window of unit energy, the band of each frequency of `rfft2`, and the frequencies in each band."""
    edge = np.hanning(side + 2)[1:-1]
    window = np.outer(edge, edge)
    frequencies = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    bands = (frequencies * 2 * BANDS).astype(np.int64)
    counts = np.bincount(bands.ravel(), minlength=BANDS)[:BANDS]
    return (window / np.sqrt(np.square(window).sum())).astype(np.float32), bands, counts
