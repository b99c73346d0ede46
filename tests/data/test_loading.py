"""Every layout that the loader reads, and every one that it refuses."""

import dataclasses
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import draw_image
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data import tables
from hf_deepfake.data.checking import drop_unreadable
from hf_deepfake.data.loading import SPLITS, load_data, load_splits
from hf_deepfake.errors import InputError

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def touch(root: Path, *files: str) -> Path:
    """Empty files: the loader opens none."""
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def load(root: Path, **arguments: Any) -> DatasetDict:
    return load_data(DataArguments(dataset_name=str(root), **arguments))


def told(splits: DatasetDict) -> dict[str, dict[str, int]]:
    """Label of each file of each split."""
    return {name: dict(zip(rows["file"][:], rows["label"][:], strict=True)) for name, rows in splits.items()}


# Folders


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        ("real", "fake"),
        ("Real", "Fake"),
        ("REAL", "FAKE"),
        ("training_real", "training_fake"),
        ("0_real", "1_fake"),
        ("live", "spoof"),
        ("original", "manipulated"),
        ("nature", "ai"),
        ("faces/real", "faces/fake"),
        ("real/a/b", "fake/c/d"),
        ("Celeb-real", "Celeb-synthesis"),
        ("original_sequences/youtube", "manipulated_sequences/Deepfakes"),
    ],
)
def test_labels_are_read_from_folder_names(real: str, fake: str, tmp_path: Path) -> None:
    found = told(load(touch(tmp_path, f"{real}/a.jpg", f"{fake}/b.jpg")))
    names = {"training_real": "train"}
    assert found == {names.get(real, "all"): {f"{real}/a.jpg": 0, f"{fake}/b.jpg": 1}}


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("Train", "train"),
        ("TRAINING", "train"),
        ("val", "validation"),
        ("valid", "validation"),
        ("Validation", "validation"),
        ("test", "test"),
        ("Testing", "test"),
        ("data/v1/val", "validation"),
        ("deepfake_data/train", "train"),
    ],
)
def test_splits_are_read_from_folder_names(folder: str, split: str, tmp_path: Path) -> None:
    found = told(load(touch(tmp_path, f"{folder}/Real/a.jpg", f"{folder}/Fake/b.jpg")))
    assert found == {split: {f"{folder}/Real/a.jpg": 0, f"{folder}/Fake/b.jpg": 1}}


def test_splits_come_in_one_order_and_may_stand_below_the_labels(tmp_path: Path) -> None:
    files = [f"{label}/{split}/a.jpg" for label in ("real", "fake") for split in ("test", "val", "train")]
    splits = load(touch(tmp_path, *files))
    assert list(splits) == ["train", "validation", "test"]
    assert told(splits)["validation"] == {"real/val/a.jpg": 0, "fake/val/a.jpg": 1}
    assert "source" not in splits["train"].column_names


def test_the_columns_are_those_of_the_contract(tmp_path: Path) -> None:
    rows = load(touch(tmp_path, "real/a.jpg", "fake/b.jpg"))["all"]
    assert rows.features == Features(
        {"image": Image(decode=False), "file": Value("string"), "label": ClassLabel(names=["real", "fake"])}
    )
    assert rows[0]["image"]["bytes"] is None
    assert Path(rows[0]["image"]["path"]) == tmp_path / "fake" / "b.jpg"


def test_the_folder_below_the_label_is_the_source(tmp_path: Path) -> None:
    files = ["real/ffhq/a.jpg", "fake/sdxl/x/b.jpg", "fake/c.jpg"]
    rows = load(touch(tmp_path, *files), group_by=None)["all"]
    assert dict(zip(rows["file"][:], rows["source"][:], strict=True)) == {
        "real/ffhq/a.jpg": "ffhq",
        "fake/sdxl/x/b.jpg": "sdxl",
        "fake/c.jpg": "unknown",
    }


