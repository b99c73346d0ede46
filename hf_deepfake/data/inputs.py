"""Images as a command line names them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_deepfake.arguments import DataArguments
from hf_deepfake.data.loading import load_data
from hf_deepfake.data.splitting import everything
from hf_deepfake.data.tables import TABLE_SUFFIXES
from hf_deepfake.errors import InputError


def named_images(
    inputs: Sequence[str | os.PathLike[str]],
    image_root: str | None = None,
    follow_links: bool = False,
    image_column: str | None = None,
) -> list[tuple[str, Any]]:
    """Name of each image, and what to decode it from.

    Args:
        inputs: Images, folders of images, tables that name images, or `http(s)://` addresses.
        image_root: Folder that a table's image names start from; the table's own by default.
        follow_links: Follow links that lead out of a folder.
        image_column: A table's column of images; by default it is found by its name.

    Raises:
        InputError: If an input does not exist, or a folder or table holds no images.
    """
    named: list[tuple[str, Any]] = []
    for item in [os.fspath(given) for given in inputs]:
        path = Path(item)
        if item.startswith(("http://", "https://")):
            named.append((item, item))
        elif path.is_dir() or path.suffix.lower() in TABLE_SUFFIXES:
            data = DataArguments(
                dataset_name=item, image_root=image_root, follow_links=follow_links, image_column=image_column
            )
            rows = everything(load_data(data, labelled=False))
            named += [
                (file if image["bytes"] is not None else image["path"], image)
                for file, image in zip(rows["file"], rows["image"], strict=True)
            ]
        elif path.exists():
            named.append((item, item))
        else:
            raise InputError(f"{item}: no such image, folder or table.")
    return named
