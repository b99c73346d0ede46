from collections import defaultdict
from pathlib import Path

import pytest

from hf_deepfake import InputError
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.demo import GROUP_PATTERN, make_demo_images, packaged_photographs
from hf_deepfake.data.loading import load_data

pytest.importorskip("skimage")


def test_no_photograph_stands_in_two_splits(tmp_path: Path) -> None:
    root = make_demo_images(tmp_path / "data", crops=2, size=32)
    splits = load_data(DataArguments(dataset_name=str(root), group_by=GROUP_PATTERN))
    groups = defaultdict(set)
    for name, rows in splits.items():
        for group in rows["group"]:
            groups[group].add(name)
        assert list(rows["label"]).count(0) == list(rows["label"]).count(1)
    assert set(groups) == set(packaged_photographs())
    assert all(len(names) == 1 for names in groups.values())
    assert set(splits) == {"train", "validation", "test"}


def test_the_same_seed_makes_the_same_images(tmp_path: Path) -> None:
    first, second = (make_demo_images(tmp_path / name, crops=1, size=32) for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*.jpg"))
    assert files
    for file in files:
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_images_that_are_there_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    make_demo_images(tmp_path / "data")
    assert not list((tmp_path / "data").iterdir())


def test_missing_photographs_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need skimage; pip install 'hf_deepfake\[demo\]'"):
        packaged_photographs()
