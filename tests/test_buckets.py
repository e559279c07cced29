"""Buckets hold every edit, waste little on compact and on ragged ones, and are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy.buckets import NEARLY, Buckets, compact
from sige_deploy.geometry import Level
from sige_deploy.manifest import InputSpec, LevelSpec, Manifest, PolicySpec
from sige_deploy.masks import MaskPolicy, level_masks
from sige_deploy.planner import weights
from sige_deploy.workload import make_mask

Sizes = list[tuple[int, int]]


def manifest(sizes: Sizes, granularity: int = 1, dilate: int = 1, dilation: int = 1) -> Manifest:
    """Levels of these sizes, the input at the first; multiply-adds as in a network that keeps its cost."""
    height, width = sizes[0]
    levels = [
        LevelSpec(
            id=f"{h}x{w}", height=h, width=w, granularity=granularity, dilation=dilation, macs=10**6 + i
        )
        for i, (h, w) in enumerate(sizes)
    ]
    image = InputSpec(
        name="image", shape=[1, 3, height, width], dtype="float32", role="spatial", level=levels[0].id,
        axes=["N", "C", "Y", "X"],
    )  # fmt: skip
    policy = PolicySpec(dilate=dilate)
    return Manifest(
        name="n", inputs=[image], outputs=[], levels=levels, policy=policy, precision="float32", macs=1,
        parameters=1,
    )  # fmt: skip


def counts_of(m: Manifest, mask: np.ndarray) -> dict[str, int]:
    policy = MaskPolicy(
        dilate=m.policy.dilate,
        threshold=m.policy.threshold,
        level_dilate={x.id: x.dilation for x in m.levels},
        granularity={x.id: x.granularity for x in m.levels},
    )
    levels = [Level(x.id, x.height, x.width) for x in m.levels]
    return {id_: int(x.sum()) for id_, x in level_masks([mask], levels, {}, policy).items()}


def work(m: Manifest, rows: dict[str, int]) -> float:
    return sum(w * rows[x.id] / (x.height * x.width) for w, x in zip(weights(m.levels), m.levels))


PYRAMID: Sizes = [(64, 128), (32, 64), (16, 32), (8, 16), (4, 8)]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5, unique=True),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_a_bucket_holds_the_counts_and_nothing_beyond_the_level(sizes: Sizes, data: st.DataObject) -> None:
    m = manifest(sizes)
    counts = {x.id: data.draw(st.integers(0, x.height * x.width)) for x in m.levels}
    rows = Buckets(m).fit(counts)
    for level in m.levels:
        pixels = level.height * level.width
        assert counts[level.id] <= rows[level.id] <= pixels
        assert rows[level.id] % 8 == 0 or rows[level.id] == pixels
        assert (rows[level.id] == 0) == (counts[level.id] == 0)


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=5, unique=True),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_the_bucket_is_the_one_of_least_work_among_those_that_hold(sizes: Sizes, data: st.DataObject) -> None:
    m = manifest(sizes)
    buckets = Buckets(m)
    counts = {x.id: data.draw(st.integers(0, x.height * x.width)) for x in m.levels}
    every = [dict(zip(counts, rows)) for rows in buckets._rows]
    best = min(
        (rows for rows in every if all(rows[id_] >= counts[id_] for id_ in counts)),
        key=lambda rows: work(m, rows),
    )
    found = buckets.fit(counts)
    filled = {id_: rows or best[id_] for id_, rows in found.items()}  # 0 where there is nothing
    assert work(m, filled) == pytest.approx(work(m, best), rel=1e-12)


@given(st.integers(0, 63), st.integers(0, 127), st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=60, deadline=None)
def test_fitting_is_monotone_and_stable(y: int, x: int, h: int, w: int) -> None:
    m = manifest(PYRAMID)
    buckets = Buckets(m)
    mask = np.zeros(PYRAMID[0], bool)
    mask[y : y + h, x : x + w] = True
    counts = counts_of(m, mask)
    rows = buckets.fit(counts)
    assert buckets.fit(rows) == rows
    fewer = {id_: max(count // 2, 1) for id_, count in counts.items()}
    assert work(m, buckets.fit(fewer)) <= work(m, rows)


def waste(m: Manifest, buckets: Buckets, mask: np.ndarray) -> float:
    """Work of the rows an edit is padded to, by that of its own ones in eights."""
    counts = counts_of(m, mask)
    pixels = {x.id: x.height * x.width for x in m.levels}
    needed = {id_: min(-(-count // 8) * 8, pixels[id_]) for id_, count in counts.items()}
    return work(m, buckets.fit(counts)) / work(m, needed)


def disc(mask: np.ndarray, y: float, x: float, radius: float) -> None:
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    mask |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2


def stroke(shape: tuple[int, int], seed: int, steps: int, radius: float) -> list[np.ndarray]:
    """A brush's wandering path after each of its steps."""
    rng = np.random.default_rng(seed)
    mask, (y, x), angle = np.zeros(shape, bool), rng.uniform((0, 0), shape), rng.uniform(0, 2 * np.pi)
    masks = []
    for _ in range(steps):
        angle += rng.normal() * 0.3
        y, x = (y + radius * np.sin(angle)) % shape[0], (x + radius * np.cos(angle)) % shape[1]
        disc(mask, y, x, radius)
        masks.append(mask.copy())
    return masks


