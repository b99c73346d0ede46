"""The service as an ASGI application: images in by HTTP, verdicts and explanations out as JSON or PNG."""

import asyncio
import base64
import contextlib
import dataclasses
import hmac
import io
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio
from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

import hf_deepfake
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError
from hf_deepfake.errors import InputError
from hf_deepfake.explain.attributions import DEFAULT_METHOD, METHODS, Explanation
from hf_deepfake.explain.faithfulness import Faithfulness
from hf_deepfake.explain.figures import in_words, overlay
from hf_deepfake.serving.bodies import EncodedImages, Limits, Sent, chunks, first_problem, read_images
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.uploads import UploadError, read_upload
from hf_deepfake.serving.watching import Watch

MAX_EXPLAINED_PIXELS = 16_000_000
"""Of an image to explain, which is changed and scored some hundred times at its full size."""


_SECONDS_TO_DRAIN = 5.0


class Vote(BaseModel):
    """What a member of the ensemble says."""

    name: str
    prob_fake: float
    weight: float
    label: Literal["real", "fake"]


class Verdict(BaseModel):
    """An image that was judged."""

    file: str
    notes: list[str]
    label: Literal["real", "fake", "uncertain"]
    prob_fake: float
    threshold: float
    voting: Literal["soft", "hard", "weighted"]
    agreement: float
    members: list[Vote]
    uncertain_band: list[float] | None = None


class Refusal(BaseModel):
    """An image that was not judged, among others that were."""

    file: str
    error: str
    status: int


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


class Explained(BaseModel):
    """What a detector looked at."""

    file: str
    notes: list[str]
    prob_fake: float
    method: str
    target: str
    member: str | None
    convergence_delta: float | None
    faithfulness: dict[str, Any] | None
    trust: str | None
    png: str


