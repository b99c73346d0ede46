import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import draw_image, save_tiny_timm, save_tiny_vit
from datasets import Dataset
from PIL import ImageOps
from scipy.special import softmax
from transformers import ViTForImageClassification, ViTImageProcessor

from hf_deepfake import EnsembleConfig, EnsembleForImageClassification, EnsembleImageProcessor, InputError
from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper
from hf_deepfake.evaluation.predictions import (
    load_predictions,
    predictions_table,
    save_predictions,
    score_changes,
    score_images,
)
from hf_deepfake.models.detector import LoadedDetector, load_detector


def rows(**columns: Any) -> Dataset:
    return Dataset.from_dict({"file": ["b.png", "a.png"], "label": [1, 0], **columns})


def test_the_table_has_the_columns_of_the_contract_in_data_order() -> None:
    table = predictions_table(rows(source=["sdxl", "phone"], group=["1", "2"]), np.array([[0, np.log(3)], [0, 0]]))
    assert list(table) == ["image", "label", "prob_fake", "logit_real", "logit_fake", "source", "group"]
    assert table["image"].tolist() == ["b.png", "a.png"]
    assert table["prob_fake"].tolist() == pytest.approx([0.75, 0.5])


def test_source_group_and_label_are_left_out_where_they_are_not_known() -> None:
    table = predictions_table(rows().remove_columns("label"), np.zeros((2, 2)))
    assert list(table) == ["image", "prob_fake", "logit_real", "logit_fake"]


