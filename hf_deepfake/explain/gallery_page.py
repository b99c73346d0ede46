"""The page of several explanations: one HTML file that holds its own pictures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from PIL import Image

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import UnreadableImageError, open_rgb
from hf_deepfake.explain.attributions import Explanation
from hf_deepfake.explain.figures import in_numbers, in_words, legend, overlay, shades
from hf_deepfake.pages import data_address, save_rendered
from hf_deepfake.printing import printable

PAGE = "index.html"

SHOWN = 200
"""Images of a page at most, some 8 MB; the sheets of all are beside it."""

THUMBNAIL = 288
"""Pixels of a picture's longer side."""


def save_page(
    name: str,
    choices: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    named: Mapping[str, Any],
    folder: Path,
) -> None:
    """Write `index.html`: each image beside the map of its verdict, and what that map is worth.

    It needs no network and no other file, except for the sheets that its pictures lead to. Whatever a file is called,
    its name is text.

    Args:
        name: What the model is called.
        choices: Method and target of the maps, as in explanations.json.
        entries: Its images.
        named: What to decode each image from, by name.
        folder: Where maps and sheets are, and the page goes.
    """
    save_rendered(
        Path(__file__).with_name("gallery.html.j2"),
        folder / PAGE,
        model=printable(Path(name).name or name),
        method=choices["method"].replace("_", " "),
        legend=legend(choices["target"]),
        shades=shades(9),
        checked=[entry["maps"][-1]["faithfulness"]["better_than_random"] for entry in entries]
        if choices["faithfulness"]
        else None,
        labels=[entry["label"] for entry in entries],
        cards=[_card(entry, choices, named[entry["image"]], folder) for entry in entries[:SHOWN]],
        more=max(0, len(entries) - SHOWN),
    )


def _card(entry: Mapping[str, Any], choices: Mapping[str, Any], source: Any, folder: Path) -> dict[str, Any]:
    measured = entry["maps"][-1]["faithfulness"]
    return {
        "file": printable(entry["image"]),
        "name": printable(Path(entry["image"]).name),
        "label": entry["label"],
        "prob_fake": f"{entry['prob_fake']:.3f}",
        "sheet": quote(entry["sheet"]),
        "pictures": _pictures(entry["maps"][-1], choices, source, folder),
        "better": measured["better_than_random"] if measured else None,
        "words": in_words(measured["better_than_random"]) if measured else "not checked",
        "numbers": ", ".join(in_numbers(measured)) if measured else "",
    }


def _pictures(row: Mapping[str, Any], choices: Mapping[str, Any], source: Any, folder: Path) -> list[str]:
    """An image and the map over it; nothing where the image has gone meanwhile."""
    try:
        image = open_rgb(source)
    except UnreadableImageError:
        return []
    with Image.open(folder / row["map"]) as stored:
        heatmap = np.asarray(stored, dtype=np.float32) / np.float32(65535)
    explanation = Explanation(heatmap, choices["method"], choices["target"], row["member"], row["prob_fake"])
    return [_address(image), _address(overlay(image, explanation))]


def _address(picture: Image.Image) -> str:
    """A small JPEG of a picture as a `data:` address."""
    small = picture.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=85)
    return data_address(buffer.getvalue(), "jpeg")
