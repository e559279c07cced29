"""Row counts that edits are padded to, so that many edits share few shapes: captured graphs, bindings, plans.

All levels move together. A bucket is a size step and a spread: the size is the side of a square edit on the
largest spatial input, in steps of about a tenth; the spread is by how much a real edit of that size may need
more rows than the square does, because it is ragged or in several pieces. The last bucket is every pixel.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence

import numpy as np

from sige_deploy.manifest import LevelSpec, Manifest
from sige_deploy.planner import weights
from sige_deploy.rows import size

SPREADS = (1.0, 1.5, 2.5)
GROWTH = 1.1  # of the side from step to step
MULTIPLE = 8


class Buckets:
    """The buckets of a bundle's levels."""

    def __init__(self, manifest: Manifest) -> None:
        self.levels = [level.id for level in manifest.levels]
        height, width = max((size(spec) for spec in manifest.spatial()), key=math.prod)
        everything = [level.height * level.width for level in manifest.levels]
        rows = [
            [_rows(level, side, spread, height, width, manifest.policy.dilate) for level in manifest.levels]
            for spread in SPREADS
            for side in _sides(max(height, width))
        ]
        distinct = np.unique(np.array([*rows, everything]), axis=0)
        work = distinct / everything @ weights(manifest.levels)
        order = work.argsort(kind="stable")  # least work first
        self._rows: list[list[int]] = distinct[order].tolist()
        total = sum(weights(manifest.levels))
        self._shares: list[float] = (work[order] / total).tolist()
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


def _rows(level: LevelSpec, side: int, spread: float, height: int, width: int, dilate: int) -> int:
    """Rows of a square edit at a level, with the dilations, times the spread, as a bucket has them. Where
    exactly the square lies may make more of it: then the edit takes the next size."""
    scales = level.height / height, level.width / width
    reach = dilate if scales == (1, 1) else level.dilation
    if scales != (1, 1):
        side += 2 * dilate
    rows, columns = (max(round(side * scale), 1) for scale in scales)
    grain = level.granularity
    if grain == 1:
        pixels = rows * columns + 2 * reach * (rows + columns)  # a dilation is by a cross
    else:
        pixels = math.prod(
            math.ceil((extent + 2 * reach + grain - 1) / grain) * grain for extent in (rows, columns)
        )
    padded = math.ceil(pixels * spread / MULTIPLE) * MULTIPLE
    return min(padded, level.height * level.width)
