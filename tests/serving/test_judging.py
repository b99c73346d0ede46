import asyncio
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import draw_image, save_tiny_timm
from transformers import pipeline

from hf_deepfake import InputError
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError
from hf_deepfake.models.detector import load_detector
from hf_deepfake.serving.judging import Judge


@pytest.fixture(scope="module")
def judge(ensemble: Path) -> Iterator[Judge]:
    with Judge.load(str(ensemble), batch_size=4) as judge:
        yield judge


def encoded(count: int, suffix: str = "png") -> list[bytes]:
    """Images of different sizes."""
    files = []
    for seed in range(count):
        files.append(io.BytesIO())
        draw_image(seed % 2, seed, 30 + 5 * seed).save(files[-1], suffix)
    return [file.getvalue() for file in files]


@pytest.mark.parametrize("settings", [{}, {"voting": "hard", "threshold": 0.3}, {"tta": 3}])
@pytest.mark.parametrize("suffix", ["png", "jpeg"])
def test_answers_are_those_of_the_pipeline(
    judge: Judge, ensemble: Path, settings: dict[str, object], suffix: str
) -> None:
    images = encoded(9, suffix)
    expected = pipeline("deepfake-ensemble", model=str(ensemble))(images, details=True, **settings)
    for answer, wanted in zip(judge.judge(images, **settings), expected, strict=True):
        numbers = {name: answer[name] for name in ("prob_fake", "threshold", "agreement")}
        assert numbers == pytest.approx({name: wanted[name] for name in numbers}, abs=1e-6)
        assert (answer["label"], answer["voting"]) == (wanted["label"], wanted["voting"])
        for member, one in zip(answer["members"], wanted["members"], strict=True):
            assert member["prob_fake"] == pytest.approx(one["prob_fake"], abs=1e-6)
            assert {name: member[name] for name in ("name", "weight", "label")} == {
                name: one[name] for name in ("name", "weight", "label")
            }


def test_a_single_detector_is_judged_with_too(tmp_path: Path) -> None:
    run, images = str(save_tiny_timm(tmp_path / "run")), encoded(3)
    expected = pipeline("deepfake-ensemble", model=run)(images, details=True)
    with Judge.load(run) as judge:
        scores = [answer["prob_fake"] for answer in judge.judge(images)]
    assert scores == pytest.approx([answer["prob_fake"] for answer in expected], abs=1e-6)


def test_a_detector_that_reads_the_encoded_file_gets_it(tmp_path: Path) -> None:
    detector = load_detector(str(save_tiny_timm(tmp_path / "run")))
    detector.model.config.reading = {"smallest_side": 32}
    detector.model.save_pretrained(tmp_path / "run")
    file = io.BytesIO()
    draw_image(1, 0, 400).save(file, "JPEG")
    expected = pipeline("deepfake-ensemble", model=str(tmp_path / "run"))(file.getvalue(), details=True)
    with Judge.load(str(tmp_path / "run")) as judge:
        assert judge.judge([file.getvalue()])[0]["prob_fake"] == pytest.approx(expected["prob_fake"], abs=1e-6)


def test_concurrent_callers_share_batches_and_get_their_own_answers(ensemble: Path) -> None:
    images = encoded(24)
    with Judge.load(str(ensemble), batch_size=8) as judge:
        alone = [judge.judge([image])[0]["prob_fake"] for image in images]
        batches: list[int] = []
        judge.detector.model.register_forward_hook(lambda _, __, output: batches.append(len(output.logits)))
        answers: dict[int, float] = {}
        callers = [
            threading.Thread(target=lambda i=i: answers.update({i: judge.judge([images[i]])[0]["prob_fake"]}))
            for i in range(len(images))
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert [answers[i] for i in range(len(images))] == pytest.approx(alone, abs=1e-5)
    assert sum(batches) == len(images)
    assert 1 < max(batches) <= 8


def test_an_unreadable_image_costs_its_caller_only(judge: Judge) -> None:
    good, bad = judge.submit(encoded(1)[0]), judge.submit(encoded(1)[0][:200])
    assert 0 <= good.result()["prob_fake"] <= 1
    with pytest.raises(UnreadableImageError, match="bytes"):
        bad.result()
    with pytest.raises(UnreadableImageError):
        judge.judge([encoded(1)[0], b"no image"])


def test_wrong_settings_are_refused_at_once(judge: Judge) -> None:
    with pytest.raises(ValueError, match="'loud'"):
        judge.submit(encoded(1)[0], voting="loud")


def test_async_code_may_wait_for_it(judge: Judge) -> None:
    async def both() -> list[dict[str, object]]:
        return await asyncio.gather(*(asyncio.wrap_future(judge.submit(image)) for image in encoded(2)))

    assert [answer["prob_fake"] for answer in asyncio.run(both())] == pytest.approx(
        [answer["prob_fake"] for answer in judge.judge(encoded(2))], abs=1e-6
    )


def test_closing_answers_what_was_asked_and_takes_no_more(ensemble: Path) -> None:
    judge = Judge.load(str(ensemble), batch_size=2)
    answers = [judge.submit(image) for image in encoded(9)]
    judge.close()
    assert all(answer.done() and 0 <= answer.result()["prob_fake"] <= 1 for answer in answers)
    with pytest.raises(RuntimeError):
        judge.submit(encoded(1)[0])


def test_a_model_that_gives_no_number_is_told_to_each_caller(ensemble: Path) -> None:
    with Judge.load(str(ensemble)) as judge:
        with torch.no_grad():
            for parameter in judge.detector.model.parameters():
                parameter.fill_(float("nan"))
        answers = [judge.submit(image) for image in encoded(2)]
        for answer in answers:
            with pytest.raises(InputError, match=r"ensemble: gives no number"):
                answer.result()


def test_an_explanation_says_the_same_score_and_is_measured(judge: Judge) -> None:
    image = encoded(1)[0]
    explanation, faithfulness = judge.explain(image, "grad_cam", member="resnet", check=False)
    assert faithfulness is None
    members = judge.judge([image])[0]["members"]
    assert explanation.prob_fake == pytest.approx(members[0]["prob_fake"], abs=1e-5)
    assert explanation.member == members[0]["name"] == "resnet"
    _, faithfulness = judge.explain(image, "occlusion", target="real")
    assert faithfulness is not None
    assert 0 <= faithfulness.deletion_auc <= 1


def test_images_are_judged_while_one_is_explained(judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    started, released = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        started.set()
        released.wait(10)

    monkeypatch.setattr("hf_deepfake.serving.judging.explain", slow)
    explaining = threading.Thread(target=judge.explain, args=(encoded(1)[0],), kwargs={"check": False})
    explaining.start()
    assert started.wait(10)
    assert 0 <= judge.judge(encoded(1))[0]["prob_fake"] <= 1
    released.set()
    explaining.join()


def test_a_model_without_weights_cannot_be_explained(ensemble: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Judge.load(str(ensemble)) as judge:
        monkeypatch.setattr(judge.detector.model, "parameters", lambda: iter(()))
        with pytest.raises(InputError, match=r"ensemble: has no weights"):
            judge.explain(encoded(1)[0])
