import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import build_tiny_vit, draw_folder, draw_image, save_tiny_vit
from datasets import Dataset, Image
from transformers import pipeline

from hf_deepfake import InputError, cli, predict
from hf_deepfake.arguments import ModelArguments
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.ensemble.hub.face_cropping_deepfake_ensemble import FaceCropper
from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import jittered
from hf_deepfake.evaluation.drift import STATISTICS
from hf_deepfake.evaluation.monitor import load_scores
from hf_deepfake.models.checkpoints import save_checkpoint
from hf_deepfake.models.detector import load_detector, new_detector
from hf_deepfake.serving.monitored import DIMENSIONS

COLUMNS = ["image", "prob_fake", "label", "error"]
SUFFIXES = ".csv .json .jsonl .parquet .tsv .txt"


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory, runs: list[Path]) -> Path:
    """Three members, threshold 0.45."""
    folder = tmp_path_factory.mktemp("predict") / "ensemble"
    thresholds = {"soft": 0.45, "hard": 0.5, "weighted": 0.5}
    fit = Fit("soft", [1.0, 3.0, 9.0], [1.0] * 3, [0.5] * 3, thresholds)
    for part in assemble(runs, [run.name for run in runs], fit):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Five readable images of different sizes."""
    folder = tmp_path / "images"
    folder.mkdir()
    for seed, size in enumerate((40, 64, 90, 33, 50)):
        draw_image(seed % 2, seed, size).save(folder / f"{seed}.png")
    return sorted(folder.iterdir())


def run(*flags: object) -> int:
    return cli.main(["predict", *map(str, flags)])


def test_probabilities_and_verdicts_are_those_of_the_pipeline(ensemble: Path, files: list[Path]) -> None:
    table = predict(str(ensemble), files, batch_size=2)
    assert list(table) == COLUMNS
    assert table["image"].tolist() == list(map(str, files))
    assert table["error"].isna().all()
    expected = pipeline("deepfake-ensemble", model=str(ensemble))(files, details=True)
    assert table["prob_fake"].tolist() == pytest.approx([output["prob_fake"] for output in expected], abs=1e-6)
    assert table["label"].tolist() == [output["label"] for output in expected]


def test_a_folder_a_table_and_files_are_scored_in_the_order_given(
    ensemble: Path, files: list[Path], tmp_path: Path
) -> None:
    folder = files[0].parent
    listed = [files[3].name, files[1].name]
    pd.DataFrame({"file_name": listed}).to_csv(tmp_path / "list.csv", index=False)
    table = predict(str(ensemble), [folder, tmp_path / "list.csv", files[4]], image_root=str(folder))
    assert [Path(image).name for image in table["image"]] == [*(file.name for file in files), *listed, files[4].name]
    by_name = predict(str(ensemble), files).set_index("image")["prob_fake"]
    assert table["prob_fake"].tolist() == pytest.approx(by_name[table["image"]].tolist(), abs=1e-6)


def test_folders_that_look_like_splits_and_labels_are_scored_whole(ensemble: Path, tmp_path: Path) -> None:
    draw_folder(tmp_path / "data" / "train", 1)
    draw_folder(tmp_path / "data" / "test", 1)
    draw_image(0, 0).save(tmp_path / "data" / "loose.png")
    table = predict(str(ensemble), [tmp_path / "data"])
    assert sorted(Path(image).relative_to(tmp_path / "data").as_posix() for image in table["image"]) == [
        "loose.png",
        "test/fake/000.png",
        "test/real/000.png",
        "train/fake/000.png",
        "train/real/000.png",
    ]
    assert table["prob_fake"].notna().all()


def test_a_data_set_that_holds_its_images_is_scored(ensemble: Path, files: list[Path], tmp_path: Path) -> None:
    rows = Dataset.from_dict({"image": [{"bytes": file.read_bytes(), "path": None} for file in files]})
    rows.cast_column("image", Image()).save_to_disk(tmp_path / "saved")
    table = predict(str(ensemble), [tmp_path / "saved"])
    assert table["image"].tolist() == [f"all/{index}" for index in range(5)]
    assert table["prob_fake"].tolist() == pytest.approx(predict(str(ensemble), files)["prob_fake"].tolist(), abs=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_the_table_is_written_with_its_errors_and_exit_status_1(
    ensemble: Path, files: list[Path], tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files[1].write_text("no image")
    output = tmp_path / "out" / f"scores{suffix}"
    assert run("--model", ensemble, files[0].parent, tmp_path / "images" / "4.png", "--output", output) == 1
    read = {".csv": pd.read_csv, ".jsonl": lambda path: pd.read_json(path, lines=True), ".parquet": pd.read_parquet}
    table = read[suffix](output)
    assert list(table) == COLUMNS
    assert len(table) == 6
    failed = table[table["error"].notna()]
    assert [Path(image).name for image in failed["image"]] == ["1.png"]
    assert failed["prob_fake"].isna().all()
    assert failed["label"].isna().all()
    assert failed["error"].iloc[0].endswith("1.png: not an image, or of an unknown format")
    assert table.drop(index=failed.index)["prob_fake"].between(0, 1).all()
    printed = capsys.readouterr()
    assert f"wrote {output} (6 images, 1 unreadable)" in printed.out
    assert "unreadable: " in printed.err
    assert [file.name for file in output.parent.iterdir()] == [output.name]


def test_without_an_output_each_image_is_one_line(
    ensemble: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--model", ensemble, *files[:2]) == 0
    table = predict(str(ensemble), files[:2])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{row.prob_fake:.3f}  {row.label}  {row.image}" for row in table.itertuples()]


def test_unreadable_images_alone_are_a_table_of_errors(
    ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    assert run("--model", ensemble, tmp_path / "text.jpg") == 1
    assert capsys.readouterr().out == f"unreadable  {tmp_path / 'text.jpg'}\n"


def test_a_table_that_names_missing_files_lists_them(ensemble: Path, files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "images" / "list.csv").write_text("img_name,target\n0.png,1\nnone.png,0\n")
    table = predict(str(ensemble), [tmp_path / "images" / "list.csv"])
    assert table["prob_fake"].notna().tolist() == [True, False]
    assert table["error"][1] == f"{tmp_path / 'images' / 'none.png'}: no such file"


def test_the_threshold_decides_the_verdict_and_not_the_probability(ensemble: Path, files: list[Path]) -> None:
    own, strict, lax = (predict(str(ensemble), files, threshold=threshold) for threshold in (None, 1.0, 0.0))
    assert strict["prob_fake"].tolist() == own["prob_fake"].tolist()
    assert own["label"].tolist() == ["fake" if prob >= 0.45 else "real" for prob in own["prob_fake"]]
    assert set(lax["label"]) == {"fake"}
    assert set(strict["label"]) == {"real"}


def test_a_single_detector_with_labels_that_do_not_tell_needs_the_one_that_means_fake(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = save_tiny_vit(tmp_path / "vit")
    straight = predict(str(detector), files)
    config = (detector / "config.json").read_text()
    (detector / "config.json").write_text(config.replace('"real"', '"LABEL_0"').replace('"fake"', '"LABEL_1"'))
    with pytest.raises(InputError, match=r"vit: cannot tell which label means fake.*--fake_label"):
        predict(str(detector), files)
    told, turned = (predict(str(detector), files, fake_label=name) for name in ("LABEL_1", "LABEL_0"))
    assert told["prob_fake"].tolist() == straight["prob_fake"].tolist()
    assert turned["prob_fake"].tolist() == pytest.approx((1 - straight["prob_fake"]).tolist(), abs=1e-6)


def test_wrong_input_is_one_line_and_exit_status_2(
    ensemble: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for flags, message in (
        ([files[0], tmp_path / "none.png"], "none.png: no such image, folder or table"),
        ([tmp_path / "empty"], "empty: no images and no table found"),
        ([files[0], "--output", tmp_path / "scores.xlsx"], "scores.xlsx: writes .csv, .jsonl, .parquet; found .xlsx"),
        ([files[0], "--output", tmp_path / "scores"], "scores: writes .csv, .jsonl, .parquet; found no suffix"),
        ([files[0], "--threshold", "1.5"], "--threshold 1.5: must be between 0 and 1"),
    ):
        assert run("--model", ensemble, *flags) == 2
        printed = capsys.readouterr().err.strip()
        assert message in printed
        assert "\n" not in printed
    assert run("--model", tmp_path / "none", files[0]) == 2
    assert "none: cannot be loaded" in capsys.readouterr().err


def test_every_face_needs_a_detector_that_reads_faces(runs: list[Path], ensemble: Path, files: list[Path]) -> None:
    with pytest.raises(InputError, match=r"--every_face: .* does not read faces"):
        predict(str(runs[0]), files, every_face=True)
    with pytest.raises(InputError, match=r"--every_face: .* is an ensemble"):
        predict(str(ensemble), files, every_face=True)


def test_every_face_is_judged_under_an_mlp_head_too(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checkpoint is an ensemble of one, whose processor reads the largest face."""
    detector, processor, _ = new_detector(ModelArguments("test_resnet", image_size=32, head="mlp", head_layers=[4]))
    for parameter in detector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_checkpoint(detector, processor, tmp_path / "whole")
    detector.config.reading = {"face_crop": {}}
    save_checkpoint(detector, processor, tmp_path / "faces")
    boxes = [(0, 0, 20, 20), (20, 20, 40, 40), (0, 20, 20, 40)]
    monkeypatch.setattr(FaceCropper, "__init__", lambda self: None)
    monkeypatch.setattr(
        FaceCropper, "crops", lambda self, image, every=False: [image.crop(box) for box in boxes[: 3 if every else 1]]
    )
    for number, box in enumerate(boxes):
        draw_image(0, 0).crop(box).save(tmp_path / f"{number}.png")
    alone = predict(str(tmp_path / "whole"), [tmp_path / f"{number}.png" for number in range(3)])["prob_fake"]
    assert predict(str(tmp_path / "faces"), files[:1])["prob_fake"][0] == pytest.approx(alone[0], abs=1e-6)
    every = predict(str(tmp_path / "faces"), files[:1], every_face=True)["prob_fake"][0]
    assert every == pytest.approx(alone.max(), abs=1e-6) != pytest.approx(alone[0], abs=1e-6)