class _Gate:
    """Lets so many requests in at once, for so long."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.inside = 0

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        if self.inside >= self.limits.requests:
            raise HTTPException(503, "too many requests at once; try again in a moment.", {"Retry-After": "1"})
        self.inside += 1
        try:
            with anyio.fail_after(self.limits.seconds):
                yield
        except TimeoutError as error:
            raise HTTPException(504, f"not answered within {self.limits.seconds:g} seconds.") from error
        except UploadError as error:
            raise HTTPException(error.status, error.reason) from error
        except ClientDisconnect as error:
            raise HTTPException(400, "the request ended too early.") from error
        finally:
            self.inside -= 1


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}
                    },
                    "required": ["files"],
                    "additionalProperties": False,
                }
            },
            "application/json": {"schema": EncodedImages.model_json_schema()},
        },
    }
}

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": words}
    for status, words in {
        401: "The API key is missing or wrong.",
        413: "Too many bytes, pixels or images.",
        415: "No image, or no form and no JSON.",
        422: "An image is damaged, or a setting is none.",
        503: "Too many requests at once.",
        504: "Not answered in time.",
    }.items()
}


def create_app(
    judge: Judge, api_key: str | None = None, allow_urls: bool = False, limits: Limits | None = None
) -> FastAPI:
    """The service without the page.

    Args:
        judge: Scores and explains; whoever made it closes it.
        api_key: Asked of every request but of those for health and documentation; None for none.
        allow_urls: Fetch images from public addresses.
        limits: Of requests.
    """
    gate = _Gate(limits or Limits())
    watch = Watch(("/predict", "/explain", "/health", "/metrics"))

    app = FastAPIOffline(
        redoc_url=None,
        title="hf_deepfake",
        summary="Tells how likely photographs are fake.",
        version=hf_deepfake.__version__,
    )
    app.add_middleware(watch.middleware)
    for kind in (RequestValidationError, StarletteHTTPException):
        app.add_exception_handler(kind, _refused)
    locked = [] if api_key is None else [Depends(_lock(api_key))]

    @app.get("/health", summary="Whether the service is up")
    async def health() -> dict[Literal["status"], Literal["ok"]]:
        return {"status": "ok"}

    @app.get("/metrics", dependencies=locked, response_class=Response, summary="Counts and times for Prometheus")
    async def metrics() -> Response:
        return Response(generate_latest(watch.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post(
        "/predict",
        dependencies=locked,
        openapi_extra=_BODY,
        responses=_PROBLEMS | {200: {"model": list[Verdict | Refusal]}},
        summary="How likely each image is fake",
    )
    async def predict(
        request: Request,
        voting: Annotated[Literal["soft", "hard", "weighted"] | None, Query()] = None,
        threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
        tta: Annotated[int, Query(ge=1, le=8)] = 1,
    ) -> JSONResponse:
        async with gate.entered():
            sent = await read_images(request, gate.limits, allow_urls)
            settings = {"voting": voting, "threshold": threshold, "tta": tta}
            answers = await asyncio.gather(*(_judged(judge, one, gate.limits, settings) for one in sent))
        watch.count(answers)
        if all("error" in answer for answer in answers):
            raise HTTPException(_common_status(answers), _reasons(answers))
        return JSONResponse(answers)

    @app.post(
        "/explain",
        dependencies=locked,
        openapi_extra=_BODY,
        responses=_PROBLEMS | {200: {"model": Explained, "content": {"image/png": {}}}},
        summary="What in one image speaks for fake, and whether that map can be trusted",
    )
    async def explain(
        request: Request,
        method: Annotated[Literal[METHODS], Query()] = DEFAULT_METHOD,  # type: ignore[valid-type]
        target: Annotated[Literal["fake", "real"], Query()] = "fake",
        member: Annotated[str | None, Query(description="One of the ensemble; the vote by default.")] = None,
        check: Annotated[bool, Query(description="Measure faithfulness, in some 200 forward passes.")] = True,
    ) -> Response:
        async with gate.entered():
            sent = await read_images(request, gate.limits, allow_urls)
            if len(sent) > 1:
                raise UploadError(422, f"one image is explained at a time; found {len(sent)}.")
            name, content = sent[0]
            if isinstance(content, UploadError):
                raise content
            upload = await run_in_threadpool(read_upload, content, gate.limits.file_bytes, MAX_EXPLAINED_PIXELS)
            try:
                explanation, faithfulness, png = await asyncio.to_thread(
                    _explained, judge, upload.image, method, target, member, check
                )
            except UnreadableImageError as error:
                raise UploadError.of(error) from error
            except InputError as error:
                raise UploadError(422, str(error)) from error
        if "image/png" in request.headers.get("accept", ""):
            return Response(png, media_type="image/png")
        record = _record(explanation, faithfulness)
        return JSONResponse(
            {"file": name, "notes": upload.notes} | record | {"png": base64.b64encode(png).decode("ascii")}
        )

    return app


def _lock(api_key: str) -> Any:
    """A dependency that lets in who has the key."""

    def check(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
        header: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))],
    ) -> None:
        given = header if header is not None else bearer.credentials if bearer is not None else ""
        if not hmac.compare_digest(given.encode("latin-1"), api_key.encode()):  # as starlette decoded it
            raise HTTPException(401, "the API key is missing or wrong.", {"WWW-Authenticate": "Bearer"})

    return check


async def _refused(request: Request, error: Any) -> JSONResponse:
    """A reason in one sentence, after the rest of the body: who is still sending when the connection ends may not see it."""
    status, headers = getattr(error, "status_code", 422), dict(getattr(error, "headers", None) or {})
    if request.method == "POST" and (status == 413 or not await _read_to_its_end(request)):
        headers["Connection"] = "close"
    reason = first_problem(error.errors()[0]) if isinstance(error, RequestValidationError) else error.detail
    return JSONResponse({"detail": reason}, status, headers)


async def _read_to_its_end(request: Request) -> bool:
    with anyio.move_on_after(_SECONDS_TO_DRAIN), contextlib.suppress(UploadError):
        with contextlib.suppress(RuntimeError, ClientDisconnect):  # it was read already, or there is nobody any more
            async for _ in chunks(request, Limits().request_bytes):
                pass
        return True
    return False


async def _judged(judge: Judge, sent: Sent, limits: Limits, settings: dict[str, Any]) -> dict[str, Any]:
    """The verdict on one image, or why there is none."""
    try:
        if isinstance(sent.content, UploadError):
            raise sent.content
        upload = await run_in_threadpool(read_upload, sent.content, limits.file_bytes)
        details = await asyncio.wrap_future(judge.submit(upload.image, **settings))
    except UnreadableImageError as error:
        refused = UploadError.of(error)
        return {"file": sent.name, "error": refused.reason, "status": refused.status}
    except UploadError as error:
        return {"file": sent.name, "error": error.reason, "status": error.status}
    return {"file": sent.name, "notes": upload.notes} | details


def _common_status(answers: list[dict[str, Any]]) -> int:
    statuses = {int(answer["status"]) for answer in answers}
    return statuses.pop() if len(statuses) == 1 else 422


def _reasons(answers: list[dict[str, Any]]) -> str:
    if len(answers) == 1:
        return str(answers[0]["error"])
    return f"none of the {len(answers)} images: " + " ".join(f"{one['file']}: {one['error']}" for one in answers)


def _explained(
    judge: Judge, image: bytes, method: str, target: str, member: str | None, check: bool
) -> tuple[Explanation, Faithfulness | None, bytes]:
    explanation, faithfulness = judge.explain(image, method, target, member, check)
    png = io.BytesIO()
    overlay(image, explanation).save(png, "PNG")
    return explanation, faithfulness, png.getvalue()


def _record(explanation: Explanation, faithfulness: Faithfulness | None) -> dict[str, Any]:
    names = ("prob_fake", "method", "target", "member", "convergence_delta")
    found: dict[str, Any] = {name: getattr(explanation, name) for name in names}
    measured = None if faithfulness is None else dataclasses.asdict(faithfulness)
    trust = None if faithfulness is None else in_words(faithfulness.better_than_random)
    return found | {"faithfulness": measured, "trust": trust}
