import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.duplicates import connected, exact_duplicates, near_duplicates
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.measuring import SIGNATURE_SIDE, measure_images
from hf_deepfake.data.splitting import everything

FACES = Path(__file__).resolve().parents[3] / "shared" / "data" / "faces140k"


def picture(seed: int, size: int = 256) -> Image.Image:
    """Soft blots, as large as those of a photograph, with some noise."""
    generator = np.random.default_rng(seed)
    blots = Image.fromarray(generator.integers(0, 255, (12, 12, 3), dtype=np.uint8))
    pixels = np.asarray(blots.resize((size, size), Image.Resampling.BICUBIC)) + generator.normal(0, 4, (size, size, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def shifted(image: Image.Image, mode: str) -> Image.Image:
    """Two per cent to the right."""
    pixels, by = np.asarray(image), round(0.02 * image.width)
    return Image.fromarray(np.pad(pixels, ((0, 0), (by, 0), (0, 0)), mode)[:, : image.width])


CHANGES: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg_50": lambda image: encode(image, "JPEG", quality=50),
    "half_size": lambda image: encode(image.resize((image.width // 2, image.height // 2))),
    "shift_wrap": lambda image: encode(shifted(image, "wrap")),
    "shift_reflect": lambda image: encode(shifted(image, "reflect"), "JPEG"),
    "shift_black": lambda image: encode(shifted(image, "constant")),
    "brighter": lambda image: encode(image.point(lambda value: value * 0.7 + 60)),
    "grey": lambda image: encode(image.convert("L")),
}


def measure(contents: list[bytes], folder: Path) -> pd.DataFrame:
    """One row a content."""
    for index, content in enumerate(contents):
        (folder / f"{index:05d}").write_bytes(content)
    table = pd.DataFrame({"image": [f"{index:05d}" for index in range(len(contents))], "label": "real"})
    table.to_csv(folder / "table.csv", index=False)
    rows = everything(load_data(DataArguments(str(folder / "table.csv")), both_classes=False))
    return measure_images(rows, quiet=True)


def measured_as(hashes: NDArray[np.uint64], signatures: NDArray[np.int8]) -> pd.DataFrame:
    """Readable rows with these hashes and signatures, each of other bytes."""
    columns = {
        "error": np.full(len(hashes), None, dtype=object),
        "sha256": [str(row) for row in range(len(hashes))],
        "phash": [content.tobytes() for content in hashes],
        "signature": [content.tobytes() for content in signatures],
    }
    return pd.DataFrame(columns | dict.fromkeys(("mean_red", "mean_green", "mean_blue"), 0.0))


def random_signatures(count: int, seed: int = 0) -> NDArray[np.int8]:
    shape = (count, SIGNATURE_SIDE, SIGNATURE_SIDE)
    return np.random.default_rng(seed).integers(-60, 60, shape, dtype=np.int8)


def flip(hashes: NDArray[np.uint64], bits: list[int]) -> NDArray[np.uint64]:
    return hashes ^ np.uint64(sum(1 << bit for bit in bits))


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found_and_no_other(change: str, tmp_path: Path) -> None:
    pictures = [picture(seed) for seed in range(12)]
    contents = [encode(image) for image in pictures] + [CHANGES[change](image) for image in pictures]
    assert near_duplicates(measure(contents, tmp_path)) == [(row, row + 12) for row in range(12)]


def test_equal_bytes_are_exact_duplicates_and_only_their_first_is_paired(tmp_path: Path) -> None:
    first, second = picture(1), picture(2)
    contents = [encode(first), encode(second), encode(first), encode(first, "JPEG", quality=60), encode(first)]
    measured = measure(contents, tmp_path)
    assert exact_duplicates(measured["sha256"].tolist()) == [[0, 2, 4]]
    assert near_duplicates(measured) == [(0, 3)]


def test_a_broken_file_is_no_near_duplicate(tmp_path: Path) -> None:
    content = encode(picture(3), "JPEG")
    measured = measure([content[: len(content) // 2], content[: len(content) // 3], content], tmp_path)
    assert measured["error"].notna().tolist() == [True, True, False]
    assert near_duplicates(measured) == []
    assert near_duplicates(measured.iloc[:2]) == []


def test_missing_files_are_not_one_file() -> None:
    assert exact_duplicates(["", "", "a"]) == []


def test_plain_pictures_are_paired_by_colour(tmp_path: Path) -> None:
    black, white, red = (Image.new("RGB", (64, 64), colour) for colour in ("black", "white", "red"))
    contents = [encode(black), encode(black.resize((32, 32))), encode(white), encode(red), encode(white, "JPEG")]
    assert near_duplicates(measure(contents, tmp_path)) == [(0, 1), (2, 4)]


def test_pictures_with_one_hash_are_told_apart_by_their_signatures() -> None:
    """Rows 0 and 2, and 1 and 3, show one picture each."""
    signatures = random_signatures(2)[[0, 1, 0, 1]]
    assert near_duplicates(measured_as(np.full(4, 7, np.uint64), signatures)) == [(0, 2), (1, 3)]


@pytest.mark.parametrize(
    ("bits", "found"),
    [
        ([], True),
        ([0, 5, 17, 20, 33, 40, 50, 63], True),
        ([0, 1, 2, 16, 17, 18, 32, 33, 34, 48, 49], True),  # 3, 3, 3 and 2 of the quarters
        (list(range(0, 12)), True),
        (list(range(0, 39, 3)), False),  # 13 bits
    ],
)
def test_hashes_are_near_up_to_12_bits(bits: list[int], found: bool) -> None:
    hashes = np.array([0x0123456789ABCDEF], np.uint64)
    measured = measured_as(np.concatenate([hashes, flip(hashes, bits)]), random_signatures(1)[[0, 0]])
    assert near_duplicates(measured) == ([(0, 1)] if found else [])


def test_exactly_the_pairs_within_reach_are_found_among_many() -> None:
    """Each hash has one partner, 0 to 14 bits away; all others are far."""
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 1500, dtype=np.uint64)
    bits = [generator.choice(64, size=row % 15, replace=False).tolist() for row in range(1500)]
    partners = np.concatenate([flip(hashes[row : row + 1], chosen) for row, chosen in enumerate(bits)])
    within = [len(chosen) <= 12 and min(np.bincount(np.array(chosen, int) // 16, minlength=4)) < 3 for chosen in bits]
    measured = measured_as(np.concatenate([hashes, partners]), np.repeat(random_signatures(1), 3000, axis=0))
    assert near_duplicates(measured) == [(row, row + 1500) for row in np.flatnonzero(within)]
    assert 1200 < sum(within) < 1300


def test_many_copies_make_a_tree_and_not_all_pairs() -> None:
    generator = np.random.default_rng(0)
    noise = generator.integers(-4, 5, (3000, SIGNATURE_SIDE, SIGNATURE_SIDE), dtype=np.int8)
    signatures = random_signatures(1) + noise
    one_bit = np.uint64(1) << generator.integers(0, 64, 3000).astype(np.uint64)
    for hashes in (np.full(3000, 7, np.uint64), np.uint64(7) ^ one_bit):
        pairs = near_duplicates(measured_as(hashes, signatures))
        assert len(pairs) == 2999
        assert connected(pairs, 3000) == [list(range(3000))]
    plain = near_duplicates(measured_as(np.full(3000, 7, np.uint64), np.zeros_like(signatures)))
    assert connected(plain, 3000) == [list(range(3000))]


def test_connected_puts_chains_together_and_leaves_single_rows_out() -> None:
    assert connected([(5, 6), (0, 3), (3, 1)], 8) == [[0, 1, 3], [5, 6]]
    assert connected([], 3) == []
    assert connected([], 0) == []


@pytest.mark.slow
def test_a_hundred_thousand_hashes_take_less_than_a_minute() -> None:
    import time

    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 2**64, 100_000, dtype=np.uint64)
    hashes[:50_000] = hashes[:50_000:10].repeat(10)
    for _ in range(2):
        hashes[:50_000] ^= np.uint64(1) << generator.integers(0, 64, 50_000).astype(np.uint64)
    signatures = random_signatures(5_000)[np.arange(100_000) // 10 % 5_000]
    signatures[50_000:] = np.roll(signatures[50_000:], 7, axis=1)
    began = time.process_time()
    pairs = near_duplicates(measured_as(hashes, signatures))
    assert time.process_time() - began < 60
    groups = connected(pairs, 100_000)
    assert len(groups) == 5000
    assert all(group == list(range(group[0], group[0] + 10)) for group in groups)


@pytest.mark.slow
@pytest.mark.skipif(not FACES.is_dir(), reason="the photographs to measure on are not here")
def test_aligned_faces_are_told_apart_and_their_changed_copies_found(tmp_path: Path) -> None:
    files = sorted(FACES.rglob("*.jpg"))
    copied = files[:: len(files) // 300][:300]
    contents = [path.read_bytes() for path in files]
    for change in ("jpeg_50", "half_size", "shift_reflect", "shift_wrap"):
        changed = [CHANGES[change](Image.open(path).convert("RGB")) for path in copied]
        pairs = near_duplicates(measure(contents + changed, tmp_path))
        group_of = {row: group for group in connected(pairs, len(files) + 300) for row in group}
        found = [files.index(path) in group_of.get(len(files) + row, []) for row, path in enumerate(copied)]
        assert np.mean(found) >= 0.95
        originals = {row for row in group_of if row < len(files) and sum(r < len(files) for r in group_of[row]) > 1}
        assert len(originals) <= 0.01 * len(files)
