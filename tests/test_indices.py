"""Index feeds, decoded entry by entry: every tap names the right pixel and says truly what it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy import geometry as geo
from sige_deploy.errors import BundleError, InputError
from sige_deploy.geometry import AxisTaps, Geometry, Level
from sige_deploy.indices import EditIndices, Indexer, bucket
from sige_deploy.masks import MaskPolicy, difference_mask, level_masks

FAST = settings(max_examples=40, derandomize=True, deadline=None, database=None)
EXACT = MaskPolicy(dilate=0, level_dilate=0)


def both(source: Level, target: Level, name: str, y: AxisTaps, x: AxisTaps) -> Geometry:
    return Geometry(f"{name}.{target.id}", source.id, target.id, y, x)


def network(height: int, width: int) -> tuple[list[Level], list[Geometry]]:
    """Levels of H x W, (H+1)//2 x (W+1)//2 and (H+2) x (W+2), and a geometry of every kind between them."""
    fine, coarse = Level("fine", height, width), Level("coarse", (height + 1) // 2, (width + 1) // 2)
    padded = Level("padded", height + 2, width + 2, "pad.padded")
    large = Level("large", height * 2, width * 2)

    def of(constructor: object, source: Level, *args: object, **kwargs: object) -> tuple[AxisTaps, AxisTaps]:
        return tuple(constructor(n, *args, **kwargs) for n in source.shape)  # type: ignore

    up = [geo.compose(geo.window(n * 2, 3, pad=(1, 1)), geo.nearest(n, 2)) for n in fine.shape]
    blend = [
        geo.resampling(np.stack([t.index[:, 0], t.index[:, 0]], 1), np.full((t.n_out, 2), [0.25, 0.5]), n)
        for t, n in zip((geo.window(n, 1, 2) for n in fine.shape), fine.shape)
    ]
    return [padded, fine, coarse, large], [
        both(fine, fine, "conv", *of(geo.window, fine, 3, pad=(1, 1))),
        both(fine, fine, "wide", geo.window(height, 5, dilation=2, pad=(4, 4)), geo.pad(width, 0, 0)),
        both(fine, coarse, "down", *of(geo.window, fine, 3, 2, pad=(1, 1))),
        both(fine, large, "up", *up),
        both(fine, large, "shuffle", *of(geo.depth_to_space, fine, 2)),
        both(fine, padded, "pad", *of(geo.pad, fine, 1, 1, "reflect")),
        both(padded, fine, "valid", *of(geo.window, padded, 3)),
        both(fine, coarse, "blend", *blend),
    ]


def check(indices: EditIndices, indexer: Indexer, masks: list[np.ndarray]) -> None:
    """Decodes all feeds with nothing but the definitions."""
    expected = level_masks(masks, indexer.levels.values(), indexer.geometries, indexer.policy)
    for id_, mask in expected.items():
        pixels = np.flatnonzero(mask)
        feed = indices.feeds[f"active.{id_}"]
        assert feed.dtype == np.int32 and feed.flags.c_contiguous
        assert len(feed) == bucket(len(pixels))
        np.testing.assert_array_equal(feed[: len(pixels)], pixels)
        assert (feed[len(pixels) :] == pixels[-1:].sum()).all()
        np.testing.assert_array_equal(indices.active(id_), pixels)
        assert indices.counts[id_] == len(pixels) and indices.fractions[id_] == mask.mean()
    for g in indexer.geometries.values():
        check_geometry(indices, g, expected[g.source])


def check_geometry(indices: EditIndices, g: Geometry, source_mask: np.ndarray) -> None:
    table, halo = indices.feeds[f"table.{g.id}"], indices.feeds[f"halo.{g.id}"]
    fresh, target = indices.feeds[f"active.{g.source}"], indices.feeds[f"active.{g.target}"]
    assert table.dtype == halo.dtype == np.int32 and table.flags.c_contiguous
    assert table.shape == (len(target), g.taps)
    read_halo = set()
    for r, k, sy, sx, phase in reads_of(g, target):
        entry = table[r, k]
        if sy < 0 or sx < 0:
            assert entry == -1
            continue
        entry, actual_phase = divmod(entry, g.phases)
        assert actual_phase == phase
        pixel = sy * g.source_shape[1] + sx
        if source_mask[sy, sx]:
            assert entry < indices.counts[g.source] and fresh[entry] == pixel
        else:
            read_halo.add(pixel)
            assert entry >= len(fresh) and halo[entry - len(fresh)] == pixel
    wanted = sorted(read_halo)
    assert len(halo) == bucket(len(wanted))
    assert halo[: len(wanted)].tolist() == wanted  # minimal, ascending, none of it active
    assert not halo[len(wanted) :].any()
    if g.weighted:
        np.testing.assert_array_equal(indices.feeds[f"weights.{g.id}"], weights_of(g, target))
    else:
        assert f"weights.{g.id}" not in indices.feeds


def reads_of(g: Geometry, target: np.ndarray) -> Iterator[tuple[int, int, int, int, int]]:
    ky, kx = g.kernel
    for r, pixel in enumerate(target.tolist()):
        y, x = divmod(pixel, g.target_shape[1])
        phase_y = 0 if g.y.phase is None else int(g.y.phase[y])
        phase_x = 0 if g.x.phase is None else int(g.x.phase[x])
        for k in range(ky * kx):
            sy, sx = int(g.y.index[y, k // kx]), int(g.x.index[x, k % kx])
            yield r, k, sy, sx, phase_y * g.x.n_phases + phase_x


def weights_of(g: Geometry, target: np.ndarray) -> np.ndarray:
    y, x = np.divmod(target, g.target_shape[1])
    wy = np.ones(g.y.index.shape, np.float32) if g.y.weight is None else g.y.weight
    wx = np.ones(g.x.index.shape, np.float32) if g.x.weight is None else g.x.weight
    return np.stack([wy[y, k // g.x.k] * wx[x, k % g.x.k] for k in range(g.taps)], axis=1)


@FAST
@given(
    height=st.integers(3, 11), width=st.integers(3, 11), share=st.sampled_from([0.0, 0.03, 0.3, 1.0]),
    granularity=st.sampled_from([1, 2, {"fine": 4}]), seed=st.integers(0, 999),
)  # fmt: skip
def test_feeds(height: int, width: int, share: float, granularity: int | dict[str, int], seed: int) -> None:
    mask = np.random.default_rng(seed).random((height, width)) < share
    indexer = Indexer(*network(height, width), MaskPolicy(dilate=0, level_dilate=0, granularity=granularity))
    check(indexer.build([mask]), indexer, [mask])


def test_feeds_of_several_inputs_and_builds_in_a_row() -> None:
    """What one edit leaves behind never shows in the next one's feeds."""
    rng = np.random.default_rng(0)
    indexer = Indexer(*network(12, 10), MaskPolicy())
    for share in (0.5, 0.02, 0.0, 1.0, 0.05):
        masks = [
            rng.random((12, 10)) < share,
            rng.random((6, 5)) < share / 4,
            rng.random((7, 13)) < share / 4,
        ]
        check(indexer.build(masks), indexer, masks)


def test_more_entries_than_one_chunk() -> None:
    """Tables are made in pieces; a large one equals what a lookup in the whole plane yields."""
    level = Level("l", 90, 100)
    g = both(level, level, "conv", geo.window(90, 3, pad=(1, 1)), geo.window(100, 3, pad=(1, 1)))
    mask = np.random.default_rng(0).random((90, 100)) < 0.7
    indices = Indexer([level], [g], EXACT).build([mask])
    table, halo = indices.feeds["table.conv.l"], indices.feeds["halo.conv.l"]
    pixels = np.concatenate([indices.feeds["active.l"], halo, [-1]])[table]
    plane = np.pad(np.arange(9000).reshape(90, 100), 1, constant_values=-1)
    windows = np.lib.stride_tricks.sliding_window_view(plane, (3, 3)).reshape(9000, 9)
    np.testing.assert_array_equal(pixels, windows[indices.feeds["active.l"]])
    fresh = (table >= 0) & (table < indices.counts["l"])
    np.testing.assert_array_equal(fresh, (pixels >= 0) & mask.ravel()[pixels])


@pytest.mark.parametrize("pixel", [0, 34, 69])
def test_one_pixel(pixel: int) -> None:
    mask = np.zeros((7, 10), bool)
    mask.ravel()[pixel] = True
    indexer = Indexer(*network(7, 10), EXACT)
    indices = indexer.build([mask])
    check(indices, indexer, [mask])
    assert indices.feeds["active.fine"].tolist() == [pixel] * 8  # padded by repeating it


def test_nothing_active() -> None:
    indexer = Indexer(*network(8, 8), MaskPolicy(granularity=4))
    indices = indexer.build([np.zeros((8, 8), bool), np.zeros((3, 3), bool)])
    assert set(indices.counts.values()) == {0} and set(indices.fractions.values()) == {0.0}
    assert all(len(feed) == 0 for feed in indices.feeds.values())
    assert indices.feeds["table.conv.fine"].shape == (0, 9)
    assert indices.feeds["weights.blend.coarse"].shape == (0, 4)


def test_everything_active_reads_no_halo() -> None:
    indexer = Indexer(*network(8, 8), MaskPolicy())
    indices = indexer.build([np.ones((8, 8), bool)])
    assert set(indices.fractions.values()) == {1.0}
    assert all(len(feed) == 0 for name, feed in indices.feeds.items() if name.startswith("halo."))


def test_only_the_wanted_feeds() -> None:
    indexer = Indexer(*network(8, 8), MaskPolicy())
    mask = np.eye(8, dtype=bool)
    everything = indexer.build([mask])
    only = {"active.fine", "table.conv.fine", "halo.down.coarse", "weights.blend.coarse"}
    some = indexer.build([mask], only=only)
    assert set(some.feeds) == only and some.counts == everything.counts
    for name in only:
        np.testing.assert_array_equal(some.feeds[name], everything.feeds[name])
    np.testing.assert_array_equal(some.active("large"), everything.active("large"))


def test_threads_may_share_an_indexer() -> None:
    indexer = Indexer(*network(40, 40), MaskPolicy())
    masks = [np.random.default_rng(i).random((40, 40)) < 0.1 for i in range(16)]
    alone = [indexer.build([mask]) for mask in masks]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda mask: indexer.build([mask]), masks))
    for a, b in zip(alone, together):
        assert all((a.feeds[name] == b.feeds[name]).all() for name in a.feeds)


@given(n=st.integers(0, 1 << 21))
@settings(FAST, max_examples=200)
def test_bucket(n: int) -> None:
    padded = bucket(n)
    assert (padded == 0) == (n == 0) and bucket(padded) == padded
    assert n <= padded <= bucket(n + 1) and padded - n < max(8, n / 16 + 1)
    if n:
        assert padded % max(8, 2 ** int(np.floor(np.log2(n))) // 16) == 0


def test_buckets_are_few() -> None:
    assert [bucket(n) for n in (1, 8, 9, 127, 128, 129, 255, 257, 4096, 4097)] == [
        8, 8, 16, 128, 128, 136, 256, 272, 4096, 4352,
    ]  # fmt: skip
    assert len({bucket(n) for n in range(1 << 15)}) < 160


@pytest.mark.parametrize("mask", [np.zeros((8, 8)), np.zeros((1, 8, 8), bool), np.zeros((8, 8), np.uint8)])
def test_masks_of_another_type_are_refused(mask: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"must be bool \[H, W\], got"):
        Indexer(*network(8, 8), MaskPolicy()).build([mask])
    with pytest.raises(InputError, match="one mask per spatial input"):
        Indexer(*network(8, 8), MaskPolicy()).build([])


def test_levels_and_geometries_that_do_not_fit_are_refused() -> None:
    a, b = Level("a", 4, 4, "g"), Level("b", 4, 4, "h")
    same = geo.pad(4, 0, 0)
    g, h = Geometry("g", "b", "a", same, same), Geometry("h", "a", "b", same, same)
    for levels, geometries in (
        ([Level("a", 4, 4)], [g]),  # no level b
        ([Level("a", 4, 4), Level("b", 5, 4)], [g]),
        ([a, Level("b", 4, 4)], [h]),  # no geometry g
        ([Level("a", 4, 4, "h"), Level("b", 4, 4)], [h]),  # h leads to b
        ([a, b], [g, h]),  # each waits for the other
    ):
        with pytest.raises(BundleError, match="export the bundle again"):
            Indexer(levels, geometries, MaskPolicy())


def test_an_edit_of_512_is_indexed_fast() -> None:
    """A gross bound; benchmarks/indices.py measures."""
    levels = [Level(str(n), n, n) for n in (512, 256, 128, 64)]
    taps = [geo.window(level.height, 3, pad=(1, 1)) for level in levels]
    windows = [both(level, level, "conv", t, t) for level, t in zip(levels, taps)]
    indexer = Indexer(levels, windows, MaskPolicy())
    before = np.zeros((1, 3, 512, 512), np.float32)
    after = before.copy()
    after[..., 100:214, 200:314] = 1
    best = float("inf")
    for _ in range(10):
        start = time.perf_counter()
        indexer.build([difference_mask(before, after)])
        best = min(best, time.perf_counter() - start)
    assert best < 0.020
