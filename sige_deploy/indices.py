"""Index feeds of an edit graph: active pixels, halos and neighbour tables, made once per edit.

A table entry names where a tap reads, as an index into [fresh rows (P) | halo (Q) | padding]: fresh row r is
r, halo pixel q is P + q, padding is -1; P and Q are the padded counts.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from sige_deploy.errors import BundleError, InputError
from sige_deploy.geometry import PADDING, AxisTaps, Geometry, Level
from sige_deploy.masks import MaskPolicy, level_masks

_INACTIVE = -2
_CHUNK = 1 << 15  # table entries made at once, so that their positions stay in the second-level cache


def bucket(n: int) -> int:
    """Padded length for n entries, so that engines see few distinct shapes.

    0 stays 0; otherwise n is rounded up to a multiple of max(8, 2**floor(log2 n) / 16): from 128 on that adds
    less than 1/16.
    """
    if n == 0:
        return 0
    step = max(8, (1 << (n.bit_length() - 1)) // 16)
    return -(-n // step) * step


@dataclass(frozen=True)
class EditIndices:
    """What one edit feeds to the edit graph.

    feeds: "active.<level>" int32 [P] ascending, padded by repeating the last pixel; "halo.<geometry>" int32
        [Q] ascending, padded with pixel 0; "table.<geometry>" int32 [R, K], with phases index*phases + phase;
        "weights.<geometry>" float32 [R, K] for weighted geometries. P, Q and R are bucket lengths.
    counts: active pixels of each level, unpadded. fractions: the same as a share of the level's pixels.
    """

    feeds: dict[str, np.ndarray]
    counts: dict[str, int]
    fractions: dict[str, float]
    pixels: dict[str, np.ndarray]

    def active(self, level: str) -> np.ndarray:
        """Active pixels of a level, int32 [P] ascending, without padding."""
        return self.pixels[level]


class Indexer:
    """Turns the masks of an edit into index feeds; what levels and geometries fix is prepared once.

    Threads may share an indexer, their builds take turns. Raises BundleError when geometries and levels do
    not fit together.
    """

    def __init__(self, levels: Sequence[Level], geometries: Sequence[Geometry], policy: MaskPolicy) -> None:
        self.levels = {level.id: level for level in levels}
        self.geometries = {geometry.id: geometry for geometry in geometries}
        self.policy = policy
        check_fit(self.levels, self.geometries)
        margins: dict[str, int] = {}
        for g in geometries:
            margins[g.source] = max(margins.get(g.source, 1), _overhang(g.y), _overhang(g.x))
        self._codes = {id_: _CodeMap(self.levels[id_], margin) for id_, margin in margins.items()}
        self._readers = {id_: _Reader(g, self._codes[g.source]) for id_, g in self.geometries.items()}
        # Kept between builds: freshly mapped memory would cost more than the arithmetic done in it.
        self._scratch = np.empty((2, max([_CHUNK, *(g.taps for g in geometries)])), np.intp)
        self._lock = threading.Lock()

    def activate(self, masks: Sequence[np.ndarray]) -> ActivePixels:
        """The active pixels of every level.

        masks: bool [h, w], the edited pixels of each spatial input (before dilation) at that input's size.
        Raises InputError for masks of another type.
        """
        for mask in masks:
            if mask.ndim != 2 or mask.dtype != bool:
                raise InputError(f"A mask must be bool [H, W], got {mask.dtype} {list(mask.shape)}.")
        if not masks:
            raise InputError("An edit needs one mask per spatial input, got none.")
        return ActivePixels(level_masks(masks, self.levels.values(), self.geometries, self.policy))

    def feed(self, active: ActivePixels, only: Set[str] | None = None) -> EditIndices:
        """Index feeds for an edit of these active pixels. only: names of the feeds wanted; None makes all."""
        levels = active.padded()
        feeds = {f"active.{id_}": pixels.padded for id_, pixels in levels.items()}
        with self._lock:
            feeds.update(self._reads(levels, only))
        return EditIndices(
            feeds={name: feed for name, feed in feeds.items() if only is None or name in only},
            counts=active.counts,
            fractions={id_: count / self.levels[id_].pixels for id_, count in active.counts.items()},
            pixels={id_: pixels.padded[: pixels.count] for id_, pixels in levels.items()},
        )

    def build(self, masks: Sequence[np.ndarray], only: Set[str] | None = None) -> EditIndices:
        """`feed` of what `activate` makes of the masks."""
        return self.feed(self.activate(masks), only)

    def _reads(self, active: dict[str, _Active], only: Set[str] | None) -> dict[str, np.ndarray]:
        """Feeds of the geometries; what `only` leaves out is left out where that saves work."""
        feeds = {}
        filled = []
        try:
            for id_, reader in self._readers.items():
                source, target = active[reader.source], active[reader.target]
                names = {f"table.{id_}", f"halo.{id_}"}
                if only is None or not names.isdisjoint(only):
                    codes = self._codes[reader.source]
                    if codes not in filled:
                        filled.append(codes)
                        codes.fill(source)
                    table, halo = reader.table(source.padded.size, target, self._scratch)
                    feeds[f"table.{id_}"], feeds[f"halo.{id_}"] = table, halo
                if reader.weighted and (only is None or f"weights.{id_}" in only):
                    feeds[f"weights.{id_}"] = reader.weights(target)
        finally:
            for codes in filled:
                codes.clear()
        return feeds


class ActivePixels:
    """Which pixels an edit makes active. counts: of each level, by id."""

    def __init__(self, masks: dict[str, np.ndarray]) -> None:
        self._masks = masks
        self.counts = {id_: int(np.count_nonzero(mask)) for id_, mask in masks.items()}

    def padded(self) -> dict[str, _Active]:
        return {id_: _Active(mask) for id_, mask in self._masks.items()}


class _Active:
    """The active pixels of one level with their coordinates, padded to the bucket."""

    def __init__(self, mask: np.ndarray) -> None:
        width = mask.shape[1]
        pixels = np.flatnonzero(mask)
        self.count = pixels.size
        total = bucket(self.count)
        if total > self.count:
            pixels = np.concatenate([pixels, np.full(total - self.count, pixels[-1])])
        self.padded = pixels.astype(np.int32)
        self.y = pixels // width
        self.x = pixels - self.y * width


class _CodeMap:
    """What reading a position of one level yields.

    values: int32, the row of an active pixel, _INACTIVE for the others, PADDING in a margin around the level.
    Pixel
        (y, x) is at `origin + y * stride + x`; the margin right of a row is also the one left of the next.
    """

    def __init__(self, level: Level, margin: int) -> None:
        self.stride = level.width + margin
        self.origin = margin + margin * self.stride
        self.width = level.width
        values = np.full(margin + (level.height + 2 * margin) * self.stride, PADDING, np.int32)
        rows = values[self.origin :][: level.height * self.stride].reshape(level.height, self.stride)
        rows[:, : level.width] = _INACTIVE
        self.values = values
        self._filled = np.zeros(0, np.intp)

    def pixels(self, positions: np.ndarray) -> np.ndarray:
        """Pixel indices y * W + x of positions inside the level."""
        inside = positions - self.origin
        return inside - inside // self.stride * (self.stride - self.width)

    def fill(self, active: _Active) -> None:
        self._filled = (active.y * self.stride + active.x + self.origin)[: active.count]
        self.values[self._filled] = np.arange(active.count, dtype=np.int32)

    def clear(self) -> None:
        self.values[self._filled] = _INACTIVE


class _Reader:
    """A geometry prepared for table making: where in the source level's code map each tap of a target pixel
    is."""

    def __init__(self, geometry: Geometry, codes: _CodeMap) -> None:
        self.source, self.target = geometry.source, geometry.target
        self.taps, self.phases, self.weighted = geometry.taps, geometry.phases, geometry.weighted
        self._geometry, self._codes = geometry, codes
        y, x = _affine(geometry.y), _affine(geometry.x)
        self._steps: tuple[int, int] | None = None
        if y is not None and x is not None:
            # Tap k of target (y, x) is at origin + y * steps[0] + x * steps[1] + offsets[k].
            self._steps = y[0] * codes.stride, x[0]
            offsets = (y[1][:, None] * codes.stride + x[1][None] + codes.origin).reshape(-1)
            self._offsets = np.tile(offsets, max(_CHUNK // self.taps, 1))
        else:
            height, width = geometry.source_shape
            rows = _padding_as(geometry.y, height) * codes.stride + codes.origin
            self._rows = rows.repeat(geometry.x.k, axis=1)
            self._columns = np.tile(_padding_as(geometry.x, width), (1, geometry.y.k))

    def _locate(self, target: _Active, part: slice, at: np.ndarray, scratch: np.ndarray) -> None:
        """Write the positions of all taps of some targets, intp [part, K], into `at`."""
        if self._steps is not None:
            anchor = target.y[part] * self._steps[0] + target.x[part] * self._steps[1]
            # Long flat operands: numpy is slow at broadcasts with a short inner axis.
            np.add(anchor.repeat(self.taps), self._offsets[: at.size], out=at.reshape(-1))
            return
        # Every index is in range; "clip" only spares the buffering that "raise" needs.
        self._rows.take(target.y[part], axis=0, out=at, mode="clip")
        self._columns.take(target.x[part], axis=0, out=scratch, mode="clip")
        np.add(at, scratch, out=at)

    def table(self, base: int, target: _Active, scratch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(table [R, K], halo [Q]), both int32, from the filled code map. base: the source's padded count
        P."""
        codes = self._codes.values
        total, step = target.y.size, max(_CHUNK // self.taps, 1)
        table = np.empty((total, self.taps), np.int32)
        buffers = scratch[:, : step * self.taps].reshape(2, step, self.taps)
        missing, reads = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]  # halo entries and what they read
        for start in range(0, total, step):
            entries = table[start : start + step]
            at, across = buffers[:, : len(entries)]
            self._locate(target, slice(start, start + step), at, across)
            codes.take(at, out=entries, mode="clip")
            inactive = np.flatnonzero(entries == _INACTIVE)
            missing.append(inactive + start * self.taps)
            reads.append(at.reshape(-1)[inactive])
        read = np.concatenate(reads)
        halo = _distinct(read)
        codes[halo] = np.arange(base, base + halo.size, dtype=np.int32)
        table.reshape(-1)[np.concatenate(missing)] = codes[read]
        codes[halo] = _INACTIVE
        if self.phases > 1:
            table = self._with_phases(table, target)
        padded = np.zeros(bucket(halo.size), np.int32)
        padded[: halo.size] = self._codes.pixels(halo)
        return table, padded

    def weights(self, target: _Active) -> np.ndarray:
        """float32 [R, K]."""
        y, x = self._geometry.y, self._geometry.x
        rows = np.ones((1, y.k), np.float32) if y.weight is None else y.weight.take(target.y, axis=0)
        columns = np.ones((1, x.k), np.float32) if x.weight is None else x.weight.take(target.x, axis=0)
        return (rows[:, :, None] * columns[:, None, :]).reshape(-1, self.taps)

    def _with_phases(self, table: np.ndarray, target: _Active) -> np.ndarray:
        y, x = self._geometry.y, self._geometry.x
        phase = np.zeros(target.y.size, np.int32)
        if y.phase is not None:
            phase += y.phase.take(target.y) * np.int32(x.n_phases)
        if x.phase is not None:
            phase += x.phase.take(target.x)
        return np.where(table == PADDING, np.int32(PADDING), table * np.int32(self.phases) + phase[:, None])