def test_every_image_suffix_in_any_case_is_read_and_nothing_hidden(tmp_path: Path) -> None:
    suffixes = ["jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff", "JPG", "JPeG"]
    files = [f"{label}/{suffix}.{suffix}" for label in ("real", "fake") for suffix in suffixes]
    others = ["real/.hidden.jpg", "real/._a.jpg", "real/.cache/a.jpg", "real/notes.txt", "real/a.gif", "Thumbs.db"]
    assert told(load(touch(tmp_path, *files, *others)))["all"].keys() == set(files)


def test_generators_at_two_depths_are_read_together(tmp_path: Path) -> None:
    """ForenSynths: some generators have folders of objects, others do not."""
    files = [f"{place}/{label}/a.png" for place in ("biggan", "cyclegan/apple") for label in ("0_real", "1_fake")]
    assert told(load(touch(tmp_path, *files)))["all"] == {file: int("fake" in file) for file in files}


def test_names_above_and_below_the_label_folder_do_not_overrule_it(tmp_path: Path) -> None:
    files = ["deepfake_data/real/human/a.jpg", "deepfake_data/fake/human/b.jpg"]
    assert told(load(touch(tmp_path, *files)))["all"] == {files[0]: 0, files[1]: 1}


def test_folders_that_say_both_at_two_depths_are_refused_until_one_is_named(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{place}/{label}/a.png" for place in ("gan", "camera") for label in ("real", "fake")))
    with pytest.raises(InputError, match=r"(gan/real|camera/fake) reads as real and as fake.*--fake_label"):
        load(tmp_path)
    assert told(load(tmp_path, fake_label="fake"))["all"]["camera/fake/a.png"] == 1
    assert told(load(tmp_path, fake_label="fake"))["all"]["gan/real/a.png"] == 0


def test_a_folder_that_tells_no_label_is_refused_with_what_was_found(tmp_path: Path) -> None:
    touch(tmp_path, "cats/a.jpg", "cats/b.jpg", "dogs/c.jpg", "d.jpg")
    with pytest.raises(
        InputError, match=r"cannot tell.*\{'cats': 2, '\.': 1, 'dogs': 1\}.*--fake_label FOLDER"
    ) as caught:
        load(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_images_beside_the_label_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "deepfake/real/a.jpg", "deepfake/fake/b.jpg", "deepfake/extra/c.jpg")
    with pytest.raises(InputError, match=r"cannot tell.*\{'deepfake/extra': 1\}"):
        load(tmp_path)


def test_the_folder_that_means_fake_can_be_named(tmp_path: Path) -> None:
    touch(tmp_path, "train/photos/a.jpg", "train/midjourney/b.jpg")
    assert told(load(tmp_path, fake_label="midjourney"))["train"]["train/midjourney/b.jpg"] == 1
    with pytest.raises(InputError, match=r"--fake_label sdxl needs to be one of two labels; found \['train'\]"):
        load(tmp_path, fake_label="sdxl")


def test_images_outside_the_split_folders_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "train/real/a.jpg", "train/fake/b.jpg", "more/fake/c.jpg")
    with pytest.raises(InputError, match=r"stand outside of any: \{'more/fake': 1\}"):
        load(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=rf"{tmp_path.name}: no images and no table found; looked for \.bmp \.csv"):
        load(tmp_path)


def test_one_class_only_is_refused_unless_that_will_do(tmp_path: Path) -> None:
    touch(tmp_path, "fake/a.jpg", "fake/b.jpg")
    with pytest.raises(InputError, match=r": 2 images, all of one class \(fake\)"):
        load(tmp_path)
    assert len(load_data(DataArguments(str(tmp_path)), both_classes=False)["all"]) == 2


@pytest.mark.parametrize("name", ["nowhere", "no/such/folder", "a b/c"])
def test_a_name_that_is_neither_a_path_nor_a_hub_id_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"^{name}: no such file or folder, and no Hub id"):
        load_data(DataArguments(name))


