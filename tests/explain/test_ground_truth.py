from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import draw_image
from PIL import Image

from hf_deepfake.errors import InputError
from hf_deepfake.explain.attributions import Explanation
from hf_deepfake.explain.ground_truth import Localisation, mask_region, pointing_on_blends, rate_interval

Map = np.ndarray[Any, Any]
PHOTOGRAPHS = [draw_image(0, seed, 60 + 8 * seed) for seed in range(6)]


def measure(monkeypatch: pytest.MonkeyPatch, drawn: Callable[[Map, Map], Map]) -> Localisation:
    """With heatmaps drawn from the fake and the photograph, in place of a method and a detector."""
    photographs = iter(PHOTOGRAPHS)

    def explain(detector: Any, image: Image.Image, method: str, **settings: Any) -> Explanation:
        pixels = (np.asarray(part).astype(float) for part in (image, next(photographs)))
        return Explanation(drawn(*pixels).astype(np.float32), method, "fake", None, 0.25)

    monkeypatch.setattr("hf_deepfake.explain.ground_truth.explain", explain)
    detector: Any = None
    return pointing_on_blends(detector, PHOTOGRAPHS, seed=5)


def test_a_map_of_what_was_changed_points_inside_more_often_than_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(fake: Map, photograph: Map) -> Map:
        difference = np.abs(fake - photograph).mean(axis=2)
        return difference / difference.max()

    found = measure(monkeypatch, change)
    assert (found.images, found.prob_fake, found.pointing) == (6, 0.25, 1.0)
    assert found.pointing_low == pytest.approx(6 / (6 + 1.96**2), abs=1e-3)  # Wilson's of 6 of 6
    assert 0.05 < found.pointing_chance < 0.5 < found.pointing_low
    assert found.overlap > found.overlap_elsewhere
    assert found.overlap_low > found.overlap_chance


def test_a_map_of_the_middle_is_no_better_on_its_own_mask_than_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def middle(fake: Map, photograph: Map) -> Map:
        line = np.hanning(len(fake))
        return np.outer(line, line)

    found = measure(monkeypatch, middle)
    assert found.pointing == found.pointing_elsewhere > found.pointing_chance
    assert found.overlap == pytest.approx(found.overlap_elsewhere, abs=0.1)


def test_a_constant_map_is_at_the_level_of_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measure(monkeypatch, lambda fake, photograph: np.zeros(fake.shape[:2]))
    assert found.pointing == found.pointing_chance
    assert found.pointing_low < found.pointing < found.pointing_high
    assert found.overlap == pytest.approx(found.overlap_chance)


def test_one_photograph_is_refused() -> None:
    detector: Any = None
    with pytest.raises(InputError, match="1 photographs: at least 2"):
        pointing_on_blends(detector, PHOTOGRAPHS[:1])


def test_the_region_of_a_soft_mask_ends_where_it_is_half_as_strong() -> None:
    mask = Image.fromarray(np.array([[0, 49, 50, 100]], np.uint8))
    assert mask_region(mask).tolist() == [[False, False, True, True]]
    assert not mask_region(Image.new("L", (2, 2))).any()


def test_wilsons_interval_is_as_solved_by_hand() -> None:
    """Of 5 in 10: 0.5 ± z / 2 · √(n + z²) / (n + z²) with z = 1.96."""
    half = 1.959964 / 2 / np.sqrt(10 + 1.959964**2)
    assert rate_interval(5, 10) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))
    assert rate_interval(4.5, 10) == (rate_interval(4, 10)[0], rate_interval(5, 10)[1])
