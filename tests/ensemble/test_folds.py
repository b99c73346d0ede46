import numpy as np
import pandas as pd

from hf_deepfake.ensemble.folds import splits, units_of


def table(images: int = 60, **columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"label": [0, 1] * (images // 2), **columns})


def test_groups_are_the_units_where_there_are_any() -> None:
    groups = [str(row // 4) for row in range(60)]
    units, kind = units_of(table(group=groups, source=["gan"] * 60))
    assert kind == "group"
    assert len(set(zip(units, groups, strict=True))) == 15


def test_without_groups_each_generator_is_a_unit_and_each_real_image_its_own() -> None:
    sources = ["camera" if row % 2 == 0 else f"gan{row % 3}" for row in range(60)]
    units, kind = units_of(table(source=sources))
    assert kind == "source"
    assert len(set(units[1::2])) == 3
    assert len(set(units[::2])) == 30


def test_a_source_of_both_classes_stays_whole() -> None:
    units, _ = units_of(table(source=[f"site{row // 10}" for row in range(60)]))
    assert [len(set(units[start : start + 10])) for start in range(0, 60, 10)] == [1] * 6


def test_the_only_generator_cannot_be_left_out() -> None:
    units, kind = units_of(table(source=["camera", "gan"] * 30))
    assert (kind, len(set(units))) == ("image", 60)


def test_each_row_is_predicted_once_by_rows_of_other_units_and_both_classes() -> None:
    rows = table(200, source=["camera" if row % 2 == 0 else f"gan{row % 13}" for row in range(200)])
    labels, units = rows["label"].to_numpy(), units_of(rows)[0]
    parts = list(splits(labels, units))
    assert len(parts) == 5
    assert sorted(np.concatenate([part for _, part in parts])) == list(range(200))
    for rest, part in parts:
        assert not set(units[rest]) & set(units[part])
        assert 0.3 < labels[part].mean() < 0.7
        assert len(rest) + len(part) == 200


def test_there_are_no_more_parts_than_units_of_a_class_and_none_of_one() -> None:
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert len(list(splits(labels, np.array([0, 1, 2, 3, 3, 4])))) == 2
    assert list(splits(labels, np.array([0, 1, 2, 3, 3, 3]))) == []
