from typing import Any

import pandas as pd
import pytest

from hf_deepfake.data.repeats import (
    check_duplicates,
    check_groups,
    check_label_conflicts,
    check_leaks,
    same_picture_sets,
)


def images(**columns: Any) -> pd.DataFrame:
    """Six different pictures, real and fake in turn, in one split each two, and what is to be different in them."""
    different = {
        "file": [f"{number}.jpg" for number in range(6)],
        "label": [0, 1] * 3,
        "split": ["train", "train", "validation", "validation", "test", "test"],
        "error": None,
        "sha256": list("abcdef"),
    }
    return pd.DataFrame(different | columns)


def test_copies_of_copies_are_one_set_and_broken_files_are_none() -> None:
    table = images(sha256=list("aabcee"), error=[None] * 4 + ["empty", "empty"])
    assert same_picture_sets(table, [(1, 2)]) == [[0, 1, 2]]
    assert same_picture_sets(images(), []) == []
    assert same_picture_sets(images(), [(0, 1), (3, 4), (4, 5)]) == [[3, 4, 5], [0, 1]], "the largest comes first"


@pytest.mark.parametrize("check", [check_duplicates, check_label_conflicts, check_leaks])
def test_different_pictures_pass(check: Any) -> None:
    answer = check(images(), [])
    assert (answer.verdict, answer.findings) == ("ok", [])


def test_a_copy_in_one_class_of_a_split_is_a_duplicate_and_neither_conflict_nor_leak() -> None:
    table = images(label=0, sha256=list("aabcde"))
    sets = same_picture_sets(table, [(2, 3)])
    answer = check_duplicates(table, sets)
    assert answer.verdict == "warning"
    assert "2 pictures more than once" in answer.found
    assert "2 spare images" in answer.found
    assert [(finding.rows, finding.what) for finding in answer.findings] == [([0, 1], "same file"), ([2, 3], "same picture")]  # fmt: skip
    assert check_leaks(table, sets).verdict == check_label_conflicts(table, sets).verdict == "ok"


def test_a_file_called_real_and_fake_fails_and_comes_before_pictures_in_different_files() -> None:
    table = images(sha256=list("abccde"))
    answer = check_label_conflicts(table, same_picture_sets(table, [(0, 1)]))
    assert answer.verdict == "fail"
    assert answer.found == "1 picture in the same file both as real and as fake, 1 more in different files."
    assert [finding.rows for finding in answer.findings] == [[2, 3], [0, 1]]
    assert check_duplicates(table, [[2, 3]]).verdict == "ok", "one of each class is no spare image"


def test_an_edited_photograph_beside_its_original_is_a_warning() -> None:
    """It looks the same to a hash, and is what a detector of edits learns from."""
    answer = check_label_conflicts(images(), [[0, 1]])
    assert (answer.verdict, answer.found) == ("warning", "1 picture both as real and as fake, in different files.")


def test_a_picture_in_two_splits_fails_whatever_its_classes() -> None:
    table = images(sha256=list("abadef"))
    answer = check_leaks(table, same_picture_sets(table, [(1, 4), (3, 5)]))
    assert answer.verdict == "fail"
    assert answer.found == "3 pictures in more than one split: 1 in train and validation, 1 in train and test, 1 in validation and test."  # fmt: skip
    assert {tuple(finding.rows): finding.what for finding in answer.findings} == {
        (0, 2): "same file",
        (1, 4): "same picture",
        (3, 5): "same picture",
    }


def test_data_without_splits_have_no_leaks_yet_but_are_told_of_them() -> None:
    table = images(split="all", label=0)
    assert check_leaks(table, [[0, 1]]).verdict == "not measured"
    assert "--group_by" in check_duplicates(table, [[0, 1]]).advice
    grouped = table.assign(group="a person")
    assert check_groups(grouped).verdict == "not measured"
    assert "--group_by" not in check_duplicates(grouped, [[0, 1]]).advice


def test_a_group_in_two_splits_fails() -> None:
    table = images(group=["anna", "ben", "anna", "cem", "anna", "dana"])
    answer = check_groups(table)
    assert (answer.verdict, answer.found) == ("fail", "1 group in more than one split, the first 'anna'.")
    [finding] = answer.findings
    assert (finding.rows, finding.what) == ([0, 2, 4], "group anna")


def test_groups_that_keep_to_a_split_pass_and_unknown_ones_are_not_measured() -> None:
    assert check_groups(images(group=["anna", "anna", "ben", "ben", "cem", "cem"])).verdict == "ok"
    assert check_groups(images()).verdict == "not measured"
