import io
from pathlib import Path
from typing import Any

import pandas as pd
from conftest import draw_folder, draw_image
from datasets import Dataset

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.cleaning import decide, save_cleaned
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything


def images(**columns: Any) -> pd.DataFrame:
    """Six different pictures, real and fake in turn, two in each split, and what is to be different in them."""
    different = {
        "file": [f"{number}.jpg" for number in range(6)],
        "label": [0, 1] * 3,
        "split": ["train", "train", "validation", "validation", "test", "test"],
        "error": None,
        "sha256": list("abcdef"),
        "width": 100,
        "height": 80,
        "bytes": 5000,
    }
    return pd.DataFrame(different | columns)


def kept(table: pd.DataFrame, near: list[tuple[int, int]]) -> list[int]:
    decisions = decide(table, near)
    return decisions.index[decisions["removed"].isna()].tolist()


def test_different_pictures_stay_where_they_are() -> None:
    decisions = decide(images(), [])
    assert decisions["removed"].isna().all()
    assert decisions["split"].tolist() == images()["split"].tolist()


def test_unreadable_images_go_and_are_no_copies_of_each_other() -> None:
    decisions = decide(images(sha256=list("aabcde"), error=["0.jpg: empty", None, None, None, None, None]), [])
    assert decisions["removed"].tolist() == ["unreadable: 0.jpg: empty", None, None, None, None, None]


def test_of_copies_the_one_in_test_stays_then_validation_then_train() -> None:
    table = images(label=0, sha256=list("abacba"))
    decisions = decide(table, [])
    assert decisions["removed"].tolist() == ["same file as 5.jpg", "same file as 4.jpg", "same file as 5.jpg", None, None, None]  # fmt: skip


def test_of_copies_in_one_split_the_largest_stays() -> None:
    table = images(label=0, split="train", width=[100, 200, 200, 100, 100, 100], bytes=[9, 5, 7, 1, 1, 1])
    decisions = decide(table, [(0, 1), (0, 2), (1, 2)])
    assert decisions["removed"].tolist() == ["same picture as 2.jpg", "same picture as 2.jpg", None, None, None, None]


def test_one_of_a_chain_of_like_frames_stays() -> None:
    table = images(label=0, split="all", bytes=[1, 2, 6, 3, 4, 5])
    assert kept(table, [(0, 1), (1, 2), (2, 3), (4, 5)]) == [2, 5]


def test_a_pair_that_names_one_of_two_copies_of_a_file_holds_for_both() -> None:
    table = images(label=0, split="all", sha256=list("aabcde"), bytes=[1, 1, 9, 1, 1, 1])
    assert kept(table, [(1, 2)]) == [2, 3, 4, 5]


def test_a_file_called_real_and_fake_goes_in_all_its_copies() -> None:
    decisions = decide(images(sha256=list("aabcad")), [])
    assert decisions["removed"].tolist() == [
        "the same file is called real and fake",
        "the same file is called real and fake",
        None,
        None,
        "the same file is called real and fake",
        None,
    ]


def test_an_original_and_its_edit_stay_and_are_brought_together_under_one_group() -> None:
    decisions = decide(images(), [(0, 5)])
    assert decisions["removed"].isna().all()
    assert decisions["split"].tolist() == ["test", "train", "validation", "validation", "test", "test"]
    assert decisions["group"].tolist() == ["0.jpg", "1.jpg", "2.jpg", "3.jpg", "4.jpg", "0.jpg"]


def test_a_group_moves_to_the_split_that_holds_most_of_it() -> None:
    split = ["train", "train", "test", "validation", "validation", "test"]
    group = ["anna", "anna", "anna", "ben", "cem", "cem"]
    decisions = decide(images(split=split, group=group), [])
    assert decisions["split"].tolist() == ["train", "train", "train", "validation", "test", "test"]
    assert decisions["group"].tolist() == group


def test_images_that_go_count_for_nothing_when_a_group_is_moved() -> None:
    table = images(
        split=["train", "train", "train", "test", "test", "test"], group="anna", label=0, sha256=list("aaabcd")
    )
    decisions = decide(table, [])
    assert set(decisions["split"][decisions["removed"].isna()]) == {"test"}


