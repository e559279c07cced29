"""Row counts that edits are padded to, so that many edits share few shapes: captured graphs, bindings, plans.

All levels move together. A bucket is a number of equal squares apart from each other, its pieces, and their
side on the largest spatial input. Pieces say how ragged an edit is: more of them have a longer border for the
same area, by which the dilations and the coarse levels add rows. Of buckets that are nearly equal one stays.
The last bucket is every pixel.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from sige_deploy.manifest import LevelSpec, Manifest
from sige_deploy.planner import Work
from sige_deploy.rows import size

COMPACT = (1, 1.25, 1.5, 2, 3)  # pieces, of all of the same size; below 2: longer than wide
PIECES = (*COMPACT, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
GROWTH = 1.1  # of the side from step to step
NEARLY = 1.05  # times the work of a bucket: another one that holds it for no more takes its place
MULTIPLE = 8


class Buckets:
    """The buckets of a bundle's levels."""

    def __init__(self, manifest: Manifest) -> None:
        self.levels = [level.id for level in manifest.levels]
        rows, shares = _apart(*_lattice(manifest, PIECES))
        self._rows: list[list[int]] = rows.tolist()
        self._shares: list[float] = shares.tolist()
        self._holding = [_holding(column) for column in zip(*self._rows)]

    def __len__(self) -> int:
        return len(self._rows)

    def listed(self) -> list[tuple[float, dict[str, int]]]:
        """(share of the network's work, rows of each level by id) of every bucket, the least work first."""
        return [(share, dict(zip(self.levels, rows))) for share, rows in zip(self._shares, self._rows)]

    def fit(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Padded rows of each level by id: those of the bucket of least work that holds `counts` (active
        pixels by level id); 0 for levels without active pixels."""
        needed = [counts[id_] for id_ in self.levels]
        holding = -1
        for (sizes, sets), count in zip(self._holding, needed):
            holding &= sets[bisect_left(sizes, count)]
        first = (holding & -holding).bit_length() - 1
        padded = [rows if count else 0 for rows, count in zip(self._rows[first], needed)]
        return dict(zip(self.levels, padded))


def compact(manifest: Manifest) -> list[tuple[float, dict[str, int]]]:
    """(share of the network's work, rows of each level by id) of compact edits of growing size, in steps
    smaller than those of buckets, the least work first."""
    ids = [level.id for level in manifest.levels]
    rows, shares = _lattice(manifest, COMPACT)
    return [(share, dict(zip(ids, bucket))) for share, bucket in zip(shares.tolist(), rows.tolist())]


def _lattice(manifest: Manifest, pieces: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """(rows int [buckets, levels], shares of the network's work [buckets]) of edits of so many squares of
    every side, and of every pixel; the least work first."""
    levels, dilate = manifest.levels, manifest.policy.dilate
    height, width = max((size(spec) for spec in manifest.spatial()), key=math.prod)
    distinct = {tuple(level.height * level.width for level in levels)}
    for count in pieces:
        for side in _sides(max(height, width)):
            distinct.add(tuple(_rows(level, side, count, height, width, dilate) for level in levels))
    ids, work = [level.id for level in levels], Work(levels)
    rows = np.array(sorted(distinct))
    shares = np.array([work.active_fraction(dict(zip(ids, bucket))) for bucket in rows.tolist()])
    order = shares.argsort(kind="stable")
    return rows[order], shares[order]


def _apart(rows: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of a lattice, the buckets that no other one replaces."""
    ends = np.searchsorted(shares, shares * NEARLY, side="right")
    stays = np.ones(len(rows), bool)
    for b in reversed(range(len(rows))):  # from the largest, so that what replaces a bucket stays
        others = slice(b + 1, ends[b])
        stays[b] = not (stays[others] & (rows[others] >= rows[b]).all(axis=1)).any()
    return rows[stays], shares[stays]


def _holding(rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """The distinct sizes among the buckets' rows of a level, ascending, and for each the buckets that hold so
    many: bit b for bucket b."""
    sizes = sorted(set(rows))
    return sizes, [sum(1 << b for b, size in enumerate(rows) if size >= needed) for needed in sizes]


def _sides(longest: int) -> list[int]:
    """Sides of squares in pixels, from 1 to the longest."""
    sides = [1]
    while sides[-1] < longest:
        sides.append(min(max(sides[-1] + 1, int(sides[-1] * GROWTH)), longest))
    return sides


def _rows(level: LevelSpec, side: int, pieces: float, height: int, width: int, dilate: int) -> int:
    """Rows of an edit of so many squares at a level, with the dilations, as a bucket has them. Where exactly
    the squares lie may make more of it: then the edit takes the next size, or more pieces."""
    scales = level.height / height, level.width / width
    reach = dilate if scales == (1, 1) else level.dilation
    # Most pieces smaller than a pixel of a coarse level are below its threshold; the others fill granules.
    covered = side * side * level.granularity * scales[0] * scales[1]
    pieces = max(pieces * min(covered, 1), 1)
    if scales != (1, 1):
        side += 2 * dilate
    rows, columns = (max(round(side * scale), 1) for scale in scales)
    pixels = rows * columns + 2 * reach * (rows + columns)  # a dilation is by a cross
    padded = math.ceil(max(pixels * pieces, level.granularity**2) / MULTIPLE) * MULTIPLE
    return min(padded, level.height * level.width)
