"""What the service takes and gives, for its OpenAPI description."""

from typing import Any, Literal

from pydantic import BaseModel

from hf_deepfake.serving.bodies import EncodedImages


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


class Explained(BaseModel):
    """What a detector looked at; `png` is the picture in base64."""

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


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


_FILES = {
    "type": "object",
    "properties": {"files": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}}},
    "required": ["files"],
    "additionalProperties": False,
}

BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": _FILES},
            "application/json": {"schema": EncodedImages.model_json_schema()},
        },
    }
}

PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": words}
    for status, words in {
        400: "The request ended too early.",
        401: "The API key is missing or wrong.",
        413: "Too many bytes, pixels or images.",
        415: "No image, or no form and no JSON.",
        422: "An image is damaged, or a setting is none.",
        503: "Too many requests at once.",
        504: "Not answered in time.",
    }.items()
}
