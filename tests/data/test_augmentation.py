import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from hf_deepfake.data.augmentation import TRANSFORMS, augmentation, preview_transforms
from hf_deepfake.errors import InputError

CHANGING = [name for name in TRANSFORMS if name != "none"]


def photograph(height: int = 40, width: int = 40) -> torch.Tensor:
    """A textured ramp, as decoding gives it: channels last in memory."""
    noise = np.random.default_rng(0).normal(0, 25, (height, width, 3))
    ramp = np.linspace(40, 200, width)[None, :, None] * [1.0, 0.8, 0.6]
    return torch.from_numpy((ramp + noise).clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


def draws(
    names: list[str], image: torch.Tensor, count: int, strength: float = 1.0, seed: int = 0
) -> list[torch.Tensor]:
    transform = augmentation(names, strength)
    assert transform is not None
    torch.manual_seed(seed)
    return [transform(image) for _ in range(count)]


class Photographs(Dataset[torch.Tensor]):
    def __init__(self) -> None:
        self.transform = augmentation(CHANGING)

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        assert self.transform is not None
        changed: torch.Tensor = self.transform(photograph())
        return changed.contiguous()


@pytest.mark.parametrize("name", CHANGING)
def test_any_size_layout_and_strength_keeps_shape_and_type_and_leaves_the_image_alone(name: str) -> None:
    for image in (photograph(8, 8), photograph(9, 31).contiguous(), photograph(40, 60)[:, ::2, ::2]):
        before = image.clone()
        for strength in (0.01, 1.0, 2.5, 100.0):
            for changed in draws([name], image, 3, strength):
                assert changed.shape == image.shape
                assert changed.dtype == torch.uint8
        assert torch.equal(image, before)


@pytest.mark.parametrize("name", CHANGING)
def test_the_change_grows_with_the_strength(name: str) -> None:
    image = photograph()

    def change(strength: float) -> float:
        return sum(
            float((changed.float() - image.float()).abs().mean()) for changed in draws([name], image, 40, strength)
        )

    assert change(0.1) < change(1.0)


@pytest.mark.parametrize("name", CHANGING)
def test_torchs_seed_alone_decides_and_a_copy_for_a_worker_does_the_same(name: str) -> None:
    image, transform = photograph(), augmentation([name])
    first = draws([name], image, 12)
    assert any(not torch.equal(changed, image) for changed in first)
    random.seed(1)
    np.random.seed(1)
    copy = pickle.loads(pickle.dumps(transform))
    torch.manual_seed(0)
    assert all(torch.equal(copy(image), changed) for changed in first)


@pytest.mark.slow  # a spawned worker imports torch anew
def test_all_of_them_run_in_spawned_workers() -> None:
    loader = DataLoader(Photographs(), batch_size=4, num_workers=1, multiprocessing_context="spawn")
    assert [tuple(batch.shape) for batch in loader] == [(4, 3, 40, 40)] * 2


def test_nothing_to_do_is_no_transform() -> None:
    assert augmentation([]) is None
    assert augmentation(["none"]) is None
    assert augmentation(CHANGING, strength=0) is None


def test_the_given_order_is_kept() -> None:
    transform = augmentation(["erase", "none", "flip", "grayscale"])
    assert transform is not None
    assert [type(step) for step in transform.transforms] == [
        v2.RandomErasing,
        v2.RandomHorizontalFlip,
        v2.RandomGrayscale,
    ]


@pytest.mark.parametrize(("name", "axis"), [("flip", 2), ("vertical_flip", 1)])
def test_flips_never_become_the_rule(name: str, axis: int) -> None:
    image = photograph(8, 8)
    for strength in (1.0, 10.0):
        found = draws([name], image, 200, strength)
        assert all(torch.equal(changed, image) or torch.equal(changed, image.flip(axis)) for changed in found)
        assert sum(torch.equal(changed, image) for changed in found) == pytest.approx(100, abs=25)


def test_a_shift_moves_whole_pixels_and_reflects_the_rim() -> None:
    image = photograph(16, 16)  # 1/16 of 16 is one pixel
    padded = np.pad(image.numpy(), ((0, 0), (1, 1), (1, 1)), mode="reflect")
    expected = {padded[:, top : top + 16, left : left + 16].tobytes() for top in range(3) for left in range(3)}
    assert {changed.numpy().tobytes() for changed in draws(["shift"], image, 200)} == expected


def test_light_resamples_nothing() -> None:
    image = photograph(48, 48)
    blocks = [np.ascontiguousarray(image[:, 8:40, 8:40].flip(flip)) for flip in ([], [2])]
    for changed in draws(["light"], image, 20):
        windows = np.lib.stride_tricks.sliding_window_view(changed.numpy(), (3, 32, 32))[0]
        assert any((windows == block).all(axis=(2, 3, 4)).any() for block in blocks)


def test_forensic_leaves_about_one_image_in_five_as_it_was() -> None:
    """0.6 · 0.8 · 0.7 · 0.8 · 0.8 = 0.215."""
    image = photograph()
    found = draws(["forensic"], image, 300)
    kept = sum(torch.equal(changed, image) or torch.equal(changed, image.flip(2)) for changed in found)
    assert kept == pytest.approx(64, abs=20)


def test_standard_recompresses_about_four_images_in_ten() -> None:
    """Shift and jitter leave an edge between two values as it is; what is recompressed rings beside it."""
    edge = torch.zeros(3, 32, 32, dtype=torch.uint8)
    edge[:, :, 16:] = 160
    found = draws(["standard"], edge, 200)
    assert sum(len(changed[0].unique()) > 2 for changed in found) == pytest.approx(80, abs=20)


def test_strong_corruptions_stop_at_severity_5() -> None:
    image = torch.full((3, 64, 64), 128, dtype=torch.uint8)
    loudest = max(float(changed.float().std()) for changed in draws(["noise"], image, 60, strength=100.0))
    assert loudest == pytest.approx(0.12 * 255, rel=0.05)


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"^forensics: no such transform; there are none, .*Did you mean forensic\?$"):
        augmentation(["flip", "forensics"])


@pytest.mark.parametrize("strength", [-0.5, float("nan"), float("inf")])
def test_a_strength_that_is_no_factor_is_refused(strength: float) -> None:
    with pytest.raises(InputError, match=f"^strength {strength}: "):
        augmentation(["flip"], strength)


def test_every_name_has_one_short_line_of_help() -> None:
    assert all(0 < len(line) <= 100 and "\n" not in line for line in TRANSFORMS.values())


def test_the_preview_is_the_same_each_time_and_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    images = [Image.fromarray(photograph(12, 20).permute(1, 2, 0).numpy()), Image.new("L", (9, 9), 60)]
    for file in ("a.png", "b.png"):
        torch.manual_seed(3)
        preview_transforms(images, "standard", 1.0, tmp_path / file, samples=2)
        after = torch.rand(())
    torch.manual_seed(3)
    assert torch.equal(torch.rand(()), after)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    preview_transforms(images, "standard", 1.0, tmp_path / "c.png", seed=1, samples=2)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size == (720, 564)


def test_a_preview_of_nothing_shows_the_image_again(tmp_path: Path) -> None:
    preview_transforms([Image.new("RGB", (8, 8), "red")], "none", 1.0, tmp_path / "a.png", samples=1)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    red = (pixels == [255, 0, 0]).all(axis=2)
    left, right = np.array_split(red, 2, axis=1)
    assert left.sum() > 1000
    assert right.sum() == pytest.approx(left.sum(), rel=0.05)