def _affine(taps: AxisTaps) -> tuple[int, np.ndarray] | None:
    """(step, offset [k]) where tap k of output o reads o * step + offset[k], or padding where that is
    outside; None where the taps follow no such rule."""
    index, outputs = taps.index.astype(np.intp), np.arange(taps.n_out)[:, None]
    valid = index >= 0
    if not valid.any(axis=0).all():
        return None
    both = valid[1:] & valid[:-1]
    steps = np.unique((index[1:] - index[:-1])[both])
    if steps.size > 1:
        return None
    step = int(steps[0]) if steps.size else 1
    first = valid.argmax(axis=0)
    offset = index[first, np.arange(taps.k)] - first * step
    expected = outputs * step + offset
    inside = (expected >= 0) & (expected < taps.source_size)
    return (step, offset) if np.array_equal(np.where(inside, expected, PADDING), index) else None


def _overhang(taps: AxisTaps) -> int:
    """How far affine taps reach beyond the source."""
    affine = _affine(taps)
    if affine is None:
        return 0
    step, offset = affine
    reach = (taps.n_out - 1) * step
    low, high = int((offset + min(0, reach)).min()), int((offset + max(0, reach)).max())
    return max(0, -low, high - taps.source_size + 1)


def _padding_as(taps: AxisTaps, coordinate: int) -> np.ndarray:
    """Tap coordinates [n_out, k] with padding sent to `coordinate`."""
    return np.where(taps.index == PADDING, coordinate, taps.index).astype(np.intp)


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorted distinct non-negative integers, by marking rather than sorting."""
    if not values.size:
        return values
    low = values.min()
    seen = np.zeros(values.max() - low + 1, bool)
    seen[values - low] = True
    return np.flatnonzero(seen) + low


def check_fit(levels: dict[str, Level], geometries: dict[str, Geometry]) -> None:
    """Raises BundleError when geometries and levels, by id, do not fit together."""
    for g in geometries.values():
        for end, shape in ((g.source, g.source_shape), (g.target, g.target_shape)):
            if end not in levels or levels[end].shape != shape:
                raise BundleError(
                    f"Geometry {g.id!r} needs a level {end!r} of {shape}; export the bundle again."
                )
    for level in levels.values():
        seen = set()
        while level.geometry is not None:
            geometry = geometries.get(level.geometry)
            if geometry is None or geometry.target != level.id or level.id in seen:
                raise BundleError(
                    f"Level {level.id!r} names geometry {level.geometry!r}, which does not lead to it; "
                    "export the bundle again."
                )
            seen.add(level.id)
            level = levels[geometry.source]
