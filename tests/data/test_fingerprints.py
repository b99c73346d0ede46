import hashlib
from pathlib import Path

import pandas as pd
import pytest
from conftest import draw_folder
from datasets import Dataset

from hf_deepfake import InputError
from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.fingerprints import (
    TRAINING_IMAGES,
    content_hashes,
    load_training_images,
    save_training_images,
    training_images,
)
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything


def test_files_and_embedded_images_have_one_hash_and_missing_ones_none(tmp_path: Path) -> None:
    content = (draw_folder(tmp_path, 1) / "real" / "000.png").read_bytes()
    images = [
        {"bytes": None, "path": str(tmp_path / "real" / "000.png")},
        {"bytes": content, "path": None},
        {"bytes": None, "path": str(tmp_path / "none.png")},
    ]
    expected = hashlib.sha256(content).hexdigest()
    assert content_hashes(Dataset.from_dict({"image": images})) == [expected, expected, ""]


def test_the_list_of_a_training_is_saved_and_found_again(tmp_path: Path) -> None:
    rows = everything(load_data(DataArguments(dataset_name=str(draw_folder(tmp_path / "data", 2)))))
    table = training_images({"train": rows.select([0, 1]), "validation": rows.select([2]), "test": rows.select([3])})
    assert table["split"].tolist() == ["train", "train", "validation"]
    assert load_training_images(tmp_path) is None
    save_training_images(table, tmp_path)
    pd.testing.assert_frame_equal(load_training_images(str(tmp_path)), table)
    (tmp_path / TRAINING_IMAGES).write_bytes(b"no table")
    with pytest.raises(InputError, match=f"{TRAINING_IMAGES}: cannot be read as Parquet"):
        load_training_images(tmp_path)
