import io

import numpy as np
import pytest
from PIL import Image

from hf_deepfake.serving.samples import sample_pictures
from hf_deepfake.serving.words import LANGUAGES

pytest.importorskip("skimage")


def test_each_sample_is_small_named_in_every_language_and_altered_ones_differ() -> None:
    pictures = sample_pictures()
    assert all(set(pictures) == set(words.samples) for words in LANGUAGES)
    assert all(len(content) < 500_000 for content in pictures.values())
    for name in ("coffee", "chelsea"):
        real, fake = (np.asarray(Image.open(io.BytesIO(pictures[key]))) for key in (name, f"{name} altered"))
        assert real.shape == fake.shape
        assert not np.array_equal(real, fake)


def test_without_scikit_image_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_deepfake.serving.samples.find_spec", lambda _: None)
    assert sample_pictures() == {}
