from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from conftest import draw_image
from matplotlib.figure import Figure
from PIL import Image

from hf_deepfake.explain import figures
from hf_deepfake.explain.attributions import Explanation
from hf_deepfake.explain.faithfulness import Faithfulness
from hf_deepfake.explain.figures import LONGEST, SHORTEST, overlay, plot_bands, plot_curves, shades, sheet


def explanation(
    heatmap: Any, member: str | None = None, method: str = "grad_cam", target: str = "fake"
) -> Explanation:
    return Explanation(np.asarray(heatmap, np.float32), method, target, member, prob_fake=0.75)


def measured(better: bool) -> Faithfulness:
    curves = [[0.0, 0.5, 1.0], [1.0, 0.2, 0.0], [0.0, 0.9, 1.0], [1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    return Faithfulness(0.31, 0.64, 0.42, 0.53, better, *curves)


def left_half(width: int, height: int) -> np.ndarray:
    return np.repeat((np.arange(width) < width / 2)[None], height, axis=0).astype(np.float32)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures that were drawn but not rendered, which takes most of the time."""
    found: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: found.append(figure))
    return found


def texts(figure: Figure) -> str:
    found = figure.findobj(matplotlib.text.Text)
    return "\n".join(text.get_text() for text in found)


def test_where_the_map_is_0_the_photograph_stays_bare_and_where_it_is_1_the_color_rules() -> None:
    shown = np.asarray(overlay(Image.new("RGB", (400, 300), (200, 40, 90)), explanation(left_half(400, 300))))
    assert shown.shape == (300, 400, 3)
    right = shown[:, 220:].reshape(-1, 3)
    assert (right == right[0]).all()
    assert len(set(right[0].tolist())) == 1
    red, green, blue = shown[150, 20].tolist()
    assert red > 150
    assert green > 150
    assert blue < 60


def test_colors_rise_in_lightness_so_that_every_reader_can_order_them() -> None:
    rgb = np.array([matplotlib.colors.to_rgb(color) for color in shades(50)])
    lightness = rgb @ [0.2126, 0.7152, 0.0722]
    assert lightness[-1] - lightness[0] > 0.3
    assert (np.diff(lightness) > 0).all()


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((4000, 1000), (LONGEST, LONGEST // 4)),
        ((8, 4), (SHORTEST, SHORTEST // 2)),
        ((400, 300), (400, 300)),
        ((3000, 1), (LONGEST, 1)),
    ],
)
def test_large_pictures_are_reduced_and_tiny_ones_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert overlay(Image.new("RGB", size), explanation(np.ones(size[::-1]))).size == expected


def test_a_map_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="heatmap is of 30x20 pixels, the image of 20x30"):
        overlay(Image.new("RGB", (20, 30)), explanation(np.ones((20, 30))))


def test_a_sheet_says_of_every_map_whose_it_is_and_what_it_is_worth(drawn: list[Figure], tmp_path: Path) -> None:
    maps = [explanation(np.ones((40, 40)), member) for member in ("resnet", "a$b$\n", None)]
    sheet(
        draw_image(1, 0),
        maps,
        tmp_path / "sheet.png",
        [measured(True), measured(False), measured(True)],
        {"resnet": 0.3},
    )
    assert len(drawn[0].axes) == 5  # with the colour bar
    titles = [axes.get_title() for axes in drawn[0].axes[:4]]
    assert titles[0] == "image"
    assert titles[1] == "resnet\nprob_fake 0.750, weight 0.30"
    assert titles[2].startswith(r"a\$b\$\n")
    assert titles[3] == "the vote\nprob_fake 0.750"
    worth = [axes.get_xlabel().splitlines() for axes in drawn[0].axes[1:4]]
    assert [lines[0] for lines in worth] == [
        "better than all random maps",
        "a random map does as well: do not trust it",
        "better than all random maps",
    ]
    assert worth[0][1:] == [
        "deletion AUC 0.31, random mean 0.42 (low is good)",
        "insertion AUC 0.64, random mean 0.53 (high is good)",
    ]
    assert "grad cam\nbright yellow: what speaks most for fake" in texts(drawn[0])


def test_one_map_alone_is_the_verdicts_and_names_its_own_target(drawn: list[Figure], tmp_path: Path) -> None:
    sheet(draw_image(1, 0), [explanation(np.ones((40, 40)), target="real")], tmp_path / "sheet.png")
    assert drawn[0].axes[1].get_title() == "the verdict\nprob_fake 0.750"
    assert drawn[0].axes[1].get_xlabel() == ""
    assert "speaks most for real" in texts(drawn[0])


def test_maps_of_two_methods_or_none_make_no_sheet(tmp_path: Path) -> None:
    maps = [explanation(np.ones((40, 40)), method=method) for method in ("grad_cam", "occlusion")]
    for some in ([], maps):
        with pytest.raises(ValueError, match="one method for one target"):
            sheet(draw_image(1, 0), some, tmp_path / "sheet.png")


def test_a_sheet_says_where_attributions_do_not_sum_to_the_score(drawn: list[Figure], tmp_path: Path) -> None:
    heatmap = np.ones((40, 40), np.float32)
    maps = [
        Explanation(heatmap, "occlusion", "fake", name, 0.5, delta) for name, delta in (("a", 0.042), ("b", 0.009))
    ]
    sheet(draw_image(1, 0), maps, tmp_path / "sheet.png")
    assert [axes.get_xlabel() for axes in drawn[0].axes[1:3]] == ["attributions are off by 4% of the score", ""]


def test_words_fit_below_a_narrow_picture(drawn: list[Figure], tmp_path: Path) -> None:
    sheet(Image.new("RGB", (30, 300)), [explanation(np.ones((300, 30)))], tmp_path / "sheet.png", [measured(False)])
    low, high = drawn[0].axes[1].get_xlim()
    assert high - low == pytest.approx(300 / 1.25)
    assert (low + high) / 2 == pytest.approx((30 - 1) / 2)


def test_curves_are_drawn_against_their_random_controls(drawn: list[Figure], tmp_path: Path) -> None:
    plot_curves({"resnet": measured(True), "the vote": measured(False)}, tmp_path / "curves.png")
    deletion, insertion = drawn[0].axes
    assert [line.get_label() for line in deletion.lines] == ["resnet", "random maps", "the vote", "random maps"]
    assert deletion.lines[0].get_ydata().tolist() == [1.0, 0.2, 0.0]
    assert deletion.lines[1].get_ydata().tolist() == [1.0, 0.5, 0.0]
    assert insertion.lines[0].get_ydata().tolist() == [0.0, 0.9, 1.0]
    assert insertion.lines[1].get_linestyle() == "--"


def test_bands_stand_at_their_middles_with_their_effects(drawn: list[Figure], tmp_path: Path) -> None:
    plot_bands(np.array([0.0, 0.2, 0.6]), {"the verdict": np.array([-1.0, 2.0])}, "real", tmp_path / "bands.png")
    line = drawn[0].axes[0].lines[0]
    assert line.get_xdata() == pytest.approx([0.1, 0.4])
    assert line.get_ydata().tolist() == [-1.0, 2.0]
    assert "speaks for real" in drawn[0].axes[0].get_title()


def test_a_figure_is_a_png_in_a_folder_made_for_it(tmp_path: Path) -> None:
    plot_bands(np.array([0.0, 0.5]), {"the vote": np.array([1.0])}, "fake", tmp_path / "of" / "figure.png")
    with Image.open(tmp_path / "of" / "figure.png") as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 0
