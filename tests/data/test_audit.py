import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from hf_deepfake import cli
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data import audit_page
from hf_deepfake.data.audit import audit_dataset, data_name, main
from hf_deepfake.data.loading import load_data
from hf_deepfake.errors import InputError


@pytest.fixture(autouse=True)
def without_charts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of an audit's time, and are tested with the page."""
    monkeypatch.setattr(audit_page, "draw_charts", lambda images: [])


def draw(seed: int, size: int = 96) -> Image.Image:
    """A picture of coloured clouds, unlike that of any other seed."""
    generator = np.random.default_rng(seed)
    pixels = np.full((size, size, 3), 128.0)
    for cells, height in ((4, 45), (8, 30), (16, 15)):
        for colour in range(3):
            clouds = Image.fromarray(generator.normal(0, height, (cells, cells)).astype(np.float32))
            pixels[..., colour] += np.asarray(clouds.resize((size, size), Image.Resampling.BICUBIC))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def draw_data(root: Path, count: int = 3, splits: tuple[str, ...] = ("train", "test"), fakes: str = ".jpg") -> Path:
    """`count` different pictures of each class in each split."""
    for number, folder in enumerate(f"{split}/{name}" for split in splits for name in ("real", "fake")):
        (root / folder).mkdir(parents=True)
        for seed in range(count):
            suffix = fakes if folder.endswith("fake") else ".jpg"
            draw(1000 * number + seed).save(root / folder / f"{seed:03d}{suffix}", quality=90)
    return root


def spoil(root: Path) -> None:
    """Plant one of each: broken, empty, small, copies in a split, in two and in both classes, and an odd name."""
    train, test = root / "train", root / "test"
    (train / "real" / "broken.jpg").write_bytes((train / "real" / "000.jpg").read_bytes()[:900])
    (train / "fake" / "empty.jpg").touch()
    draw(9001, 30).save(train / "fake" / "small.png")
    (train / "real" / "copy.jpg").write_bytes((train / "real" / "001.jpg").read_bytes())
    (test / "real" / "leak.jpg").write_bytes((train / "real" / "002.jpg").read_bytes())
    (train / "fake" / "conflict.jpg").write_bytes((train / "real" / "000.jpg").read_bytes())
    Image.open(train / "fake" / "001.jpg").save(test / "fake" / "resaved.jpg", quality=60)
    draw(9002).save(train / "real" / "<b>two\nlines[red].jpg")


def audit(root: Path, output_dir: Path, **options: Any) -> dict[str, Any]:
    return audit_dataset(DataArguments(str(root)), output_dir, quiet=True, **options)


def verdicts(report: dict[str, Any]) -> dict[str, str]:
    return {check["name"]: check["verdict"] for check in report["checks"]}


def found(report: dict[str, Any], name: str) -> list[list[str]]:
    [check] = [check for check in report["checks"] if check["name"] == name]
    return [[image["file"] for image in finding["images"]] for finding in check["findings"]]


def test_sound_data_pass(tmp_path: Path) -> None:
    report = audit(draw_data(tmp_path / "data"), tmp_path / "out")
    assert report["verdict"] == "ok"
    assert report["splits"] == {"train": {"real": 3, "fake": 3}, "test": {"real": 3, "fake": 3}}
    assert report == json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json"]


def test_all_that_was_planted_is_found_and_a_cleaned_table_is_free_of_it(tmp_path: Path) -> None:
    spoil(draw_data(tmp_path / "data"))
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")}
    report = audit(tmp_path / "data", tmp_path / "out", fix=True)
    assert report["verdict"] == "fail"
    assert found(report, "unreadable") == [["train/fake/empty.jpg"], ["train/real/broken.jpg"]]
    assert found(report, "size") == [["train/fake/small.png"]]
    assert found(report, "duplicates") == [["train/real/001.jpg", "train/real/copy.jpg"]]
    assert found(report, "label conflicts") == [["train/fake/conflict.jpg", "train/real/000.jpg"]]
    assert sorted(found(report, "leaks")) == [
        ["train/fake/001.jpg", "test/fake/resaved.jpg"],
        ["train/real/002.jpg", "test/real/leak.jpg"],
    ]
    assert {removal["file"] for removal in report["cleaned"]["removed"]} == {
        "train/fake/empty.jpg",
        "train/real/broken.jpg",
        "train/real/copy.jpg",
        "train/real/000.jpg",
        "train/fake/conflict.jpg",
        "train/real/002.jpg",
        "train/fake/001.jpg",
    }
    splits = load_data(DataArguments(str(tmp_path / "out" / "cleaned.parquet")))
    assert sum(len(part) for part in splits.values()) == report["cleaned"]["kept"] == report["images"] - 7
    again = audit(tmp_path / "out" / "cleaned.parquet", tmp_path / "again", fix=True)
    assert again["verdict"] == "warning"
    assert [name for name, verdict in verdicts(again).items() if verdict == "warning"] == ["size"]
    assert again["cleaned"]["removed"] == again["cleaned"]["moved"] == []
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.*")} == before


