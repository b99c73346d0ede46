from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from hf_deepfake.ensemble.reading import read_members
from hf_deepfake.errors import InputError

ROWS = {"image": ["a", "b", "c"], "label": ["real", "fake", "fake"], "prob_fake": [0.1, 0.6, 1.0]}


def write(path: Path, **columns: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(ROWS | columns)
    writers = {".csv": table.to_csv, ".parquet": table.to_parquet}
    if path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    else:
        writers[path.suffix](path, index=False)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_table_gives_labels_and_logits_of_its_probabilities(tmp_path: Path, suffix: str) -> None:
    [(name, table)] = read_members([write(tmp_path / f"vit{suffix}")]).items()
    assert name == "vit"
    assert table["label"].tolist() == [0, 1, 1]
    np.testing.assert_allclose(expit(table["logit_fake"] - table["logit_real"]), [0.1, 0.6, 1.0], atol=1e-6)
    assert np.isfinite(table[["logit_real", "logit_fake"]]).all(axis=None)


def test_logits_are_taken_where_there_are_any(tmp_path: Path) -> None:
    path = write(tmp_path / "vit.csv", logit_real=[3, 2, -40], logit_fake=[0, 1, 40])
    table = read_members([path])["vit"]
    assert table["logit_fake"].tolist() == [0, 1, 40]
    np.testing.assert_allclose(table["prob_fake"], expit([-3, -1, 80]))


def test_rows_are_matched_by_image_in_any_order(tmp_path: Path) -> None:
    first = write(tmp_path / "one.csv", source=["camera", "gan", ""])
    second = write(
        tmp_path / "two.csv", image=["c", "a", "b"], label=["fake", "real", "fake"], prob_fake=[0.9, 0.2, 0.3]
    )
    one, two = read_members([first, second]).values()
    assert one["image"].tolist() == two["image"].tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(two["prob_fake"], [0.2, 0.3, 0.9])
    assert two["source"].tolist() == ["camera", "gan", "unknown"]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["vit_test.csv", "swin-val.csv"], ["vit", "swin"]),
        (["vit/predictions/validation.parquet", "swin/predictions/validation.parquet"], ["vit", "swin"]),
        (["vit/predictions.csv", "swin/test.csv"], ["vit", "swin"]),
    ],
)
def test_detectors_are_called_like_their_files_or_folders_without_the_split(
    tmp_path: Path, files: list[str], names: list[str]
) -> None:
    assert list(read_members([write(tmp_path / file) for file in files])) == names


def test_a_table_can_be_named_and_one_table_can_be_of_several_detectors(tmp_path: Path) -> None:
    rows = {name: [*values, *values] for name, values in ROWS.items()}
    path = write(tmp_path / "all.csv", **rows, detector=["vit"] * 3 + ["swin"] * 3)
    named = f"mine={write(tmp_path / 'scores.csv')}"
    assert list(read_members([path, named])) == ["vit", "swin", "mine"]


def test_labels_may_be_missing_where_they_are_not_needed(tmp_path: Path) -> None:
    bare = tmp_path / "vit.csv"
    pd.DataFrame(ROWS).drop(columns="label").to_csv(bare, index=False)
    assert "label" not in read_members([str(bare)], labelled=None)["vit"]
    assert "label" in read_members([write(tmp_path / "two.csv")], labelled=None)["two"]
    voted = write(tmp_path / "voted.csv", prob_fake_vit=[0.1, 0.2, 0.3])  # whose label is a verdict
    assert "label" not in read_members([voted], labelled=None)["voted"]
    with pytest.raises(InputError, match=r"vit\.csv: no label column found"):
        read_members([str(bare)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"prob_fake": [0.1, 1.2, 0.3]}, r"one.csv: row 1 \(b\) has prob_fake \[.?1.2.?\], 1 such rows"),
        ({"prob_fake": [0.1, 0.2, None]}, r"row 2 \(c\) .* must be a probability between 0 and 1"),
        ({"prob_fake": ["x", 0.2, 0.3]}, r"row 0 \(a\) has prob_fake \['x'\]"),
        ({"logit_real": [0, 0, "inf"], "logit_fake": [1, 1, 1]}, r"row 2 \(c\) .* must be two numbers"),
        ({"image": ["a", "b", "a"]}, "one: a has more than one row, 1 such rows"),
        ({"label": ["real", "fake", "maybe"]}, r"one.csv \(label\): cannot tell .*maybe"),
        ({"error": ["", "", ""]}, "one.csv: is a table of hf-deepfake predict or .*, whose label is a verdict"),
        ({"prob_fake_vit": [0.1, 0.2, 0.3]}, "one.csv: is a table of .* ensemble --apply, whose label is a verdict"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_members([write(tmp_path / "one.csv", **columns)])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": ["a", "b", "x"]}, "two has no score of c, which one has, 1 such images"),
        ({"label": ["fake", "fake", "fake"]}, "two and one disagree on a: label 1 in one and 0 in the other, 1 such"),
        ({"source": ["p", "q", "s"]}, "two and one disagree on c: source s in one and r in the other"),
    ],
)
def test_detectors_with_other_images_or_labels_are_refused(
    tmp_path: Path, columns: dict[str, Any], message: str
) -> None:
    one = write(tmp_path / "one.csv", source=["p", "q", "r"])
    with pytest.raises(InputError, match=message):
        read_members([one, write(tmp_path / "two.csv", **columns)])


def test_an_image_that_the_first_detector_lacks_is_refused(tmp_path: Path) -> None:
    more = {name: [*values, values[-1]] for name, values in ROWS.items()} | {"image": ["a", "b", "c", "d"]}
    with pytest.raises(InputError, match="one has no score of d, which two has"):
        read_members([write(tmp_path / "one.csv"), write(tmp_path / "two.csv", **more)])


def test_tables_that_are_missing_empty_or_lack_scores_or_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.csv: no such table of scores"):
        read_members([str(tmp_path / "none.csv")])
    with pytest.raises(InputError, match="name at least one table"):
        read_members([])
    bare = tmp_path / "bare.csv"
    pd.DataFrame(ROWS).drop(columns="prob_fake").to_csv(bare, index=False)
    with pytest.raises(InputError, match=r"bare.csv: no column prob_fake, nor logit_real .*\['image', 'label'\]"):
        read_members([str(bare)])
    bare.write_text("image,label,prob_fake\n")
    with pytest.raises(InputError, match=r"bare.csv: has no rows"):
        read_members([str(bare)])
    twins = [write(tmp_path / "x" / "vit.csv"), write(tmp_path / "y" / "vit.csv")]
    with pytest.raises(InputError, match=r"y.vit.csv: a second table of the detector vit; name it"):
        read_members(twins)
