import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hf_deepfake import InputError
from hf_deepfake.evaluation import monitor_page
from hf_deepfake.evaluation.drift import Limits
from hf_deepfake.evaluation.monitor import load_scores, main, monitor
from hf_deepfake.evaluation.monitor_page import draw_charts


def scores(images: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """A table of predict --monitoring, of which not all statistics are left."""
    generator = np.random.default_rng(seed)
    table = {
        "image": [f"{index}.jpg" for index in range(images)],
        "prob_fake": generator.random(images),
        "label": generator.choice(["real", "fake"], images),
        "error": None,
        "file_bytes": generator.integers(1_000, 100_000, images),
        "embedding": list(generator.normal(size=(images, 3)).astype(np.float32)),
    }
    return pd.DataFrame(table | columns)


def saved(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    elif path.suffix == ".csv":
        table.to_csv(path, index=False)
    else:
        table.to_json(path, orient="records", lines=True)
    return path


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return saved(scores(150), tmp_path / "reference.parquet")


@pytest.fixture
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts take most of a page's time."""
    monkeypatch.setattr(monitor_page, "draw_charts", lambda *tables: [])


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


@pytest.mark.usefixtures("without_charts")
def test_the_exit_status_is_the_verdict(
    reference: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for name, table, status, verdict in (
        ("calm", scores(120, 1), 0, "ok"),
        ("moved", scores(120, 1, prob_fake=0.9), 1, "drift"),
        ("few", scores(20, 1, prob_fake=0.9), 3, "too few images to tell"),
        ("broken", scores(120, 1, prob_fake=np.nan, error="damaged"), 1, "drift"),
    ):
        current = saved(table, tmp_path / f"{name}.parquet")
        assert main(["--reference", str(reference), "--current", str(current)]) == status
        report = json.loads((tmp_path / "monitoring" / name / "monitor.json").read_text())
        assert report["verdict"] == verdict
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 80
        assert lines[0].strip() == verdict
        assert f"wrote monitoring/{name} (monitor.html, monitor.json)" in lines
        assert sorted(path.name for path in (tmp_path / "monitoring" / name).iterdir()) == [
            "monitor.html",
            "monitor.json",
        ]


@pytest.mark.usefixtures("without_charts")
def test_flags_move_the_limits_and_a_second_run_replaces_the_first(reference: Path, tmp_path: Path) -> None:
    current = saved(scores(120, 1, prob_fake=0.9), tmp_path / "current.parquet")
    flags = ["--reference", str(reference), "--current", str(current), "--output_dir", str(tmp_path / "out")]
    assert main(flags) == 1
    assert main([*flags, "--min_distance", "0.95"]) == 0
    assert json.loads((tmp_path / "out" / "monitor.json").read_text())["limits"]["min_distance"] == 0.95
    assert main([*flags, "--min_images", "121"]) == 3
    assert main([*flags, "--alpha", "1e-80"]) == 0


@pytest.mark.usefixtures("without_charts")
@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_every_format_that_predict_writes_gives_the_same_answers(reference: Path, tmp_path: Path, suffix: str) -> None:
    table = scores(120, 1)
    table.loc[3, ["prob_fake", "label", "file_bytes", "error"]] = [np.nan, None, np.nan, "damaged"]
    parts = [table.drop(columns="embedding") if suffix == ".csv" else table, table]
    found, expected = (
        monitor(reference, saved(part, tmp_path / f"current{end}"), tmp_path)
        for part, end in zip(parts, (suffix, ".parquet"), strict=True)
    )
    assert found["images"]["current"] == {"images": 120, "unreadable": 1}
    for test, other in zip(found["tests"], expected["tests"], strict=True):
        if test["name"] != "embeddings" or suffix != ".csv":
            assert (test["name"], test["effect"], test["p_value"]) == (
                other["name"],
                other["effect"],
                other["p_value"],
            )


def test_numbers_that_are_not_there_are_null(reference: Path, tmp_path: Path) -> None:
    current = saved(scores(120)[["prob_fake"]], tmp_path / "current.csv")
    report = monitor(reference, current, tmp_path)
    assert json.loads((tmp_path / "monitor.json").read_text()) == report
    width = next(test for test in report["tests"] if test["name"] == "width")
    assert (width["verdict"], width["p_value"], width["values_current"]) == ("not measured", None, None)
    assert width["reason"] == "not in the reference and the current table"


def test_the_page_holds_all_its_pictures_and_says_what_to_do(reference: Path, tmp_path: Path) -> None:
    current = saved(scores(120, 1, file_bytes=500), tmp_path / "<b>evil & two.parquet")
    report = monitor(reference, current, tmp_path / "out")
    page = Page(tmp_path / "out" / "monitor.html")
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert [str(picture["alt"]).split()[2] for picture in pictures[:2]] == ["score", "file_bytes"]
    assert len(pictures) == 3
    assert all(str(picture["src"]).startswith("data:image/png;base64,") for picture in pictures)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert "<b>evil & two.parquet" in page.text
    assert all(advice in page.text for advice in report["advice"])
    assert "look for a new app, camera, resizing or recompression" in page.text
    assert "these have changed: file_bytes." in page.text
    rows = page.text.split("how")[-1]
    assert all(test["name"] in rows and test["verdict"] in rows for test in report["tests"])


def test_histograms_hold_every_image_of_their_table(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: dict[str, list[float]] = {}
    monkeypatch.setattr(
        Axes, "stairs", lambda self, shares, edges, label, **style: drawn.setdefault(label, []).append(sum(shares))
    )
    monkeypatch.setattr(Axes, "legend", lambda self: None)
    monkeypatch.setattr(Figure, "savefig", lambda self, *args, **options: None)  # which takes most of the time
    first = scores(100, width=256.0, height=np.linspace(10, 4000, 100), sharpness=0.0)
    charts = draw_charts(first, first.iloc[:30])
    assert [chart["title"] for chart in charts] == "score width height file_bytes sharpness embeddings".split()
    assert drawn == {name: [pytest.approx(1)] * 5 for name in ("reference", "current")}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prob_fake": [0.5, np.nan]}, r"current.parquet: prob_fake of row 1 is nan, and it has no error; 1 rows"),
        ({"prob_fake": [0.5, 1.5]}, r"current.parquet: prob_fake of row 1 is 1.5"),
        ({"prob_fake": ["0.5", "high"]}, r"current.parquet: prob_fake of row 1 is high; it needs to be a number"),
        ({"file_bytes": [1.0, np.inf]}, r"current.parquet: file_bytes of row 1 is inf"),
        ({"embedding": ["[1, 2]", "[1, 2]"]}, r"current.parquet: embedding of row 0 is no list of numbers"),
        ({"embedding": [[1.0, 2.0], [1.0, None]]}, r"current.parquet: embedding of row 1 is no list of numbers"),
        ({"embedding": [[1.0, 2.0, 3.0], [1.0, 2.0]]}, r"current.parquet: embeddings of \[2, 3\] numbers"),
        ({"embedding": [[1.0, 2.0]] * 2}, r"current.parquet: embeddings of 2 numbers, those of .*reference.* have 3"),
    ],
)
def test_what_is_no_score_is_refused(
    reference: Path, tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    current = saved(scores(2, **columns), tmp_path / "current.parquet")
    with pytest.raises(InputError, match=message):
        monitor(reference, current, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_table_of_scores_is_refused(reference: Path, tmp_path: Path) -> None:
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1")
    (tmp_path / "scores.xlsx").touch()
    saved(scores(3).drop(columns="prob_fake"), tmp_path / "without.csv")
    for name, message in (
        ("none.parquet", r"none.parquet: no such table of scores.*\.parquet, \.csv, \.jsonl"),
        ("scores.xlsx", r"scores.xlsx: no such table of scores"),
        ("damaged.parquet", r"damaged.parquet: cannot be read as parquet: "),
        ("without.csv", r"without.csv: no column prob_fake; its columns are \['image', 'label'"),
    ):
        with pytest.raises(InputError, match=message):
            load_scores(tmp_path / name)
    with pytest.raises(InputError, match=r"reference.parquet: is a file; choose another --output_dir"):
        monitor(reference, reference, reference, Limits())
