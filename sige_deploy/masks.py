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
_BAND = 1 << 16  # values compared at once

Box = tuple[slice, slice]


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
    mask = _unequal(a, b)
    box = _box(mask) if eps > 0 else None
    if box is not None:  # what is equal never differs by more than eps, so only the box is left
        at = (..., *box)
        dtype = np.float32 if a.dtype.kind == "f" and a.dtype.itemsize <= 4 else np.float64
        difference = np.subtract(a[at], b[at], dtype=dtype)
        mask[box] = (np.abs(difference) > eps).any(axis=tuple(range(a.ndim - 2)))
    return mask


def difference_to_mask(difference: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Where a difference map stands out: bool [H, W] from numbers [H, W], e.g. |edited - recorded| latents.

    The map is scaled so that its least value is 0 and its largest 255, and rounded; pixels above a threshold
    are taken, then eroded and dilated by 2 x 2 pixels: what is left are all 2 x 2 blocks taken whole.
    threshold: share of the range, 0 to 1; None: Otsu's, the level that parts the histogram with the largest
    variance between the two classes (N. Otsu, 1979), the lowest one of several.

    A constant map has no contrast: its mask is empty. Raises InputError for another shape, NaN or infinity,
    or a threshold outside 0 to 1.
    """
    difference = np.asarray(difference)
    if difference.ndim != 2 or difference.dtype.kind not in "buif" or not difference.size:
        raise InputError(
            f"A difference map must be numbers [H, W], got {difference.dtype} {list(difference.shape)}."
        )
    if threshold is not None and not 0 <= threshold <= 1:
        raise InputError(f"threshold is a share of the map's range, 0 to 1, or None; not {threshold}.")
    values = difference.astype(np.float64)
    if not np.isfinite(values).all():
        raise InputError("A difference map holds NaN or infinity; every value must be finite.")
    largest = np.abs(values).max()
    values = values / largest if largest > 0 else values  # so that no range overflows
    low, high = values.min(), values.max()
    if not high > low:
        return np.zeros(difference.shape, bool)
    grey = np.rint((values - low) / (high - low) * 255).astype(np.int64)
    return _open_2x2(grey > (_otsu(grey) if threshold is None else threshold * 255))


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Dilation by a cross: active if any pixel within `radius` along the row or along the column is."""
    out = mask.copy()
    box = _box(mask, radius)
    if radius > 0 and box is not None:
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
    return _resample(mask, _box(mask), shape, threshold)


def granulate(mask: np.ndarray, granularity: int) -> np.ndarray:
    """Blocks of granularity x granularity pixels, aligned at pixel 0, wholly active where any pixel is."""
    box = _box(mask)
    if granularity == 1 or box is None:
        return mask.copy()
    g = granularity
    out = np.zeros_like(mask)
    rows, columns = (slice(s.start // g * g, min(-(-s.stop // g) * g, n)) for s, n in zip(box, mask.shape))
    inner = mask[rows, columns]
    height, width = inner.shape
    blocks = np.logical_or.reduceat(inner, np.arange(0, height, g), axis=0)
    blocks = np.logical_or.reduceat(blocks, np.arange(0, width, g), axis=1)
    out[rows, columns] = blocks.repeat(g, axis=0)[:height].repeat(g, axis=1)[:, :width]
    return out


def reading_mask(mask: np.ndarray, geometry: Geometry) -> np.ndarray:
    """Target pixels of the geometry that read any active source pixel; mask is the source level's."""
    out = np.zeros(geometry.target_shape, bool)
    box = _box(mask)
    if box is None:
        return out
    rows = box[0]
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
    inputs = [(mask, _box(mask), dilate(mask, policy.dilate)) for mask in masks]
    done: dict[str, np.ndarray] = {}

    def resolve(level: Level) -> np.ndarray:
        if level.id not in done:
            if level.geometry is None:
                parts = [_at_level(*edited, level, policy) for edited in inputs]
                mask = parts[0] if len(parts) == 1 else np.logical_or.reduce(parts)
            else:
                geometry = geometries[level.geometry]
                mask = reading_mask(resolve(by_id[geometry.source]), geometry)
            granularity = policy.granularity_of(level.id)
            done[level.id] = granulate(mask, granularity) if granularity > 1 else mask
        return done[level.id]

    return {id_: resolve(level) for id_, level in by_id.items()}


def _at_level(
    mask: np.ndarray, box: Box | None, grown: np.ndarray, level: Level, policy: MaskPolicy
) -> np.ndarray:
    """One input's mask at a level; `box` bounds it, `grown` is it after the dilation at its own size."""
    if mask.shape == level.shape:
        return grown
    if level.height >= mask.shape[0] and level.width >= mask.shape[1]:
        resampled = resample_mask(grown, level.shape, policy.threshold)
    else:
        resampled = _resample(mask, box, level.shape, policy.threshold)
    return dilate(resampled, policy.dilation_of(level.id))


def _resample(mask: np.ndarray, box: Box | None, shape: tuple[int, int], threshold: float) -> np.ndarray:
    (height, width), (h, w) = mask.shape, shape
    if (height, width) == (h, w):
        return mask.copy()
    if h % height == 0 and w % width == 0:
        return mask.repeat(h // height, axis=0).repeat(w // width, axis=1)
    out = np.zeros(shape, bool)
    if box is None:
        return out
    if height % h == 0 and width % w == 0:
        ry, rx = height // h, width // w
        rows, columns = (slice(s.start // r, -(-s.stop // r)) for s, r in zip(box, (ry, rx)))
        inner = mask[rows.start * ry : rows.stop * ry, columns.start * rx : columns.stop * rx]
        covered, area = _block_sums(inner, ry, rx), ry * rx
    else:
        rows = columns = slice(None)
        covered, area = _box_overlaps(_box_overlaps(mask, h).T, w).T, height * width
    out[rows, columns] = covered / area > max(0.0, min(threshold, covered.max() / area - MARGIN))
    return out


def _unequal(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pixels where a != b anywhere along the leading axes; in bands of rows, to compare within the cache."""
    height, width = a.shape[-2:]
    a, b = a.reshape(-1, height, width), b.reshape(-1, height, width)
    mask = np.empty((height, width), bool)
    band = max(_BAND // max(len(a) * width, 1), 1)
    for start in range(0, height, band):
        rows = slice(start, start + band)
        np.logical_or.reduce(a[:, rows] != b[:, rows], axis=0, out=mask[rows])
    return mask


def _box(mask: np.ndarray, margin: int = 0) -> Box | None:
    """Bounding box, grown by a margin and clipped; None if the mask is empty."""
    rows = np.logical_or.reduce(mask, axis=1)
    top, height = int(rows.argmax()), len(rows)
    if not rows[top]:
        return None
    bottom = height - int(rows[::-1].argmax())
    columns = np.logical_or.reduce(mask[top:bottom], axis=0)
    left, width = int(columns.argmax()), len(columns)
    right = width - int(columns[::-1].argmax())
    return (
        slice(max(top - margin, 0), min(bottom + margin, height)),
        slice(max(left - margin, 0), min(right + margin, width)),
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


def _otsu(grey: np.ndarray) -> int:
    """The level 0 to 254 above which pixels belong to the brighter class."""
    counts = np.bincount(grey.reshape(-1), minlength=256).astype(np.float64)
    below, total = np.cumsum(counts)[:-1], counts.sum()
    mass = counts * np.arange(256)
    mass_below, mass_total = np.cumsum(mass)[:-1], mass.sum()
    above = total - below
    both = np.maximum(below * above, 1)  # where a class is empty, the numerator is 0
    return int(((mass_below * total - mass_total * below) ** 2 / both).argmax())


def _open_2x2(mask: np.ndarray) -> np.ndarray:
    """Erosion, then dilation by a 2 x 2 square (along an axis of one pixel, by one): the blocks that are
    active whole."""
    ky, kx = (min(2, n) for n in mask.shape)
    core = mask[: len(mask) - ky + 1] & mask[ky - 1 :]
    core = core[:, : mask.shape[1] - kx + 1] & core[:, kx - 1 :]
    out = np.zeros_like(mask)
    for y in range(ky):
        for x in range(kx):
            out[y : y + core.shape[0], x : x + core.shape[1]] |= core
    return out
