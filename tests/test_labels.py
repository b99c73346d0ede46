import pytest

from hf_deepfake.errors import InputError
from hf_deepfake.labels import FAKE, REAL, fake_column, label_reader, read_label, read_split


@pytest.mark.parametrize(
    "name",
    "real Real REAL 0_real training_real real-photos Celeb-real original original_sequences live bonafide bona_fide "
    "genuine pristine authentic RealArt nature Train_Real_01".split(),
)
def test_names_that_mean_real(name: str) -> None:
    assert read_label(name) == REAL


@pytest.mark.parametrize(
    "name",
    "fake Fake FAKE 1_fake training_fake Celeb-synthesis manipulated manipulated_sequences Deepfakes spoof spoofed attack "
    "synthetic generated AIGenerated ai stylegan2-ffhq AiArtData FaceSwap stable_diffusion_v1 edited".split(),
)
def test_names_that_mean_fake(name: str) -> None:
    assert read_label(name) == FAKE


@pytest.mark.parametrize(
    "name",
    "images 0 1 LABEL_0 real_and_fake_face real-vs-fake not_real not-fake unreal realistic surreal nonfake train".split(),
)
def test_names_that_tell_neither_or_both(name: str) -> None:
    assert read_label(name) is None


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *((name, "train") for name in ("train", "Train", "TRAINING", "trainset_label", "training_real", "train2017")),
        *((name, "validation") for name in ("val", "Valid", "validation", "valset_label", "dev", "VAL_fake")),
        *((name, "test") for name in ("test", "Testing", "eval", "test-set")),
        *((name, None) for name in ("real", "trains", "latest", "contest", "train_and_test", "")),
    ],
)
def test_names_of_splits(name: str, split: str | None) -> None:
    assert read_split(name) == split


def test_numbers_are_read_as_in_the_competitions() -> None:
    assert label_reader({"0", "1"}, None, "a.csv") == {"0": REAL, "1": FAKE}
    assert label_reader({"0.0", "1.0"}, None, "a.csv") == {"0.0": REAL, "1.0": FAKE}


def test_the_label_named_as_fake_overrides_what_names_say() -> None:
    assert label_reader({"0", "1"}, "0", "a.csv") == {"0": FAKE, "1": REAL}
    assert label_reader({"real", "fake"}, "real", "a.csv") == {"real": FAKE, "fake": REAL}


def test_labels_that_tell_nothing_are_refused() -> None:
    with pytest.raises(InputError, match=r"a\.csv: cannot tell.* found \['cat', 'dog'\].*--fake_label"):
        label_reader({"cat", "dog", "real"}, None, "a.csv")


@pytest.mark.parametrize("values", [{"cat", "dog"}, {"cat", "dog", "fish"}])
def test_a_fake_label_must_be_one_of_two(values: set[str]) -> None:
    fake_label = "cat" if len(values) == 3 else "fish"
    with pytest.raises(InputError, match=rf"--fake_label {fake_label} needs to be one of two labels; found \['cat'"):
        label_reader(values, fake_label, "a.csv")


def test_the_logit_of_fake_is_found_by_name_in_either_order() -> None:
    assert fake_column({0: "real", 1: "fake"}) == 1
    assert fake_column({0: "Deepfake", 1: "Realism"}) == 0
    assert fake_column({0: "LABEL_0", 1: "LABEL_1"}, fake_label="LABEL_0") == 0


def test_a_checkpoint_with_three_classes_is_refused() -> None:
    with pytest.raises(InputError, match=r"vit: a detector has the two labels.*'cat'.*hf-deepfake train"):
        fake_column({0: "real", 1: "fake", 2: "cat"}, source="vit")


@pytest.mark.parametrize(
    ("id2label", "found"),
    [({0: "LABEL_0", 1: "LABEL_1"}, 0), ({0: "fake", 1: "spoof"}, 2), ({0: "cat", 1: "fake"}, 0)],
)
def test_a_checkpoint_whose_labels_do_not_tell_is_refused(id2label: dict[int, str], found: int) -> None:
    message = rf"vit: cannot tell.*{id2label[0]}.*and {found} of its names.*--fake_label with one of"
    with pytest.raises(InputError, match=message):
        fake_column(id2label, source="vit")


def test_a_fake_label_that_the_checkpoint_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match=r"one of \['fake', 'real'\]"):
        fake_column({0: "real", 1: "fake"}, fake_label="Fake")
