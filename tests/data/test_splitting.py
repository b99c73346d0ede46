from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import draw_folder
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_splits
from hf_deepfake.data.splitting import assign_splits, check_groups, everything, make_splits
from hf_deepfake.errors import InputError

SHARES = {"validation": 0.15, "test": 0.15, "train": 0.7}


def rows(labels: list[int], groups: list[str] | None = None) -> Dataset:
    columns: dict[str, list[Any]] = {"label": labels, "file": [f"{row}.jpg" for row in range(len(labels))]}
    features: dict[str, Any] = {"label": ClassLabel(names=["real", "fake"]), "file": Value("string")}
    if groups is not None:
        columns["group"], features["group"] = groups, Value("string")
    return Dataset.from_dict(columns, features=Features(features))


def split(splits: dict[str, Dataset], **arguments: Any) -> DatasetDict:
    return make_splits(DatasetDict(splits), DataArguments("images", **arguments))


def sizes(splits: DatasetDict) -> dict[str, dict[int, int]]:
    return {name: dict(Counter(part["label"][:])) for name, part in splits.items()}


def test_data_without_splits_are_cut_70_15_15_in_each_class() -> None:
    found = split({"all": rows([0] * 100 + [1] * 40)})
    assert sizes(found) == {"train": {0: 70, 1: 28}, "validation": {0: 15, 1: 6}, "test": {0: 15, 1: 6}}
    assert sorted(file for part in found.values() for file in part["file"]) == sorted(f"{n}.jpg" for n in range(140))


def test_shares_can_be_given() -> None:
    found = split({"all": rows([0, 1] * 50)}, validation_share=0.3, test_share=0.2)
    assert sizes(found) == {"train": {0: 25, 1: 25}, "validation": {0: 15, 1: 15}, "test": {0: 10, 1: 10}}
    assert list(split({"all": rows([0, 1] * 50)}, test_share=0)) == ["train", "validation"]


@pytest.mark.parametrize(
    ("given", "arguments", "expected"),
    [
        (["train", "validation"], {}, {"train": 40, "validation": 40}),
        (["train", "validation"], {"test_share": 0.25}, {"train": 30, "validation": 40, "test": 10}),
        (["train", "test"], {}, {"train": 34, "validation": 6, "test": 40}),
        (["train"], {}, {"train": 34, "validation": 6}),
        (["train", "validation", "test"], {"test_share": 0.5}, {"train": 40, "validation": 40, "test": 40}),
    ],
)
def test_missing_splits_are_cut_off_train_and_given_ones_stay(
    given: list[str], arguments: dict[str, Any], expected: dict[str, int]
) -> None:
    found = split({name: rows([0, 1] * 20) for name in given}, **arguments)
    assert {name: len(part) for name, part in found.items()} == expected
    assert all(found[name]["file"][:] == rows([0, 1] * 20)["file"][:] for name in given if name != "train")


def test_data_to_test_on_only_are_refused_for_training() -> None:
    with pytest.raises(InputError, match=r"images: nothing to train on; its splits are \['test'\]"):
        split({"test": rows([0, 1])})


@pytest.mark.parametrize("shares", [{"validation_share": 0.9}, {"test_share": -0.1}, {"validation_share": 1.0}])
def test_shares_that_leave_nothing_to_train_on_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match=rf"leave nothing to train on: .*{next(iter(shares.values()))}"):
        split({"all": rows([0, 1] * 20)}, **shares)


def test_a_split_that_lacks_a_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"images: the test split has 3 images and not both classes"):
        split({"train": rows([0, 1] * 20), "test": rows([0, 0, 0])})
    with pytest.raises(InputError, match=r"the validation split has \d+ images"):
        split({"all": rows([0, 1] * 20, ["a", "b"] * 20)})


def test_the_same_seed_gives_the_same_split_and_another_seed_another() -> None:
    labels = [0, 1] * 50
    first, again, other = (assign_splits(labels, None, SHARES, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert Counter(first) == Counter(other)


@pytest.mark.parametrize("seed", range(5))
def test_a_group_is_never_cut(seed: int) -> None:
    groups = [str(number * number % 37) for number in range(400)]
    labels = [int(group) % 2 for group in groups]
    assigned = assign_splits(labels, groups, SHARES, seed)
    assert len(set(zip(groups, assigned, strict=True))) == len(set(groups))
    assert Counter(assigned)["train"] == pytest.approx(280, abs=30)


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_three_groups_that_hold_both_classes_are_enough_for_three_splits(count: int) -> None:
    groups = [str(number % count) for number in range(80 * count)]
    labels = [number // count % 2 for number in range(80 * count)]
    found = split({"all": rows(labels, groups)})
    assert {len(set(part["group"][:])) for name, part in found.items() if name != "train"} == {1}
    assert len(set(found["train"]["group"][:])) == count - 2


def test_three_groups_of_each_class_are_enough_for_three_splits() -> None:
    """Groups of one class each: the last two of both classes go to the two splits that have none."""
    labels = [0, 1] * 60
    groups = [f"{'real' if label == 0 else 'fake'}{row // 2 % 3}" for row, label in enumerate(labels)]
    assert {tuple(sorted(counts)) for counts in sizes(split({"all": rows(labels, groups)})).values()} == {(0, 1)}


def test_three_images_of_each_class_are_enough_for_three_splits() -> None:
    found = split({"all": rows([0, 1] * 3)})
    assert sizes(found) == {name: {0: 1, 1: 1} for name in ("train", "validation", "test")}


def test_the_largest_group_goes_where_most_is_wanted() -> None:
    groups = ["big"] * 60 + [str(number) for number in range(40)]
    assigned = assign_splits([0] * 100, groups, SHARES, seed=3)
    assert set(assigned[:60]) == {"train"}
    assert Counter(assigned) == {"train": 70, "validation": 15, "test": 15}


def test_a_group_in_two_splits_is_a_leak() -> None:
    splits = DatasetDict(train=rows([0, 1], ["a", "b"]), test=rows([0, 1], ["c", "b"]))
    with pytest.raises(InputError, match="images: group 'b' stands in train and in test"):
        check_groups(splits, "images")
    check_groups(DatasetDict(train=rows([0]), test=rows([0])), "images")


def test_everything_joins_the_splits_in_their_order(tmp_path: Path) -> None:
    assert everything(DatasetDict(train=rows([0, 0]), test=rows([1])))["label"][:] == [0, 0, 1]


def test_a_split_image_by_image_is_warned_of_and_a_split_by_group_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    draw_folder(tmp_path, 12)
    load_splits(DataArguments(dataset_name=str(tmp_path)))
    assert f"{tmp_path} is split image by image" in caplog.text
    caplog.clear()
    load_splits(DataArguments(dataset_name=str(tmp_path), group_by=r"(\d+)\.png"))
    assert not caplog.text
