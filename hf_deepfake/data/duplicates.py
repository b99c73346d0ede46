"""Which images of a data set are one file, or show one picture."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.cluster.hierarchy import DisjointSet
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hf_deepfake.data.measuring import SIGNATURE_SIDE

Rows = NDArray[np.intp]

_FARTHEST = 12  # bits of 64 in which the hashes of one picture may differ
_FARTHEST_QUARTER = 2  # bits of 16 in which they may differ in the quarter that differs least
_PICTURES_OF_A_HASH = 100  # that are compared with all others of that hash, lest many take for ever
_LEAST_ALIKE = 0.92  # of a picture and its changed copy, 99 in 100 reach 0.925; different aligned faces reached 0.88
_LEAST_ALIKE_UNSHIFTED = 0.6  # spares most pairs of faces the search for a shift
_MARGIN = 2  # pixels left out at the border, where a shift brings in what was not there
_COMPARED = 1 << 10  # pairs of signatures held at a time
_JOINED = 1 << 21  # pairs of hashes held at a time


def exact_duplicates(hashes: Sequence[str]) -> list[list[int]]:
    """Groups of rows with one content, two rows or more each.

    Args:
        hashes: The `sha256` of each row; rows without one are left out.

    Example:
        >>> exact_duplicates(["a", "b", "a", "", ""])
        [[0, 2]]
    """
    rows = defaultdict(list)
    for row, content in enumerate(hashes):
        if content:
            rows[content].append(row)
    return [group for group in rows.values() if len(group) > 1]


def connected(pairs: Iterable[tuple[int, int]], count: int) -> list[list[int]]:
    """Groups of rows that pairs connect, two rows or more each.

    Args:
        pairs: Pairs of row positions.
        count: Number of rows in all.

    Example:
        >>> connected([(0, 3), (4, 3), (1, 2)], count=6)
        [[0, 3, 4], [1, 2]]
    """
    component = _components(np.array(list(pairs), np.intp).reshape(-1, 2), count)
    order = np.argsort(component, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(component[order])) + 1)
    return sorted(group.tolist() for group in groups if len(group) > 1)


def _components(pairs: Rows, count: int) -> Rows:
    graph = coo_array((np.ones(len(pairs), bool), pairs.T), shape=(count, count))
    component: Rows = connected_components(graph, directed=False)[1]
    return component


def near_duplicates(measured: pd.DataFrame) -> list[tuple[int, int]]:
    """Pairs of rows that show one picture in different bytes: recompressed, resized, or shifted by 2 %.

    Rows whose hashes differ in at most 12 bits of 64 are compared by their signatures. Different aligned faces often
    have such hashes (1 pair in 1,300 of those of FFHQ and StyleGAN), but not their details in the same places.

    A picture that is there many times gives a tree of pairs and not all of them, so that 10,000 copies make 9,999
    pairs: what `connected` puts together shows one picture. Of rows with equal bytes only the first is paired;
    `exact_duplicates` has the others. Pictures without any detail, like a black one, are paired by mean colour.

    Args:
        measured: What `measure_images` returned.

    Returns:
        Pairs (i, j) of row positions with i < j, sorted.
    """
    rows = np.flatnonzero(measured["error"].isna() & ~measured["sha256"].duplicated())
    measured = measured.iloc[rows]
    signatures = np.frombuffer(b"".join(measured["signature"]), np.int8).reshape(-1, SIGNATURE_SIDE, SIGNATURE_SIDE)
    hashes = np.frombuffer(b"".join(measured["phash"]), np.uint64)
    detailed = signatures.any(axis=(1, 2))
    pairs = _equal_colours(measured, np.flatnonzero(~detailed))
    pairs += _equal_pictures(hashes, signatures, np.flatnonzero(detailed))
    return sorted((int(rows[min(pair)]), int(rows[max(pair)])) for pair in pairs)


def _equal_colours(measured: pd.DataFrame, flat: Rows) -> list[tuple[int, int]]:
    colours = (measured[["mean_red", "mean_green", "mean_blue"]].iloc[flat] / 8).round()
    groups = colours.groupby(list(colours)).indices.values()
    return [(flat[group[0]], flat[row]) for group in groups for row in group[1:]]


def _equal_pictures(hashes: NDArray[np.uint64], signatures: NDArray[np.int8], left: Rows) -> list[tuple[int, int]]:
    """Rows of equal hashes are joined first, and one of each picture stands for them in what follows."""
    forest = _Forest(signatures)
    standing = []
    for _ in range(_PICTURES_OF_A_HASH):
        _, first, group = np.unique(hashes[left], return_index=True, return_inverse=True)
        leaders = left[first][group]
        forest.join(leaders, left)
        standing.append(left[first])
        left = left[forest.component[left] != forest.component[leaders]]
    rows = np.concatenate([*standing, left])
    for i, j in _near_hashes(hashes[rows]):
        forest.join(rows[i], rows[j])
    return forest.pairs


class _Forest:
    """Rows, joined to pictures as pairs of them prove alike.

    Attributes:
        pairs: The pairs that joined two pictures.
        component: One number a row, the same for rows of one picture.
    """

    def __init__(self, signatures: NDArray[np.int8]) -> None:
        self.pairs: list[tuple[int, int]] = []
        self.component: Rows = np.arange(len(signatures))
        self._signatures = signatures
        self._sets = DisjointSet(range(len(signatures)))

    def join(self, i: Rows, j: Rows) -> None:
        """Compare those of the pairs that are still apart, and join what is alike."""
        apart = self.component[i] != self.component[j]
        i, j = i[apart], j[apart]
        for start in range(0, len(i), _COMPARED):
            self._join_some(i[start : start + _COMPARED], j[start : start + _COMPARED])

    def _join_some(self, i: Rows, j: Rows) -> None:
        apart = self.component[i] != self.component[j]
        i, j = i[apart], j[apart]
        similarity = _similarity(self._signatures[i], self._signatures[j])
        best = np.argsort(-similarity)[: (similarity >= _LEAST_ALIKE).sum()]
        joining = [pair for pair in zip(i[best].tolist(), j[best].tolist(), strict=True) if self._sets.merge(*pair)]
        if joining:
            self.pairs += joining
            merged = _components(self.component[np.array(joining)], len(self.component))
            self.component = merged[self.component]


def _similarity(a: NDArray[np.int8], b: NDArray[np.int8]) -> NDArray[np.float32]:
    """Correlation of signatures, shape `(pairs, side, side)`, at the best shift of up to a pixel across and down.

    A shift between pixels is met by a parabola through three correlations.
    """
    [similarity] = _correlations(a, b, [(0, 0)])
    likely = np.flatnonzero(similarity >= _LEAST_ALIKE_UNSHIFTED)
    up, down, left, right = _correlations(a[likely], b[likely], [(-1, 0), (1, 0), (0, -1), (0, 1)])
    still = similarity[likely]
    similarity[likely] += _rise(up, still, down) + _rise(left, still, right)
    return similarity


def _correlations(
    a: NDArray[np.int8], b: NDArray[np.int8], shifts: Sequence[tuple[int, int]]
) -> list[NDArray[np.float32]]:
    end = SIGNATURE_SIDE - _MARGIN
    a, still = a.astype(np.float32), b[:, _MARGIN:end, _MARGIN:end].astype(np.float32)
    energy = np.einsum("pyx,pyx->p", still, still)
    correlations = []
    for down, across in shifts:
        moved = a[:, _MARGIN + down : end + down, _MARGIN + across : end + across]
        product, moved_energy = np.einsum("pyx,pyx->p", moved, still), np.einsum("pyx,pyx->p", moved, moved)
        correlations.append(product / np.sqrt(np.maximum(moved_energy * energy, 1)))
    return correlations


def _rise(before: NDArray[np.float32], middle: NDArray[np.float32], after: NDArray[np.float32]) -> NDArray[np.float32]:
    """How far the parabola through three values rises above the middle one, one step away at most."""
    slope, bend = (after - before) / 2, np.maximum(2 * middle - before - after, 1e-6)
    step = np.clip(slope / bend, -1, 1)
    rise: NDArray[np.float32] = slope * step - bend * step**2 / 2
    return rise


def _near_hashes(hashes: NDArray[np.uint64]) -> Iterator[tuple[Rows, Rows]]:
    """Pairs whose hashes differ, but in few bits, found by the quarter that differs least.

    Norouzi et al., Fast Exact Search in Hamming Space with Multi-Index Hashing, PAMI 2014, section 3. Pairs that
    differ in 3 bits of every quarter are left out, which are 2 % of those that differ in 12 and none of the others.
    """
    quarters = hashes.view(np.uint16).reshape(-1, 4).astype(np.intp)
    masks = [
        sum(1 << bit for bit in bits) for n in range(_FARTHEST_QUARTER + 1) for bits in combinations(range(16), n)
    ]
    for quarter in range(4):
        order = np.argsort(quarters[:, quarter])
        keys, ordered = quarters[order, quarter], hashes[order]
        starts = np.searchsorted(keys, np.arange((1 << 16) + 1))
        for mask in masks:
            for i, j in _matches(keys, starts, mask):
                distance = np.bitwise_count(ordered[i] ^ ordered[j])
                near = (distance > 0) & (distance <= _FARTHEST)
                i, j = order[i[near]], order[j[near]]
                differences = np.bitwise_count(quarters[i, :quarter] ^ quarters[j, :quarter])
                new = (differences > _FARTHEST_QUARTER).all(axis=1)  # not found by an earlier quarter
                yield i[new], j[new]


def _matches(keys: Rows, starts: Rows, mask: int) -> Iterator[tuple[Rows, Rows]]:
    """All pairs of positions in sorted keys that differ by the mask, a block at a time.

    Args:
        keys: Of 16 bits, sorted.
        starts: Where each of the 65,536 keys starts, and the end.
        mask: The bits that differ.
    """
    position = np.arange(len(keys))
    begin = np.maximum(starts[keys ^ mask], position + 1)  # each pair is found from its first position
    counts = np.maximum(starts[(keys ^ mask) + 1] - begin, 0)
    total = np.cumsum(counts)
    for block in np.split(position, np.searchsorted(total, np.arange(_JOINED, total[-1:].sum(), _JOINED))):
        count = counts[block]
        offset = np.cumsum(count) - count
        j = np.arange(count.sum()) + np.repeat(begin[block] - offset, count)
        yield np.repeat(block, count), j
