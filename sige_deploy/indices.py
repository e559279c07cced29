"""Index feeds of an edit graph: active pixels, halos and neighbour tables, made once per edit.

A table entry names where a tap reads, as an index into [fresh rows (P) | halo (Q) | padding]: fresh row r is r, halo
pixel q is P + q, padding is -1; P and Q are the padded counts.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass

import numpy as np

from sige_deploy.errors import BundleError, InputError
from sige_deploy.geometry import PADDING, AxisTaps, Geometry, Level
from sige_deploy.masks import MaskPolicy, level_masks

_INACTIVE = -2
_CHUNK = 1 << 14  # target rows handled at once: keeps the working set in cache and small for full masks


def bucket(n: int) -> int:
    """Padded length for n entries, so that engines see few distinct shapes: 0 stays 0, otherwise n is rounded up to a
    multiple of max(8, 2**floor(log2 n) / 16), at most 1/16 more beyond 128."""
    if n == 0:
        return 0
    step = max(8, (1 << (n.bit_length() - 1)) // 16)
    return -(-n // step) * step


@dataclass(frozen=True)
class EditIndices:
    """What one edit feeds to the edit graph.

    feeds: "active.<level>" int32 [P] ascending, padded by repeating the last pixel; "halo.<geometry>" int32 [Q]
        ascending, padded with pixel 0; "table.<geometry>" int32 [R, K], with phases index * phases + phase;
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
    """Turns the masks of an edit into index feeds; the constants of levels and geometries are prepared once.

    Raises BundleError when geometries and levels do not fit together.
    """

    def __init__(self, levels: Sequence[Level], geometries: Sequence[Geometry], policy: MaskPolicy) -> None:
        self.levels = {level.id: level for level in levels}
        self.geometries = {geometry.id: geometry for geometry in geometries}
        self.policy = policy
        _check(self.levels, self.geometries)
        self._readers = {id_: _Reader(geometry) for id_, geometry in self.geometries.items()}

    def build(self, masks: Sequence[np.ndarray], only: Set[str] | None = None) -> EditIndices:
        """Index feeds for an edit.

        masks: bool [h, w], the edited pixels of each spatial input (before dilation) at that input's size.
        only: names of the feeds wanted; None makes all. Raises InputError for masks of another type.
        """
        for mask in masks:
            if mask.ndim != 2 or mask.dtype != bool:
                raise InputError(
                    f"A mask must be bool of shape [H, W], got {mask.dtype} of shape {mask.shape}."
                )
        if not masks:
            raise InputError("An edit needs one mask per spatial input, got none.")
        fresh: dict[str, _Active] = {}
        for id_, mask in level_masks(masks, self.levels.values(), self.geometries, self.policy).items():
            fresh[id_] = _Active(mask)
        feeds: dict[str, np.ndarray] = {}

        def wanted(name: str) -> bool:
            return only is None or name in only

        for id_, active in fresh.items():
            if wanted(f"active.{id_}"):
                feeds[f"active.{id_}"] = active.padded
        for id_, reader in self._readers.items():
            source, target = fresh[reader.source], fresh[reader.target]
            if wanted(f"table.{id_}") or wanted(f"halo.{id_}"):
                table, halo = reader.table(source, target)
                feeds.update({n: a for n, a in ((f"table.{id_}", table), (f"halo.{id_}", halo)) if wanted(n)})
            if reader.weighted and wanted(f"weights.{id_}"):
                feeds[f"weights.{id_}"] = reader.weights(target)
        counts = {id_: active.count for id_, active in fresh.items()}
        fractions = {id_: count / self.levels[id_].pixels for id_, count in counts.items()}
        return EditIndices(feeds, counts, fractions, {id_: a.padded[: a.count] for id_, a in fresh.items()})


class _Active:
    """The active pixels of one level: padded list, coordinates, and a map from position to row."""

    def __init__(self, mask: np.ndarray) -> None:
        self.height, self.width = mask.shape
        pixels = np.flatnonzero(mask)
        self.count = pixels.size
        total = bucket(self.count)
        if total > self.count:
            pixels = np.concatenate([pixels, np.full(total - self.count, pixels[-1])])
        self.padded = pixels.astype(np.int32)
        self.y = pixels // self.width
        self.x = pixels - self.y * self.width
        self._codes: np.ndarray | None = None

    @property
    def codes(self) -> np.ndarray:
        """int32 [(H + 1) * (W + 1)]: the row of an active pixel, _INACTIVE, or PADDING in the last row and column."""
        if self._codes is None:
            codes = np.full((self.height + 1, self.width + 1), _INACTIVE, np.int32)
            codes[-1] = PADDING
            codes[:, -1] = PADDING
            self._codes = codes.ravel()
            position = self.y * (self.width + 1) + self.x
            self._codes[position[: self.count]] = np.arange(self.count, dtype=np.int32)
        return self._codes


class _Reader:
    """A geometry prepared for table making: the taps of each axis as offsets into the source level's code map."""

    def __init__(self, geometry: Geometry) -> None:
        self.source, self.target = geometry.source, geometry.target
        self.taps, self.phases, self.weighted = geometry.taps, geometry.phases, geometry.weighted
        self._geometry = geometry
        height, self._width = geometry.source_shape
        self._rows = _padding_as(geometry.y, height) * (self._width + 1)
        self._columns = _padding_as(geometry.x, self._width)

    def table(self, source: _Active, target: _Active) -> tuple[np.ndarray, np.ndarray]:
        """(table [R, K], halo [Q]), both int32."""
        codes = source.codes
        chunks, inactive = [], []
        for start in range(0, target.y.size, _CHUNK):
            chunk = slice(start, start + _CHUNK)
            rows = self._rows.take(target.y[chunk], axis=1)
            columns = self._columns.take(target.x[chunk], axis=1)
            position = rows[:, None] + columns[None]  # [ky, kx, n]: long contiguous runs, unlike [n, ky, kx]
            entries = codes.take(position).ravel()
            missing = np.flatnonzero(entries == _INACTIVE)
            chunks.append((entries, missing))
            inactive.append(position.ravel().take(missing))
        halo = _distinct(inactive)
        table = np.empty((target.y.size, self.taps), np.int32)
        codes[halo] = np.arange(source.padded.size, source.padded.size + halo.size, dtype=np.int32)
        for i, (entries, missing) in enumerate(chunks):
            entries[missing] = codes.take(inactive[i])
            chunk = slice(i * _CHUNK, (i + 1) * _CHUNK)
            table[chunk] = entries.reshape(self.taps, -1).T
        codes[halo] = _INACTIVE
        if self.phases > 1:
            table = self._with_phases(table, target)
        padded = np.zeros(bucket(halo.size), np.int32)
        padded[: halo.size] = halo - halo // (self._width + 1)
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


def _padding_as(taps: AxisTaps, coordinate: int) -> np.ndarray:
    """Tap coordinates [k, n_out] with padding sent to `coordinate`."""
    return np.ascontiguousarray(np.where(taps.index == PADDING, coordinate, taps.index).T.astype(np.intp))


def _distinct(parts: list[np.ndarray]) -> np.ndarray:
    """Sorted distinct values of integer arrays, by marking rather than sorting."""
    parts = [part for part in parts if part.size]
    if not parts:
        return np.zeros(0, np.intp)
    low, high = min(part.min() for part in parts), max(part.max() for part in parts)
    seen = np.zeros(high - low + 1, bool)
    for part in parts:
        seen[part - low] = True
    return np.flatnonzero(seen) + low


def _check(levels: dict[str, Level], geometries: dict[str, Geometry]) -> None:
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
