from pathlib import Path

import pandas as pd
import pytest

from hf_deepfake.errors import InputError
from hf_deepfake.writing import TABLE_SUFFIXES, save_table, whole


def test_a_file_appears_only_when_its_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "table.csv"
    with whole(path) as partial:
        assert partial.suffix == ".csv"
        partial.write_text("a")
        assert not path.exists()
    assert [file.name for file in path.parent.iterdir()] == ["table.csv"]
    assert path.read_text() == "a"


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole(path) as partial:
        partial.write_text((tmp_path / "none").read_text() if partial.write_text("half") else "")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_written_whole_and_what_an_interruption_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".partial-model").mkdir()
    (tmp_path / ".partial-model" / "stale").touch()
    with whole(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "config.json").touch()
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["model", "model/config.json"]


@pytest.mark.parametrize("suffix", [*TABLE_SUFFIXES, ".CSV"])
def test_a_table_reads_back_from_every_format_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    table = pd.DataFrame({"image": ["a, é.jpg", "b.jpg"], "prob_fake": [0.25, 0.75]}, index=[7, 3])
    save_table(table, tmp_path / f"scores{suffix}")
    read = {".csv": pd.read_csv, ".jsonl": lambda path: pd.read_json(path, lines=True), ".parquet": pd.read_parquet}
    pd.testing.assert_frame_equal(read[suffix.lower()](tmp_path / f"scores{suffix}"), table.reset_index(drop=True))


def test_a_table_of_an_unknown_format_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scores\.xlsx: writes \.csv, \.jsonl, \.parquet; found \.xlsx"):
        save_table(pd.DataFrame(), tmp_path / "scores.xlsx")