@pytest.mark.parametrize("granularity", [1, 2, 4])
@pytest.mark.parametrize("dilate", [0, 1, 3])
def test_compact_edits_waste_little(granularity: int, dilate: int) -> None:
    """Wherever they lie."""
    m = manifest(PYRAMID, granularity, dilate)
    buckets = Buckets(m)
    seen = set()
    for side in (9, 21, 40):
        for y, x in [(0, 0), (1, 1), (3, 2), (11, 17), (19, 30)]:
            mask = np.zeros(PYRAMID[0], bool)
            mask[y : y + side, x : x + side] = True
            assert waste(m, buckets, mask) <= 1.45
            seen.add(tuple(buckets.fit(counts_of(m, mask)).values()))
    assert len(seen) <= 12


NETWORKS = {  # levels, granularity, dilation of the policy
    "unet": (PYRAMID[:4], 1, 1),
    "one level": (PYRAMID[:1], 1, 1),
    "undilated": (PYRAMID[:4], 1, 0),
    "wide": (PYRAMID[:4], 1, 2),
    "granules": (PYRAMID[:4], 4, 1),
    "deep": ([(256 >> i, 256 >> i) for i in range(6)], 1, 1),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_ragged_edits_waste_little(network: str) -> None:
    sizes, granularity, dilate = NETWORKS[network]
    m = manifest(sizes, granularity, dilate)
    buckets = Buckets(m)
    shares = (0.012, 0.05, 0.15, 0.23, 0.3, 0.6)
    blobs = [waste(m, buckets, make_mask(*sizes[0], p, "blobs", i)) for p in shares for i in range(4)]
    assert np.mean(blobs) <= 1.25
    strokes = [
        waste(m, buckets, mask)
        for i in range(4)
        for mask in stroke(sizes[0], i, 30, sizes[0][0] * (0.01 + 0.01 * i))[4::5]
    ]
    assert np.mean(strokes) <= 1.3


def test_blobs_on_a_quarter_of_the_picture_take_few_more_rows() -> None:
    m = manifest(PYRAMID[:4])
    rows = Buckets(m).fit({"64x128": 2917, "32x64": 1031, "16x32": 376, "8x16": 102})
    assert rows["64x128"] <= 1.2 * 2917 and rows["32x64"] <= 1.15 * 1031
    assert rows["16x32"] <= 1.1 * 376 and rows["8x16"] <= 128


def test_specks_everywhere_are_not_every_pixel() -> None:
    m = manifest(PYRAMID)
    buckets = Buckets(m)
    mask = np.zeros(PYRAMID[0], bool)
    mask[2:62:12, 3:120:16] = True
    assert waste(m, buckets, mask) <= 1.6


def test_similar_edits_share_buckets() -> None:
    m = manifest(PYRAMID[:4])
    buckets = Buckets(m)
    rng = np.random.default_rng(0)
    moved = []
    for _ in range(200):
        mask = np.zeros(PYRAMID[0], bool)
        disc(mask, rng.uniform(12, 52), rng.uniform(25, 103), 10)
        moved.append(mask)
    for masks, most in ((moved, 5), (stroke(PYRAMID[0], 0, 200, 2), 45)):
        assert len({tuple(buckets.fit(counts_of(m, mask)).values()) for mask in masks}) <= most


@pytest.mark.parametrize("network", NETWORKS)
def test_no_bucket_is_nearly_another(network: str) -> None:
    listed = Buckets(manifest(*NETWORKS[network])).listed()
    shares = np.array([share for share, _ in listed])
    rows = np.array([list(bucket.values()) for _, bucket in listed])
    for i, (share, bucket) in enumerate(zip(shares, rows)):
        others = (np.arange(len(rows)) != i) & (shares >= share) & (shares <= share * NEARLY)
        assert not (others & (rows >= bucket).all(axis=1)).any()


def test_buckets_are_few_and_the_last_is_everything() -> None:
    m = manifest([(256, 512), (128, 256), (64, 128), (32, 64), (16, 32), (8, 16), (4, 8)])
    buckets = Buckets(m)
    assert len(buckets) < 400
    everything = {x.id: x.height * x.width for x in m.levels}
    assert buckets.fit(everything) == everything


def test_compact_edits_grow_to_everything() -> None:
    m = manifest(PYRAMID)
    shares, rows = zip(*compact(m))
    assert list(shares) == sorted(shares) and shares[-1] == 1
    assert rows[-1] == {x.id: x.height * x.width for x in m.levels}
    mask = np.zeros(PYRAMID[0], bool)
    mask[16:40, 32:56] = True
    counts = counts_of(m, mask)
    first = next(bucket for bucket in rows if all(bucket[id_] >= n for id_, n in counts.items()))
    assert work(m, first) <= 1.1 * work(m, Buckets(m).fit(counts))
