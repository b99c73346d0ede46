import base64
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import draw_image
from PIL import Image
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
from transformers import pipeline

pytest.importorskip("c2pa")

from hf_deepfake.data.corruptions import corrupt
from hf_deepfake.serving.answers import Answers
from hf_deepfake.serving.judging import Judge
from hf_deepfake.serving.rendering import percent
from hf_deepfake.serving.uploads import MAX_BYTES
from hf_deepfake.serving.words import CHINESE, ENGLISH


@pytest.fixture(scope="module")
def judge(ensemble: Path) -> Iterator[Judge]:
    with Judge.load(str(ensemble)) as judge:
        yield judge


@pytest.fixture(scope="module")
def answers(judge: Judge) -> Answers:
    return Answers(judge, ENGLISH)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    draw_image(1, 3, 64).save(tmp_path / "photo.jpg")
    return str(tmp_path / "photo.jpg")


@pytest.fixture
def bad_files(tmp_path: Path) -> dict[int, list[str]]:
    """Files that are not judged, by the status that says why."""
    whole = io.BytesIO()
    draw_image(0, 1, 200).save(whole, "JPEG")
    contents = {
        "empty.jpg": (422, b""),
        "cut.jpg": (422, whole.getvalue()[:-2000]),
        "text.jpg": (415, b"no picture"),
        "large.jpg": (413, whole.getvalue() + bytes(MAX_BYTES)),
    }
    files: dict[int, list[str]] = {}
    for name, (status, content) in contents.items():
        (tmp_path / name).write_bytes(content)
        files.setdefault(status, []).append(str(tmp_path / name))
    return files


def text_of(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def test_the_verdict_is_that_of_the_pipeline_with_every_members_vote(
    answers: Answers, ensemble: Path, photo: str
) -> None:
    details = pipeline("deepfake-ensemble", model=str(ensemble))(photo, details=True)
    verdict, members, facts = map(text_of, answers.verdict(photo))
    assert ENGLISH.verdicts[details["label"]] in verdict
    assert f"{details['prob_fake']:.0%}".replace("%", " % chance of being fake") in verdict
    for member in details["members"]:
        share, vote = (f"{member[key]:.0%}".replace("%", " %") for key in ("weight", "prob_fake"))
        assert re.search(rf"{member['name']} . {member['label']} {vote} {share}", members)
    assert "JPEG" in facts
    assert "64 x 64" in facts


def test_the_verdict_under_changes_is_that_of_the_changed_pictures(answers: Answers, judge: Judge, photo: str) -> None:
    compressed = io.BytesIO()
    Image.open(photo).save(compressed, "JPEG", quality=50)
    half = corrupt(pil_to_tensor(Image.open(photo)), "resize", 2)
    judged = judge.judge([photo, compressed.getvalue(), to_pil_image(half)])
    expected = [f"{details['label']} {percent(details['prob_fake'])}" for details in judged]
    changed = text_of(answers.robustness(photo))
    assert re.findall(r"(?:real|fake|uncertain) [<>\d ]+%", changed) == expected
    assert (ENGLISH.holds in changed) == (len({details["label"] for details in judged}) == 1)


def test_a_map_comes_first_and_then_what_it_is_worth(answers: Answers, photo: str) -> None:
    (first, nothing), (again, worth) = answers.heatmap(photo, "grad_cam")
    assert nothing == ""
    assert first == again
    assert 'alt="Your picture in grey' in first
    assert text_of(worth) in (ENGLISH.better_than_random, ENGLISH.no_better_than_random)


def test_without_a_picture_every_answer_says_what_to_do(answers: Answers) -> None:
    assert text_of(answers.verdict(None)[0]) == ENGLISH.nothing_yet
    assert answers.robustness(None) == ""
    assert [text_of(part) for part in next(answers.heatmap(None, "grad_cam"))] == [ENGLISH.picture_first, ""]
    assert text_of(answers.batch([], lambda _: None)) == ENGLISH.batch_empty


def test_a_file_that_is_not_judged_is_refused_in_plain_words_in_every_language(
    judge: Judge, bad_files: dict[int, list[str]]
) -> None:
    for words in (ENGLISH, CHINESE):
        answers = Answers(judge, words)
        for status, paths in bad_files.items():
            expected = words.refusals[status].format(megabytes=20, megapixels=100)
            for path in paths:
                assert [text_of(part) for part in answers.verdict(path)] == [expected, "", ""]
                assert answers.robustness(path) == ""
                assert [text_of(part) for part in next(answers.heatmap(path, "grad_cam"))] == [expected, ""]


def test_a_method_that_does_not_fit_says_so(answers: Answers, photo: str) -> None:
    assert "There is no map of this: nonsense: no such method" in text_of(next(answers.heatmap(photo, "nonsense"))[0])


def test_many_files_get_a_row_each_on_the_page_and_in_the_csv(
    answers: Answers, judge: Judge, photo: str, bad_files: dict[int, list[str]], tmp_path: Path
) -> None:
    (tmp_path / "<b>x.jpg").write_bytes(Path(photo).read_bytes())
    paths = [photo, *bad_files[415], *bad_files[422], str(tmp_path / "<b>x.jpg")]
    steps: list[float] = []
    html = answers.batch(paths, steps.append)
    assert steps == [1.0]
    assert "&lt;b&gt;x.jpg" in html
    table = pd.read_csv(io.BytesIO(base64.b64decode(re.search(r"base64,([^\"]+)", html)[1])))  # type: ignore[index]
    assert table["image"].tolist() == [Path(path).name for path in paths]
    details = judge.judge([photo])[0]
    assert table["label"].tolist() == [
        details["label"],
        *[pytest.approx(float("nan"), nan_ok=True)] * 3,
        details["label"],
    ]
    assert table["prob_fake"][0] == pytest.approx(details["prob_fake"], abs=1e-6)
    assert table["error"].notna().tolist() == [False, True, True, True, False]
    assert "5 files" in text_of(html)
    assert "3 not judged" in text_of(html)
