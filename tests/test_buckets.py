"""Buckets hold every edit, waste little on compact ones, and are few."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy.buckets import Buckets
from sige_deploy.geometry import Level
from sige_deploy.manifest import InputSpec, LevelSpec, Manifest, PolicySpec
from sige_deploy.masks import MaskPolicy, level_masks
from sige_deploy.planner import weights

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


@pytest.mark.parametrize("granularity", [1, 2, 4])
@pytest.mark.parametrize("dilate", [0, 1, 3])
def test_compact_edits_waste_little(granularity: int, dilate: int) -> None:
    """Wherever they lie."""
    m = manifest(PYRAMID, granularity, dilate)
    buckets = Buckets(m)
    for side in (9, 21, 40):
        seen = set()
        for y, x in [(0, 0), (1, 1), (3, 2), (11, 17), (19, 30)]:
            mask = np.zeros(PYRAMID[0], bool)
            mask[y : y + side, x : x + side] = True
            counts = counts_of(m, mask)
            rows = buckets.fit(counts)
            seen.add(tuple(rows.values()))
            slack = 8 * len(m.levels)  # the multiple
            assert sum(rows.values()) <= (1.5 if granularity == 1 else 2.2) * sum(counts.values()) + slack
        assert len(seen) <= 4


def test_ragged_edits_take_a_wider_spread_rather_than_a_larger_square() -> None:
    m = manifest(PYRAMID)
    buckets = Buckets(m)
    mask = np.zeros(PYRAMID[0], bool)
    mask[2:62:12, 3:120:16] = True  # specks everywhere
    rows = buckets.fit(counts_of(m, mask))
    assert work(m, rows) < work(m, {x.id: x.height * x.width for x in m.levels})


def test_buckets_are_few_and_the_last_is_everything() -> None:
    m = manifest([(256, 512), (128, 256), (64, 128), (32, 64), (16, 32), (8, 16), (4, 8)])
    buckets = Buckets(m)
    assert len(buckets) < 200
    everything = {x.id: x.height * x.width for x in m.levels}
    assert buckets.fit(everything) == everything
