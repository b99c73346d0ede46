from typing import Any

import pandas as pd
import pytest

from hf_deepfake.data import verdicts
from hf_deepfake.data.shortcuts import Shortcut
from hf_deepfake.data.verdicts import (
    Check,
    check_counts,
    check_formats,
    check_metadata,
    check_readable,
    check_sizes,
    check_spectrum,
    worst,
)
from hf_deepfake.errors import InputError


def images(count: int = 40, **columns: Any) -> pd.DataFrame:
    """Faultless images of both classes in turn, and what is to be different in them."""
    faultless = {
        "file": [f"{number}.jpg" for number in range(count)],
        "label": [number % 2 for number in range(count)],
        "split": "all",
        "error": None,
        "width": 100,
        "height": 80,
        "format": "JPEG",
        "mode": "RGB",
        "frames": 1,
        "extension_matches": True,
    }
    return pd.DataFrame(faultless | columns, index=range(count))


@pytest.mark.parametrize("check", [check_counts, check_readable, check_sizes, check_formats])
def test_faultless_images_pass_with_nothing_to_do(check: Any) -> None:
    answer = check(images())
    assert (answer.verdict, answer.advice, answer.findings) == ("ok", "Nothing to do.", [])


def test_the_worst_check_is_the_verdict() -> None:
    def answers(*given: str) -> list[Check]:
        return [Check("a check", verdict, "") for verdict in given]

    assert worst(answers("ok", "fail", "warning")) == "fail"
    assert worst(answers("not measured", "ok")) == "ok"
    assert worst(answers("warning", "not measured")) == "warning"


def test_images_are_counted_by_class_and_split() -> None:
    answer = check_counts(images(6, label=[0, 0, 1, 0, 1, 1], split=["train"] * 4 + ["test"] * 2))
    assert answer.found == "6 images: 3 real and 3 fake; train 3 and 1, test 0 and 2; test has no real."
    assert answer.verdict == "warning"


def test_one_class_only_is_a_warning() -> None:
    answer = check_counts(images(3, label=0))
    assert (answer.verdict, answer.found) == ("warning", "3 images: 3 real and 0 fake.")
    assert "self-blended" in answer.advice


@pytest.mark.parametrize(("fakes", "verdict"), [(20, "ok"), (21, "warning")])
def test_ten_images_of_a_class_for_one_of_the_other_are_still_enough(fakes: int, verdict: str) -> None:
    assert check_counts(images(2 + fakes, label=[0, 0] + [1] * fakes)).verdict == verdict


@pytest.mark.parametrize(("count", "verdict"), [(101, "warning"), (100, "fail")])
def test_unreadable_images_fail_from_one_in_a_hundred_on(count: int, verdict: str) -> None:
    errors = [None] * count
    errors[7] = "7.jpg: truncated"
    answer = check_readable(images(count, error=errors))
    assert answer.verdict == verdict
    assert answer.found == f"1 image of {count} cannot be read, the first '7.jpg'."
    [finding] = answer.findings
    assert (finding.rows, finding.what) == ([7], "7.jpg: truncated")


def test_a_side_is_small_below_64_pixels_and_unreadable_images_have_none() -> None:
    table = images(4, width=[64, 50_000, 63, 0], height=[64, 20, 900, 0], error=[None, None, None, "broken"])
    answer = check_sizes(table)
    assert answer.verdict == "warning"
    assert [(finding.rows, finding.what) for finding in answer.findings] == [([1], "50000 by 20"), ([2], "63 by 900")]
    assert "2 images with a side shorter than 64 pixels, the first '1.jpg' (50000 by 20)" in answer.found


def test_odd_modes_frames_and_extensions_are_named_and_phones_are_not_odd() -> None:
    table = images(
        7,
        mode=["RGB", "L", "P", "CMYK", "RGB", "RGB", ""],
        format=["MPO", "JPEG", "PNG", "JPEG", "TIFF", "PNG", ""],
        frames=[2, 1, 1, 1, 3, 1, 0],
        extension_matches=[True] * 5 + [False, True],
        error=[None] * 6 + ["broken"],
    )
    answer = check_formats(table)
    assert answer.verdict == "warning"
    assert {finding.rows[0]: finding.what for finding in answer.findings} == {
        2: "mode P",
        3: "mode CMYK",
        4: "3 frames",
        5: "a PNG, by its name not",
    }


def test_names_are_quoted_on_one_line() -> None:
    answer = check_readable(images(2, file=["a\n\x1b[31m.jpg", "b.jpg"], error=["broken", None]))
    assert r"'a\n\x1b[31m.jpg'" in answer.found


@pytest.mark.parametrize(
    ("low", "metadata", "spectrum"),
    [(0.5, "ok", "ok"), (0.61, "warning", "ok"), (0.74, "warning", "ok"), (0.76, "fail", "warning"), (1.0, "fail", "warning")],
)  # fmt: skip
def test_a_shortcut_is_judged_by_the_lower_end_of_its_interval_and_a_spectrum_never_fails(
    low: float, metadata: str, spectrum: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def measure(measured: pd.DataFrame, labels: Any, groups: Any) -> Shortcut:
        given.append((len(measured), labels.tolist(), groups))
        return Shortcut(0.99, low, 1.0, "height", 0.9, len(measured))

    monkeypatch.setattr(verdicts, "metadata_shortcut", measure)
    monkeypatch.setattr(verdicts, "spectrum_shortcut", measure)
    table = images(41, error=[None] * 40 + ["broken"], group="a person")
    assert (check_metadata(table).verdict, check_spectrum(table).verdict) == (metadata, spectrum)
    assert given == [(40, [0, 1] * 20, ["a person"] * 40)] * 2
    assert f"0.99 [{low:.2f}, 1.00]" in check_metadata(table).found
    assert "the strongest is height (0.90 alone)" in check_spectrum(table).found


def test_shortcuts_of_few_groups_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> Shortcut:
        raise InputError("2 groups are too few.")

    monkeypatch.setattr(verdicts, "metadata_shortcut", refuse)
    answer = check_metadata(images(group="a person"))
    assert (answer.verdict, answer.found) == ("not measured", "2 groups are too few.")


def test_shortcuts_of_few_images_or_one_class_are_not_measured() -> None:
    for table in (images(19), images(60, label=1), images(40, error="broken")):
        assert check_metadata(table).verdict == check_spectrum(table).verdict == "not measured"
