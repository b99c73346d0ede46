import json
import os
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import draw_folder, draw_image, save_tiny_timm, save_tiny_vit
from PIL import Image

from hf_deepfake import InputError, predict
from hf_deepfake.ensemble.building import assemble
from hf_deepfake.ensemble.fitting import Fit
from hf_deepfake.explain import gallery
from hf_deepfake.explain.attributions import explain
from hf_deepfake.explain.faithfulness import Faithfulness
from hf_deepfake.explain.gallery import RECORD, save_explanations
from hf_deepfake.models.detector import load_detector


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_vit(tmp_path_factory.mktemp("models") / "vit")


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory: pytest.TempPathFactory, vit: Path) -> Path:
    """Two members, weights 1 and 3, threshold 0.45 of the weighted vote."""
    resnet, folder = save_tiny_timm(vit.parent / "resnet"), vit.parent / "ensemble"
    fit = Fit("weighted", [1.0, 2.0], [1.0, 3.0], [0.5] * 2, {"soft": 0.5, "hard": 0.5, "weighted": 0.45})
    for part in assemble([vit, resnet], ["vit", "res/net"], fit):
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Heatmaps that were checked; every second one is said to be no better than random, and none of it is drawn."""
    checked: list[Any] = []

    def quickly(score: Any, image: Any, heatmap: Any, **choices: Any) -> Faithfulness:
        assert image.shape == (*heatmap.shape, 3)
        checked.append(heatmap)
        return Faithfulness(0.31, 0.64, 0.42, 0.53, len(checked) % 2 == 1, *[[0.0, 1.0]] * 5)

    def blank(*given: Any, **choices: Any) -> None:
        path = next(item for item in given if isinstance(item, Path))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")

    monkeypatch.setattr("hf_deepfake.explain.faithfulness.faithfulness", quickly)
    monkeypatch.setattr(gallery, "plot_curves", blank)
    monkeypatch.setattr(gallery, "plot_bands", blank)
    monkeypatch.setattr(gallery, "sheet", blank)
    return checked


def run(*flags: object) -> int:
    return gallery.main(list(map(str, flags)))


def record(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return found


class Page(HTMLParser):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_an_image_gives_a_sheet_its_map_and_its_numbers(vit: Path, tmp_path: Path, capsys: Any) -> None:
    draw_image(1, 0, 30).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    assert run("--model", vit, tmp_path / "photo.png", "--method", "occlusion", "--output_dir", out) == 0
    (entry,) = record(out)["images"]
    expected = explain(load_detector(str(vit)), tmp_path / "photo.png", "occlusion")
    with Image.open(out / entry["maps"][0]["map"]) as stored:
        assert np.asarray(stored) == pytest.approx(expected.heatmap * 65535, abs=0.51)
    scored = predict(str(vit), [tmp_path / "photo.png"]).iloc[0]
    assert entry["prob_fake"] == pytest.approx(scored["prob_fake"], abs=1e-6)
    assert entry["label"] == scored["label"]
    assert entry["maps"][0]["member"] is None
    assert entry["maps"][0]["convergence_delta"] is None
    assert set(entry["maps"][0]["faithfulness"]) == {
        *("deletion_auc", "insertion_auc", "random_deletion_auc", "random_insertion_auc", "better_than_random")
    }
    curves = json.loads((out / "curves" / "photo_occlusion.json").read_text())
    assert len(curves["the verdict"]["deletion"]) == len(curves["the verdict"]["shares"])
    files = sorted(file.relative_to(out).as_posix() for file in out.rglob("*.*"))
    assert files == [
        *("curves/photo_occlusion.json", "curves/photo_occlusion.png", RECORD),
        *("maps/photo_occlusion.png", "photo_occlusion.png"),
    ]
    for picture in (files[1], files[-1]):
        with Image.open(out / picture) as opened:
            assert opened.format == "PNG"
            assert np.asarray(opened.convert("L")).std() > 0
    better = entry["maps"][0]["faithfulness"]["better_than_random"]
    printed = capsys.readouterr().out
    assert f"{entry['prob_fake']:.3f}  {entry['label']}  {tmp_path / 'photo.png'}" in printed
    assert ("better than all random maps" in printed) == better
    assert ("do not trust it" in printed) != better


@pytest.mark.usefixtures("checks")
def test_members_stand_beside_the_vote_with_their_own_scores(ensemble: Path, tmp_path: Path, capsys: Any) -> None:
    draw_image(1, 0).save(tmp_path / "photo.png")
    flags = ("--model", ensemble, tmp_path / "photo.png", "--members", "--method", "grad_cam")
    assert run(*flags, "--output_dir", tmp_path / "out") == 0
    (entry,) = record(tmp_path / "out")["images"]
    assert [row["member"] for row in entry["maps"]] == ["vit", "res/net", None]
    assert [row["map"] for row in entry["maps"]] == [
        *("maps/photo_grad_cam_0-vit.png", "maps/photo_grad_cam_1-res_net.png", "maps/photo_grad_cam.png")
    ]
    shares = np.array([0.25, 0.75])
    assert shares @ [row["prob_fake"] for row in entry["maps"][:2]] == pytest.approx(entry["prob_fake"], abs=1e-6)
    assert entry["label"] == ("fake" if entry["prob_fake"] >= 0.45 else "real")
    printed = capsys.readouterr().out
    assert "res/net" in printed
    assert "a random map does as well: do not trust it" in printed
    assert (
        "deletion AUC 0.31, random mean 0.42 (low is good); insertion AUC 0.64, random mean 0.53 (high is good)"
        in printed
    )


def test_weights_are_shares_of_a_weighted_vote_only(ensemble: Path, vit: Path) -> None:
    voted, alone = (gallery._Studio("", load_detector(str(model)), {}, {}, Path(), 1) for model in (ensemble, vit))
    assert voted.weights() == {"vit": 0.25, "res/net": 0.75}
    assert alone.weights() == {}


def test_several_images_get_a_page_that_needs_no_network(vit: Path, tmp_path: Path, checks: list[Any]) -> None:
    data, out = draw_folder(tmp_path / "data", 1), tmp_path / "out"
    evil = '<script>alert(1)<" onerror="x.png'
    draw_image(0, 5).save(data / "real" / evil)
    draw_image(1, 6).save(data / "fake" / "zwei\n[red]фото.png")
    assert run("--model", vit, data, "--method", "grad_cam", "--output_dir", out) == 0
    assert len(checks) == 4
    page = Page(out / "index.html")
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    pictures = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 8
    assert all(str(picture["src"]).startswith("data:image/jpeg") and picture["alt"] for picture in pictures)
    sheets = [str(attributes["href"]) for tag, attributes in page.tags if tag == "a"]
    assert all(sheet.endswith("_grad_cam.png") for sheet in sheets)
    assert len(set(sheets)) == 4
    assert "2 of 4 maps are better than all random ones." in page.text
    assert [attributes.get("class") for tag, attributes in page.tags if tag == "figure"] == [None, "doubtful"] * 2
    assert evil in page.text
    assert r"zwei\n[red]фото.png" in page.text


@pytest.mark.usefixtures("checks")
def test_two_images_of_one_name_are_told_apart_and_odd_names_are_safe(vit: Path, tmp_path: Path) -> None:
    names = [
        "a/photo.png",
        "b/photo.png",
        "b/PHOTO.jpg",
        "c/..; rm *.png",
        f"c/{'ö' * 120}.png",
        os.fsdecode(b"c/caf\xe9.png"),
    ]
    for seed, name in enumerate(names):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        draw_image(0, seed).save(tmp_path / name)
    files = [str(tmp_path / name) for name in names]
    entries, skipped = save_explanations(str(vit), files, tmp_path / "out", "grad_cam", check=False)
    assert not skipped
    assert [entry["image"] for entry in record(tmp_path / "out")["images"]] == files
    sheets = [entry["sheet"] for entry in entries]
    assert len({sheet.casefold() for sheet in sheets}) == len(names)
    assert sheets[0] == "photo_grad_cam.png"
    assert sheets[3] == "rm_grad_cam.png"
    assert all(len(sheet.encode()) < 130 for sheet in sheets)
    assert all((tmp_path / "out" / sheet).is_file() for sheet in sheets)


def test_tables_are_read_and_an_unreadable_image_costs_its_row_only(
    vit: Path, tmp_path: Path, checks: list[Any], capsys: Any
) -> None:
    draw_folder(tmp_path / "images", 1)
    (tmp_path / "images" / "broken.png").write_bytes(b"no image")
    pd.DataFrame({"file_name": ["fake/000.png", "broken.png"]}).to_csv(tmp_path / "list.csv", index=False)
    flags = ("--model", vit, tmp_path / "list.csv", "--image_root", tmp_path / "images", "--method", "occlusion")
    assert run(*flags, "--output_dir", tmp_path / "out") == 1
    assert len(checks) == 1
    found = record(tmp_path / "out")
    assert [Path(entry["image"]).name for entry in found["images"]] == ["000.png"]
    assert "not an image" in found["skipped"][str(tmp_path / "images" / "broken.png")]
    printed = capsys.readouterr()
    assert "broken.png" in printed.err
    assert "(1 images, 1 left out)" in printed.out


def test_a_second_call_adds_what_is_new_and_does_again_what_changed(
    vit: Path, tmp_path: Path, checks: list[Any]
) -> None:
    data, out = draw_folder(tmp_path / "data", 1), tmp_path / "out"

    def again() -> list[dict[str, Any]]:
        checks.clear()
        return save_explanations(str(vit), [data], out, "occlusion")[0]

    first = again()
    assert len(checks) == 2
    assert again() == first
    assert checks == []
    draw_image(1, 7).save(data / "fake" / "new.png")
    draw_image(1, 8).save(data / "fake" / "000.png")
    (out / first[1]["maps"][0]["map"]).unlink()
    second = again()
    assert len(checks) == 3
    assert [Path(entry["image"]).name for entry in second] == ["000.png", "new.png", "000.png"]


@pytest.mark.usefixtures("checks")
def test_what_would_be_lost_is_refused(vit: Path, tmp_path: Path) -> None:
    data, out = draw_folder(tmp_path / "data", 1), tmp_path / "out"
    save_explanations(str(vit), [data], out, "occlusion", check=False)
    with pytest.raises(InputError, match=r"was made with \{'method': 'occlusion'\}"):
        save_explanations(str(vit), [data], out, "grad_cam", check=False)
    with pytest.raises(InputError, match=r"explanations of 1 images that would be lost, the first of .*fake/000.png"):
        save_explanations(str(vit), [data / "real"], out, "occlusion", check=False)
    other = save_tiny_vit(tmp_path / "other", seed=1)
    with pytest.raises(InputError, match=r"was made with \{'model_sha256'"):
        save_explanations(str(other), [data], out, "occlusion", check=False)
    (out / RECORD).write_text('{"images": []}')  # as interrupted before the first image was done
    assert len(save_explanations(str(vit), [data], out, "occlusion", check=False)[0]) == 2
    (out / RECORD).write_text("[]")
    with pytest.raises(InputError, match="holds no explanations of ours"):
        save_explanations(str(vit), [data], out, "occlusion", check=False)
    (out / RECORD).unlink()
    with pytest.raises(InputError, match="stands there already and is no empty folder"):
        save_explanations(str(vit), [data], out, "occlusion", check=False)


def test_wrong_input_is_refused_before_anything_is_written(vit: Path, tmp_path: Path) -> None:
    draw_image(1, 0).save(tmp_path / "photo.png")
    photo, out = str(tmp_path / "photo.png"), tmp_path / "out"
    with pytest.raises(InputError, match="did you mean occlusion"):
        save_explanations(str(vit), [photo], out, "oclusion")
    with pytest.raises(InputError, match=r"--members: .*vit is one detector"):
        save_explanations(str(vit), [photo], out, members=True)
    with pytest.raises(InputError, match=r"none.png: no such image, folder or table"):
        save_explanations(str(vit), [tmp_path / "none.png"], out)
    with pytest.raises(InputError, match="--seed -1: cannot be negative"):
        save_explanations(str(vit), [photo], out, seed=-1)
    assert not out.exists()


@pytest.mark.usefixtures("checks")
def test_the_frequency_method_shows_its_bands(vit: Path, tmp_path: Path) -> None:
    draw_image(1, 0).save(tmp_path / "photo.png")
    save_explanations(str(vit), [tmp_path / "photo.png"], tmp_path / "out", "frequency", check=False)
    assert (tmp_path / "out" / "bands" / "photo_frequency.png").is_file()
