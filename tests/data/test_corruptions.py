import io
import re
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from hf_deepfake.data.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from hf_deepfake.errors import InputError

RANDOM = ("crop", "noise", "brightness", "contrast", "saturation")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texture(size: int = 96) -> torch.Tensor:
    """Noise of every scale, as photographs have."""
    image = torch.full((3, size, size), 128.0)
    for side in (3, 6, 12, 24, 48, 96):
        noise = torch.randn(3, side, side, generator=seeded(side)) * 40 * (3 / side) ** 0.5
        image += functional.resize(noise, [size, size])
    return image.clamp(0, 255).to(torch.uint8)


def plain(*colour: int, size: int = 20) -> torch.Tensor:
    return torch.tensor(colour, dtype=torch.uint8).view(3, 1, 1).expand(3, size, size)


def change(image: torch.Tensor, name: str, severity: int, seed: int = 0) -> float:
    return float((corrupt(image, name, severity, seeded(seed)).float() - image.float()).abs().mean())


def test_all_ten_are_there() -> None:
    assert list(CORRUPTIONS) == "jpeg webp resize crop blur noise brightness contrast saturation screenshot".split()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_change_grows_with_the_severity(name: str) -> None:
    image = texture()
    for seed in range(4):  # both signs
        changes = [change(image, name, severity, seed) for severity in SEVERITIES]
        assert changes[0] > 0.1
        assert all(harder > milder for milder, harder in pairwise(changes))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_size_and_memory_layout_keeps_its_shape_and_is_left_alone(name: str) -> None:
    for height, width in ((1, 1), (1, 9), (7, 2), (33, 20)):
        image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=seeded())
        strided = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
        for severity in SEVERITIES:
            before = image.clone()
            changed = corrupt(image, name, severity, seeded())
            assert changed.shape == image.shape
            assert changed.dtype == torch.uint8
            assert torch.equal(image, before)
            assert torch.equal(corrupt(strided, name, severity, seeded()), changed)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_generator_alone_decides(name: str) -> None:
    image = texture(32)
    first = [corrupt(image, name, 3, seeded(seed)) for seed in range(6)]
    assert all(torch.equal(corrupt(image, name, 3, seeded(seed)), changed) for seed, changed in enumerate(first))
    assert any(not torch.equal(first[0], changed) for changed in first) == (name in RANDOM)


def test_the_default_generator_is_the_global_one_and_another_leaves_it_alone() -> None:
    torch.manual_seed(5)
    first = corrupt(texture(32), "noise", 1)
    torch.manual_seed(5)
    corrupt(texture(32), "noise", 1, seeded())
    assert torch.equal(corrupt(texture(32), "noise", 1), first)


@pytest.mark.parametrize(("name", "form"), [("jpeg", "JPEG"), ("webp", "WEBP")])
def test_compression_is_pillows_at_the_stated_qualities(name: str, form: str) -> None:
    image = texture()
    for severity, quality in zip(SEVERITIES, (90, 80, 65, 45, 30), strict=True):
        encoded = io.BytesIO()
        functional.to_pil_image(image).save(encoded, form, quality=quality, method=2)
        np.testing.assert_array_equal(corrupt(image, name, severity).permute(1, 2, 0), Image.open(encoded))


@pytest.mark.parametrize("name", ["resize", "crop", "blur", "screenshot"])
def test_a_plain_image_has_nothing_to_lose(name: str) -> None:
    for severity in SEVERITIES:
        assert (corrupt(plain(90, 120, 200), name, severity).int() - plain(90, 120, 200).int()).abs().max() <= 2


def test_resizing_removes_the_finest_pattern_and_keeps_the_mean() -> None:
    checkerboard = ((torch.arange(40)[:, None] + torch.arange(40)) % 2 * 200).to(torch.uint8).expand(3, 40, 40)
    resized = corrupt(checkerboard, "resize", 2)[:, 4:-4, 4:-4].float()
    assert resized.mean() == pytest.approx(100, abs=1)
    assert resized.std() < 10


def test_blur_spreads_a_point_as_a_gaussian_does() -> None:
    """The height of a point's image is 1 / (2 π σ²) of its own."""
    point = torch.zeros(3, 31, 31, dtype=torch.uint8)
    point[:, 15, 15] = 255
    for severity, sigma in ((2, 1.0), (4, 2.0)):
        expected = 255 / (2 * np.pi * sigma**2)
        assert corrupt(point, "blur", severity)[0, 15, 15] == pytest.approx(expected, rel=0.15)


def test_a_crop_shows_its_share_of_a_ramp_from_random_places() -> None:
    ramp = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200)
    starts = set()
    for seed in range(30):
        crop = corrupt(ramp, "crop", 5, seeded(seed))[0, 0].int()
        assert int(crop[-1] - crop[0]) == pytest.approx(149, abs=1)
        starts.add(int(crop[0]))
    assert min(starts) < 10
    assert max(starts) > 40


def test_noise_is_unbiased_and_as_strong_as_stated() -> None:
    for severity, sigma in zip(SEVERITIES, (0.02, 0.04, 0.06, 0.08, 0.12), strict=True):
        noise = corrupt(plain(128, 128, 128, size=200), "noise", severity, seeded()).float() - 128
        assert float(noise.mean()) == pytest.approx(0, abs=0.3)
        assert float(noise.std()) == pytest.approx(255 * sigma, rel=0.02)


@pytest.mark.parametrize(
    ("name", "severity", "image", "expected"),
    [
        ("brightness", 5, plain(100, 100, 100, size=1), {(50,) * 3, (150,) * 3}),
        ("brightness", 1, plain(200, 100, 50, size=1), {(180, 90, 45), (220, 110, 55)}),
        (
            "saturation",
            5,
            plain(200, 100, 100, size=1),
            {(129,) * 3, (255, 71, 71)},
        ),  # grey: 0.299 · 200 + 0.701 · 100
    ],
)
def test_tones_go_both_ways_by_the_stated_factor(
    name: str, severity: int, image: torch.Tensor, expected: set[tuple[int, ...]]
) -> None:
    assert {tuple(corrupt(image, name, severity, seeded(seed)).flatten().tolist()) for seed in range(9)} == expected


def test_contrast_goes_both_ways_about_the_mean() -> None:
    image = torch.tensor([50, 150], dtype=torch.uint8).expand(3, 1, 2)  # 100 ± 50, at severity 3 times 0.6 or 1.4
    found = sorted(corrupt(image, "contrast", 3, seeded(seed))[0, 0].tolist() for seed in range(9))
    np.testing.assert_allclose([found[0], found[-1]], [[30, 170], [70, 130]], atol=1)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^noisy: no such corruption; there are jpeg, .*\. Did you mean noise\?$"):
        corrupt(texture(8), "noisy", 1)


@pytest.mark.parametrize("severity", [0, 6, -1])
def test_a_severity_outside_1_to_5_is_refused(severity: int) -> None:
    with pytest.raises(InputError, match=re.escape(f"blur: severity {severity}; it is one of 1, 2, 3, 4, 5.")):
        corrupt(texture(8), "blur", severity)
