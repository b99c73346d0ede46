"""Whether real and fake can be told apart without looking at what the images show."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.ensemble import ExtraTreesClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, QuantileTransformer, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from hf_deepfake.errors import InputError
from hf_deepfake.labels import NAMES

MOST_IMAGES = 20_000
"""Images that a classifier is fitted on; of more, a random part."""

Folds = list[tuple[NDArray[np.int64], NDArray[np.int64]]]

_FOLDS = 5
_CATEGORIES = 20  # of a column; of more, the rarest are one
_RESAMPLES = 1000
_METADATA = {  # of two that tell as much the first is named
    "format": "format",
    "mode": "colour mode",
    "jpeg_quality": "JPEG quality",
    "jpeg_tables": "JPEG quantisation tables",
    "jpeg_subsampling": "JPEG chroma subsampling",
    "exif": "presence of EXIF",
    "width": "width",
    "height": "height",
    "aspect": "aspect ratio",
    "bytes": "file size",
    "bits_per_pixel": "bits per pixel",
}


@dataclass(frozen=True)
class Shortcut:
    """How well a classifier does that cannot see what an image shows.

    Args:
        roc_auc: Of its cross-validated scores; 0.5 is chance.
        roc_auc_low: Lower end of the 95 % bootstrap interval.
        roc_auc_high: Upper end.
        strongest: The single feature that tells most, in words.
        strongest_roc_auc: What it reaches alone, cross-validated.
        images: Images that were used.
    """

    roc_auc: float
    roc_auc_low: float
    roc_auc_high: float
    strongest: str
    strongest_roc_auc: float
    images: int


def metadata_shortcut(
    measured: pd.DataFrame, labels: NDArray[np.int64], groups: Sequence[str] | None = None
) -> Shortcut:
    """What file properties alone tell of the label: size, format, compression, EXIF.

    Args:
        measured: Rows of `measure_images` that could be read.
        labels: 0 for real, 1 for fake; shape `(images,)`.
        groups: What must not stand on both sides of a fold: one person, one video. Without them, frames that repeat
            across folds look like a shortcut.

    Raises:
        InputError: If there are fewer than 5 images (or groups with images) of a class.
    """
    features = measured.assign(aspect=measured["width"] / measured["height"])[list(_METADATA)]
    return _shortcut(features.rename(columns=_METADATA), labels, groups)


def spectrum_shortcut(
    measured: pd.DataFrame, labels: NDArray[np.int64], groups: Sequence[str] | None = None
) -> Shortcut:
    """What mean colour and the radial power spectrum alone tell of the label; arguments as for `metadata_shortcut`."""
    bands = sorted(name for name in measured if name.startswith("spectrum_"))
    names = {f"mean_{colour}": f"mean {colour}" for colour in ("red", "green", "blue")}
    names |= {name: f"spectral band {index} of {len(bands)}" for index, name in enumerate(bands, start=1)}
    return _shortcut(measured[list(names)].rename(columns=names), labels, groups)


def _shortcut(features: pd.DataFrame, labels: NDArray[np.int64], groups: Sequence[str] | None) -> Shortcut:
    generator = np.random.default_rng(0)
    chosen = np.sort(generator.permutation(len(labels))[:MOST_IMAGES])
    labels, parted = labels[chosen], None if groups is None else np.asarray(groups)[chosen]
    columns = {name: _numbers(features[[name]].iloc[chosen]) for name in features}
    folds = _folds(labels, parted)
    scores = _held_out(_classifier(len(labels)), np.hstack(list(columns.values())), labels, folds)
    tree = DecisionTreeClassifier(max_leaf_nodes=8, min_samples_leaf=3, random_state=0)
    alone = {name: _roc_auc(labels, _held_out(tree, column, labels, folds)) for name, column in columns.items()}
    strongest = max(alone, key=lambda name: alone[name])
    low, high = _interval(labels, scores, parted, generator)
    return Shortcut(_roc_auc(labels, scores), low, high, strongest, alone[strongest], len(labels))


def _numbers(column: pd.DataFrame) -> NDArray[np.float64]:
    """One column a category, or one of numbers, with gaps below all others."""
    if all(map(pd.api.types.is_numeric_dtype, column.dtypes)):
        return np.asarray(column.fillna(column.min() - 1).fillna(0), dtype=np.float64)
    encoder = OneHotEncoder(max_categories=_CATEGORIES, sparse_output=False)
    encoded: NDArray[np.float64] = encoder.fit_transform(column)
    return encoded


def _classifier(images: int) -> VotingClassifier:
    """A logistic regression, which wins where little is to be found, and trees, for sizes that only one class has."""
    regression = make_pipeline(
        QuantileTransformer(n_quantiles=10, random_state=0),
        StandardScaler(),
        LogisticRegression(class_weight="balanced"),
    )
    trees = ExtraTreesClassifier(
        50, min_samples_leaf=max(5, images // 200), max_features=0.5, class_weight="balanced", random_state=0
    )
    return VotingClassifier([("regression", regression), ("trees", trees)], voting="soft")


def _folds(labels: NDArray[np.int64], groups: NDArray[np.str_] | None) -> Folds:
    units = np.arange(len(labels)) if groups is None else groups
    for label, name in enumerate(NAMES):
        found = len(np.unique(units[labels == label]))
        if found < _FOLDS:
            what = f"{name} images" if groups is None else f"groups with {name} images"
            raise InputError(f"{found} {what}, and it takes {_FOLDS} to measure a shortcut: add some.")
    if groups is None:
        return list(StratifiedKFold(_FOLDS, shuffle=True, random_state=0).split(labels, labels))
    return list(StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(labels, labels, groups))


def _held_out(
    model: Any, columns: NDArray[np.float64], labels: NDArray[np.int64], folds: Folds
) -> NDArray[np.float64]:
    """Probability of fake of each image, by a model that was fitted without its fold."""
    scores: NDArray[np.float64] = cross_val_predict(model, columns, labels, cv=folds, method="predict_proba")[:, 1]
    return scores


def _interval(
    labels: NDArray[np.int64],
    scores: NDArray[np.float64],
    groups: NDArray[np.str_] | None,
    generator: np.random.Generator,
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUC, by group where there are groups."""
    units = np.arange(len(labels)) if groups is None else np.unique(groups, return_inverse=True)[1]
    members = [np.flatnonzero(units == unit) for unit in range(units.max() + 1)] if groups is not None else None
    found = []
    for _ in range(_RESAMPLES):
        drawn = generator.integers(units.max() + 1, size=units.max() + 1)
        rows = drawn if members is None else np.concatenate([members[unit] for unit in drawn])
        if len(np.unique(labels[rows])) == 2:
            found.append(_roc_auc(labels[rows], scores[rows]))
    low, high = np.percentile(found, [2.5, 97.5]).tolist()
    return low, high


def _roc_auc(labels: NDArray[np.int64], scores: NDArray[np.float64]) -> float:
    """Mann and Whitney's form; scikit-learn's takes ten times as long for the bootstrap."""
    fakes = int(labels.sum())
    return float((rankdata(scores)[labels == 1].sum() - fakes * (fakes + 1) / 2) / (fakes * (len(labels) - fakes)))
