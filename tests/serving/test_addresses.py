import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from hf_deepfake.serving import addresses
from hf_deepfake.serving.uploads import UploadError

PUBLIC = "93.184.216.34"


class Answers(BaseHTTPRequestHandler):
    """Redirects along the path, or gives as many bytes as it says."""

    hosts: list[str] = []

    def do_GET(self) -> None:
        self.hosts.append(self.headers["Host"])
        kind, _, rest = self.path[1:].partition("/")
        self.send_response({"to": 302, "again": 302, "gone": 404}.get(kind, 200))
        if kind == "to":
            self.send_header("Location", rest)
        if kind == "again":
            self.send_header("Location", self.path)
        self.end_headers()
        if kind == "bytes":
            self.wfile.write(b"x" * int(rest))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    Answers.hosts.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[list[str]]]:
    """What a name resolves to, one entry a look-up, the last one for good; public addresses lead to this machine."""
    known: dict[str, list[list[str]]] = {"photos.example": [[PUBLIC]]}
    connected = asyncio.BaseEventLoop.create_connection

    async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
        found = known.get(host, [[host]])
        numbers = found.pop(0) if len(found) > 1 else found[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (number, port)) for number in numbers]

    async def create_connection(loop: Any, factory: Any, host: Any = None, port: Any = None, **settings: Any) -> Any:
        assert host == PUBLIC, f"a connection to {host}"
        return await connected(loop, factory, "127.0.0.1", port, **settings)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", create_connection)
    return known


def fetch(address: str, max_bytes: int = 1000) -> bytes:
    return asyncio.run(addresses.fetch(address, max_bytes))


def test_a_public_address_is_fetched_under_its_name(port: int, names: dict[str, list[list[str]]]) -> None:
    assert fetch(f"http://photos.example:{port}/bytes/5") == b"xxxxx"
    assert Answers.hosts == [f"photos.example:{port}"]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "100.64.0.1",
        "inside.example",
    ],
)
def test_private_addresses_are_refused(port: int, names: dict[str, list[list[str]]], host: str) -> None:
    names["inside.example"] = [[PUBLIC, "192.168.0.1"]]
    with pytest.raises(UploadError, match="not public") as refused:
        fetch(f"http://{host}:{port}/bytes/5")
    assert refused.value.status == 422
    assert Answers.hosts == []


def test_a_redirect_to_a_private_address_is_refused(port: int, names: dict[str, list[list[str]]]) -> None:
    with pytest.raises(UploadError, match="not public"):
        fetch(f"http://photos.example:{port}/to/http://127.0.0.1:{port}/bytes/5")
    assert len(Answers.hosts) == 1


def test_a_name_that_turns_private_after_it_was_checked_is_not_asked_again(
    port: int, names: dict[str, list[list[str]]]
) -> None:
    names["turning.example"] = [[PUBLIC], ["127.0.0.1"]]
    assert fetch(f"http://turning.example:{port}/bytes/5") == b"xxxxx"


def test_a_redirect_is_followed_and_a_circle_is_not(port: int, names: dict[str, list[list[str]]]) -> None:
    assert fetch(f"http://photos.example:{port}/to//bytes/7") == b"x" * 7
    with pytest.raises(UploadError, match="more than 3 times"):
        fetch(f"http://photos.example:{port}/again/")


@pytest.mark.parametrize(
    ("path", "reason", "status"),
    [
        ("bytes/1001", "more than 1,000 bytes", 413),
        ("gone/", "status 404", 422),
        ("to/file:///etc/passwd", "no http", 422),
    ],
)
def test_what_gives_no_image_is_refused(
    port: int, names: dict[str, list[list[str]]], path: str, reason: str, status: int
) -> None:
    with pytest.raises(UploadError, match=reason) as refused:
        fetch(f"http://photos.example:{port}/{path}")
    assert refused.value.status == status


@pytest.mark.parametrize(
    "address", ["file:///etc/passwd", "photo.jpg", "http://", "http://[::1", "http://a b/", "gopher://a/"]
)
def test_only_http_addresses_are_taken(address: str) -> None:
    with pytest.raises(UploadError, match="no http:// or https:// address"):
        fetch(address)


def test_an_address_that_does_not_answer_in_time_is_given_up(
    names: dict[str, list[list[str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(addresses, "_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://photos.example:{silent.getsockname()[1]}/"
        with pytest.raises(UploadError, match="did not answer"):
            fetch(address)
    with pytest.raises(UploadError, match="cannot be reached"):
        fetch(address)