@pytest.mark.parametrize("name", ["x" * 5000, f"user/{'x' * 300}.csv", "a\0b"])
def test_a_name_that_no_file_can_have_is_no_crash(name: str) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        load_data(DataArguments(name))


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_data_of_links_that_lead_out_name_the_flag_that_follows_them(tmp_path: Path) -> None:
    """The Hub's cache: each file of a snapshot is a link to a blob beside it."""
    touch(tmp_path, "blobs/1", "blobs/2")
    root = tmp_path / "snapshots" / "abc"
    for file, blob in (("real/a.jpg", "1"), ("fake/b.jpg", "2")):
        (root / file).parent.mkdir(parents=True)
        (root / file).symlink_to(tmp_path / "blobs" / blob)
    with pytest.raises(InputError, match=r"abc: no images.*2 links lead out of it; --follow_links follows them"):
        load(root)
    assert told(load(root, follow_links=True)) == {"all": {"real/a.jpg": 0, "fake/b.jpg": 1}}


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names are text there")
def test_names_with_spaces_newlines_and_other_letters_are_read(tmp_path: Path) -> None:
    files = ["real/a b.jpg", "real/ü 写真.jpg", "fake/new\nline.jpg", "fake/'\"\x1b[31m.jpg"]
    touch(tmp_path, *files)
    (tmp_path / "fake" / os.fsdecode(b"latin\xe9.jpg")).touch()
    assert told(load(tmp_path))["all"] == {file: int("fake" in file) for file in files}


def test_photographs_of_one_class_can_be_split(tmp_path: Path) -> None:
    touch(tmp_path, *(f"real/{number}.jpg" for number in range(20)))
    with pytest.raises(InputError, match=r": 20 images, all of one class \(real\)"):
        load_splits(DataArguments(str(tmp_path)))
    splits = load_splits(DataArguments(str(tmp_path)), both_classes=False)
    assert {name: set(rows["label"][:]) for name, rows in splits.items()} == {name: {0} for name in SPLITS}
    touch(tmp_path / "few", "real/1.jpg", "real/2.jpg")
    with pytest.raises(InputError, match=r"few: the (train|validation|test) split has 0 images; give it more"):
        load_splits(DataArguments(str(tmp_path / "few")), both_classes=False)


def test_thousands_of_files_are_loaded_in_a_second(tmp_path: Path) -> None:
    """8,000 take 0.2 s here; read value by value they took 1.8 s."""
    for label in ("real", "fake"):
        touch(tmp_path, *(f"{label}/p{number % 8}/{number}.jpg" for number in range(4000)))
    start = time.process_time()
    splits = load_splits(DataArguments(str(tmp_path), group_by=r"[^/]+/p\d"))
    assert time.process_time() - start < 1
    assert sum(map(len, splits.values())) == 8000


# Tables


def table(path: Path, /, **columns: Sequence[Any]) -> Path:
    frame = pd.DataFrame(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix:
        case ".parquet":
            frame.to_parquet(path)
        case ".jsonl":
            frame.to_json(path, orient="records", lines=True)
        case ".json":
            frame.to_json(path, orient="records")
        case _:
            frame.to_csv(path, index=False, sep="\t" if path.suffix == ".tsv" else ",")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".json", ".jsonl", ".parquet", ".CSV"])
@pytest.mark.parametrize("targets", [[0, 1], ["REAL", "FAKE"]])
def test_a_table_of_any_kind_is_read(suffix: str, targets: list[Any], tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "x/b.jpg")
    path = table(tmp_path / f"labels{suffix}", img_name=["a.jpg", "x/b.jpg"], target=targets)
    rows = load(path)["all"]
    assert told(DatasetDict(all=rows))["all"] == {"a.jpg": 0, "x/b.jpg": 1}
    assert [Path(image["path"]) for image in rows["image"]] == [tmp_path / "a.jpg", tmp_path / "x/b.jpg"]


