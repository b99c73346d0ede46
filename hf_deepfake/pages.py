"""Pages that need no network and no other file: templates, and the pictures that they hold."""

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from hf_deepfake.writing import whole


def save_rendered(template: Path, path: Path, **values: Any) -> None:
    """Write a page from a template; whatever a value holds is text, and one that is missing is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template.name).render(values)
    with whole(path) as partial:
        partial.write_text(page, encoding="utf-8")


def data_address(content: bytes, kind: str) -> str:
    """A picture of a kind (`png`, `jpeg`) as a `data:` address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"


def small_chart(title: str, alt: str, draw: Callable[..., None], *values: Any) -> dict[str, str]:
    """A chart with a legend, drawn by `draw(axes, *values)`: its `title`, its words for who cannot see it, its `address`."""
    figure = Figure(figsize=(4.5, 3), layout="constrained")
    axes = figure.subplots()
    draw(axes, *values)
    axes.set_title(title)
    axes.set_axisbelow(True)
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return {"title": title, "alt": alt, "address": data_address(buffer.getvalue(), "png")}