def test_a_submission_has_the_names_and_the_order_of_its_table(
    ensemble: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, submission = tmp_path / "images" / "sample.csv", tmp_path / "out" / "submit.csv"
    table.write_text("img_name,y_pred\n3.png,0\n1.png,0\n./3.png,0\n")
    assert run("--model", ensemble, table, "--submission", submission, "--output", tmp_path / "scores.parquet") == 0
    written = pd.read_csv(submission)
    assert list(written) == ["img_name", "y_pred"]
    assert written["img_name"].tolist() == ["3.png", "1.png", "./3.png"]
    scored = pd.read_parquet(tmp_path / "scores.parquet")
    assert written["y_pred"].tolist() == scored["prob_fake"].tolist()
    alone = predict(str(ensemble), [files[3], files[1]])["prob_fake"].tolist()
    assert written["y_pred"].tolist() == pytest.approx([*alone, alone[0]], abs=1e-6)
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {submission} (3 images, 0 unreadable with 0.5)",
        f"wrote {tmp_path / 'scores.parquet'} (3 images, 0 unreadable)",
    ]


@pytest.mark.parametrize(
    ("header", "row", "flags", "columns"),
    [
        ("image,probability", "{},0", [], ["image", "probability"]),
        ("file;kind;y", "{};a;1", [], ["file", "y_pred"]),
        ("id,file_name", "007,{}", [], ["file_name", "y_pred"]),
        ("picture,y", "{},1", ["--image_column", "picture"], ["picture", "y"]),
    ],
)
def test_the_score_is_the_second_of_two_columns_else_y_pred(
    ensemble: Path, files: list[Path], tmp_path: Path, header: str, row: str, flags: list[str], columns: list[str]
) -> None:
    (tmp_path / "images" / "list.csv").write_text(f"{header}\n{row.format('2.png')}\n")
    flags = [*flags, "--submission", str(tmp_path / "submit.csv")]
    assert run("--model", ensemble, tmp_path / "images" / "list.csv", *flags) == 0
    written = pd.read_csv(tmp_path / "submit.csv")
    assert list(written) == columns
    assert written.iloc[0, 0] == "2.png"
    assert 0 < written.iloc[0, 1] < 1