def test_fakes_that_are_saved_in_another_format_fail(tmp_path: Path) -> None:
    """The lesson of many a published set: JPEG photographs, PNG fakes, and a detector of PNG."""
    report = audit(draw_data(tmp_path / "data", 15, splits=("train",), fakes=".png"), tmp_path / "out")
    assert verdicts(report)["metadata"] == "fail"
    numbers = next(check["numbers"] for check in report["checks"] if check["name"] == "metadata")
    assert numbers["roc_auc"] > 0.95
    assert numbers["images"] == 30


def test_a_person_in_two_splits_is_reported_and_brought_together(tmp_path: Path) -> None:
    """Loading such data to train on is refused; an audit is there to tell of it."""
    root = draw_data(tmp_path / "data")
    data = DataArguments(str(root), group_by=r"(\d+)\.jpg$")
    for name in ("real", "fake"):
        (root / "test" / name / "002.jpg").rename(root / "test" / name / "003.jpg")
    with pytest.raises(InputError, match="group '000' stands in train and in test"):
        load_data(data)
    report = audit_dataset(data, tmp_path / "out", fix=True, quiet=True)
    assert verdicts(report)["groups"] == "fail"
    assert len(found(report, "groups")) == 2
    assert {move["file"] for move in report["cleaned"]["moved"]} == {
        f"train/{name}/{person}.jpg" for name in ("real", "fake") for person in ("000", "001")
    }
    again = audit(tmp_path / "out" / "cleaned.parquet", tmp_path / "again")
    assert verdicts(again)["groups"] == verdicts(again)["leaks"] == "ok"


def test_images_of_a_parquet_file_are_audited_and_cleaned_in_a_new_one(tmp_path: Path) -> None:
    contents = []
    for seed in (1, 2, 3, 1):
        buffer = io.BytesIO()
        draw(seed).save(buffer, "PNG")
        contents.append({"bytes": buffer.getvalue(), "path": None})
    pd.DataFrame({"image": contents, "label": [0, 1, 1, 0]}).to_parquet(tmp_path / "t.parquet")
    report = audit(tmp_path / "t.parquet", tmp_path / "out", fix=True)
    assert report["cleaned"]["removed"] == [{"file": "all/3", "why": "same file as all/0"}]
    rows = load_data(DataArguments(str(tmp_path / "out" / "cleaned.parquet")))["all"]
    assert [image["bytes"] for image in rows["image"]] == [content["bytes"] for content in contents[:3]]


def test_few_images_of_one_class_are_no_error(tmp_path: Path) -> None:
    for count in (1, 3):
        root = tmp_path / str(count)
        (root / "real").mkdir(parents=True)
        for seed in range(count):
            draw(seed).save(root / "real" / f"{seed}.png")
        report = audit(root, tmp_path / f"out{count}", fix=True)
        assert (report["verdict"], report["images"]) == ("warning", count)
        assert verdicts(report)["metadata"] == verdicts(report)["leaks"] == "not measured"


def test_images_that_are_all_broken_fail_and_leave_nothing_to_keep(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_data(tmp_path / "data", 2)
    for path in (tmp_path / "data").rglob("*.jpg"):
        path.write_text("no image")
    assert main([str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), "--fix"]) == 1
    assert not (tmp_path / "out" / "cleaned.parquet").exists()
    assert "cleaned: 0 images kept, 8 left out (8 unreadable), 0 moved" in capsys.readouterr().out


