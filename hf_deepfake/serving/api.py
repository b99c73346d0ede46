"""The service as an ASGI application: images in by HTTP, verdicts and explanations out as JSON or PNG."""

import asyncio
import base64
import dataclasses
import io
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as StarletteHTTPException

import hf_deepfake
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError
from hf_deepfake.errors import InputError
from hf_deepfake.explain.attributions import DEFAULT_METHOD, METHODS, Explanation
from hf_deepfake.explain.faithfulness import Faithfulness
from hf_deepfake.explain.figures import in_words, overlay
from hf_deepfake.serving.bodies import Limits, Sent, read_images
from hf_deepfake.serving.gate import Gate, lock, refused
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.schema import BODY, PROBLEMS, Explained, Refusal, Verdict
from hf_deepfake.serving.uploads import UploadError, read_upload
from hf_deepfake.serving.watching import Watch

MAX_EXPLAINED_PIXELS = 16_000_000
"""Of an image to explain, which is changed and scored some hundred times at its full size."""


class _Service(NamedTuple):
    """What every request is answered with."""

    judge: Judge
    gate: Gate
    watch: Watch
    allow_urls: bool

    async def read(self, request: Request) -> list[Sent]:
        return await read_images(request, self.gate.limits, self.allow_urls)


async def _service(request: Request) -> _Service:
    found: _Service = request.app.state.service
    return found


_Serving = Annotated[_Service, Depends(_service)]

router = APIRouter()


def create_app(
    judge: Judge, api_key: str | None = None, allow_urls: bool = False, limits: Limits | None = None
) -> FastAPI:
    """The service without the page.

    Args:
        judge: Scores and explains; whoever made it closes it.
        api_key: Asked of every request but those for health and documentation; None for none.
        allow_urls: Fetch images from public addresses.
        limits: Of requests.
    """
    app = FastAPIOffline(
        redoc_url=None,
        title="hf_deepfake",
        summary="Tells how likely photographs are fake.",
        version=hf_deepfake.__version__,
    )
    watch = Watch(("/predict", "/explain", "/health", "/metrics"))
    app.state.service = _Service(judge, Gate(limits or Limits()), watch, allow_urls)
    app.add_middleware(watch.middleware)
    for kind in (RequestValidationError, StarletteHTTPException):
        app.add_exception_handler(kind, refused)
    app.add_api_route("/health", _health, summary="Whether the service is up")
    app.include_router(router, dependencies=[] if api_key is None else [Depends(lock(api_key))])
    return app


async def _health() -> dict[Literal["status"], Literal["ok"]]:
    return {"status": "ok"}


@router.get("/metrics", response_class=Response, summary="Counts and times for Prometheus")
async def _metrics(service: _Serving) -> Response:
    return Response(generate_latest(service.watch.registry), media_type=CONTENT_TYPE_LATEST)


@router.post(
    "/predict",
    openapi_extra=BODY,
    responses=PROBLEMS | {200: {"model": list[Verdict | Refusal]}},
    summary="How likely each image is fake",
)
async def _predict(
    request: Request,
    service: _Serving,
    voting: Annotated[Literal["soft", "hard", "weighted"] | None, Query()] = None,
    threshold: Annotated[float | None, Query(ge=0, le=1)] = None,
    tta: Annotated[int, Query(ge=1, le=8, description="Views of each image to average over.")] = 1,
) -> JSONResponse:
    settings = {"voting": voting, "threshold": threshold, "tta": tta}
    async with service.gate.entered():
        sent = await service.read(request)
        answers = await asyncio.gather(*(_judged(service, one, settings) for one in sent))
    service.watch.count(answers)
    if all("error" in answer for answer in answers):
        raise HTTPException(_common_status(answers), _reasons(answers))
    return JSONResponse(answers)


@router.post(
    "/explain",
    openapi_extra=BODY,
    responses=PROBLEMS | {200: {"model": Explained, "content": {"image/png": {}}}},
    summary="What in one image speaks for fake, and whether that map can be trusted",
)
async def _explain(
    request: Request,
    service: _Serving,
    method: Annotated[Literal[METHODS], Query()] = DEFAULT_METHOD,  # type: ignore[valid-type]
    target: Annotated[Literal["fake", "real"], Query()] = "fake",
    member: Annotated[str | None, Query(description="One of the ensemble; the vote by default.")] = None,
    check: Annotated[bool, Query(description="Measure faithfulness, in some 200 forward passes.")] = True,
) -> Response:
    async with service.gate.entered():
        sent = await service.read(request)
        if len(sent) > 1:
            raise UploadError(422, f"one image is explained at a time; found {len(sent)}.")
        name, content = sent[0]
        if isinstance(content, UploadError):
            raise content
        limits = (service.gate.limits.file_bytes, MAX_EXPLAINED_PIXELS)
        upload = await run_in_threadpool(read_upload, content, *limits)
        choices = (method, target, member, check)
        # not in the pool of run_in_threadpool, where verdicts would wait for explanations
        explanation, faithfulness, png = await asyncio.to_thread(_explained, service.judge, upload.image, *choices)
    if "image/png" in request.headers.get("accept", ""):
        return Response(png, media_type="image/png")
    record = {"file": name, "notes": upload.notes} | _record(explanation, faithfulness)
    return JSONResponse(record | {"png": base64.b64encode(png).decode("ascii")})


async def _judged(service: _Service, sent: Sent, settings: dict[str, Any]) -> dict[str, Any]:
    """The verdict on one image, or why there is none."""
    notes: list[str] = []

    def image() -> bytes:
        if isinstance(sent.content, UploadError):
            raise sent.content
        upload = read_upload(sent.content, service.gate.limits.file_bytes)
        notes[:] = upload.notes  # it may be asked for twice
        return upload.image

    try:
        details = await asyncio.wrap_future(service.judge.submit(image, **settings))
    except (UploadError, UnreadableImageError) as error:
        problem = error if isinstance(error, UploadError) else UploadError.of(error)
        return {"file": sent.name, "error": problem.reason, "status": problem.status}
    return {"file": sent.name, "notes": notes} | details


def _common_status(answers: list[dict[str, Any]]) -> int:
    statuses = {int(answer["status"]) for answer in answers}
    return statuses.pop() if len(statuses) == 1 else 422


def _reasons(answers: list[dict[str, Any]]) -> str:
    if len(answers) == 1:
        return str(answers[0]["error"])
    return f"none of the {len(answers)} images: " + " ".join(f"{one['file']}: {one['error']}" for one in answers)


def _explained(judge: Judge, image: bytes, *choices: Any) -> tuple[Explanation, Faithfulness | None, bytes]:
    try:
        explanation, faithfulness = judge.explain(image, *choices)
        picture = overlay(image, explanation)
    except UnreadableImageError as error:
        raise UploadError.of(error) from error
    except InputError as error:
        raise UploadError(422, str(error)) from error
    png = io.BytesIO()
    picture.save(png, "PNG")
    return explanation, faithfulness, png.getvalue()


def _record(explanation: Explanation, faithfulness: Faithfulness | None) -> dict[str, Any]:
    names = ("prob_fake", "method", "target", "member", "convergence_delta")
    found: dict[str, Any] = {name: getattr(explanation, name) for name in names}
    measured = None if faithfulness is None else dataclasses.asdict(faithfulness)
    trust = None if faithfulness is None else in_words(faithfulness.better_than_random)
    return found | {"faithfulness": measured, "trust": trust}
