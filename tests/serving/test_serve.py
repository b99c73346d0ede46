import asyncio
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from conftest import draw_image
from fastapi.testclient import TestClient

from hf_deepfake import cli
from hf_deepfake.serving import serve
from hf_deepfake.serving.api import create_app
from hf_deepfake.serving.judging import Judge


def encoded(size: int = 40) -> bytes:
    file = io.BytesIO()
    draw_image(1, 0, size).save(file, "PNG")
    return file.getvalue()


def _wait_until_closed(base: str) -> None:
    with contextlib.suppress(httpx.TransportError):
        while True:
            httpx.get(f"{base}/health", timeout=1)
            time.sleep(0.01)


FILES = {"files": ("a.png", encoded())}


@pytest.fixture
def judge(ensemble: Path) -> Iterator[Judge]:
    with Judge.load(str(ensemble), batch_size=8) as judge:
        yield judge


@pytest.fixture
def server(judge: Judge) -> Iterator[uvicorn.Server]:
    """A server of its own thread; `base` is its address."""
    listening = serve._listening("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(judge), log_config=None))
    server.base = f"http://127.0.0.1:{listening.getsockname()[1]}"  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server
    server.should_exit = True
    thread.join()
    listening.close()


def test_a_large_body_is_refused_without_being_read_to_its_end(server: Any) -> None:
    host, port = server.base.removeprefix("http://").split(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: multipart/form-data; boundary=b\r\nContent-Length: {200 * 2**20}\r\n\r\n"
    sent = 0
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(2**16).startswith(b"HTTP/1.1 413 ")
        with contextlib.suppress(OSError):
            while sent < 200 * 2**20:
                sent += connection.send(bytes(2**20))
    assert sent < 100 * 2**20
    assert httpx.get(f"{server.base}/health").json() == {"status": "ok"}


def test_a_body_of_unknown_length_is_read_up_to_the_limit(server: Any) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 2**20
            yield bytes(2**20)

    headers = {"content-type": "application/json"}
    assert httpx.post(f"{server.base}/predict", content=endless(), headers=headers).status_code == 413
    assert read < 100 * 2**20
    assert httpx.post(f"{server.base}/predict", files=FILES).status_code == 200


def test_what_was_begun_is_answered_when_the_server_stops(
    server: Any, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, released, forward = threading.Event(), threading.Event(), judge._pipeline.forward

    def slow(*given: Any, **settings: Any) -> Any:
        begun.set()
        released.wait(10)
        return forward(*given, **settings)

    monkeypatch.setattr(judge._pipeline, "forward", slow)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(httpx.post, f"{server.base}/predict", files=FILES)
        assert begun.wait(10)
        server.should_exit = True
        _wait_until_closed(server.base)
        released.set()
        assert answer.result().status_code == 200


@pytest.mark.slow
def test_five_hundred_uploads_at_once_are_answered_or_told_to_come_again(server: Any) -> None:
    async def all_at_once() -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(limits=limits, timeout=60) as client:
            files = {"files": ("a.png", encoded(300))}
            return await asyncio.gather(*(client.post(f"{server.base}/predict", files=files) for _ in range(500)))

    answers = asyncio.run(all_at_once())
    statuses = [answer.status_code for answer in answers]
    assert set(statuses) == {200, 503}
    assert all(answer.headers["retry-after"] == "1" for answer in answers if answer.status_code == 503)
    assert len({answer.json()[0]["prob_fake"] for answer in answers if answer.status_code == 200}) == 1
    assert httpx.post(f"{server.base}/predict", files=FILES).status_code == 200


def test_wrong_usage_is_said_in_one_line(ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for flags, words in (
            (["--model", str(ensemble), "--port", port], f"--port {port}: cannot listen"),
            (["--model", str(ensemble), "--host", "no.such.host.invalid"], "--host no.such.host.invalid"),
            (["--model", str(ensemble), "--port", "99999"], "--port 99999"),
            (["--model", str(tmp_path / "none"), "--port", "0"], "none: cannot be loaded"),
            (["--model", str(ensemble), "--max_files", "0"], "--max_files 0: must be above 0"),
        ):
            assert cli.main(["serve", *flags]) == 2
            printed = capsys.readouterr().err
            assert words in printed
            assert printed.count("\n") == 1


def test_the_page_stands_beside_the_api(judge: Judge) -> None:
    pytest.importorskip("gradio")
    pytest.importorskip("c2pa")
    from hf_deepfake.serving.app import mount
    from hf_deepfake.serving.words import LANGUAGES

    client = TestClient(mount(create_app(judge), judge, 1000))
    settings = client.get("/config").json()
    assert [name for _, name, _ in settings["pages"]][1:] == [words.name for words in LANGUAGES[1:]]
    assert "--real" in settings["css"]
    assert client.get("/").status_code == client.get("/zh").status_code == 200
    assert client.post("/gradio_api/upload", files={"files": ("a.png", bytes(2000))}).status_code == 413
    assert client.get("/health").json() == {"status": "ok"}
    assert client.post("/predict", files=FILES).status_code == 200
    assert client.get("/openapi.json").json()["info"]["title"] == "hf_deepfake"


@pytest.mark.slow
def test_the_command_serves_until_it_is_asked_to_stop(ensemble: Path) -> None:
    command = [sys.executable, "-m", "hf_deepfake.cli", "serve", "--model", str(ensemble), "--port", "0", "--no_page"]
    environment = os.environ | {serve.KEY: "secret"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        base = (
            next(line for line in process.stderr if line.startswith("serving")).split(" at ")[1].split("/predict")[0]
        )
        while True:
            with contextlib.suppress(httpx.ConnectError):
                httpx.get(f"{base}/health")
                break
        with ThreadPoolExecutor(4) as pool:
            headers = {"X-API-Key": "secret"}
            asked = [pool.submit(httpx.post, f"{base}/predict", files=FILES, headers=headers) for _ in range(4)]
            assert httpx.post(f"{base}/predict", files=FILES).status_code == 401
            process.send_signal(signal.SIGTERM)
            assert {answer.result().status_code for answer in asked} == {200}
        assert process.wait(20) == 0
        lines = [json.loads(line) for line in process.stdout]
    assert [line["status"] for line in lines if line.get("path") == "/predict"].count(200) == 4
