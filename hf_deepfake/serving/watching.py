"""What the service tells of its work: a line of JSON a request, and counts for Prometheus; nothing of any image."""

import json
import logging
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("hf_deepfake.serving")


class Watch:
    """Counts and logs requests and verdicts.

    Attributes:
        registry: What Prometheus is to be given.

    Args:
        paths: That are told by name; all others are `other`, since whoever asks for them may write anything there.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._requests = Counter(
            "hf_deepfake_requests", "Answered requests.", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "hf_deepfake_request_seconds", "Time until an answer.", ["path"], registry=self.registry
        )
        self._inside = Gauge("hf_deepfake_requests_inside", "Requests not answered yet.", registry=self.registry)
        self._images = Counter("hf_deepfake_images", "Images by verdict.", ["label"], registry=self.registry)

    def count(self, answers: Sequence[dict[str, Any]]) -> None:
        """Images of one request, those that were refused as `error`."""
        for answer in answers:
            self._images.labels(answer.get("label", "error")).inc()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """The application, watched."""

        async def watched(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != "http":
                return await app(scope, receive, send)
            status = 500

            async def noted(message: Message) -> None:
                nonlocal status
                if message["type"] == "http.response.start":
                    status = message["status"]
                await send(message)

            started = time.perf_counter()
            try:
                with self._inside.track_inprogress():
                    await app(scope, receive, noted)
            finally:
                self._note(scope, status, time.perf_counter() - started)

        return watched

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path = scope["path"] if scope["path"] in self._paths else "other"
        self._requests.labels(path, status).inc()
        self._seconds.labels(path).observe(seconds)
        fields = {"method": scope["method"], "path": path, "status": status, "seconds": round(seconds, 4)}
        logger.info("request", extra={"fields": fields})


class JsonFormatter(logging.Formatter):
    """A line of JSON for each record."""

    def format(self, record: logging.LogRecord) -> str:
        """Time, level and message, with the fields or the traceback that the record has."""
        at = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        line = {"time": at, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)
