"""What a picture's own file says of it: format, camera, software, date and content credentials."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import c2pa
from PIL import ExifTags, Image

from hf_deepfake.printing import printable

Credentials = Literal["none", "intact", "broken", "remote", "unreadable"]
"""Intact: signed, and the picture is the one that was signed; by whom is not compared with any list of trusted signers.
Broken: the picture, or what it says, was changed after signing. Remote: kept at an address, which is not asked."""

_MADE_BY_AI = ("trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia")
"""Last parts of IPTC digital source types."""

_LONGEST = 100


@dataclass(frozen=True)
class FileFacts:
    """What a file says of itself, which anyone can write into it and every upload can lose.

    Attributes:
        format: As Pillow names it.
        width: In pixels, as the file stores it.
        height: In pixels, as the file stores it.
        bytes: Of the file.
        several: Whether it holds several frames or pages.
        camera: Make and model, empty where the file names none, as the others below.
        software: That wrote or changed it.
        date: When it was taken, or else last changed, in the file's own form.
        has_place: Whether it says where; the place itself is not read.
        credentials: State of its content credentials (C2PA).
        signer: Who signed the credentials.
        says_made_by_ai: Whether the credentials say that a generator made the picture or a part of it.
    """

    format: str
    width: int
    height: int
    bytes: int
    several: bool
    camera: str
    software: str
    date: str
    has_place: bool
    credentials: Credentials
    signer: str
    says_made_by_ai: bool


def file_facts(content: bytes) -> FileFacts:
    """Read what an encoded picture says of itself; nothing is fetched from anywhere.

    Raises:
        UnidentifiedImageError: If it is no picture.
    """
    with Image.open(io.BytesIO(content)) as image:
        form, (width, height), several = str(image.format), image.size, getattr(image, "is_animated", False)
        if form == "MPO":  # a phone's JPEG, with depth or brightness behind the photograph
            form, several = "JPEG", False
        exif, details, has_place = _exif(image)
    software = exif.get(ExifTags.Base.Software) or image.info.get("Software", "")
    camera = " ".join(filter(None, (_text(exif.get(tag)) for tag in (ExifTags.Base.Make, ExifTags.Base.Model))))
    date = details.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
    stated = (camera, _text(software), _text(date), has_place)
    return FileFacts(form, width, height, len(content), several, *stated, *_credentials(content))


def _exif(image: Image.Image) -> tuple[dict[int, Any], dict[int, Any], bool]:
    """The tags of the file, those of the photograph, and whether there is a place; none where they are damaged."""
    try:
        exif = image.getexif()
        return dict(exif), exif.get_ifd(ExifTags.IFD.Exif), bool(exif.get_ifd(ExifTags.IFD.GPSInfo))
    except Exception:  # Pillow's reader raises anything from KeyError to struct.error on damaged tags
        return {}, {}, False


def _text(value: Any) -> str:
    """A tag's value as one short line of text."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return printable(text.strip("\0 \t\r\n"))[:_LONGEST]


@cache
def _offline() -> Any:
    """A context in which no file makes the reader ask an address; by default it asks any that a file names."""
    return c2pa.Context(c2pa.Settings.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}}))


def _credentials(content: bytes) -> tuple[Credentials, str, bool]:
    """State, signer, and whether they tell of a generator."""
    try:
        reader = c2pa.Reader.try_create(None, io.BytesIO(content), context=_offline())
        if reader is None:
            return "none", "", False
        with reader:
            state, manifest = reader.get_validation_state(), reader.get_active_manifest() or {}
    except c2pa.C2paError.NotSupported:  # a format without credentials
        return "none", "", False
    except c2pa.C2paError as error:
        return ("remote" if "fetch remote manifests" in str(error) else "unreadable"), "", False
    signature = manifest.get("signature_info", {})
    signer = _text(signature.get("common_name") or signature.get("issuer"))
    return ("broken" if state == "Invalid" else "intact"), signer, _says_made_by_ai(manifest)


def _says_made_by_ai(manifest: dict[str, Any]) -> bool:
    return any(kind.rsplit("/", 1)[-1] in _MADE_BY_AI for kind in _source_types(manifest.get("assertions", [])))


def _source_types(value: Any) -> Iterator[str]:
    """Every `digitalSourceType` below a value."""
    if isinstance(value, dict):
        if isinstance(kind := value.get("digitalSourceType"), str):
            yield kind
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from _source_types(part)
