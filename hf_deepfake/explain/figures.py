"""Heatmaps as pictures that say what they mean and whether they may be trusted."""

import math
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from hf_deepfake.ensemble.hub.image_processing_deepfake_ensemble import open_rgb
from hf_deepfake.evaluation.plots import FAKE_COLOR, MARKERS, PALETTE
from hf_deepfake.explain.attributions import Explanation
from hf_deepfake.explain.faithfulness import Faithfulness
from hf_deepfake.printing import printable
from hf_deepfake.writing import whole

COLORMAP = "viridis"
"""Rises in lightness alike for every kind of colour vision, and its green and yellow are no colours of a face."""

_DARKEST = 0.45
"""Where the colours begin: those below are darker than a mid grey, so that some evidence would look like less than none."""

SHORTEST, LONGEST = 256, 1024
"""Pixels that the longer side of a picture is enlarged to at least, and reduced to at most."""

COLUMNS = 4
"""Panels side by side on a sheet."""

_TALLEST = 1.25
"""Height of a panel as a share of its width at most."""

_INCOMPLETE = 0.01
"""Share of the score that attributions may miss before it is said."""

_OPACITY = 0.85
_GREY = 0.85  # of the photograph's lightness, so that the brightest colour stands out on white too


def overlay(image: Any, explanation: Explanation) -> Image.Image:
    """A heatmap over its image, mode RGB, its longer side between `SHORTEST` and `LONGEST` pixels.

    The photograph is shown in grey, so that every colour is the map's, and the less of it is covered the lower the map.

    Args:
        image: Anything that `open_rgb` takes.
        explanation: Of this image.

    Raises:
        ValueError: If the heatmap is not of the image's size.
    """
    opened = open_rgb(image)
    if explanation.heatmap.shape != (opened.height, opened.width):
        height, width = explanation.heatmap.shape
        raise ValueError(f"the heatmap is of {width}x{height} pixels, the image of {opened.width}x{opened.height}.")
    size = _shown_size(opened.size)
    grey = np.asarray(opened.convert("L").resize(size, Image.Resampling.BICUBIC)) * (_GREY / 255)
    heatmap = np.asarray(Image.fromarray(explanation.heatmap).resize(size, Image.Resampling.BILINEAR)).clip(0, 1)
    pixels = _blended(heatmap, np.repeat(grey[..., None], 3, axis=2))
    return Image.fromarray((255 * pixels).round().astype(np.uint8))


