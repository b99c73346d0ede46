"""Two-sample tests: whether what a deployed detector is given, or what it says, has changed."""

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import fisher_exact, ks_2samp, kstwobign
from sklearn.decomposition import PCA

from hf_deepfake.errors import InputError
from hf_deepfake.evaluation.comparing import holm

STATISTICS = ("width", "height", "file_bytes", "brightness", "contrast", "sharpness")
"""Columns of numbers that tell of an image without asking the detector."""

VERDICT_WORDS = frozenset(("real", "fake", "uncertain"))

COMPONENTS = 16
"""Principal components of the embeddings that are tested."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Limits:
    """When a difference is a drift: it must be significant, and large enough to act on.

    With many images every difference is significant, with few of them large ones come by chance; hence both.

    Args:
        alpha: Chance of a false alarm, of all tests of one comparison together. A daily job with 0.01 raises at most
            one in a hundred days on average.
        min_distance: Kolmogorov-Smirnov distance, the largest difference between two distribution functions. 0.1 is a
            shift by a quarter of a standard deviation; for scores it means that at some threshold ten images of a
            hundred more (or fewer) are called fake.
        min_difference: Between two shares of verdicts. 0.05: five images of a hundred are answered otherwise.
        min_unreadable: Between two shares of unreadable images. From 0.01 on an audit calls it a failed copy too.
        min_images: Images of a table below which a test is not judged. Against a large reference, 100 images show
            shifts by half a standard deviation, and fewer only larger ones.

    Raises:
        InputError: If a share or the level is not between 0 and 1, or no image is asked for.
    """

    alpha: float = 0.01
    min_distance: float = 0.1
    min_difference: float = 0.05
    min_unreadable: float = 0.01
    min_images: int = 100

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if name == "min_images" and value < 1:
                raise InputError(f"--min_images {value}: must be at least 1.")
            if name != "min_images" and not 0 <= value <= 1:
                raise InputError(f"--{name} {value}: must be between 0 and 1.")


@dataclass(frozen=True)
class Comparison:
    """One test and its answer; numbers are NaN where there are none.

    Args:
        name: What was compared: `scores`, `called fake`, `uncertain`, `unreadable`, one of `STATISTICS` or `embeddings`.
        test: How: a test's name, or empty where nothing could be compared.
        verdict: `ok`, `drift`, `too few images` or `not measured`.
        reason: Why it was not measured, else empty.
        images: Images of the reference and of the current table.
        values: A share or the median in the reference and in the current table.
        effect: A difference of shares, or a Kolmogorov-Smirnov distance.
        min_effect: From which on it is a drift.
        p_value: Of this test alone.
        p_value_adjusted: After Holm's correction for all tests.
    """

    name: str
    test: str = ""
    verdict: str = "not measured"
    reason: str = ""
    images: tuple[int, int] = (0, 0)
    values: tuple[float, float] = (math.nan, math.nan)
    effect: float = math.nan
    min_effect: float = math.nan
    p_value: float = math.nan
    p_value_adjusted: float = math.nan


def find_drift(reference: pd.DataFrame, current: pd.DataFrame, limits: Limits | None = None) -> list[Comparison]:
    """Put every test to two tables of scores.

    The tests take images as independent of each other: a hundred frames of one video count as one hundred images here,
    and make a drift of what is none.

    Scores and statistics are compared by the two-sample Kolmogorov-Smirnov test, shares by Fisher's exact test. Of the
    embeddings, the `COMPONENTS` leading principal components are tested one by one, and the smallest p-value is
    multiplied by their number: univariate tests of a reduced representation with Bonferroni's correction, which
    Rabanser, Günnemann & Lipton (Failing Loudly, NeurIPS 2019, sections 3 and 4) found comparable to a multivariate
    kernel test, at a fraction of its cost. The components are those of both tables together. Without a drift the tables could change places, so
    the tests keep their level; those of the reference alone fit its own images better than new ones, and gave twice as
    many false alarms in 600 random halvings of 344 images.

    The p-values are adjusted by Holm's method: the answer is one alarm for all tests, so the chance of any false one is
    what counts, and it holds however tests depend on each other, as those of scores and verdicts do.

    Args:
        reference: Scores of the time when all was well, with any of the columns `label` (verdicts), `error`,
            `STATISTICS` and `embedding`. Rows with an error count as unreadable only.
        current: Scores of now.
        limits: When a difference is a drift.

    Returns:
        Every test in the order of the report, also those that could not be done.
    """
    limits = limits or Limits()
    tables = (reference, current)
    comparisons = [
        _compare_values("scores", "prob_fake", tables, limits),
        _compare_verdicts("called fake", "fake", tables, limits),
        _compare_verdicts("uncertain", "uncertain", tables, limits),
        _compare_unreadable(tables, limits),
        *(_compare_values(name, name, tables, limits) for name in STATISTICS),
        _compare_embeddings(tables, limits),
    ]
    return _judged(comparisons, limits)


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have a score."""
    return table[table["error"].isna()] if "error" in table else table