def test_large_logits_give_probabilities_without_overflow() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = predictions_table(rows(), np.array([[2000.0, -2000.0], [-2000.0, 2000.0]], dtype=np.float32))
    assert table["prob_fake"].tolist() == [0, 1]


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    logits = np.random.default_rng(0).normal(0, 5, (2, 2))
    expected = torch.from_numpy(logits).softmax(-1)[:, 1].numpy()
    np.testing.assert_allclose(predictions_table(rows(), logits)["prob_fake"], expected, rtol=1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_that_diverged_is_refused_with_its_first_image(value: float) -> None:
    with pytest.raises(InputError, match=rf"a\.png: the model gives \[{value}"):
        predictions_table(rows(), np.array([[0, 0], [value, 0]]))


def test_a_saved_table_is_read_back_as_it_was(tmp_path: Path) -> None:
    table = predictions_table(rows(group=["1", "2"]), np.random.default_rng(0).normal(size=(2, 2)))
    save_predictions(table, tmp_path / "predictions" / "test.parquet")
    pd.testing.assert_frame_equal(load_predictions(tmp_path / "predictions" / "test.parquet"), table)
    assert [file.name for file in (tmp_path / "predictions").iterdir()] == ["test.parquet"]


def test_tables_that_are_missing_damaged_or_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.parquet: no such table of predictions"):
        load_predictions(tmp_path / "none.parquet")
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"damaged\.parquet: cannot be read as Parquet"):
        load_predictions(tmp_path / "damaged.parquet")
    pd.DataFrame({"image": ["a.png"], "prob_fake": [0.5]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(InputError, match=r"columns \['label', 'logit_real', 'logit_fake'\] are missing"):
        load_predictions(tmp_path / "other.parquet")


def test_a_table_with_a_score_that_is_no_number_is_refused(tmp_path: Path) -> None:
    table = predictions_table(rows(), np.zeros((2, 2)))
    table.loc[1, "prob_fake"] = np.nan
    save_predictions(table, tmp_path / "test.parquet")
    with pytest.raises(
        InputError, match=r"test\.parquet: row 1 \(a\.png\) has the label 0 and the scores \[nan, 0\.0, 0\.0\], 1 such"
    ):
        load_predictions(tmp_path / "test.parquet")
    save_predictions(predictions_table(rows(), np.zeros((2, 2))).assign(label=[2, 0]), tmp_path / "test.parquet")
    with pytest.raises(InputError, match=r"row 0 \(b\.png\) has the label 2"):
        load_predictions(tmp_path / "test.parquet")


def test_an_ensemble_that_scales_in_decoding_reads_files_alike_in_any_company(tmp_path: Path) -> None:
    run = save_tiny_vit(tmp_path / "vit")
    model, processor, _ = load_detector(str(run))
    view = {"image_processor_type": "ViTImageProcessor", "reading": {"smallest_side": 24}} | processor.to_dict()
    ensemble = EnsembleForImageClassification(EnsembleConfig(members=[model.config.to_dict()])).eval()
    ensemble.members[0].load_state_dict(model.state_dict())
    scaling = LoadedDetector(ensemble, EnsembleImageProcessor(views=[view]), 1)
    draw_image(0, 0, 200).save(tmp_path / "a.jpg")
    images = [str(tmp_path / "a.jpg")]
    ((_, alone, _),) = score_images(*scaling[:2], images)
    ((_, together, _),) = score_changes(
        [scaling, LoadedDetector(model, processor, 1)], images, [None, ImageOps.mirror]
    )
    np.testing.assert_allclose(together[0, 0, 0], alone[0], atol=1e-6)
    ((_, averaged, _),) = score_images(*scaling[:2], images, tta=2)
    mirrored = softmax(together[0, 0, 1])[1]
    assert softmax(averaged[0])[1] == pytest.approx((softmax(alone[0])[1] + mirrored) / 2, abs=1e-3)


def test_an_unreadable_image_costs_its_row_and_not_the_run(tiny_vit: ViTForImageClassification) -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    images = [draw_image(0, 0), b"no image", "missing.png", draw_image(1, 1), b"no image either"]
    indices, logits, errors = [], [], {}
    for scored, scores, wrong in score_images(tiny_vit, processor, images, batch_size=2):
        indices += scored
        logits.append(scores)
        errors |= wrong
    assert indices == [0, 3]
    assert set(errors) == {1, 2, 4}
    assert errors[2] == "missing.png: no such file"
    with torch.inference_mode():
        expected = [tiny_vit(**processor([images[index]], return_tensors="pt")).logits[0] for index in indices]
    np.testing.assert_allclose(np.concatenate(logits), torch.stack(expected), atol=1e-6)


def test_columns_are_real_and_fake_also_where_the_model_has_them_reversed(tiny_vit: ViTForImageClassification) -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    images = [draw_image(0, 0), draw_image(1, 1)]
    ((_, kept, _),) = score_images(tiny_vit, processor, images, fake_column=1)
    ((_, turned, _),) = score_images(tiny_vit, processor, images, fake_column=0)
    np.testing.assert_array_equal(kept, turned[:, ::-1])


def test_the_number_of_processes_does_not_change_the_scores(tiny_vit: ViTForImageClassification) -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    images = [draw_image(0, seed) for seed in range(3)]
    alone, shared = (
        np.concatenate([logits for _, logits, _ in score_images(tiny_vit, processor, images, num_workers=workers)])
        for workers in (0, 1)
    )
    np.testing.assert_array_equal(alone, shared)


def test_the_most_suspicious_face_speaks_for_an_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    model, processor, _ = load_detector(str(save_tiny_timm(tmp_path / "run")))
    boxes = [(0, 0, 20, 20), (20, 20, 40, 40), (0, 20, 20, 40)]
    monkeypatch.setattr(FaceCropper, "__init__", lambda self: None)
    monkeypatch.setattr(
        FaceCropper, "crops", lambda self, image, every=False: [image.crop(box) for box in boxes[: 3 if every else 1]]
    )
    images = [draw_image(label, seed) for label in (0, 1) for seed in range(2)]
    parts = [image.crop(box) for image in images for box in boxes]
    alone = next(score_images(model, processor, parts))[1].reshape(4, 3, 2)
    margins = alone[..., 1] - alone[..., 0]
    model.config.reading = {"face_crop": {}}
    largest = next(score_images(model, processor, images))[1]
    np.testing.assert_allclose(largest, alone[:, 0], atol=1e-5)
    every = next(score_images(model, processor, images, every_face=True))[1]
    np.testing.assert_allclose(every[:, 1] - every[:, 0], margins.max(1), atol=1e-5)
    assert margins.argmax(1).any()


def test_threads_change_no_score_and_lose_no_error(
    tiny_vit: ViTForImageClassification, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    images = [draw_image(0, 0), b"no image", draw_image(1, 1), "missing.png", draw_image(1, 2)]
    ((_, alone, _),) = score_images(tiny_vit, processor, images)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    ((indices, scores, errors),) = score_images(tiny_vit, processor, images)
    assert (indices, set(errors)) == ([0, 2, 4], {1, 3})
    np.testing.assert_array_equal(scores, alone)


def test_a_batch_that_does_not_fit_into_memory_is_scored_all_the_same(tiny_vit: ViTForImageClassification) -> None:
    processor = ViTImageProcessor(size={"height": 32, "width": 32})
    images = [draw_image(0, seed) for seed in range(3)]

    def run(pixel_values: torch.Tensor) -> Any:
        if len(pixel_values) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return tiny_vit(pixel_values)

    ((_, expected, _),) = score_images(tiny_vit, processor, images)
    ((_, scores, _),) = score_images(tiny_vit, processor, images, run=run)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