def test_an_unreadable_image_keeps_its_row_in_a_submission_with_one_half(
    ensemble: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files[1].write_text("no image")
    (tmp_path / "images" / "list.csv").write_text("img_name,y\n0.png,\n1.png,\nnone.png,\n4.png,\n")
    submission = tmp_path / "submit.csv"
    assert run("--model", ensemble, tmp_path / "images" / "list.csv", "--submission", submission) == 1
    written = pd.read_csv(submission)
    assert written["img_name"].tolist() == ["0.png", "1.png", "none.png", "4.png"]
    assert (written["y"] == 0.5).tolist() == [False, True, True, False]
    printed = capsys.readouterr()
    assert f"wrote {submission} (4 images, 2 unreadable with 0.5)" in printed.out
    assert "none.png: no such file" in printed.err


def test_what_makes_no_submission_is_refused_before_anything_is_scored(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, held = tmp_path / "images" / "list.csv", tmp_path / "held.parquet"
    table.write_text("img_name,y\n0.png,\n")
    content = [{"bytes": file.read_bytes(), "path": None} for file in files]
    Dataset.from_dict({"image": content}).cast_column("image", Image()).to_parquet(held)
    csv = tmp_path / "submit.csv"
    for inputs, submission, message in (
        ([table], tmp_path / "submit.parquet", "submit.parquet: writes .csv; found .parquet"),
        ([table], tmp_path / "submit", "submit: writes .csv; found no suffix"),
        ([table], table, "list.csv: is the INPUT itself"),
        ([table, files[0]], csv, f"needs one INPUT, the competition's table ({SUFFIXES}); found {table} {files[0]}."),
        ([files[0]], csv, f"found {files[0]}."),
        ([files[0].parent], csv, f"found {files[0].parent}."),
        ([tmp_path / "none.csv"], csv, f"found {tmp_path / 'none.csv'}."),
        ([held], csv, f"column 'image' of {held} holds images, not their names"),
    ):
        assert run("--model", "no/model", *inputs, "--submission", submission) == 2
        printed = capsys.readouterr().err
        assert "--submission" in printed
        assert message in printed
    assert not csv.exists()


def test_a_band_makes_verdicts_uncertain_unless_a_threshold_is_given(
    ensemble: Path, files: list[Path], tmp_path: Path
) -> None:
    sure = predict(str(ensemble), files)
    low, middle, high = sorted(sure["prob_fake"])[1:4]
    banded = Path(shutil.copytree(ensemble, tmp_path / "banded"))
    config = json.loads((banded / "config.json").read_text())
    config |= {"uncertain_bands": {"soft": [low, high]}, "thresholds": dict.fromkeys(config["thresholds"], middle)}
    (banded / "config.json").write_text(json.dumps(config))
    unsure = predict(str(banded), files).sort_values("prob_fake")
    assert unsure["label"].tolist() == ["real", "real", "uncertain", "fake", "fake"]
    assert "uncertain" not in set(predict(str(banded), files, threshold=middle)["label"])


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_monitoring_adds_statistics_and_embeddings_and_changes_no_score(
    ensemble: Path, files: list[Path], tmp_path: Path, suffix: str
) -> None:
    files[1].write_text("no image")
    output = tmp_path / f"scores{suffix}"
    assert run("--model", ensemble, files[0].parent, "--output", output, "--monitoring", "--batch_size", "2") == 1
    table = load_scores(output)
    assert list(table) == [*COLUMNS, *STATISTICS, "embedding"]
    plain = predict(str(ensemble), [files[0].parent], batch_size=2)
    assert table["prob_fake"].tolist() == pytest.approx(plain["prob_fake"].tolist(), abs=1e-9, nan_ok=True)
    assert table["width"].tolist() == pytest.approx([40, float("nan"), 90, 33, 50], nan_ok=True)
    assert table[[*STATISTICS, "embedding"]].isna().all(axis=1).tolist() == [False, True, False, False, False]
    assert {len(embedding) for embedding in table["embedding"].dropna()} == {DIMENSIONS}


def test_monitoring_needs_an_output_that_holds_lists(
    files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for flags in ([], ["--output", tmp_path / "scores.csv"]):
        assert run("--model", "no/model", files[0], "--monitoring", *flags) == 2
        assert "--monitoring: embeddings do not fit a CSV; give an --output" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"--monitoring: an image has one embedding.*--every_face"):
        predict("no/model", files, monitoring=True, every_face=True)


def test_a_detector_that_gives_no_number_is_refused(files: list[Path], tmp_path: Path) -> None:
    detector = build_tiny_vit(24)
    torch.nn.init.constant_(detector.classifier.weight, float("nan"))
    detector.save_pretrained(save_tiny_vit(tmp_path / "diverged"))
    with pytest.raises(InputError, match=r"diverged: gives no number for an image"):
        predict(str(tmp_path / "diverged"), files)


def test_views_of_test_time_augmentation_are_averaged(tmp_path: Path) -> None:
    run, image = save_tiny_vit(tmp_path / "vit"), tmp_path / "a.png"
    draw_image(1, 0).save(image)
    table = predict(str(run), [image], tta=4)
    model, processor, _ = load_detector(str(run))
    with torch.inference_mode():
        views = processor([jittered(draw_image(1, 0), number) for number in range(4)], return_tensors="pt")
        prob_fake = model(**views).logits.double().softmax(-1)[:, 1]
    assert table["prob_fake"][0] == pytest.approx(float(prob_fake.mean()), abs=1e-6)
    assert prob_fake.std() > 1e-3
    monitored = predict(str(run), [image], tta=4, monitoring=True)
    assert len(monitored["embedding"][0]) == 64
    for wrong in ({"tta": 0}, {"tta": 2, "every_face": True}):
        with pytest.raises(InputError, match=f"--tta {wrong['tta']}: must be 1"):
            predict(str(run), [image], **wrong)


def test_a_cascade_gives_the_same_verdicts_with_fewer_members_and_says_how_many(
    ensemble: Path, files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, output = predict(str(ensemble), files, threshold=0.2), tmp_path / "scores.parquet"
    files[2].write_text("no image")
    flags = ["--cascade", "--threshold", 0.2, "--batch_size", 2, "--output", output]
    assert run("--model", ensemble, *files, *flags) == 1
    table = pd.read_parquet(output)
    assert list(table) == [*COLUMNS, "members_run", "prob_fake_low", "prob_fake_high"]
    assert table.loc[2, ["members_run", "prob_fake_low", "prob_fake_high"]].isna().all()
    table, whole = table.drop(index=2), whole.drop(index=2)
    assert table["label"].tolist() == whole["label"].tolist()
    assert (table["prob_fake_low"] - 1e-6 <= whole["prob_fake"]).all()
    assert (whole["prob_fake"] <= table["prob_fake_high"] + 1e-6).all()
    spared, early = 1 - table["members_run"].sum() / 12, (table["members_run"] < 3).mean()
    assert spared > 0
    said = f"cascade: spared {spared:.0%} of the members' passes; {early:.0%} of the images were decided early"
    assert said in capsys.readouterr().out.splitlines()


def test_members_show_what_each_says_and_how_much_it_counts(
    ensemble: Path, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    files[1].write_text("no image")
    table = predict(str(ensemble), files, members=True, batch_size=2)
    detailed = pipeline("deepfake-ensemble", model=str(ensemble))(str(files[2]), details=True)["members"]
    names = [member["name"] for member in detailed]
    assert list(table) == [*COLUMNS, *(f"prob_fake_{name}" for name in names)]
    expected = [member["prob_fake"] for member in detailed]
    assert table.iloc[2, len(COLUMNS) :].tolist() == pytest.approx(expected, abs=1e-6)
    assert table.iloc[1, len(COLUMNS) :].isna().all()
    views = predict(str(ensemble), files[2:3], members=True, tta=2)
    assert abs(views["prob_fake_vit"][0] - table["prob_fake_vit"][2]) > 1e-6
    capsys.readouterr()
    assert run("--model", ensemble, files[2], "--members") == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1:] == [f"  {prob:.3f}  {name} (33% of the vote)" for prob, name in zip(expected, names, strict=True)]


def test_a_cascade_without_a_readable_image_spares_nothing(
    ensemble: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--model", ensemble, draw_folder(tmp_path / "data", 0), "--cascade") == 2
    (tmp_path / "text.jpg").write_text("no image")
    assert run("--model", ensemble, tmp_path / "text.jpg", "--cascade") == 1
    assert "cascade: no image to decide" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--batch_size", "0"], "--batch_size 0: must be 1 or more, or auto"),
        (["--cascade_tolerance", "0.1"], "--cascade_tolerance 0.1: must be between 0 and 1, with --cascade"),
        (["--cascade", "--cascade_tolerance", "2"], "--cascade_tolerance 2.0: must be between 0 and 1"),
        (["--cascade", "--members"], "--members: goes neither with --cascade"),
        (["--cascade", "--tta", "2"], "--cascade: asks each member about one view or not at all; leave"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_loaded(
    flags: list[str], message: str, files: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--model", "no/model", files[0], *flags) == 2
    assert message in capsys.readouterr().err


def test_a_cascade_needs_an_ensemble(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--cascade: .*vit is no ensemble"):
        predict(str(save_tiny_vit(tmp_path / "vit")), files, cascade=True)
    with pytest.raises(InputError, match=r"--members: .*vit is no ensemble"):
        predict(str(tmp_path / "vit"), files, members=True)
    with pytest.raises(InputError, match=r"--dtype int8: must be one of float32, bfloat16, float16, auto"):
        predict("no/model", files, dtype="int8")
    with pytest.raises(InputError, match=r"--batch_size many: must be 1 or more, or auto"):
        predict("no/model", files, batch_size="many")


@pytest.mark.parametrize("capability", ["avx512_f", "amx_bf16"])
def test_auto_takes_half_precision_where_the_processor_has_it(
    capability: str, ensemble: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    full = predict(str(ensemble), files)["prob_fake"]
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {capability: True})
    auto = predict(str(ensemble), files, dtype="auto", batch_size="auto")["prob_fake"]
    assert auto.tolist() == pytest.approx(full.tolist(), abs=0.05)
    assert (auto.sub(full).abs().max() > 1e-5) == (capability == "amx_bf16")


def test_every_member_is_compiled_on_demand(
    ensemble: Path, files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    predict(str(ensemble), files[:1], compile=True)
    assert len(compiled) == 3