@pytest.mark.parametrize(("image", "label"), [("Image_Path", "Label"), ("filename", "class"), ("path", "is_fake")])
def test_columns_are_found_by_name_in_any_case(image: str, label: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    path = table(tmp_path / "t.csv", **{label: [1, 0], "other": [5, 6], image: ["a.jpg", "b.jpg"]})
    assert told(load(path))["all"] == {"a.jpg": 1, "b.jpg": 0}


def test_columns_and_the_fake_label_can_be_given(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    path = table(tmp_path / "t.csv", name=["a.jpg", "b.jpg"], genuine=["yes", "no"])
    given = {"image_column": "name", "label_column": "genuine"}
    assert told(load(path, **given, fake_label="no"))["all"] == {"a.jpg": 0, "b.jpg": 1}
    with pytest.raises(InputError, match=r"column 'genuine' reads as the opposite of fake.*\['no', 'yes'\]"):
        load(path, **given)
    with pytest.raises(InputError, match=r"t\.csv: no column 'nam'; its columns are \['name', 'genuine'\]"):
        load(path, image_column="nam")
    with pytest.raises(
        InputError, match=r"t\.csv: no image column found; .*\['name', 'genuine'\]. Pass --image_column"
    ):
        load(path)
    with pytest.raises(InputError, match=r"t\.csv: no label column found; .*Pass --label_column"):
        load(path, image_column="name")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_true_and_false_are_read_where_the_column_says_what_is_true(suffix: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    columns = {"file": ["a.jpg", "b.jpg"], "is_fake": [True, False]}
    assert told(load(table(tmp_path / f"t{suffix}", **columns)))["all"] == {"a.jpg": 1, "b.jpg": 0}
    columns["label"] = columns.pop("is_fake")
    with pytest.raises(InputError, match=r"\(label\): cannot tell.*found \['False', 'True'\]"):
        load(table(tmp_path / f"u{suffix}", **columns))


def test_absolute_and_windows_paths_become_names_below_the_root(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.jpg", "in/b.jpg", "out.jpg")
    names = [str(tmp_path / "in" / "a.jpg"), "in\\b.jpg", str(tmp_path / "out.jpg")]
    path = table(tmp_path / "in" / "t.csv", image=names, label=[0, 1, 1])
    rows = load(path, image_root=str(tmp_path))["all"]
    assert rows["file"][:] == ["in/a.jpg", "in/b.jpg", "out.jpg"]
    assert all(Path(image["path"]).is_file() for image in rows["image"])
    assert load(path)["all"]["file"][:] == ["a.jpg", "in/b.jpg", (tmp_path / "out.jpg").as_posix()]


def test_spaces_after_commas_and_a_byte_order_mark_do_no_harm(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "t.csv").write_text("img_name, target\na.jpg, 0\nb.jpg, 1\n", encoding="utf-8-sig")
    assert told(load(tmp_path / "t.csv"))["all"] == {"a.jpg": 0, "b.jpg": 1}


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_the_columns_of_a_text_table_are_told_by_its_first_line(suffix: str, separator: str, tmp_path: Path) -> None:
    touch(tmp_path, "my photo.jpg", "b;c,d.jpg")
    lines = [("image", "label"), ("my photo.jpg", "1"), ('"b;c,d.jpg"', "0")]
    (tmp_path / f"t{suffix}").write_text("\r\n".join(separator.join(line) for line in lines), encoding="utf-8-sig")
    assert told(load(tmp_path / f"t{suffix}"))["all"] == {"my photo.jpg": 1, "b;c,d.jpg": 0}


def test_spaces_separate_the_columns_of_a_txt_table_and_quotes_hold_them_together(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "my photo.jpg")
    (tmp_path / "t.txt").write_text('image label\na.jpg   0\n"my photo.jpg"\t1\n')
    assert told(load(tmp_path / "t.txt"))["all"] == {"a.jpg": 0, "my photo.jpg": 1}


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("a.jpg 0\nmy photo.jpg 1", "Expected 2 fields in line 3, saw 3"),
        ("my photo.jpg 1\nmy photo.jpg 0", "Length of header or names does not match"),  # pandas: an index
        ("my photo.jpg 1\na.jpg 0", "Length of header or names does not match"),
    ],
)
def test_a_row_longer_than_the_header_is_refused(rows: str, reason: str, tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "photo.jpg", "my")
    (tmp_path / "t.txt").write_text(f"image label\n{rows}\n")
    with pytest.raises(InputError, match=rf"t\.txt: cannot be read as a txt table: .*{reason}"):
        load(tmp_path / "t.txt")


def test_a_table_in_another_encoding_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label\nü.jpg,0\n", encoding="latin-1")
    with pytest.raises(InputError, match=r"t\.csv: cannot be read as a csv table: 'utf-8' codec can't decode"):
        load(tmp_path / "t.csv")


def test_a_cell_that_is_too_long_for_a_name_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none of its 2 images is in"):
        load(table(tmp_path / "t.csv", image=["x" * 9000, "y" * 9000], label=[0, 1]))


def test_masks_are_named_from_where_the_images_are(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg", "images/masks/b.png")
    columns = {"image": ["a.jpg", "b.jpg"], "label": [0, 1], "mask": ["", "masks\\b.png"]}
    for path in (
        table(tmp_path / "t.csv", **columns),
        table(tmp_path / "t.jsonl", **columns | {"mask": [None, "masks/b.png"]}),
    ):
        rows = load(path, image_root=str(tmp_path / "images"))["all"]
        assert rows["mask"][:] == ["", str(tmp_path / "images" / "masks" / "b.png")]


def test_a_table_that_names_only_missing_files_is_refused(tmp_path: Path) -> None:
    path = table(tmp_path / "t.csv", image=["a.jpg", "b.jpg"], label=[0, 1])
    with pytest.raises(InputError, match=r"t\.csv: none of its 2 images is in .*'a\.jpg'\. Pass --image_root FOLDER"):
        load(path)
    touch(tmp_path, "photos/a.jpg", "photos/b.jpg")
    with pytest.raises(InputError, match=rf"Pass --image_root {re.escape(str(tmp_path / 'photos'))}\.$"):
        load(path)
    assert told(load(path, image_root=str(tmp_path / "photos")))["all"] == {"a.jpg": 0, "b.jpg": 1}
    touch(tmp_path, "masks/a.jpg")
    with pytest.raises(InputError, match="Pass --image_root FOLDER"):
        load(path)


def test_some_missing_files_of_a_table_are_listed_and_skipped(tmp_path: Path) -> None:
    for label in (0, 1):
        draw_image(label, 0).save(tmp_path / f"{label}.png")
    splits = load(table(tmp_path / "t.csv", image=["none.png", "0.png", "1.png"], label=[0, 0, 1]))
    kept, skipped = drop_unreadable(splits, "t.csv", quiet=True)
    assert kept["all"]["file"][:] == ["0.png", "1.png"]
    assert skipped == [("none.png", f"{tmp_path / 'none.png'}: no such file")]


def test_a_folder_whose_names_do_not_tell_is_read_by_its_table(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg")
    table(tmp_path / "labels.csv", image=["images/a.jpg", "images/b.jpg"], label=[0, 1])
    touch(tmp_path, "._labels.csv")
    assert told(load(tmp_path))["all"] == {"images/a.jpg": 0, "images/b.jpg": 1}


def test_a_folder_that_neither_names_nor_tables_tell_says_both(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg")
    (tmp_path / "readme.txt").write_text("holiday photographs\nof 2019\n")
    message = r"cannot tell.*\{'images': 1\}.*Its tables do not help: .*readme\.txt: no image column"
    with pytest.raises(InputError, match=message):
        load(tmp_path)


def test_a_table_beside_a_folder_of_images_names_the_folder_that_helps(tmp_path: Path) -> None:
    touch(tmp_path, "images/a.jpg", "images/b.jpg")
    table(tmp_path / "labels.csv", img_name=["a.jpg", "b.jpg"], target=[0, 1])
    images = tmp_path / "images"
    with pytest.raises(
        InputError, match=rf"labels\.csv: none of its 2 images.*Pass --image_root {re.escape(str(images))}\.$"
    ):
        load(tmp_path)
    assert told(load(tmp_path, image_root=str(images))) == {"all": {"a.jpg": 0, "b.jpg": 1}}


@pytest.mark.parametrize("folders", [("trainset", "valset"), ("", "")])
def test_tables_named_by_split_make_splits(folders: tuple[str, str], tmp_path: Path) -> None:
    """The layout of the FFDI competition, with its images in folders named like the tables, or flat."""
    for folder, name, letters in zip(folders, ("trainset", "valset"), ("ab", "cd"), strict=True):
        touch(tmp_path, *(f"{folder}/{letter}.jpg".lstrip("/") for letter in letters))
        table(tmp_path / f"{name}_label.txt", img_name=[f"{letter}.jpg" for letter in letters], target=[0, 1])
    assert told(load(tmp_path)) == {"train": {"a.jpg": 0, "b.jpg": 1}, "validation": {"c.jpg": 0, "d.jpg": 1}}


def test_the_table_of_a_split_finds_its_images_where_both_splits_have_the_same_names(tmp_path: Path) -> None:
    for name in ("train", "test"):
        touch(tmp_path, f"{name}_images/0.jpg", f"{name}_images/1.jpg")
        table(tmp_path / f"{name}.csv", image=["0.jpg", "1.jpg"], label=[0, 1])
    splits = load(tmp_path)
    assert {Path(image["path"]).parent.name for image in splits["test"]["image"]} == {"test_images"}


def test_tables_that_differ_in_their_columns_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg", "b.jpg")
    table(tmp_path / "train.csv", image=["a.jpg", "b.jpg"], label=[0, 1], source=["x", "y"])
    table(tmp_path / "test.csv", image=["a.jpg", "b.jpg"], label=[0, 1])
    with pytest.raises(InputError, match=r"do not tell the same.*'test\.csv': \['file'.*'train\.csv'.*'source'"):
        load(tmp_path)


def test_columns_of_split_source_and_group_are_kept(tmp_path: Path) -> None:
    touch(tmp_path, *"0.jpg 1.jpg 2.jpg 3.jpg".split())
    path = table(
        tmp_path / "t.csv",
        image=[f"{number}.jpg" for number in range(4)],
        label=[0, 1, 0, 1],
        Split=["training", "training", "dev", "dev"],
        source=["ffhq", "sdxl"] * 2,
        group=["p1", "p1", "p2", "p2"],
    )
    splits = load(path)
    assert told(splits) == {"train": {"0.jpg": 0, "1.jpg": 1}, "validation": {"2.jpg": 0, "3.jpg": 1}}
    assert splits["validation"]["group"][:] == ["p2", "p2"]
    assert splits["validation"]["source"][:] == ["ffhq", "sdxl"]


def test_a_split_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.jpg")
    path = table(tmp_path / "t.csv", image=["a.jpg", "a.jpg"], label=[0, 1], split=["train", "fold1"])
    with pytest.raises(InputError, match=r"t\.csv: split has the value 'fold1'"):
        load(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", b"no parquet", r"t\.parquet: cannot be read as a parquet table: "),
        ("t.json", b'{"a": [1', r"t\.json: cannot be read as a json table: "),
        ("t.jsonl", b"\xff\xfe\x00", r"t\.jsonl: cannot be read as a jsonl table: "),
        ("t.csv", b'a,b\n1,"2\n', r"t\.csv: cannot be read as a csv table: "),
        ("t.csv", b"", r"t\.csv: cannot be read as a csv table: No columns"),
        ("t.csv", b"image,label\n", r"t\.csv: has no rows"),
        ("t.jpg", b"\xff\xd8", r"t\.jpg: is no table of images; a table ends in \.csv"),
    ],
)
def test_a_file_that_is_no_table_is_refused_in_one_line(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path / name)
    assert "\n" not in str(caught.value)


# Groups


def grouped(tmp_path: Path, **columns: list[Any]) -> Path:
    touch(tmp_path, *(f"v{video}_{frame}.jpg" for video in (1, 2) for frame in (1, 2)))
    names = [f"v{video}_{frame}.jpg" for video in (1, 2) for frame in (1, 2)]
    return table(tmp_path / "t.csv", image=names, label=[0, 0, 1, 1], **columns)


def test_groups_come_from_a_column_or_a_regular_expression_on_the_path(tmp_path: Path) -> None:
    path = grouped(tmp_path, person=[7, 7, 8, 8], group=["x"] * 4, source=["a", "a", "b", "b"])
    assert load(path)["all"]["group"][:] == ["x"] * 4
    assert load(path, group_by="person")["all"]["group"][:] == ["7", "7", "8", "8"]
    assert load(path, group_by=r"v\d")["all"]["group"][:] == ["v1", "v1", "v2", "v2"]
    assert load(path, group_by=r"_(\d)\.jpg")["all"]["group"][:] == ["1", "2", "1", "2"]
    by_source = load(path, group_by="source")["all"]
    assert by_source["group"][:] == by_source["source"][:] == ["a", "a", "b", "b"]


def test_a_grouping_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    path = grouped(tmp_path)
    with pytest.raises(InputError, match=r"--group_by 'persn' is no column, and finds nothing in the path v1_1\.jpg"):
        load(path, group_by="persn")
    with pytest.raises(InputError, match=r"--group_by '\(x\)\?v' is no column, and finds nothing"):
        load(path, group_by="(x)?v")
    with pytest.raises(InputError, match=r"--group_by 'v\(' is no column and no regular expression: missing \)"):
        load(path, group_by="v(")


def test_a_group_in_two_splits_is_refused(tmp_path: Path) -> None:
    path = grouped(tmp_path, split=["train", "test", "train", "test"])
    with pytest.raises(InputError, match=r"group 'v1' stands in train and in test, which is a leak"):
        load(path, group_by=r"v\d")


# Data sets of the Hub's kind


def hub_rows(folder: Path, names: list[str], **more: list[Any]) -> Dataset:
    """Two images inside the data set, the first real."""
    for label in (0, 1):
        draw_image(label, 0, 8).save(folder / f"{label}.png")
    columns = {
        "image": [{"bytes": (folder / f"{label}.png").read_bytes(), "path": None} for label in (0, 1)],
        "label": [names.index("real"), 1 - names.index("real")],
    }
    features = Features({"image": Image(), "label": ClassLabel(names=names)} | dict.fromkeys(more, Value("string")))
    return Dataset.from_dict(columns | more, features=features)


@pytest.mark.parametrize("names", [["real", "fake"], ["fake", "real"]])
def test_a_saved_data_set_keeps_its_bytes_and_gets_our_order_of_labels(names: list[str], tmp_path: Path) -> None:
    rows = hub_rows(tmp_path, names)
    rows.save_to_disk(tmp_path / "one")
    DatasetDict(train=rows, valid=rows).save_to_disk(tmp_path / "two")
    assert told(load(tmp_path / "one")) == {"all": {"all/0": 0, "all/1": 1}}
    splits = load(tmp_path / "two")
    assert told(splits) == {"train": {"train/0": 0, "train/1": 1}, "validation": {"valid/0": 0, "valid/1": 1}}
    assert splits["train"].features["label"].names == ["real", "fake"]
    assert splits["train"][1]["image"]["bytes"] == (tmp_path / "1.png").read_bytes()


@pytest.mark.parametrize("names", [["real", "fake"], ["fake", "real"]])
def test_a_parquet_file_may_hold_its_images_and_the_names_of_its_labels(names: list[str], tmp_path: Path) -> None:
    hub_rows(tmp_path, names).to_parquet(tmp_path / "t.parquet")
    rows = load(tmp_path / "t.parquet")["all"]
    assert rows["label"][:] == [0, 1]
    assert rows[0]["image"]["bytes"] == (tmp_path / "0.png").read_bytes()


def test_a_hub_id_is_loaded_with_its_configuration_and_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def fake_hub(*arguments: Any, **named: Any) -> DatasetDict:
        asked.append((arguments, named))
        rows = hub_rows(tmp_path, ["fake", "real"], source=["camera", "sdxl"])
        return DatasetDict(train=rows, test=rows, empty=rows.select([]))

    monkeypatch.setattr(tables, "load_dataset", fake_hub)
    data = DataArguments("user/faces", dataset_config_name="small", dataset_revision="abc")
    splits = load_data(data)
    assert asked == [(("user/faces", "small"), {"revision": "abc", "streaming": False})]
    assert told(splits) == {"train": {"train/0": 0, "train/1": 1}, "test": {"test/0": 0, "test/1": 1}}
    assert splits["test"]["source"][:] == ["camera", "sdxl"]


def test_a_hub_that_does_not_answer_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        InputError, match=r"^user/none: no such file or folder here, and the Hub did not give it: \S"
    ) as c:
        load_data(DataArguments("user/none"))
    assert "\n" not in str(c.value)

    def fail(*_: Any, **__: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(tables, "load_dataset", fail)
    with pytest.raises(InputError, match=r"the Hub did not give it: ConnectionError"):
        load_data(DataArguments("user/none"))


def test_hub_data_that_cannot_be_understood_are_refused(tmp_path: Path) -> None:
    rows = hub_rows(tmp_path, ["fake", "real"])
    DatasetDict(train=rows, extra=rows).save_to_disk(tmp_path / "extra")
    with pytest.raises(InputError, match=r"do not tell the same of their images: \{'train': .*'extra': "):
        load(tmp_path / "extra")
    unlabelled = rows.remove_columns("label").add_column("label", [-1, 0])
    unlabelled.cast_column("label", ClassLabel(names=["fake", "real"])).save_to_disk(tmp_path / "unlabelled")
    with pytest.raises(InputError, match=r"\(label\): cannot tell which label means fake; found \['-1'\]"):
        load(tmp_path / "unlabelled")
    touch(tmp_path / "broken", "state.json")
    with pytest.raises(InputError, match=r"broken: cannot be read as a save_to_disk folder: \S"):
        load(tmp_path / "broken")


# Images to score only


def test_images_to_score_need_no_labels_and_keep_their_order(tmp_path: Path) -> None:
    touch(tmp_path / "images", "z.jpg", "train/b.jpg", "a/c.jpg")
    data = DataArguments(str(tmp_path / "images"))
    rows = load_data(data, labelled=False)["all"]
    assert rows["file"][:] == ["z.jpg", "a/c.jpg", "train/b.jpg"]
    assert rows.column_names == ["image", "file"]
    path = table(tmp_path / "images" / "t.csv", image=["z.jpg", "train/b.jpg"], split=["fold1", "fold2"])
    rows = load_data(dataclasses.replace(data, dataset_name=str(path)), labelled=False)["all"]
    assert rows["file"][:] == ["z.jpg", "train/b.jpg"]


# Real images


@pytest.mark.skipif(not (SHARED / "ciplab").is_dir(), reason="images to measure on are not here")
def test_a_competition_table_beside_its_images_is_read() -> None:
    root = SHARED / "ciplab"
    with pytest.raises(
        InputError, match=rf"none of its 700 images.*--image_root {re.escape(str(root / 'images'))}\.$"
    ):
        load(root / "labels.csv")
    for name in (root, root / "labels.csv"):
        rows = load(name, image_root=str(root / "images"))["all"]
        assert (len(rows), sum(rows["label"][:])) == (700, 350)
    _, skipped = drop_unreadable(DatasetDict(all=rows.select(range(8))), "ciplab", quiet=True)
    assert not skipped


@pytest.mark.skipif(not (SHARED / "faces140k").is_dir(), reason="images to measure on are not here")
def test_a_folder_with_two_splits_is_read_as_it_is() -> None:
    splits = load_splits(DataArguments(str(SHARED / "faces140k")))
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 1519, "validation": 344}
