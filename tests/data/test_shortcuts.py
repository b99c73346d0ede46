import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from hf_deepfake import InputError
from hf_deepfake.data.shortcuts import metadata_shortcut, spectrum_shortcut

LABELS: NDArray[np.int64] = np.repeat([0, 1], 60)


def measured(seed: int = 0, **columns: object) -> pd.DataFrame:
    """Files that tell nothing, but for what a test plants."""
    generator = np.random.default_rng(seed)
    size = len(LABELS)
    table = {
        "width": generator.integers(200, 300, size),
        "height": generator.integers(200, 300, size),
        "bytes": generator.integers(5000, 9000, size),
        "bits_per_pixel": generator.normal(1.5, 0.1, size),
        "format": "JPEG",
        "mode": "RGB",
        "jpeg_quality": 90.0,
        "jpeg_tables": "a",
        "jpeg_subsampling": "4:2:0",
        "exif": False,
    } | {f"mean_{colour}": generator.normal(100, 10, size) for colour in ("red", "green", "blue")}
    table |= {f"spectrum_{band:02d}": generator.normal(5, 1, size) for band in range(8)}
    return pd.DataFrame(table | columns)


def test_files_that_tell_nothing_are_at_chance() -> None:
    for shortcut in (metadata_shortcut(measured(), LABELS), spectrum_shortcut(measured(), LABELS)):
        assert shortcut.roc_auc_low < 0.5
        assert 0.3 < shortcut.roc_auc < 0.6
        assert 0.1 < shortcut.roc_auc_high - shortcut.roc_auc_low < 0.3
        assert shortcut.images == 120


def test_fakes_of_another_format_are_found_and_named() -> None:
    columns = {"format": ("PNG", "JPEG"), "jpeg_quality": (np.nan, 90.0), "bytes": (9000, 5000)}
    planted = measured(**{name: np.where(LABELS == 1, *values) for name, values in columns.items()})
    shortcut = metadata_shortcut(planted, LABELS)
    assert shortcut.roc_auc == shortcut.strongest_roc_auc == 1.0
    assert shortcut.strongest == "format"


def test_a_property_that_no_file_has_does_not_disturb_the_others() -> None:
    """Without any JPEG there is no JPEG quality; a tiny image has no low frequencies."""
    planted = measured(format="PNG", jpeg_quality=np.nan, bytes=np.where(LABELS == 1, 9000, 5000), spectrum_00=np.nan)
    assert metadata_shortcut(planted, LABELS).strongest == "file size"
    assert spectrum_shortcut(planted, LABELS).images == 120


def test_one_size_among_many_gives_the_class_away() -> None:
    """A generator's fixed size lies in the middle of those of photographs; quantisation tables differ everywhere."""
    sizes = np.random.default_rng(3).integers(200, 300, len(LABELS))
    tables = [f"table {index}" for index in range(len(LABELS))]
    planted = measured(width=np.where(LABELS == 1, 256, sizes), height=sizes, jpeg_tables=tables)
    shortcut = metadata_shortcut(planted, LABELS)
    assert shortcut.strongest == "width"
    assert shortcut.roc_auc_low > 0.9


def test_of_many_images_a_part_is_used_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_deepfake.data.shortcuts.MOST_IMAGES", 50)
    shortcut = spectrum_shortcut(measured(), LABELS)
    assert shortcut.images == 50
    assert spectrum_shortcut(measured(), LABELS) == shortcut


def test_a_band_between_two_others_is_found_though_it_is_not_monotone() -> None:
    middle = np.random.default_rng(1).normal(5, 0.1, len(LABELS))
    outside = np.where(np.arange(len(LABELS)) % 2, 4.0, 6.0)
    shortcut = spectrum_shortcut(measured(spectrum_03=np.where(LABELS == 1, middle, outside)), LABELS)
    assert shortcut.strongest == "spectral band 4 of 8"
    assert shortcut.strongest_roc_auc > 0.95


def test_what_a_group_has_in_common_is_no_shortcut() -> None:
    """Ten images a group, all of one size: with folds that cut groups, the size would give the label away."""
    groups = [f"{index // 10}" for index in range(len(LABELS))]
    sizes = np.repeat(np.random.default_rng(2).permutation(12) * 10 + 200, 10)
    planted = measured(width=sizes, height=sizes)
    assert metadata_shortcut(planted, LABELS).roc_auc > 0.95
    assert metadata_shortcut(planted, LABELS, groups).roc_auc < 0.8


def test_too_few_images_of_a_class_are_refused() -> None:
    labels = np.array([0] * 116 + [1] * 4)
    with pytest.raises(InputError, match=r"^4 fake images, and it takes 5"):
        metadata_shortcut(measured(), labels)
    with pytest.raises(InputError, match=r"^2 groups with real images, and it takes 5"):
        spectrum_shortcut(measured(), LABELS, [f"{index // 30}" for index in range(120)])
