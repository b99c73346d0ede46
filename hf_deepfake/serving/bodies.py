"""The images that a request holds, read into memory within limits; nothing of them touches the disk."""

import base64
import binascii
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from hf_deepfake.serving import addresses
from hf_deepfake.serving.uploads import MAX_BYTES, UploadError


@dataclass(frozen=True)
class Limits:
    """What one request may hold, and how much the service takes on at once.

    Attributes:
        files: Images of a request.
        file_bytes: Of one image.
        request_bytes: Of a request, with whatever is around its images.
        requests: That are read, queued or judged at the same time; more are told to come again.
        seconds: That a request may take, from its first byte to its answer.
    """

    files: int = 32
    file_bytes: int = MAX_BYTES
    request_bytes: int = 64 * 2**20
    requests: int = 64
    seconds: float = 120.0


class Sent(NamedTuple):
    """One image of a request.

    Attributes:
        name: What the sender calls it; echoed, and never used as a path.
        content: The encoded file, or why there is none.
    """

    name: str
    content: bytes | UploadError


class EncodedImages(BaseModel):
    """Images as JSON."""

    model_config = ConfigDict(extra="forbid")

    images: list[str] = Field(default=[], description="Files, each in base64.")
    urls: list[str] = Field(default=[], description="Public http(s) addresses, where the service takes them.")


async def read_images(request: Request, limits: Limits, allow_urls: bool) -> list[Sent]:
    """The images of a multipart form (field `files`) or of JSON (`images`, `urls`).

    Raises:
        UploadError: If the request as a whole is none that can be answered.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        sent = await _of_form(request, limits)
    elif kind == "application/json":
        sent = await _of_json(
            b"".join([chunk async for chunk in chunks(request, limits.request_bytes)]), limits, allow_urls
        )
    else:
        raise UploadError(415, "send multipart/form-data with a field files, or application/json with images.")
    if not sent:
        raise UploadError(422, "the request holds no image.")
    return sent


async def chunks(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """A body, until it is larger than it may be; one that says so itself is not read at all.

    Raises:
        UploadError: If it is too large.
    """
    error = UploadError(413, f"the request is too large; at most {max_bytes:,} bytes are taken.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > max_bytes:
        raise error
    read = 0
    async for chunk in request.stream():
        read += len(chunk)
        if read > max_bytes:
            raise error
        yield chunk


class _InMemory(MultiPartParser):
    spool_max_size = 2**63 - 1  # of a form that is larger than 1 MB, starlette would put the rest on disk


async def _of_form(request: Request, limits: Limits) -> list[Sent]:
    try:
        parser = _InMemory(
            request.headers, chunks(request, limits.request_bytes), max_files=limits.files, max_fields=limits.files
        )
        form = await parser.parse()
    except MultiPartException as error:
        raise UploadError(422, f"the form cannot be read: {error.message}") from error
    unknown = sorted(set(form) - {"files"})
    if unknown:
        raise UploadError(422, f"the form has a field {unknown[0]!r}; images come in files.")
    files = [file for file in form.getlist("files") if isinstance(file, UploadFile)]
    if len(files) < len(form.getlist("files")):
        raise UploadError(422, "the field files holds text; send a file with a file name.")
    return [Sent(file.filename or "", await file.read()) for file in files]


async def _of_json(body: bytes, limits: Limits, allow_urls: bool) -> list[Sent]:
    try:
        asked = EncodedImages.model_validate_json(body)
    except ValidationError as error:
        raise UploadError(422, first_problem(error.errors()[0])) from error
    if asked.urls and not allow_urls:
        raise UploadError(422, "this service fetches no addresses; send the images themselves.")
    if len(asked.images) + len(asked.urls) > limits.files:
        raise UploadError(413, f"the request holds too many images; at most {limits.files} are taken.")
    sent = [Sent(f"images[{index}]", _decoded(text)) for index, text in enumerate(asked.images)]
    return sent + [Sent(url, await _fetched(url, limits)) for url in asked.urls]


def first_problem(error: Mapping[str, Any]) -> str:
    """What pydantic found, in one sentence."""
    return f"{'.'.join(map(str, error['loc'])) or 'the body'}: {error['msg']}."


def _decoded(text: str) -> bytes | UploadError:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return UploadError(422, "not base64; leave out what stands before the comma of a data: address.")


async def _fetched(url: str, limits: Limits) -> bytes | UploadError:
    try:
        return await addresses.fetch(url, limits.file_bytes)
    except UploadError as error:
        return error
