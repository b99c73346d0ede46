"""Who is let in, how many at once and for how long, and how all others are told why not."""

import contextlib
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any

import anyio
from fastapi import Depends, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect

from hf_deepfake.serving.bodies import Limits, chunks, first_problem
from hf_deepfake.serving.uploads import UploadError

_SECONDS_TO_DRAIN = 5.0


class Gate:
    """Lets so many requests in at once, for so long."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._inside = 0

    @contextlib.asynccontextmanager
    async def entered(self) -> AsyncIterator[None]:
        """A place inside; what goes wrong there becomes an answer.

        Raises:
            HTTPException: If there is no place, the time is over or an upload is refused.
        """
        if self._inside >= self.limits.requests:
            raise HTTPException(503, "too many requests at once; try again in a moment.", {"Retry-After": "1"})
        self._inside += 1
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
            self._inside -= 1


def lock(api_key: str) -> Callable[..., Awaitable[None]]:
    """A dependency that lets in who has the key."""

    async def check(
        bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(HTTPBearer(auto_error=False))],
        header: Annotated[str | None, Depends(APIKeyHeader(name="X-API-Key", auto_error=False))],
    ) -> None:
        given = header if header is not None else bearer.credentials if bearer is not None else ""
        if not hmac.compare_digest(given.encode("latin-1"), api_key.encode()):  # as starlette decoded it
            raise HTTPException(401, "the API key is missing or wrong.", {"WWW-Authenticate": "Bearer"})

    return check


async def refused(request: Request, error: Any) -> JSONResponse:
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
