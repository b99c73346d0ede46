"""How differently the members err: an ensemble gains only where its members are wrong on different images.

Kuncheva and Whitaker, Measures of Diversity in Classifier Ensembles and Their Relationship with the Ensemble Accuracy,
Machine Learning 2003, section 2.1.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hf_deepfake.writing import whole

MEASURES = {
    "error_correlation": "error correlation (1: the same errors)",
    "q_statistic": "Q statistic (1: the same errors)",
    "double_fault": "double fault: both wrong",
    "disagreement": "disagreement: one wrong",
}


def member_diversity(
    names: Sequence[str],
    labels: NDArray[np.int64],
    member_probs: NDArray[np.float64],
    member_thresholds: Sequence[float],
) -> dict[str, Any]:
    """Diversity of each pair of members and its mean, from which of their verdicts are right.

    With `a` the share of images that both get right, `d` both wrong, `b` and `c` the first or the second alone right:
    Yule's Q is `(ad - bc) / (ad + bc)`, the correlation of errors `(ad - bc) / sqrt((a + b)(c + d)(a + c)(b + d))`,
    disagreement `b + c` and double fault `d`.

    Args:
        names: Of the members.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        member_probs: Calibrated probabilities of fake; shape `(images, members)`.
        member_thresholds: Probability from which each member's verdict is fake.

    Returns:
        `images`, `members`, and for each of `MEASURES` a symmetric matrix of members by members (in `pairs`) and the mean
        over pairs (in `mean`). None where a measure is 0 / 0: a member without an error is correlated with nobody.

    Example:
        >>> probs = np.array([[0.1, 0.9, 0.9, 0.1], [0.1, 0.9, 0.1, 0.9]]).T
        >>> found = member_diversity(["one", "two"], np.array([0, 0, 1, 1]), probs, [0.5, 0.5])
        >>> found["mean"]["disagreement"], found["mean"]["double_fault"], found["mean"]["q_statistic"]
        (0.5, 0.25, 0.0)
    """
    right = (member_probs >= np.array(member_thresholds)) == (labels == 1)[:, None]
    count = len(names)
    pairs: dict[str, list[list[float | None]]] = {name: [[None] * count for _ in names] for name in MEASURES}
    for first, second in combinations(range(count), 2):
        for name, value in _of_pair(right[:, first], right[:, second]).items():
            pairs[name][first][second] = pairs[name][second][first] = value
    means = {name: [value for row in matrix for value in row if value is not None] for name, matrix in pairs.items()}
    mean = {name: float(np.mean(values)) if values else None for name, values in means.items()}
    return {"images": len(labels), "members": list(names), "pairs": pairs, "mean": mean}


def _of_pair(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> dict[str, float | None]:
    both, neither = (first & second).mean(), (~first & ~second).mean()
    one, other = (first & ~second).mean(), (~first & second).mean()
    together, apart = both * neither, one * other
    spread = np.sqrt(first.mean() * (1 - first.mean()) * second.mean() * (1 - second.mean()))
    return {
        "error_correlation": float((together - apart) / spread) if spread else None,
        "q_statistic": float((together - apart) / (together + apart)) if together + apart else None,
        "double_fault": float(neither),
        "disagreement": float(one + other),
    }


def plot_diversity(diversity: Mapping[str, Any], path: Path) -> None:
    """The four measures of all pairs, as a PNG file."""
    names = diversity["members"]
    side = 2.2 + 0.45 * len(names)
    figure = Figure(figsize=(2 * side + 1, 2 * side), layout="constrained")
    for axes, (measure, title) in zip(figure.subplots(2, 2).flat, MEASURES.items(), strict=True):
        matrix = np.array(diversity["pairs"][measure], dtype=np.float64)  # None becomes NaN, which stays white
        signed = measure in ("error_correlation", "q_statistic")
        ends = (-1, 1) if signed else (0, max(0.01, np.nanmax(matrix, initial=0)))
        image = axes.imshow(matrix, cmap="RdBu_r" if signed else "Blues", vmin=ends[0], vmax=ends[1])
        for row, column in zip(*np.nonzero(np.isfinite(matrix)), strict=True):
            dark = abs(matrix[row, column]) > 0.6 * ends[1]
            text = f"{matrix[row, column]:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color="white" if dark else "black")
        axes.set_title(title, fontsize=9)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
        figure.colorbar(image, ax=axes, shrink=0.8)
    with whole(path) as partial:
        figure.savefig(partial, dpi=120)


def diversity_lines(results: Mapping[str, Any]) -> list[str]:
    """Diversity in words and its plot, for a model card; nothing where results hold none."""
    diversity = results.get("diversity")
    if diversity is None:
        return []
    mean = diversity["mean"]
    correlation, q_statistic = (
        "not defined" if mean[name] is None else f"{mean[name]:.2f}" for name in ("error_correlation", "q_statistic")
    )
    return [
        f"Of two members, on average over {diversity['images']} {diversity['split']} images, both are wrong on "
        f"{mean['double_fault']:.1%} and one alone on {mean['disagreement']:.1%}; their errors correlate by {correlation} "
        f"(Q statistic {q_statistic}). The more they err apart, the more a vote can mend.",
        "",
        "![Diversity of the members](plots/diversity.png)",
        "",
    ]