def test_an_audit_is_not_written_over_another(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "audit.json").touch()
    with pytest.raises(InputError, match=r"out: is a file or holds an audit\.json already"):
        audit(draw_data(tmp_path / "data", 1), tmp_path / "out")


def test_the_exit_status_tells_of_failures_and_of_warnings_when_strict(tmp_path: Path) -> None:
    root = draw_data(tmp_path / "data", 2)
    commands = iter(range(9))

    def status(*flags: str) -> int:
        return cli.main(["audit", str(root), "--output_dir", str(tmp_path / f"out{next(commands)}"), *flags])

    assert status("--strict") == 0
    draw(9001, 30).save(root / "train" / "real" / "small.png")
    assert (status(), status("--strict")) == (0, 1)
    (root / "train" / "real" / "broken.png").touch()
    assert status() == 1
    assert cli.main(["audit", str(tmp_path / "nothing")]) == 2


def test_the_terminal_shows_verdicts_and_odd_names_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = draw_data(tmp_path / "[red]data", 2)
    (root / "train" / "real" / "[bold]\n\x1b[31m.jpg").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["[red]data"]) == 1
    printed = capsys.readouterr().out
    assert "[red]data: fail" in printed
    assert r"[bold]\n\x1b[31m.jpg" in printed.replace("│", "").replace("\n", "").replace(" ", "")
    assert "\x1b" not in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "wrote audits/[red]data (audit.html, audit.json)" in printed
    assert (tmp_path / "audits" / "[red]data" / "audit.html").is_file()


def test_data_are_called_after_their_folder_file_or_name_on_the_hub(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").touch()
    (tmp_path / "faces.v2").mkdir()
    assert data_name(str(tmp_path / "labels.csv")) == "labels"
    assert data_name(str(tmp_path / "faces.v2") + "/") == "faces.v2"
    assert data_name("somebody/some-faces") == "some-faces"


def test_columns_and_labels_can_be_named(tmp_path: Path) -> None:
    draw_data(tmp_path / "pictures", 2, splits=("a",))
    table = tmp_path / "t.csv"
    table.write_text(
        "photo,kind,who,source\nreal/000.jpg,x,anna,phone\nfake/000.jpg,y,ben,gan\nfake/001.jpg,y,ben,gan\n"
    )
    flags = ["--image_root", str(tmp_path / "pictures" / "a"), "--image_column", "photo", "--label_column", "kind"]
    flags += ["--fake_label", "y", "--group_by", "who", "--output_dir", str(tmp_path / "out")]
    assert main([str(table), *flags]) == 0
    report = json.loads((tmp_path / "out" / "audit.json").read_text(encoding="utf-8"))
    assert report["splits"] == {"all": {"real": 1, "fake": 2}}
    assert report["sources"] == {"phone": {"real": 1, "fake": 0}, "gan": {"real": 0, "fake": 2}}
    assert "2 groups" in next(check["found"] for check in report["checks"] if check["name"] == "groups")


def test_a_preview_is_drawn_and_nothing_else(tmp_path: Path) -> None:
    root = draw_data(tmp_path / "data", 1)
    (root / "train" / "real" / "broken.jpg").touch()
    flags = ["--preview-transforms", "light", "--transforms_strength", "0.5"]
    assert main([str(root), "--output_dir", str(tmp_path / "out"), *flags]) == 0
    [picture] = (tmp_path / "out").iterdir()
    assert picture.name == "transforms_light.png"
    assert Image.open(picture).width > 300


def test_a_preview_of_an_unknown_transform_or_of_broken_images_is_refused(tmp_path: Path) -> None:
    root = draw_data(tmp_path / "data", 1)
    with pytest.raises(InputError, match="lihgt"):
        main([str(root), "--output_dir", str(tmp_path / "out"), "--preview_transforms", "lihgt"])
    for path in root.rglob("*.jpg"):
        path.write_text("no image")
    with pytest.raises(InputError, match=r"data: none of its 4 images can be read"):
        main([str(root), "--output_dir", str(tmp_path / "out"), "--preview_transforms", "light"])
    assert not (tmp_path / "out").exists()
