"""Random networks of levels and geometries, edits of them, and the index feeds that Indexer makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from sige_deploy import geometry as geo
from sige_deploy.geometry import AxisTaps, Geometry, Level
from sige_deploy.indices import EditIndices, Indexer, bucket
from sige_deploy.masks import MaskPolicy

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Network:
    """What an indexer is made of; inputs are the spatial inputs' sizes."""

    levels: list[Level]
    geometries: list[Geometry]
    policy: MaskPolicy
    inputs: list[tuple[int, int]]

    def indexer(self) -> Indexer:
        return Indexer(self.levels, self.geometries, self.policy)


def network(rng: np.random.Generator, largest: int = 24) -> Network:
    """Levels of the inputs' sizes, of fractions and multiples of them and of any size; geometries of every
    kind between them, some of which make levels of their own."""
    inputs = [_size(rng, largest) for _ in range(rng.integers(1, 4))]
    (height, width), levels = inputs[0], []
    sizes = [*inputs, (-(-height // 2), -(-width // 2)), (height * 2, width * 3), _size(rng, largest)]
    for size in dict.fromkeys(sizes):
        levels.append(Level(f"l{len(levels)}", *size))
    geometries: list[Geometry] = []
    for i in range(rng.integers(1, 9)):
        source = levels[rng.integers(len(levels))]
        y, x = _taps(rng, source.height), _taps(rng, source.width)
        target = next((v for v in levels if v.shape == (y.n_out, x.n_out) and not v.geometry), None)
        if target is None or rng.random() < 0.3:
            follows = f"g{i}" if rng.random() < 0.7 else None
            target = Level(f"l{len(levels)}", y.n_out, x.n_out, follows)
            levels.append(target)
        geometries.append(Geometry(f"g{i}", source.id, target.id, y, x))
    each = {level.id: int(rng.integers(1, 5)) for level in levels}
    policy = MaskPolicy(
        dilate=int(rng.integers(0, 4)),
        threshold=float(rng.choice([0.0, 0.3, 0.5, 1.0])),
        level_dilate=int(rng.integers(0, 3)) if rng.random() < 0.5 else each,
        granularity=int(rng.choice([1, 1, 2, 3])) if rng.random() < 0.7 else each,
    )
    order = rng.permutation(len(levels))  # a level may stand before the one that it follows from
    return Network([levels[i] for i in order], geometries, policy, inputs)


def masks(rng: np.random.Generator, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """An edit: nothing, one pixel, some, a rectangle or everything of each input."""
    result = []
    for height, width in sizes:
        mask = np.zeros((height, width), bool)
        kind = rng.integers(6)
        if kind == 1:
            mask[rng.integers(height), rng.integers(width)] = True
        elif kind == 2:
            mask[:] = rng.random(mask.shape) < rng.choice([0.02, 0.1, 0.5, 0.95])
        elif kind in (3, 4):
            top, left = rng.integers(height), rng.integers(width)
            mask[top : top + rng.integers(1, height + 1), left : left + rng.integers(1, width + 1)] = True
        elif kind == 5:
            mask[:] = True
        result.append(mask)
    return result


def padded_counts(rng: np.random.Generator, network: Network, counts: Mapping[str, int]) -> dict[str, int]:
    """Padded counts that an engine might choose."""
    most = {level.id: bucket(level.pixels) for level in network.levels}
    if rng.random() < 0.3:
        return {id_: bucket(n) for id_, n in counts.items()}
    return {id_: int(rng.integers(n, min(n + 40, most[id_]) + 1)) if n else 0 for id_, n in counts.items()}


def expected(network: Network, indices: EditIndices, rows: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Indexer's feeds as they are with other padded counts, halos as long as their source."""

    def repeated(feed: np.ndarray, level: str) -> np.ndarray:
        count = indices.counts[level]
        return feed[np.minimum(np.arange(rows[level]), count - 1)] if count else feed[:0]

    feeds = {f"active.{v.id}": repeated(indices.feeds[f"active.{v.id}"], v.id) for v in network.levels}
    for g in network.geometries:
        halo = np.zeros(g.source_shape[0] * g.source_shape[1], np.int32)
        given = indices.feeds[f"halo.{g.id}"][: halo.size]
        halo[: given.size] = given
        feeds[f"halo.{g.id}"] = halo
        table = repeated(indices.feeds[f"table.{g.id}"], g.target)
        shift = (rows[g.source] - bucket(indices.counts[g.source])) * g.phases
        in_halo = table >= bucket(indices.counts[g.source]) * g.phases
        feeds[f"table.{g.id}"] = table + np.where(in_halo, np.int32(shift), np.int32(0))
        if g.weighted:
            feeds[f"weights.{g.id}"] = repeated(indices.feeds[f"weights.{g.id}"], g.target)
    return feeds


def _size(rng: np.random.Generator, largest: int) -> tuple[int, int]:
    height, width = rng.integers(1, largest + 1, 2)
    return int(height), int(width)


def _taps(rng: np.random.Generator, n: int) -> AxisTaps:
    """One axis of any kind of geometry that reads n coordinates."""
    kind = rng.choice(
        ["window", "window", "transposed", "pad", "crop", "nearest", "shuffle", "up", "weights"]
    )
    if kind == "transposed":
        k, stride = int(rng.integers(1, 5)), int(rng.integers(1, 4))
        return geo.transposed(
            n, k, stride, int(rng.integers(1, 3)), output_padding=int(rng.integers(0, stride))
        )
    if kind == "pad":
        return geo.pad(n, *(int(v) for v in rng.integers(0, 4, 2)), mode=str(rng.choice(geo.MODES)))
    if kind == "crop":
        start = int(rng.integers(n))
        return geo.crop(n, start, start + 1, -1) if rng.random() < 0.5 else geo.crop(n, start, n - start)
    if kind == "nearest":
        return geo.nearest(n, int(rng.integers(1, 4)))
    if kind == "shuffle":
        return geo.depth_to_space(n, int(rng.integers(1, 4)))
    if kind == "up":
        return geo.compose(geo.window(n * 2, 3, pad=(1, 1)), geo.nearest(n, 2))
    if kind == "weights":
        index = rng.integers(-1, n, (int(rng.integers(1, 9)), int(rng.integers(1, 4))))
        weight = rng.standard_normal(index.shape).astype(np.float32) if rng.random() < 0.7 else None
        return geo.resampling(index, weight, n)
    k, dilation = int(rng.integers(1, 6)), int(rng.integers(1, 3))
    reach = dilation * (k - 1)
    before = int(rng.integers(max(reach - n + 1, 0), reach + 2))
    mode = str(rng.choice(geo.MODES))
    return geo.window(n, k, int(rng.integers(1, 4)), dilation, (before, int(rng.integers(0, 3))), mode)
