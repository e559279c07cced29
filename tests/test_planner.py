"""The active fraction is a share of multiply-adds."""

from __future__ import annotations

import pytest

from sige_deploy.manifest import LevelSpec, PlannerSpec
from sige_deploy.planner import Work, runs_dense


def test_levels_count_by_their_multiply_adds() -> None:
    levels = [
        LevelSpec(id="a", height=10, width=10, macs=100),
        LevelSpec(id="b", height=5, width=5, macs=300),
        LevelSpec(id="c", height=2, width=2, macs=0),
    ]
    work = Work(levels)
    assert work.active_fraction({"a": 50, "b": 5, "c": 4}) == pytest.approx((100 * 0.5 + 300 * 0.2) / 400)
    assert work.active_fraction({"a": 100, "b": 25, "c": 4}) == 1
    assert work.active_fraction({"a": 0, "b": 0, "c": 0}) == 0


def test_a_network_without_multiply_adds_counts_by_pixels() -> None:
    levels = [LevelSpec(id="a", height=4, width=4), LevelSpec(id="b", height=2, width=2)]
    assert Work(levels).active_fraction({"a": 8, "b": 4}) == pytest.approx((8 + 4) / 20)


def test_dense_above_is_exclusive() -> None:
    assert not runs_dense(PlannerSpec(dense_above=0.5), 0.5)
    assert runs_dense(PlannerSpec(dense_above=0.5), 0.51)


def test_a_gpu_has_a_threshold_of_its_own() -> None:
    spec = PlannerSpec(dense_above=0.5, gpu_dense_above=0.9)
    assert [runs_dense(spec, 0.7), runs_dense(spec, 0.7, gpu=True), runs_dense(spec, 0.95, gpu=True)] == [
        True, False, True,
    ]  # fmt: skip
