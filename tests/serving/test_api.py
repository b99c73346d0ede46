import base64
import io
import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from conftest import draw_image
from fastapi.testclient import TestClient
from PIL import Image
from test_uploads import png_of

from hf_deepfake.serving.api import create_app
from hf_deepfake.serving.bodies import Limits
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.uploads import UploadError
from hf_deepfake.serving.watching import JsonFormatter


def encoded(seed: int = 0, format: str = "PNG", size: int = 40) -> bytes:
    file = io.BytesIO()
    draw_image(seed % 2, seed, size).save(file, format)
    return file.getvalue()


def in_base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


@pytest.fixture(scope="module")
def judge(ensemble: Path) -> Iterator[Judge]:
    with Judge.load(str(ensemble), batch_size=4) as judge:
        yield judge


@pytest.fixture(scope="module")
def client(judge: Judge) -> TestClient:
    return TestClient(create_app(judge))


def test_one_file_many_files_and_json_get_the_pipelines_details(client: TestClient, judge: Judge) -> None:
    images = [encoded(seed) for seed in range(3)]
    expected = judge.judge(images)
    answers = client.post("/predict", files=[("files", (f"{i}.png", image)) for i, image in enumerate(images)]).json()
    assert [answer.pop("file") for answer in answers] == ["0.png", "1.png", "2.png"]
    assert [answer.pop("notes") for answer in answers] == [[], [], []]
    for answer, wanted in zip(answers, expected, strict=True):
        assert set(answer) == set(wanted)
        assert answer["prob_fake"] == pytest.approx(wanted["prob_fake"], abs=1e-5)
        votes = [[member["prob_fake"] for member in one["members"]] for one in (answer, wanted)]
        assert votes[0] == pytest.approx(votes[1], abs=1e-5)
    alone = client.post("/predict", files={"files": ("1.png", images[1])}).json()
    assert alone[0]["prob_fake"] == pytest.approx(expected[1]["prob_fake"], abs=1e-5)
    as_json = client.post("/predict", json={"images": [in_base64(image) for image in images]}).json()
    assert [answer["file"] for answer in as_json] == ["images[0]", "images[1]", "images[2]"]
    assert [answer["prob_fake"] for answer in as_json] == pytest.approx(
        [one["prob_fake"] for one in expected], abs=1e-5
    )


def test_settings_are_those_of_the_pipeline(client: TestClient, judge: Judge) -> None:
    files = {"files": ("a.png", encoded())}
    answer = client.post("/predict?voting=hard&threshold=0.25&tta=2", files=files).json()[0]
    wanted = judge.judge([encoded()], voting="hard", threshold=0.25, tta=2)[0]
    assert (answer["voting"], answer["threshold"]) == ("hard", 0.25)
    assert answer["prob_fake"] == pytest.approx(wanted["prob_fake"], abs=1e-5)


@pytest.mark.parametrize("setting", ["voting=loud", "threshold=2", "threshold=nan", "tta=0", "tta=99"])
def test_a_wrong_setting_is_refused_by_name(client: TestClient, setting: str) -> None:
    answer = client.post(f"/predict?{setting}", files={"files": ("a.png", encoded())})
    assert answer.status_code == 422
    assert setting.partition("=")[0] in answer.json()["detail"]


def test_a_bad_file_among_good_ones_is_reported_in_its_place(client: TestClient) -> None:
    contents = [encoded(), b"", b"<html>", encoded()[:300], png_of(50_000, 50_000), encoded(1)]
    answers = client.post("/predict", files=[("files", ("x", content)) for content in contents])
    assert answers.status_code == 200
    assert [answer.get("status") for answer in answers.json()] == [None, 422, 415, 422, 413, None]
    assert [answer.get("label") is None for answer in answers.json()] == [False, True, True, True, True, False]
    assert "empty" in answers.json()[1]["error"]
    assert "damaged or incomplete" in answers.json()[3]["error"]


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 422, "empty"),
        (b"no image", 415, "not an image"),
        (encoded()[:300], 422, "damaged"),
        (png_of(50_000, 50_000), 413, "too many pixels"),
        (bytes(21 * 2**20), 413, "22,020,096 bytes"),
    ],
)
def test_a_single_bad_file_is_refused_with_the_reason(
    client: TestClient, content: bytes, status: int, reason: str
) -> None:
    for path in ("/predict", "/explain?method=grad_cam"):
        answer = client.post(path, files={"files": ("x.png", content)})
        assert answer.status_code == status
        assert reason in answer.json()["detail"]


