import string
from dataclasses import fields
from typing import Any

import pytest

from hf_deepfake.explain.attributions import METHODS
from hf_deepfake.serving.facts import Credentials
from hf_deepfake.serving.words import ENGLISH, LANGUAGES, Words


def said(value: Any) -> dict[Any, str]:
    return value if isinstance(value, dict) else {"": value}


def gaps(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name}


@pytest.mark.parametrize("words", LANGUAGES, ids=lambda words: words.language)
def test_every_language_says_all_that_english_says_with_the_same_gaps_to_fill(words: Words) -> None:
    for field in fields(Words):
        here, there = said(getattr(words, field.name)), said(getattr(ENGLISH, field.name))
        assert here.keys() == there.keys(), field.name
        for key, text in here.items():
            assert text.strip(), (field.name, key)
            assert gaps(text) == gaps(there[key]), (field.name, key)


def test_no_two_languages_say_the_same() -> None:
    same = [
        field.name for field in fields(Words) if len({str(getattr(words, field.name)) for words in LANGUAGES}) == 1
    ]
    assert same == []


def test_what_is_said_covers_what_can_happen() -> None:
    assert set(ENGLISH.credential_states) == set(Credentials.__args__)  # type: ignore[attr-defined]
    assert set(ENGLISH.methods) <= set(METHODS)
    assert min(ENGLISH.chances) == 0
    assert list(ENGLISH.chances) == sorted(ENGLISH.chances, reverse=True)
