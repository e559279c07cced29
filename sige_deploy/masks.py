"""Which pixels an edit makes active, level by level; docs/masks.md gives the definitions and their reasons.

Masks are bool [H, W]. An empty mask stays empty and a full one stays full through every function here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.geometry import Geometry, Level

MARGIN = 0.001  # what resample_mask leaves between the largest mean and the threshold


@dataclass(frozen=True)
class MaskPolicy:
    """How level masks follow from the inputs' masks; fields as in `SparseConfig`."""

    eps: float = 0.0
    dilate: int = 1
    threshold: float = 0.3
    level_dilate: int | dict[str, int] = 1
    granularity: int | dict[str, int] = 1

    def dilation_of(self, level: str) -> int:
        return self.level_dilate.get(level, 1) if isinstance(self.level_dilate, dict) else self.level_dilate

    def granularity_of(self, level: str) -> int:
        return self.granularity.get(level, 1) if isinstance(self.granularity, dict) else self.granularity


def difference_mask(a: np.ndarray, b: np.ndarray, eps: float = 0.0) -> np.ndarray:
    """Pixels where |a - b| > eps anywhere along the leading axes: bool [H, W] from two arrays [..., H, W].

    Floats of up to 32 bits are subtracted in float32, everything else in float64; eps 0 compares exactly in
    any dtype. Raises InputError when the shapes differ.
    """
    if a.shape != b.shape or a.ndim < 2:
        raise InputError(
            f"A difference needs two arrays of one shape [..., H, W], got {a.shape} and {b.shape}."
        )
    leading = tuple(range(a.ndim - 2))
    mask = (a != b).any(axis=leading)
    if eps > 0 and mask.any():
        box = (..., *_box(mask))  # what is equal never differs by more than eps, so only the box is left
        dtype = np.float32 if a.dtype.kind == "f" and a.dtype.itemsize <= 4 else np.float64
        difference = np.subtract(a[box], b[box], dtype=dtype)
        mask[box] = (np.abs(difference) > eps).any(axis=leading)
    return mask


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by a cross: active if any pixel within `radius` along the row or along the column is."""
    out = mask.copy()
    if radius > 0 and mask.any():
        box = _box(mask, radius)
        inner = mask[box]
        out[box] = _dilate_rows(inner, radius) | _dilate_rows(inner.T, radius).T
    return out


def resample_mask(mask: np.ndarray, shape: tuple[int, int], threshold: float = 0.3) -> np.ndarray:
    """Mask of another size: active where the mean of the covered area exceeds the threshold.

    A target pixel covers the box of source area that it has on the common image plane; its mean is the active
    share of that box, computed exactly. Active: mean > max(0, min(threshold, largest mean - 0.001)), so the
    strongest pixel always stays. For reductions by powers of two the mean is that of repeated bilinear
    halving; for integer enlargements this is nearest neighbour.
    """
    (height, width), (h, w) = mask.shape, shape
    if (height, width) == (h, w) or not mask.any():
        return mask.copy() if (height, width) == (h, w) else np.zeros(shape, bool)
    if h % height == 0 and w % width == 0:
        return mask.repeat(h // height, axis=0).repeat(w // width, axis=1)
    out = np.zeros(shape, bool)
    if height % h == 0 and width % w == 0:
        ry, rx = height // h, width // w
        rows, columns = (slice(s.start // r, -(-s.stop // r)) for s, r in zip(_box(mask), (ry, rx)))
        covered = _block_sums(
            mask[rows.start * ry : rows.stop * ry, columns.start * rx : columns.stop * rx], ry, rx
        )
        area = ry * rx
    else:
        rows = columns = slice(None)
        covered = _box_overlaps(_box_overlaps(mask, h).T, w).T
        area = height * width
    least = max(0.0, min(threshold, covered.max() / area - MARGIN))
    out[rows, columns] = covered / area > least
    return out


def granulate(mask: np.ndarray, granularity: int) -> np.ndarray:
    """Blocks of granularity x granularity pixels, aligned at pixel 0, wholly active where any pixel is."""
    if granularity == 1 or not mask.any():
        return mask.copy()
    g = granularity
    out = np.zeros_like(mask)
    rows, columns = (
        slice(s.start // g * g, min(-(-s.stop // g) * g, n)) for s, n in zip(_box(mask), mask.shape)
    )
    inner = mask[rows, columns]
    height, width = inner.shape
    blocks = np.logical_or.reduceat(inner, np.arange(0, height, g), axis=0)
    blocks = np.logical_or.reduceat(blocks, np.arange(0, width, g), axis=1)
    out[rows, columns] = blocks.repeat(g, axis=0)[:height].repeat(g, axis=1)[:, :width]
    return out


def reading_mask(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Target pixels of the geometry that read any active source pixel; mask is the source level's."""
    out = np.zeros(geometry.target_shape, bool)
    if not mask.any():
        return out
    rows, _ = _box(mask)
    # A zero row and column at the end stand for padding, which index -1 then reads.
    across = np.zeros((mask.shape[0] + 1, geometry.x.n_out), bool)
    inner = np.zeros((rows.stop - rows.start, mask.shape[1] + 1), bool)
    inner[:, :-1] = mask[rows]
    for tap in geometry.x.index.T:
        across[rows] |= inner[:, tap]
    for tap in geometry.y.index.T:
        out |= across[tap]
    return out


