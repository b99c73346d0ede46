"""Parts for cross-fitting: images that belong together are left out together."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold


def units_of(table: pd.DataFrame) -> tuple[NDArray[np.int64], str]:
    """What of a table is independent of the rest.

    Groups where the table has them; else the sources of its fakes, so that what is measured holds for generators that
    were not fitted on; else, and for real images without groups, each image for itself.

    Args:
        table: Predictions with `label` and, where known, `group` and `source`.

    Returns:
        A number an image, equal for images that belong together, and by what they do: `group`, `source` or `image`.
    """
    rows = [f"row {row}" for row in range(len(table))]
    names, kind = np.array(rows, dtype=object), "image"
    if "group" in table:
        names, kind = table["group"].astype(str).to_numpy(dtype=object), "group"
    elif "source" in table:
        sources = table["source"].astype(str).to_numpy(dtype=object)
        fakes = set(sources[table["label"] == 1])
        if len(fakes) > 1:  # the only source cannot be left out
            names = np.where(np.isin(sources.astype(str), list(fakes)), sources, names)
            kind = "source"
    return np.unique(names.astype(str), return_inverse=True)[1], kind


def splits(
    labels: NDArray[np.int64], units: NDArray[np.int64] | None = None, folds: int = 5
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to fit on and rows to predict, each row predicted once and each unit in one part; stratified.

    There are fewer parts where a class or its units are fewer, and none where nothing can be left out.
    """
    units = np.arange(len(labels)) if units is None else units
    folds = min(folds, *(len(np.unique(units[labels == label])) for label in (0, 1)))
    if folds < 2:
        return
    number = np.full(len(labels), -1)
    alone = np.bincount(units)[units] == 1
    of_class = np.unique(labels[alone], return_counts=True)[1]
    if len(of_class) == 0 or of_class.min() < folds:
        alone[:] = False
    # by units only where they are more than one image: that takes seconds for thousands of units
    for rows, groups in ((np.flatnonzero(alone), None), (np.flatnonzero(~alone), units[~alone])):
        splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
        if len(rows):
            parts = splitter(folds, shuffle=True, random_state=0).split(rows, labels[rows], groups)
            for fold, (_, part) in enumerate(parts):
                number[rows[part]] = fold
    for fold in range(folds):
        rest, part = np.flatnonzero(number != fold), np.flatnonzero(number == fold)
        if len(part) and len(np.unique(labels[rest])) == 2:
            yield rest, part