def smallest_distance(images: tuple[int, int], tests: int, alpha: float) -> float:
    """Kolmogorov-Smirnov distance that is just significant, of that many tests, by its asymptotic distribution."""
    distance: float = kstwobign.isf(alpha / max(tests, 1)) * np.sqrt(1 / images[0] + 1 / images[1])
    return min(1.0, float(distance))


def principal_components(
    reference: pd.DataFrame, current: pd.DataFrame, most: int = COMPONENTS
) -> tuple[Floats, Floats]:
    """The readable images' embeddings on the leading components of both tables, shape `(images, components)` each."""
    first, second = (np.stack(readable(table)["embedding"].dropna().to_list()) for table in (reference, current))
    both = np.concatenate([first, second]).astype(np.float64)
    components: Floats = PCA(min(most, *both.shape), svd_solver="full").fit_transform(both)
    return components[: len(first)], components[len(first) :]


def _lacking(name: str, column: str, tables: tuple[pd.DataFrame, pd.DataFrame]) -> Comparison | None:
    """The answer where a column is not in both tables, or empty."""
    without = [
        which
        for which, table in zip(("the reference", "the current table"), tables, strict=True)
        if column not in table or not readable(table)[column].notna().any()
    ]
    return Comparison(name, reason=f"not in {' and '.join(without)}") if without else None


def _compare_values(name: str, column: str, tables: tuple[pd.DataFrame, pd.DataFrame], limits: Limits) -> Comparison:
    lacking = _lacking(name, column, tables)
    if lacking:
        return lacking
    first, second = (readable(table)[column].dropna().to_numpy(float) for table in tables)
    result = ks_2samp(first, second)
    return Comparison(
        name,
        "Kolmogorov-Smirnov",
        images=(len(first), len(second)),
        values=(float(np.median(first)), float(np.median(second))),
        effect=float(result.statistic),
        min_effect=limits.min_distance,
        p_value=float(result.pvalue),
    )


def _compare_verdicts(name: str, word: str, tables: tuple[pd.DataFrame, pd.DataFrame], limits: Limits) -> Comparison:
    lacking = _lacking(name, "label", tables)
    if lacking:
        return lacking
    first, second = (readable(table)["label"].dropna() for table in tables)
    if not set(first) | set(second) <= VERDICT_WORDS:
        return Comparison(name, reason="the labels are no verdicts")
    if word == "uncertain" and word not in set(first) | set(second):
        return Comparison(name, reason="no verdict is uncertain")
    counts = int((first == word).sum()), int((second == word).sum())
    return _compare_shares(name, counts, (len(first), len(second)), limits.min_difference)


def _compare_unreadable(tables: tuple[pd.DataFrame, pd.DataFrame], limits: Limits) -> Comparison:
    if any("error" not in table or table.empty for table in tables):
        return Comparison("unreadable", reason="not both tables tell their errors")
    first, second = (table["error"].notna() for table in tables)
    counts = int(first.sum()), int(second.sum())
    return _compare_shares("unreadable", counts, (len(first), len(second)), limits.min_unreadable)


def _compare_shares(name: str, counts: tuple[int, int], images: tuple[int, int], min_effect: float) -> Comparison:
    shares = counts[0] / images[0], counts[1] / images[1]
    table = [[count, total - count] for count, total in zip(counts, images, strict=True)]
    return Comparison(
        name,
        "Fisher",
        images=images,
        values=shares,
        effect=abs(shares[1] - shares[0]),
        min_effect=min_effect,
        p_value=float(fisher_exact(table).pvalue),
    )


def _compare_embeddings(tables: tuple[pd.DataFrame, pd.DataFrame], limits: Limits) -> Comparison:
    lacking = _lacking("embeddings", "embedding", tables)
    if lacking:
        return lacking
    first, second = principal_components(*tables)
    results = [ks_2samp(*pair) for pair in zip(first.T, second.T, strict=True)]
    return Comparison(
        "embeddings",
        f"Kolmogorov-Smirnov, {len(results)} components",
        images=(len(first), len(second)),
        effect=max(float(result.statistic) for result in results),
        min_effect=limits.min_distance,
        p_value=min(1.0, len(results) * min(float(result.pvalue) for result in results)),
    )


def _judged(comparisons: list[Comparison], limits: Limits) -> list[Comparison]:
    adjusted = iter(holm([comparison.p_value for comparison in comparisons if comparison.test]))
    return [
        _judge(comparison, next(adjusted), limits) if comparison.test else comparison for comparison in comparisons
    ]


def _judge(comparison: Comparison, p_value: float, limits: Limits) -> Comparison:
    if min(comparison.images) < limits.min_images:
        verdict = "too few images"
    else:
        verdict = "drift" if p_value <= limits.alpha and comparison.effect >= comparison.min_effect else "ok"
    return dataclasses.replace(comparison, verdict=verdict, p_value_adjusted=p_value)