def test_where_every_file_is_bad_the_request_is(client: TestClient) -> None:
    answer = client.post("/predict", files=[("files", ("a", b"")), ("files", ("b", b"no image"))])
    assert answer.status_code == 422
    assert "a: the file is empty." in answer.json()["detail"]
    assert "b: not an image" in answer.json()["detail"]


@pytest.mark.parametrize("format", ["GIF", "TIFF"])
def test_of_several_frames_the_first_is_judged_and_that_is_said(client: TestClient, format: str) -> None:
    first, second = (draw_image(label, 0) for label in (0, 1))
    several, alone = io.BytesIO(), io.BytesIO()
    first.save(several, format, save_all=True, append_images=[second])
    first.save(alone, format)
    answers = client.post(
        "/predict", files=[("files", ("a", file)) for file in (several.getvalue(), alone.getvalue(), b"bad")]
    ).json()
    assert answers[0]["prob_fake"] == pytest.approx(answers[1]["prob_fake"], abs=1e-6)
    assert [["first" in note for note in answer["notes"]] for answer in answers[:2]] == [[True], []]


def test_a_name_is_echoed_and_nothing_is_written(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))  # a file that spools would fail
    monkeypatch.chdir(tmp_path)
    large = encoded(size=1100)
    assert len(large) > 2**20
    answer = client.post("/predict", files={"files": ("../../x", large)})
    assert answer.json()[0]["file"] == "../../x"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"content": b"x"}, 415, "multipart/form-data"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, "multipart/form-data"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422, "boundary"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data; boundary=b"}}, 422, "form"),
        ({"data": {"files": "text"}, "files": {"other": b""}}, 422, "'other'"),
        ({"data": {"files": "text"}, "files": {"files": b""}}, 422, "holds text"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"json": {}}, 422, "no image"),
        ({"json": {"images": ["%"]}}, 422, "base64"),
        ({"json": {"images": [1]}}, 422, "images.0"),
        ({"json": {"image": []}}, 422, "image"),
        ({"json": {"urls": ["http://photos.example/"]}}, 422, "fetches no addresses"),
        ({"json": {"images": [""] * 33}}, 413, "at most 32"),
        ({"files": [("files", ("a", b"a"))] * 33}, 422, "Maximum number of files is 32"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_with_the_reason(
    client: TestClient, request_: dict[str, Any], status: int, reason: str
) -> None:
    answer = client.post("/predict", **request_)
    assert answer.status_code == status
    assert reason in answer.json()["detail"]


def test_a_large_request_is_refused_and_its_connection_closed(judge: Judge) -> None:
    client = TestClient(create_app(judge, limits=Limits(request_bytes=1000)))
    for content in (bytes(1001), iter([bytes(600), bytes(600)])):
        answer = client.post("/predict", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        assert "1,000 bytes" in answer.json()["detail"]
        assert answer.headers["connection"] == "close"


def test_addresses_are_fetched_where_that_is_allowed(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fetch(address: str, max_bytes: int) -> bytes:
        if "private" in address:
            raise UploadError(422, "the address is not public.")
        return encoded()

    monkeypatch.setattr("hf_deepfake.serving.addresses.fetch", fetch)
    client = TestClient(create_app(judge, allow_urls=True))
    urls = ["https://photos.example/a", "http://private.example/"]
    answers = client.post("/predict", json={"urls": urls}).json()
    assert [answer["file"] for answer in answers] == urls
    assert answers[0]["prob_fake"] == pytest.approx(judge.judge([encoded()])[0]["prob_fake"], abs=1e-5)
    assert answers[1]["error"] == "the address is not public."


def test_an_explanation_is_a_picture_or_json_with_one(client: TestClient, judge: Judge) -> None:
    files = {"files": ("a.png", encoded())}
    record = client.post("/explain?method=grad_cam&member=resnet&target=real", files=files).json()
    assert (record["method"], record["member"], record["target"]) == ("grad_cam", "resnet", "real")
    members = judge.judge([encoded()])[0]["members"]
    assert record["prob_fake"] == pytest.approx(members[0]["prob_fake"], abs=1e-5)
    assert 0 <= record["faithfulness"]["deletion_auc"] <= 1
    assert "random" in record["trust"]
    picture = client.post(
        "/explain?method=grad_cam&member=resnet&target=real&check=false", files=files, headers={"accept": "image/png"}
    )
    assert picture.headers["content-type"] == "image/png"
    assert base64.b64decode(record["png"]) == picture.content
    assert Image.open(io.BytesIO(picture.content)).size == (256, 256)


@pytest.mark.parametrize(
    ("query", "files", "reason"),
    [
        ("method=magic", ["a"], "integrated_gradients"),
        ("target=both", ["a"], "target"),
        ("member=nobody", ["a"], "no such member"),
        ("method=attention_rollout&check=false", ["a"], "attention"),
        ("", ["a", "b"], "one image"),
    ],
)
def test_what_cannot_be_explained_is_refused_with_the_reason(
    client: TestClient, query: str, files: list[str], reason: str
) -> None:
    answer = client.post(f"/explain?{query}", files=[("files", (name, encoded())) for name in files])
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]


def test_an_image_that_is_too_large_to_explain_is_refused(client: TestClient) -> None:
    large = io.BytesIO()
    Image.new("L", (4001, 4000)).save(large, "PNG")
    answer = client.post("/explain", files={"files": ("a", large.getvalue())})
    assert answer.status_code == 413
    assert "16,000,000" in answer.json()["detail"]


@pytest.fixture
def held(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The judge waits for this before it judges."""
    released, forward = threading.Event(), judge._pipeline.forward

    def slow(*given: Any, **settings: Any) -> Any:
        released.wait(10)
        return forward(*given, **settings)

    monkeypatch.setattr(judge._pipeline, "forward", slow)
    yield released
    released.set()


def test_more_requests_than_the_queue_holds_are_told_to_come_again(judge: Judge, held: threading.Event) -> None:
    files = {"files": ("a.png", encoded())}
    client = TestClient(create_app(judge, limits=Limits(requests=2)))
    with ThreadPoolExecutor(10) as pool:
        waiting = [pool.submit(client.post, "/predict", files=files) for _ in range(10)]
        while sum(one.done() for one in waiting) < 8:
            time.sleep(0.01)
        held.set()
    answers = [one.result() for one in waiting]
    assert sorted(answer.status_code for answer in answers) == [200] * 2 + [503] * 8
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert client.post("/predict", files=files).status_code == 200


def test_a_request_that_takes_too_long_is_given_up(judge: Judge, held: threading.Event) -> None:
    client = TestClient(create_app(judge, limits=Limits(seconds=0.2)))
    answer = client.post("/predict", files={"files": ("a.png", encoded())})
    assert answer.status_code == 504
    assert "0.2 seconds" in answer.json()["detail"]


def test_a_key_opens_everything_but_health_which_is_open(judge: Judge) -> None:
    client = TestClient(create_app(judge, api_key="schlüssel"))
    files = {"files": ("a.png", encoded())}
    assert client.get("/health").json() == {"status": "ok"}
    asked = [client.post("/predict", files=files), client.post("/explain", files=files), client.get("/metrics")]
    assert [answer.status_code for answer in asked] == [401] * 3
    for headers in ({"Authorization": "Bearer wrong"}, {"X-API-Key": ""}, {"Authorization": "Basic c2NobMO8c3NlbA=="}):
        assert client.post("/predict", files=files, headers=headers).status_code == 401
    for name, prefix in (("Authorization", "Bearer "), ("X-API-Key", "")):
        headers = {name: (prefix + "schlüssel").encode()}
        assert client.post("/predict", files=files, headers=headers).status_code == 200


def test_requests_and_verdicts_are_counted_without_foreign_words(
    judge: Judge, caplog: pytest.LogCaptureFixture
) -> None:
    client = TestClient(create_app(judge))
    with caplog.at_level(logging.INFO, logger="hf_deepfake.serving"):
        client.post("/predict", files=[("files", ("secret.png", encoded())), ("files", ("b", b""))])
        client.get("/secret")
    counted = client.get("/metrics").text
    assert 'hf_deepfake_requests_total{path="/predict",status="200"} 1.0' in counted
    assert 'hf_deepfake_requests_total{path="other",status="404"} 1.0' in counted
    assert 'hf_deepfake_images_total{label="error"} 1.0' in counted
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    assert [(line["method"], line["path"], line["status"]) for line in lines] == [
        ("POST", "/predict", 200),
        ("GET", "other", 404),
    ]
    assert "secret" not in counted + json.dumps(lines)


def test_a_defect_is_answered_with_500_and_counted(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(judge._pipeline, "forward", broken)
    client = TestClient(create_app(judge), raise_server_exceptions=False)
    assert client.post("/predict", files={"files": ("a.png", encoded())}).status_code == 500
    assert 'path="/predict",status="500"} 1.0' in client.get("/metrics").text


def test_the_documentation_needs_no_other_server(client: TestClient) -> None:
    page = client.get("/docs").text
    addresses = [part.split('"')[0] for mark in ('src="', 'href="') for part in page.split(mark)[1:]]
    assert addresses
    for address in addresses:
        assert address.startswith("/")
        assert client.get(address).status_code == 200
    assert set(client.get("/openapi.json").json()["paths"]) == {"/predict", "/explain", "/health", "/metrics"}
