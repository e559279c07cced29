"""Exported bundles of every architecture of the zoo against the torch reference of the approximation."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from checking import Exported, assert_same, blob_and_dust, dense, edited, export, reference_of
from zoo import ZOO


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Exported]:
    folder = tmp_path_factory.mktemp("zoo")

    @cache
    def once(name: str, statistics: str = "recorded") -> Exported:
        return export(ZOO[name], folder / f"{name}-{statistics}", statistics)

    return once


@pytest.mark.parametrize("name", ZOO)
def test_record_is_dense(name: str, exported: Callable[..., Exported]) -> None:
    case = exported(name)
    assert_same(case.outputs, dense(case.entry, case.recorded), 1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_the_recorded_input_as_edit_gives_the_record(name: str, exported: Callable[..., Exported]) -> None:
    case = exported(name)
    for seed in range(2):
        got = case.edit(case.recorded, blob_and_dust(case.entry, seed))
        assert_same(got, case.outputs, 1e-5)


@pytest.mark.parametrize("name", ZOO)
def test_an_edit_is_what_the_reference_says(name: str, exported: Callable[..., Exported]) -> None:
    case = exported(name)
    for seed in range(2, 4):
        mask, inputs = blob_and_dust(case.entry, seed), edited(case.entry, case.recorded, seed)
        want = reference_of(name).run(case.recorded, (inputs, case.level_masks(mask)))
        assert_same(case.edit(inputs, mask), want, case.entry.tolerance)


@pytest.mark.parametrize("name", ZOO)
def test_edits_after_a_commit_are_what_the_reference_says(
    name: str, exported: Callable[..., Exported]
) -> None:
    case = exported(name)
    edits: list[Any] = []
    try:
        for seed in range(4, 6):
            mask, inputs = blob_and_dust(case.entry, seed), edited(case.entry, case.recorded, seed)
            edits.append((inputs, case.level_masks(mask)))
            got = case.edit(inputs, mask)
            case.session.commit()
    finally:
        case.session.record(**case.recorded)
    assert_same(got, reference_of(name).run(case.recorded, *edits), case.entry.tolerance)


@pytest.mark.parametrize("name", ZOO)
def test_all_active_with_fresh_statistics_is_dense(name: str, exported: Callable[..., Exported]) -> None:
    case = exported(name, "fresh" if ZOO[name].statistics else "recorded")
    inputs = edited(case.entry, case.recorded, 6)
    mask = np.ones(case.entry.inputs[case.entry.spatial[0]][-2:], bool)
    assert_same(case.edit(inputs, mask), dense(case.entry, inputs), 1e-4)


@pytest.mark.parametrize("name", ZOO)
def test_islands_are_only_where_expected(name: str, exported: Callable[..., Exported]) -> None:
    case = exported(name)
    islands = [f"{i.op} {i.node}: {i.reason}" for i in case.session.bundle.manifest.islands]
    assert case.entry.islands in (None, len(islands)), islands
