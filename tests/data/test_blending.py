import numpy as np
import pytest
from PIL import Image

from hf_deepfake.data.blending import change_look, self_blend


def _photograph(size: tuple[int, int] = (64, 48)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(40, 200, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_the_same_state_gives_the_same_fake() -> None:
    first, second = (self_blend(_photograph(), np.random.default_rng(7)) for _ in range(2))
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()
    assert self_blend(_photograph(), np.random.default_rng(8))[0].tobytes() != first[0].tobytes()


@pytest.mark.parametrize("seed", range(12))
def test_a_fake_has_the_size_of_its_photograph_and_differs_inside_the_mask(seed: int) -> None:
    photograph = _photograph()
    fake, mask = self_blend(photograph, np.random.default_rng(seed))
    assert fake.size == mask.size == photograph.size
    assert (fake.mode, mask.mode) == ("RGB", "L")
    inside = np.asarray(mask) > 0
    assert 0.02 < inside.mean() < 0.9
    assert (np.asarray(fake)[inside] != np.asarray(photograph)[inside]).any()


def test_outside_the_mask_the_target_is_untouched() -> None:
    """Where the source was changed, the target is the photograph; some seed among a few chooses that way."""
    photograph = _photograph()
    untouched = []
    for seed in range(8):
        fake, mask = self_blend(photograph, np.random.default_rng(seed))
        outside = np.asarray(mask) == 0
        untouched.append((np.asarray(fake)[outside] == np.asarray(photograph)[outside]).all())
    assert any(untouched)
    assert not all(untouched)


def test_a_grey_photograph_stays_grey() -> None:
    """Colour in a grey photograph would be a sign of a fake that no real fake gives."""
    grey = _photograph().convert("L").convert("RGB")
    for seed in range(10):
        pixels = np.asarray(change_look(grey, np.random.default_rng(seed))).astype(int)
        assert np.ptp(pixels, axis=-1).max() <= 1
