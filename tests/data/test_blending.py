import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageStat

from hf_deepfake.data.blending import change_look, self_blend

FACE = np.array([[52.0, 60.0], [76.0, 60.0], [64.0, 74.0], [54.0, 84.0], [74.0, 84.0]])
"""Eyes 24 pixels apart, around (64, 60)."""


def _photograph(size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(40, 200, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _mean_mask(face: NDArray[np.float64], size: tuple[int, int] = (128, 128), seeds: int = 40) -> NDArray[np.float64]:
    image = _photograph(size)
    masks = [np.asarray(self_blend(image, np.random.default_rng(seed), face)[1]) > 0 for seed in range(seeds)]
    return np.mean(masks, axis=0)


@pytest.mark.parametrize("face", [None, FACE / 2])
def test_the_same_state_gives_the_same_fake(face: NDArray[np.float64] | None) -> None:
    first, second = (self_blend(_photograph(), np.random.default_rng(7), face) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()
    assert self_blend(_photograph(), np.random.default_rng(8), face)[0].tobytes() != first[0].tobytes()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("face", [None, FACE / 2])
def test_a_fake_has_the_size_of_its_photograph_and_differs_inside_the_mask_alone(
    seed: int, face: NDArray[np.float64] | None
) -> None:
    """A trace outside, as of another compression or sharpness, would tell fakes without a look at the blend."""
    photograph = _photograph()
    fake, mask = self_blend(photograph, np.random.default_rng(seed), face)
    assert fake.size == mask.size == photograph.size
    assert (fake.mode, mask.mode) == ("RGB", "L")
    inside = np.asarray(mask) > 0
    assert 0.02 < inside.mean() < 0.9
    different = (np.asarray(fake) != np.asarray(photograph)).any(axis=-1)
    assert different[inside].mean() > 0.5
    assert not different[~inside].any()


def test_the_mask_tells_how_much_of_the_copy_shows() -> None:
    """Ratios are 0.5, 0.75 and 1, so a mask's largest value is one of three up to what blurring takes."""
    largest = {
        self_blend(_photograph((128, 128)), np.random.default_rng(seed), FACE)[1].getextrema()[1] for seed in range(60)
    }
    assert {128, 191, 255} <= largest
    assert min(largest) >= 110


def test_a_face_is_blended_where_it_is() -> None:
    share = _mean_mask(FACE)
    assert share[60:85, 58:70].min() > 0.6
    assert share[:10].max() == share[-10:].max() == share[:, :20].max() == share[:, -20:].max() == 0
    moved = _mean_mask(FACE + np.array([30, -20]))
    assert abs(_middle(moved) - _middle(share) - [30, -20]).max() < 1


def test_the_mask_grows_and_turns_with_the_face() -> None:
    upright = _mean_mask(FACE)
    assert _mean_mask(FACE / 2).sum() == pytest.approx(upright.sum() / 4, rel=0.1)
    middle = FACE.mean(axis=0)
    lying = (FACE - middle)[:, ::-1] * [1, -1] + middle  # a quarter turn
    assert _middle(upright)[0] == pytest.approx(middle[0], abs=2)
    assert _middle(_mean_mask(lying))[1] == pytest.approx(middle[1], abs=2)
    assert _spread(upright)[1] > _spread(upright)[0]
    assert _spread(_mean_mask(lying))[1] < _spread(_mean_mask(lying))[0]


def _middle(share: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.indices(share.shape)
    return np.array([np.average(columns, weights=share), np.average(rows, weights=share)])


def _spread(share: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.indices(share.shape)
    squares = [np.average(places**2, weights=share) for places in (columns, rows)]
    return np.sqrt(np.array(squares) - _middle(share) ** 2)


def test_whole_faces_and_parts_of_them_are_blended() -> None:
    image = _photograph((128, 128))
    heights = []
    for seed in range(40):
        _, top, _, bottom = self_blend(image, np.random.default_rng(seed), FACE)[1].getbbox()  # type: ignore[misc]
        heights.append((bottom - top) / 24)
    assert min(heights) < 1.5
    assert max(heights) > 2.5


@pytest.mark.parametrize("face", [FACE + 1000, FACE - 500, FACE / 10, np.full((5, 2), 30.0)])
def test_where_there_is_no_face_to_speak_of_the_middle_is_blended(face: NDArray[np.float64]) -> None:
    photograph = _photograph()
    for seed in range(5):
        fake, mask = self_blend(photograph, np.random.default_rng(seed), face)
        assert (np.asarray(mask) > 0).mean() > 0.02
        assert fake.tobytes() != photograph.tobytes()


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 16)])
@pytest.mark.parametrize("face", [None, FACE / 8])
def test_tiny_images_are_no_trouble(size: tuple[int, int], face: NDArray[np.float64] | None) -> None:
    for seed in range(10):
        assert self_blend(_photograph(size), np.random.default_rng(seed), face)[0].size == size


def test_the_change_grows_with_its_strength() -> None:
    plain = Image.new("RGB", (32, 32), (100, 120, 140))

    def change(strength: float) -> float:
        changed = [change_look(plain, np.random.default_rng(seed), strength) for seed in range(30)]
        means = np.array([ImageStat.Stat(image).mean for image in changed])
        return float(np.abs(means - [100, 120, 140]).mean())

    assert change(0) < 1
    assert change(0.4) == pytest.approx(0.4 * change(1), rel=0.15)


def test_the_blur_of_a_large_image_survives_its_scaling_down() -> None:
    """At four times the size and scale, the result scaled down is as blurred as that of the small image."""
    small = _photograph((64, 64)).resize((128, 128), Image.Resampling.BICUBIC)
    large = small.resize((512, 512), Image.Resampling.BICUBIC)
    seed = next(
        seed
        for seed in range(50)
        if _detail(change_look(small, np.random.default_rng(seed), 0)) < 0.5 * _detail(small)
    )

    def after(scale: float) -> float:
        return _detail(
            change_look(large, np.random.default_rng(seed), 0, scale).resize((128, 128), Image.Resampling.BOX)
        )

    assert after(4) == pytest.approx(_detail(change_look(small, np.random.default_rng(seed), 0)), rel=0.25)
    assert after(1) > 2 * after(4)


def _detail(image: Image.Image) -> float:
    return float(np.abs(np.diff(np.asarray(image).astype(float), axis=1)).mean())


def test_a_grey_photograph_stays_grey() -> None:
    """Colour in a grey photograph would be a sign of a fake that no real fake gives."""
    grey = _photograph().convert("L").convert("RGB")
    for seed in range(10):
        pixels = np.asarray(change_look(grey, np.random.default_rng(seed))).astype(int)
        assert np.ptp(pixels, axis=-1).max() <= 1


def test_a_fake_keeps_what_its_file_would_be_written_with() -> None:
    """A comment that only the photograph's file carries would tell it from the fake's."""
    encoded = io.BytesIO()
    _photograph().save(encoded, "JPEG", comment=b"shot by me")
    photograph = Image.open(encoded).convert("RGB")
    assert self_blend(photograph, np.random.default_rng(0))[0].info == photograph.info