def test_a_second_cleaning_changes_nothing() -> None:
    table = images(
        label=[0, 0, 0, 1, 0, 1], sha256=list("aabcad"), group=["anna", "anna", "ben", "anna", "cem", "dana"]
    )
    near = [(0, 5), (2, 3)]
    decisions = decide(table, near)
    rows = decisions.index[decisions["removed"].isna()]
    again = table.assign(split=decisions["split"], group=decisions["group"]).loc[rows].reset_index(drop=True)
    place = {row: number for number, row in enumerate(rows)}
    still_near = [(place[one], place[other]) for one, other in near if one in place and other in place]
    second = decide(again, still_near)
    assert second["removed"].isna().all()
    assert second["split"].tolist() == again["split"].tolist()


def cleaned(root: Path, path: Path, removed: list[int], split: dict[int, str] | None = None) -> Dataset:
    """What the loader reads from a table without some rows, and with others moved."""
    splits = load_data(DataArguments(str(root)))
    rows = everything(splits)
    known = [column for column in ("file", "label", "source", "group") if column in rows.column_names]
    table = pd.DataFrame({column: rows[column][:] for column in known})
    table["split"] = [name for name, part in splits.items() for _ in range(len(part))]
    decisions = pd.DataFrame({"removed": None, "split": table["split"], "group": table["file"]})
    decisions.loc[removed, "removed"] = "a reason"
    for row, name in (split or {}).items():
        decisions.loc[row, "split"] = name
    save_cleaned(rows, table, decisions, path)
    return load_data(DataArguments(str(path)))


def test_a_table_of_files_is_loaded_back_with_its_splits_and_sources(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw_folder(tmp_path / "data" / split, 2, names=("real/phone", "fake/gan"))
    odd = tmp_path / "data" / "train" / "real" / "phone" / 'a\n"b", é.png'
    draw_image(0, 7).save(odd)
    loaded = cleaned(tmp_path / "data", tmp_path / "out" / "cleaned.parquet", removed=[0], split={2: "test"})
    assert {name: len(part) for name, part in loaded.items()} == {"train": 3, "test": 5}
    assert all(Path(image["path"]).is_file() for part in loaded.values() for image in part["image"])
    assert str(odd) in [image["path"] for image in everything(loaded)["image"]]
    assert sorted(loaded["train"]["source"]) == ["gan", "phone", "phone"]
    assert sorted(path.name for path in (tmp_path / "data").rglob("*.png")).count("000.png") == 4, (
        "no image is touched"
    )


def test_a_table_without_splits_and_groups_gets_none(tmp_path: Path) -> None:
    draw_folder(tmp_path / "data", 2)
    cleaned(tmp_path / "data", tmp_path / "cleaned.parquet", removed=[0])
    assert pd.read_parquet(tmp_path / "cleaned.parquet").columns.tolist() == ["image", "label"]


def test_masks_stay_with_their_images(tmp_path: Path) -> None:
    draw_folder(tmp_path, 1)
    (tmp_path / "t.csv").write_text("image,label,mask\nreal/000.png,0,\nfake/000.png,1,masks/000.png\n")
    cleaned(tmp_path / "t.csv", tmp_path / "out" / "cleaned.parquet", removed=[])
    assert pd.read_parquet(tmp_path / "out" / "cleaned.parquet")["mask"].tolist() == ["", str(tmp_path / "masks/000.png")]  # fmt: skip


def test_images_that_a_parquet_file_holds_are_written_into_the_table(tmp_path: Path) -> None:
    contents = []
    for number in range(4):
        buffer = io.BytesIO()
        draw_image(number % 2, number).save(buffer, "PNG")
        contents.append({"bytes": buffer.getvalue(), "path": None})
    pd.DataFrame({"image": contents, "label": [0, 1, 0, 1], "split": ["train"] * 2 + ["test"] * 2}).to_parquet(tmp_path / "t.parquet")  # fmt: skip
    loaded = cleaned(tmp_path / "t.parquet", tmp_path / "cleaned.parquet", removed=[0], split={1: "test"})
    assert set(loaded) == {"test"}
    assert [image["bytes"] for image in loaded["test"]["image"]] == [content["bytes"] for content in contents[1:]]
    assert loaded["test"]["label"][:] == [1, 0, 1]
