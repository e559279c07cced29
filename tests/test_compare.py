"""Comparing an edit with dense: what is inside an edit, and how errors are counted."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import tiny

import sige_deploy as sige
from sige_deploy.compare import active_masks, compare, differences, edited_masks, given_masks, psnr
from sige_deploy.masks import dilate
from sige_deploy.runtimes.base import create
from sige_deploy.session import Session


@pytest.fixture
def bundle(tiny_path: Path) -> sige.Bundle:
    return sige.open_bundle(tiny_path)


def test_psnr() -> None:
    a = np.zeros(100, np.float32)
    assert psnr(a, a, 2.0) == math.inf
    assert psnr(a + 0.02, a, 2.0) == pytest.approx(40)
    assert psnr(a + 1, a, 0.0) == -math.inf


def test_masks_are_those_of_the_session(bundle: sige.Bundle) -> None:
    original = tiny.inputs()
    edited = tiny.edited(original, slice(4, 6), slice(7, 9))
    found, given = edited_masks(bundle, original, edited), given_masks(bundle, tiny.changed(original, edited))
    assert np.array_equal(found[0], given[0]) and found[0].sum() == 4
    assert np.array_equal(active_masks(bundle, found)[tiny.LEVEL], dilate(found[0], 1))


def test_differences_tell_inside_from_outside(bundle: sige.Bundle) -> None:
    active = np.zeros((tiny.H, tiny.W), bool)
    active[2:5, 3:9] = True
    dense = {"y": np.random.default_rng(0).standard_normal((2, 4, tiny.H, tiny.W)), "total": np.ones(1)}
    result = {name: array.copy() for name, array in dense.items()}
    result["y"][:, :, active] += 0.5
    y, total = differences(bundle, result, dense, {tiny.LEVEL: active})
    assert (y.psnr_outside, total.psnr, total.psnr_inside) == (math.inf, math.inf, None)
    assert y.psnr_inside == pytest.approx(20 * math.log10(np.ptp(dense["y"]) / 0.5))
    assert y.max_error == pytest.approx(0.5) and y.mean_error == pytest.approx(0.5 * active.mean())
    (all_active, _) = differences(bundle, result, dense, {tiny.LEVEL: np.ones_like(active)})
    assert all_active.psnr_outside is None and all_active.psnr_inside == all_active.psnr


def test_compare_runs_both(bundle: sige.Bundle) -> None:
    runtime = create(None, bundle, "cpu", 1)
    original = tiny.inputs()
    edited = tiny.edited(original, slice(4, 6), slice(7, 9))
    with Session(bundle, runtime) as session:
        session.record(**original)
        seen = compare(session, runtime, original, edited)
    assert seen.report.path == "sparse"
    np.testing.assert_allclose(seen.dense["y"], tiny.dense(**edited), atol=1e-4)
    np.testing.assert_allclose(seen.result["y"], tiny.sparse(original, edited, seen.edited[0]), atol=1e-4)
    assert seen.differences[0].output == "y" and seen.differences[0].psnr > 30