def level_masks(
    masks: Sequence[np.ndarray],
    levels: Iterable[Level],
    geometries: Mapping[str, Geometry],
    policy: MaskPolicy,
) -> dict[str, np.ndarray]:
    """The active mask of every level, bool [height, width] by level id.

    masks: the edited pixels of each spatial input, at that input's own size; a level is active wherever one
        of them makes it so. geometries: by id, those that levels name.
    """
    by_id = {level.id: level for level in levels}
    at_own_size = [dilate(mask, policy.dilate) for mask in masks]
    done: dict[str, np.ndarray] = {}

    def resolve(level: Level) -> np.ndarray:
        if level.id not in done:
            if level.geometry is None:
                pairs = zip(masks, at_own_size)
                mask = np.logical_or.reduce([_at_level(m, grown, level, policy) for m, grown in pairs])
            else:
                geometry = geometries[level.geometry]
                mask = reading_mask(resolve(by_id[geometry.source]), geometry)
            granularity = policy.granularity_of(level.id)
            done[level.id] = granulate(mask, granularity) if granularity > 1 else mask
        return done[level.id]

    return {id_: resolve(level) for id_, level in by_id.items()}


def _at_level(mask: np.ndarray, grown: np.ndarray, level: Level, policy: MaskPolicy) -> np.ndarray:
    """One input's mask at a level; `grown` is `mask` after the dilation at its own size."""
    if mask.shape == level.shape:
        return grown
    enlarged = level.height >= mask.shape[0] and level.width >= mask.shape[1]
    resampled = resample_mask(grown if enlarged else mask, level.shape, policy.threshold)
    return dilate(resampled, policy.dilation_of(level.id))


def _box(mask: np.ndarray, margin: int = 0) -> tuple[slice, slice]:
    """Bounding box of a mask that is not empty, grown by a margin and clipped."""
    height, width = mask.shape
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return (
        slice(max(int(rows[0]) - margin, 0), min(int(rows[-1]) + 1 + margin, height)),
        slice(max(int(columns[0]) - margin, 0), min(int(columns[-1]) + 1 + margin, width)),
    )


def _dilate_rows(mask: np.ndarray, radius: int) -> np.ndarray:
    """Maximum over the 2 * radius + 1 rows around each, by windows of doubling length."""
    length = 2 * radius + 1
    run = np.zeros_like(mask, shape=(mask.shape[0] + 2 * radius, mask.shape[1]))
    run[radius : radius + mask.shape[0]] = mask
    covered = 1
    while covered < length:
        step = min(covered, length - covered)
        run = run[:-step] | run[step:]
        covered += step
    return run


def _block_sums(mask: np.ndarray, ry: int, rx: int) -> np.ndarray:
    """Active pixels in each ry x rx block, int32 [H / ry, W / rx]."""
    rows = np.zeros((mask.shape[0] // ry, mask.shape[1]), np.int32)
    for i in range(ry):
        rows += mask[i::ry]
    sums = np.zeros((rows.shape[0], mask.shape[1] // rx), np.int32)
    for i in range(rx):
        sums += rows[:, i::rx]
    return sums


def _box_overlaps(values: np.ndarray, n_out: int) -> np.ndarray:
    """Area-weighted sums along the rows, [n_out, W] from [n, W], in units of 1 / n_out rows (integers).

    Row o covers source positions o * n / n_out to (o + 1) * n / n_out.
    """
    n = values.shape[0]
    extended = np.zeros((n + 1, *values.shape[1:]), np.int64)
    extended[:n] = values
    before = np.zeros_like(extended)
    np.cumsum(values, axis=0, out=before[1:])
    whole, rest = np.divmod(np.arange(n_out + 1) * n, n_out)
    return np.diff(before[whole] * n_out + extended[whole] * rest[:, None], axis=0)