def _shown_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height that a picture is drawn with."""
    longer = max(size)
    factor = min(max(longer, SHORTEST), LONGEST) / longer
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _blended(heatmap: NDArray[Any], below: NDArray[Any]) -> NDArray[np.float64]:
    """Colours of a heatmap over RGB in [0, 1], shape `(…, 3)`; where it is 0 nothing is covered."""
    opacity = _OPACITY * heatmap[..., None] ** 0.75  # rises faster than the map, so that its lower half is seen
    colors = matplotlib.colormaps[COLORMAP](_DARKEST + (1 - _DARKEST) * heatmap)[..., :3]
    return np.asarray((1 - opacity) * below + opacity * colors)


def sheet(
    image: Any,
    explanations: Sequence[Explanation],
    path: Path,
    faithfulness: Sequence[Faithfulness] | None = None,
    weights: Mapping[str, float] | None = None,
) -> None:
    """One PNG of an image and its maps side by side, each with its score and what it is worth, and a legend.

    Args:
        image: Anything that `open_rgb` takes.
        explanations: Of this image, by one method for one target: of members, of the vote or of both.
        path: The PNG file.
        faithfulness: Of each explanation.
        weights: Of members in the vote, by name.

    Raises:
        ValueError: If there is no explanation, or they differ in method or target.
    """
    if len({(explanation.method, explanation.target) for explanation in explanations}) != 1:
        raise ValueError("a sheet needs explanations by one method for one target.")
    opened = open_rgb(image)
    lines = 5 if faithfulness is not None else 2
    figure, panels = _panels(len(explanations) + 1, opened.height / opened.width, lines)
    _draw_picture(panels[0], opened.resize(_shown_size(opened.size), Image.Resampling.BICUBIC))
    panels[0].set_title("image", fontsize=10)
    names = shown_names([explanation.member for explanation in explanations])
    for index, (axes, explanation, name) in enumerate(zip(panels[1:], explanations, names, strict=False)):
        _draw_picture(axes, overlay(opened, explanation))
        axes.set_title(_title(explanation, name, weights or {}), fontsize=10)
        _write_worth(axes, explanation, faithfulness[index] if faithfulness is not None else None)
    for axes in panels:
        axes.set(xticks=[], yticks=[], frame_on=False)
    _draw_legend(figure, panels, explanations[0])
    _save(figure, path)


def _panels(count: int, height_to_width: float, lines: int) -> tuple[Figure, list[Axes]]:
    rows = math.ceil(count / COLUMNS)
    columns = math.ceil(count / rows)
    height = 3.0 * min(height_to_width, _TALLEST)  # inches of a picture
    figure = Figure(figsize=(3.2 * columns, rows * (height + 0.2 * lines) + 0.8), layout="compressed")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _draw_picture(axes: Axes, picture: Image.Image) -> None:
    """A picture, with blank sides where it is so narrow that the words below it would not fit."""
    axes.imshow(np.asarray(picture))
    margin = max(0.0, picture.height / _TALLEST - picture.width) / 2
    axes.set_xlim(-0.5 - margin, picture.width - 0.5 + margin)


def shown_names(members: Sequence[str | None]) -> list[str]:
    """What maps of members and of None, the vote or a single detector, are called side by side.

    Example:
        >>> shown_names(["resnet", None]), shown_names([None])
        (['resnet', 'the vote'], ['the verdict'])
    """
    whole_one = "the vote" if len(members) > 1 else "the verdict"
    return [whole_one if member is None else printable(member) for member in members]


def _title(explanation: Explanation, name: str, weights: Mapping[str, float]) -> str:
    weight = weights.get(explanation.member or "")
    share = f", weight {weight:.2f}" if weight is not None else ""
    return f"{_math_free(name)}\nprob_fake {explanation.prob_fake:.3f}{share}"


def _math_free(text: str) -> str:
    """Text in which matplotlib reads no formula."""
    return text.replace("$", r"\$")


def _write_worth(axes: Axes, explanation: Explanation, measured: Faithfulness | None) -> None:
    lines = [in_words(measured.better_than_random), *in_numbers(vars(measured))] if measured is not None else []
    delta = explanation.convergence_delta
    if delta is not None and delta > _INCOMPLETE:
        lines.append(f"attributions are off by {delta:.0%} of the score")
    color = FAKE_COLOR if measured is not None and not measured.better_than_random else "black"
    axes.set_xlabel("\n".join(lines), fontsize=8, color=color)


def in_words(better_than_random: bool) -> str:
    """What a map is worth: whether it beats every random one that it was compared with."""
    return "better than all random maps" if better_than_random else "a random map does as well: do not trust it"


def in_numbers(measured: Mapping[str, Any]) -> list[str]:
    """The areas of a `Faithfulness` under both curves, and their means of random maps."""
    return [
        f"{which} AUC {measured[f'{which}_auc']:.2f}, random mean {measured[f'random_{which}_auc']:.2f} ({good} is good)"
        for which, good in (("deletion", "low"), ("insertion", "high"))
    ]


def plot_curves(measured: Mapping[str, Faithfulness], path: Path) -> None:
    """Deletion and insertion curves of maps, each with the mean of its random controls dashed, as a PNG file.

    Args:
        measured: By the name to show.
        path: The PNG file.
    """
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = list(figure.subplots(1, 2, sharey=True))
    for (name, one), color, marker in zip(measured.items(), cycle(PALETTE), cycle(MARKERS)):
        for axes, curve, random in zip(
            panels, (one.deletion, one.insertion), (one.random_deletion, one.random_insertion), strict=True
        ):
            style = {"color": color, "marker": marker, "markersize": 3}
            axes.plot(one.shares, curve, label=_math_free(name), **style)
            axes.plot(one.shares, random, label="random maps", color=color, linestyle="--", alpha=0.6)
    panels[0].set(title="Deletion: a good map falls early", xlabel="share of pixels taken away, brightest first")
    panels[1].set(title="Insertion: a good map rises early", xlabel="share of pixels brought back, brightest first")
    panels[0].set(ylabel="probability of the target", ylim=(-0.02, 1.02))
    for axes in panels:
        axes.grid(alpha=0.3)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(handles)), fontsize="small")
    _save(figure, path)


def plot_bands(
    edges: NDArray[np.float64], effects: Mapping[str, NDArray[np.float64]], target: str, path: Path
) -> None:
    """What each band of frequencies does to a score, as a PNG file.

    Args:
        edges: Ends of the bands in cycles a pixel, shape `(bands + 1,)`.
        effects: Log-odds of the target that each band adds, shape `(bands,)`, by the name to show.
        target: `fake` or `real`.
        path: The PNG file.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    middles = (edges[:-1] + edges[1:]) / 2
    for (name, values), color, marker in zip(effects.items(), cycle(PALETTE), cycle(MARKERS)):
        axes.plot(middles, values, color=color, marker=marker, label=_math_free(name))
    axes.axhline(0, color="grey", linewidth=1)
    axes.set(
        title=f"Above 0: the band speaks for {target}",
        xlabel="coarse   ←   cycles a pixel   →   fine",
        ylabel=f"log-odds of {target} that the band adds",
    )
    axes.set_xlim(edges[0], edges[-1])
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, path)


def shades(count: int = 256) -> list[str]:
    """The colours of an overlay on a mid grey, from no influence to the most."""
    return [to_hex(color) for color in _blended(np.linspace(0, 1, count), np.full((count, 3), _GREY / 2))]


def _draw_legend(figure: Figure, panels: list[Axes], explanation: Explanation) -> None:
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), ListedColormap(shades())),
        ax=panels,
        location="bottom",
        shrink=0.6,
        aspect=45,
        pad=0.02,
    )
    bar.set_ticks([0, 0.5, 1])
    bar.set_label(f"{explanation.method.replace('_', ' ')}\n{legend(explanation.target)}", fontsize=9)


def legend(target: str) -> str:
    """What the colours of an overlay mean."""
    return f"bright yellow: what speaks most for {target}; plain grey: no influence"


def _save(figure: Figure, path: Path) -> None:
    with whole(path) as partial:
        figure.savefig(partial, dpi=120)
