"""Recipes: how argument dataclasses are filled (flags > YAML recipe > defaults), and how they are written and read."""

import argparse
import dataclasses
import difflib
import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from hf_deepfake.errors import InputError
from hf_deepfake.writing import whole


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, and the epilog as it stands."""


def parse_recipe(
    dataclass_types: Sequence[Any], argv: Sequence[str], program: str, epilog: str | None = None
) -> tuple[Any, ...]:
    """Fill dataclasses from `--config RECIPE.yaml` and flags; a flag overrides the recipe's key.

    `epilog` is shown below the help.

    Raises:
        InputError: If the recipe is missing, no flat mapping, or has a key that is no field; if a flag is none; or if
            values do not go together.
    """
    from transformers import HfArgumentParser

    usage = "%(prog)s [--config RECIPE.yaml] [flags]"  # naming all of Trainer's would bury the error below it
    config_parser = argparse.ArgumentParser(prog=program, usage=usage, add_help=False, allow_abbrev=False)
    config_parser.add_argument("--config", type=Path, metavar="RECIPE.yaml", help="recipe whose keys are these flags")
    parser = HfArgumentParser(
        list(dataclass_types),
        prog=program,
        usage=usage,
        allow_abbrev=False,
        parents=[config_parser],
        epilog=epilog,
        formatter_class=_HelpFormatter,
    )
    config, flags = config_parser.parse_known_args(argv)
    known = {field.name for dtype in dataclass_types for field in dataclasses.fields(dtype) if field.init}
    arguments = (_recipe_flags(config.config, known) if config.config else []) + flags
    try:
        *filled, unknown = parser.parse_args_into_dataclasses(
            arguments, return_remaining_strings=True, look_for_args_file=False
        )
    except ValueError as error:  # Trainer's arguments check themselves and each other
        raise InputError(f"{program}: {error}") from error
    if unknown:
        flags = [word for word in unknown if word.startswith("--")]
        raise InputError(f"{program}: unknown flags {unknown}.{_near(flags, [f'--{name}' for name in known])}")
    return tuple(filled[: len(dataclass_types)])


def _near(names: Iterable[str], known: Collection[str]) -> str:
    near = [match for name in names for match in difflib.get_close_matches(name.split("=")[0], known, n=1)]
    return f" Did you mean {near}?" if near else ""


def load_recipe(path: Path) -> dict[str, Any]:
    """What a recipe says, as it stands there.

    Raises:
        InputError: If it is missing, cannot be read, or is no flat mapping.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such recipe.")
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise InputError(f"{path}: a recipe is a flat mapping of keys to values; found {type(recipe).__name__}.")
    return recipe


def _recipe_flags(path: Path, known: Collection[str]) -> list[str]:
    recipe = load_recipe(path)
    unknown = [str(key) for key in recipe if key not in known]
    if unknown:
        raise InputError(f"{path}: unknown keys {unknown}.{_near(unknown, known)}")
    flags: list[str] = []
    for key, value in recipe.items():
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        elif value is not None:  # one word, so that a value may start with a dash
            flags.append(f"--{key}={json.dumps(value) if isinstance(value, dict | bool) else value}")
    return flags


def resolved_recipe(arguments: Iterable[Any]) -> dict[str, Any]:
    """What a run is made with, as the keys of a recipe.

    Every key of ours that has a value stands in it, and Trainer's where they differ from our defaults; never a token,
    nor how a run is resumed.
    """
    recipe: dict[str, Any] = {}
    for group in arguments:
        ours = hasattr(group, "_argument_group_name")
        for field in dataclasses.fields(group):
            value = getattr(group, field.name)
            value = getattr(value, "value", value)
            plain = isinstance(value, str | int | float | list | dict)
            if not field.init or not plain or value == [] or field.name.endswith("token"):
                continue
            if field.name in ("resume_from_checkpoint", "resume_anyway"):
                continue
            if ours or not (value == field.default or (field.default in (None, "none", "") and not value)):
                recipe[field.name] = value
    return recipe


def default_recipe(arguments: Iterable[Any]) -> dict[str, Any]:
    """The values of the keys that `resolved_recipe` leaves out."""
    fields = [field for group in arguments for field in dataclasses.fields(group)]
    made = {
        field.name: field.default_factory() for field in fields if field.default_factory is not dataclasses.MISSING
    }
    given = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return made | given


def save_recipe(arguments: Sequence[Any], path: Path) -> None:
    """Write what a run is made with, so that `--config` makes it again."""
    with whole(path) as partial:
        partial.write_text(
            yaml.safe_dump(resolved_recipe(arguments), sort_keys=False, allow_unicode=True), encoding="utf-8"
        )
