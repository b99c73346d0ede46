"""Recipes as they are published: choices, without the folders of whoever made them."""

import re
from pathlib import Path
from typing import Any

from hf_deepfake.evaluation.report.settings import last_part
from hf_deepfake.recipe import load_recipe

_PLUMBING = ("output_dir", "logging_dir", "resume_from_checkpoint", "hub_model_id")


def published_recipes(folder: Path) -> dict[str, dict[str, Any]]:
    """Recipe of a run (`recipe.yaml`), or of each member of an ensemble (`recipes/MEMBER.yaml`), by file.

    Of a path only its last part is kept, and of no path what only says where files lie.

    Raises:
        InputError: If a recipe cannot be read.
    """
    files = [folder / "recipe.yaml", *sorted((folder / "recipes").glob("*.yaml"))]
    return {file.relative_to(folder).as_posix(): _published(load_recipe(file)) for file in files if file.is_file()}


def _published(recipe: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_folders(value, key) for key, value in recipe.items() if key not in _PLUMBING}


def _without_folders(value: Any, key: str = "") -> Any:
    if isinstance(value, list):
        return [_without_folders(part) for part in value]
    return last_part(value) if isinstance(value, str) and key != "group_by" else value  # group_by: an expression


def hub_id(name: Any) -> str | None:
    """The name where it can be a Hub id, None for a folder, a file or a bare timm name.

    Example:
        >>> hub_id("google/vit-base"), hub_id("…/faces"), hub_id("resnet18")
        ('google/vit-base', None, None)
    """
    readable = isinstance(name, str) and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", name)
    return str(name) if readable and not Path(name).exists() else None
