import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from hf_deepfake import cli
from hf_deepfake.ensemble import measuring
from hf_deepfake.ensemble.fusing import apply_fusion, fuse_tables, load_fusion
from hf_deepfake.errors import InputError
from hf_deepfake.evaluation import benchmark
from hf_deepfake.evaluation.metrics import bootstrap_intervals, expected_calibration_error
from hf_deepfake.evaluation.predictions import load_predictions


def write_tables(
    folder: Path, images: int = 400, seed: int = 0, shift: float = 4.0, labelled: bool = True
) -> list[str]:
    """Three detectors of five generators, badly calibrated: scaled, shifted to fake, and shifted to real."""
    generator = np.random.default_rng(seed)
    labels = np.arange(images) % 2
    truth = {"image": [f"{seed}-{row}.jpg" for row in range(images)], "label": np.where(labels == 1, "fake", "real")}
    truth["source"] = ["camera" if label == 0 else f"gan{row % 5}" for row, label in enumerate(labels)]
    paths = []
    folder.mkdir()
    for name, scale, bias in (("one", 4, 0), ("two", 1, shift), ("three", 1, -shift)):
        margins = scale * (2 * (2 * labels - 1) + 2 * generator.normal(size=images)) + bias
        table = pd.DataFrame(truth | {"prob_fake": expit(margins)}).sample(frac=1, random_state=scale)
        paths.append(str(folder / f"{name}.csv"))
        table.drop(columns=[] if labelled else ["label", "source"]).to_csv(paths[-1], index=False)
    return paths


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fusion")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "bootstrap_intervals", functools.partial(bootstrap_intervals, resamples=20))
        for plot in ("plot_benchmark", "plot_comparison", "plot_reliability"):
            patch.setattr(measuring, plot, lambda *_: None)
        fuse_tables(write_tables(root / "tables"), root / "fused")
    return root / "fused"


def test_a_fusion_holds_a_fit_its_votes_and_its_measures(fused: Path) -> None:
    results = json.loads((fused / "results.json").read_text())
    assert results["ensemble"]["members"] == ["one", "two", "three"]
    assert results["choice"]["left_out"] == "source"
    assert list(results["comparison"]["validation"])[-3:] == ["soft voting", "hard voting", "weighted voting"]
    assert {path.relative_to(fused).as_posix() for path in fused.rglob("*") if path.is_file()} >= {
        "README.md",
        "fit.json",
        "plots/diversity.png",
        "predictions/validation.parquet",
    }
    table = load_predictions(fused / "predictions" / "validation.parquet")
    assert {"log_odds_one", "log_odds_two", "log_odds_three"} <= set(table)
    card = (fused / "README.md").read_text()
    assert "hf-deepfake ensemble --apply fused --predictions" in card
    assert f"| three | {results['ensemble']['temperatures'][2]:.3f} |" in card


def test_badly_calibrated_detectors_are_voted_well_on_new_images(fused: Path, tmp_path: Path) -> None:
    paths = write_tables(tmp_path / "new", images=1000, seed=1)
    voted = apply_fusion(fused, paths)
    mean = np.mean([pd.read_csv(path).set_index("image").loc[voted["image"], "prob_fake"] for path in paths], axis=0)
    truth = voted["truth"]
    right = (voted["label"] == "fake") == (truth == 1)
    assert right.mean() > 0.93
    assert right.mean() > ((mean >= 0.5) == (truth == 1)).mean() + 0.03
    assert expected_calibration_error(truth, voted["prob_fake"]) < 0.05 < expected_calibration_error(truth, mean)


def test_the_command_votes_on_new_tables_without_labels(
    fused: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_tables(tmp_path / "new", images=40, seed=2, labelled=False)
    arguments = ["ensemble", "--apply", str(fused), "--predictions", *paths[::-1], "--output", str(tmp_path / "v.csv")]
    assert cli.main(arguments) == 0
    assert f"wrote {tmp_path / 'v.csv'} (40 images)" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "v.csv")
    assert list(table) == ["image", "prob_fake", "label", "prob_fake_one", "prob_fake_two", "prob_fake_three"]
    threshold = load_fusion(fused)[1].thresholds
    voting = load_fusion(fused)[1].voting
    assert table["label"].tolist() == ["fake" if prob >= threshold[voting] else "real" for prob in table["prob_fake"]]


def test_applied_to_the_images_that_it_was_fitted_on_a_fusion_repeats_its_votes(fused: Path) -> None:
    paths = [str(fused.parent / "tables" / f"{name}.csv") for name in ("two", "three", "one")]
    saved = load_predictions(fused / "predictions" / "validation.parquet").set_index("image")
    voted = apply_fusion(fused, paths).set_index("image")
    np.testing.assert_allclose(voted.loc[saved.index, "prob_fake"], saved["prob_fake"])


def test_tables_of_other_detectors_are_refused(fused: Path, tmp_path: Path) -> None:
    paths = write_tables(tmp_path / "new", images=20)
    with pytest.raises(InputError, match=r"of these \['two'\] are missing, and \[\] are none"):
        apply_fusion(fused, [paths[0], paths[2]])
    with pytest.raises(InputError, match=r"of these \['two'\] are missing, and \['four'\] are none"):
        apply_fusion(fused, [paths[0], f"four={paths[1]}", paths[2]])


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ("{", "fit.json: is damaged"),
        ('{"members": ["a"], "fit": {"votes": 1}}', "fit.json: is damaged .*votes"),
        (None, "fit.json: no such file; --apply needs a folder"),
    ],
)
def test_a_damaged_or_missing_fit_is_refused(tmp_path: Path, stored: str | None, message: str) -> None:
    if stored is not None:
        (tmp_path / "fit.json").write_text(stored)
    with pytest.raises(InputError, match=message):
        apply_fusion(tmp_path, [])


def test_a_fit_that_lacks_a_member_is_refused(fused: Path, tmp_path: Path) -> None:
    stored: dict[str, Any] = json.loads((fused / "fit.json").read_text())
    (tmp_path / "fit.json").write_text(json.dumps(stored | {"members": ["one", "two"]}))
    with pytest.raises(InputError, match="is damaged: 2 members but 3 weights"):
        load_fusion(tmp_path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["RUN"], "an ensemble of run directories needs --output_dir"),
        (["--output_dir", "o"], "an ensemble of run directories needs RUN…"),
        (
            ["--predictions", "a.csv", "--output_dir", "o", "--max_params", "1"],
            "--predictions does not take --max_params",
        ),
        (["RUN", "--output_dir", "o", "--labels", "x"], "an ensemble of run directories does not take --labels"),
        (["--apply", "d", "--predictions", "a.csv"], "--apply needs --output"),
        (["--refit", "d", "--output_dir", "o"], "--refit needs --labels"),
        (["RUN", "--output_dir", "o", "--voting", "hard", "--target_error", "0.1"], "--target_error: a share of hard"),
        (
            ["--apply", "d", "--predictions", "a", "--output", "v.txt"],
            "v.txt: writes .csv, .jsonl, .parquet; found .txt",
        ),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ensemble", *flags]) == 2
    assert message in capsys.readouterr().err
