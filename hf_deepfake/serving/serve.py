"""`hf-deepfake serve`: one detector behind HTTP, with the page."""

import argparse
import importlib.util
import ipaddress
import math
import os
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any

from hf_deepfake.errors import InputError
from hf_deepfake.memory import keep_freed_memory

KEY = "HF_DEEPFAKE_API_KEY"


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until a signal ends it; requests that were begun are answered first."""
    arguments = _parser().parse_args(argv)
    _require(arguments)
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1"}
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    listening = _listening(arguments.host, arguments.port)
    try:
        _run(arguments, listening)
    except KeyboardInterrupt:
        pass
    finally:
        listening.close()
    return 0


def _run(arguments: argparse.Namespace, listening: socket.socket) -> None:
    import uvicorn

    from hf_deepfake.serving.api import create_app
    from hf_deepfake.serving.bodies import Limits
    from hf_deepfake.serving.judging import Judge

    key = os.environ.get(KEY) or None
    limits = Limits(
        files=arguments.max_files,
        file_bytes=int(arguments.max_file_mb * 2**20),
        requests=arguments.max_queue,
        seconds=arguments.timeout,
    )
    keep_freed_memory()
    page = not arguments.no_page and key is None and all(map(importlib.util.find_spec, ("c2pa", "gradio")))
    with Judge.load(arguments.model, arguments.batch_size) as judge:
        app: Any = create_app(judge, key, arguments.allow_urls, limits)
        if page:
            from hf_deepfake.serving.app import mount

            app = mount(app, judge, limits.file_bytes)
        config = uvicorn.Config(
            app,
            access_log=False,
            log_config=LOGGING,
            server_header=False,
            timeout_graceful_shutdown=math.ceil(limits.seconds),
        )
        _announce(arguments, listening, key, page)
        uvicorn.Server(config).run(sockets=[listening])


def _announce(arguments: argparse.Namespace, listening: socket.socket, key: str | None, page: bool) -> None:
    host, port = listening.getsockname()[:2]
    place = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    what = f"the page at {place}/, the API" if page else "the API alone"
    sys.stderr.write(f"serving {arguments.model}: {what} at {place}/predict, its description at {place}/docs\n")
    if key is None and not ipaddress.ip_address(host).is_loopback:
        sys.stderr.write(f"no API key: whoever reaches {place} may use it; set {KEY} to change that\n")


LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "hf_deepfake.serving.watching.JsonFormatter"}},
    "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stdout"}},
    "loggers": {
        name: {"handlers": ["stdout"], "level": "INFO", "propagate": False}
        for name in ("uvicorn", "hf_deepfake.serving")
    },
}


def _require(arguments: argparse.Namespace) -> None:
    for name in ("batch_size", "max_files", "max_file_mb", "max_queue", "timeout"):
        if getattr(arguments, name) <= 0:
            raise InputError(f"--{name} {getattr(arguments, name)}: must be above 0.")
    if not 0 <= arguments.port < 2**16:
        raise InputError(f"--port {arguments.port}: must be between 0 and 65535.")
    missing = [
        name
        for name in ("fastapi_offline", "httpcore", "prometheus_client", "python_multipart", "uvicorn")
        if not importlib.util.find_spec(name)
    ]
    if missing:
        raise InputError(f"serve: {missing[0]} is not installed; pip install 'hf_deepfake[serve]'.")


def _listening(host: str, port: int) -> socket.socket:
    """A socket that takes connections, opened before the model is loaded, which takes longer."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        raise InputError(
            f"--host {host} --port {port}: cannot listen there ({error}); choose another port."
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hf-deepfake serve", description="Serve a detector over HTTP, with a page.")
    parser.add_argument("--model", required=True, metavar="DIR", help="detector or ensemble: folder or Hub id")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; default: this machine only")
    parser.add_argument("--port", type=int, default=7860, help="0 for any that is free")
    parser.add_argument("--batch_size", type=int, default=16, help="images a forward pass at most")
    parser.add_argument("--no_page", action="store_true", help="serve the API only")
    parser.add_argument("--allow_urls", action="store_true", help="let /predict fetch images from public addresses")
    parser.add_argument("--max_files", type=int, default=32, help="images a request")
    parser.add_argument("--max_file_mb", type=float, default=20, help="megabytes an image")
    parser.add_argument("--max_queue", type=int, default=64, help="requests at once; more are answered with 503")
    parser.add_argument("--timeout", type=float, default=120, help="seconds a request may take")
    return parser
