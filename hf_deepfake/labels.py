"""Which name, value or logit means real and which means fake: decided here and nowhere else."""

import re
from collections.abc import Mapping
from functools import cache

from hf_deepfake.errors import InputError

NAMES = ("real", "fake")
REAL, FAKE = range(2)
ID2LABEL = dict(enumerate(NAMES))
LABEL2ID = {name: index for index, name in ID2LABEL.items()}

_REAL_WORDS = frozenset(
    "real reals realism genuine authentic original originals pristine live bonafide bona human untouched unaltered "
    "unedited natural nature camera".split()
)
_FAKE_WORDS = frozenset(
    "fake fakes faked deepfake deepfakes spoof spoofed attack attacks manipulated manipulation synthetic synthesis "
    "synthesized generated artificial altered forged forgery tampered edited swapped faceswap ai aigenerated gan "
    "stylegan diffusion".split()
)
_NEGATIONS = frozenset("not non no un".split())
_SPLIT_WORDS = {
    "train": frozenset("train training trainset".split()),
    "validation": frozenset("validation valid val valset dev development".split()),
    "test": frozenset("test testing testset eval evaluation".split()),
}


def _words(name: str) -> set[str]:
    """Words of a folder, file or label name in lower case, also across `_`, `-`, digits and CamelCase."""
    pieces = re.split(r"[^A-Za-z]+", name)
    camel = [word for piece in pieces for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", piece)]
    return {word.lower() for word in (*pieces, *camel) if word}


@cache
def read_label(name: str) -> int | None:
    """Label that a folder or class name stands for, or None where it says neither or both.

    Example:
        >>> read_label("training_real"), read_label("1_Fake"), read_label("stylegan2-FFHQ")
        (0, 1, 1)
        >>> read_label("not_real"), read_label("LABEL_0")
        (None, None)
    """
    words = _words(name)
    real, fake = bool(words & _REAL_WORDS), bool(words & _FAKE_WORDS)
    if real == fake or words & _NEGATIONS:
        return None
    return FAKE if fake else REAL


@cache
def read_split(name: str) -> str | None:
    """Split (`train`, `validation`, `test`) that a folder, file or table value stands for, or None.

    Example:
        >>> read_split("Training_real"), read_split("val"), read_split("valset_label.txt"), read_split("photos")
        ('train', 'validation', 'validation', None)
    """
    words = _words(name)
    found = [split for split, aliases in _SPLIT_WORDS.items() if words & aliases]
    return found[0] if len(found) == 1 else None


def label_reader(values: set[str], fake_label: str | None, source: str) -> dict[str, int]:
    """Map the raw values of a label column (`0`/`1`, `REAL`/`FAKE`, …) to our labels.

    The values 0 and 1 are read as real and fake, as in the competitions that publish
    such tables; `fake_label` names the value that means fake and overrides everything.

    Raises:
        InputError: If a value cannot be told, or `fake_label` is not among the values.

    Example:
        >>> label_reader({"FAKE", "REAL"}, None, "labels.csv") == {"FAKE": 1, "REAL": 0}
        True
    """
    if fake_label is not None:
        if fake_label not in values or len(values) > 2:
            raise InputError(
                f"{source}: --fake_label {fake_label} needs to be one of two labels; found {sorted(values)[:10]}."
            )
        return {value: FAKE if value == fake_label else REAL for value in values}
    numbers = {"0": REAL, "0.0": REAL, "1": FAKE, "1.0": FAKE}
    labels = {value: numbers.get(value, read_label(value)) for value in values}
    unknown = sorted(value for value, label in labels.items() if label is None)
    if unknown:
        raise InputError(
            f"{source}: cannot tell which label means fake; found {unknown[:10]}. "
            "Rename them to real and fake, or pass --fake_label with the one that means fake."
        )
    return {value: label for value, label in labels.items() if label is not None}


def fake_column(id2label: Mapping[int, str], fake_label: str | None = None, source: str = "checkpoint") -> int:
    """Index of the logit that means fake.

    Raises:
        InputError: If there are not exactly two labels, or their names do not tell.

    Example:
        >>> fake_column({0: "Fake", 1: "Real"})
        0
    """
    if len(id2label) != 2:
        raise InputError(
            f"{source}: a detector has the two labels real and fake, but id2label is {dict(id2label)}. "
            "Fine-tune it first: hf-deepfake train --model_name_or_path …"
        )
    if fake_label is not None:
        columns = [int(index) for index, name in id2label.items() if name == fake_label]
    else:
        readings = {int(index): read_label(name) for index, name in id2label.items()}
        columns = [index for index, label in readings.items() if label == FAKE]
        if len(columns) == 1 and readings[1 - columns[0]] != REAL:
            columns = []
    if len(columns) != 1:
        raise InputError(
            f"{source}: cannot tell which label means fake; id2label is {dict(id2label)}, "
            f"and {len(columns)} of its names read as fake. Pass --fake_label with one of {sorted(id2label.values())}."
        )
    return columns[0]
