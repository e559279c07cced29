"""Masks against brute-force readings of their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy import geometry as geo
from sige_deploy import masks as m
from sige_deploy.config import SparseConfig
from sige_deploy.errors import InputError
from sige_deploy.geometry import Geometry, Level

FAST = settings(max_examples=40, derandomize=True, deadline=None, database=None)


@st.composite
def random_masks(draw: st.DrawFn, low: int = 1, high: int = 14) -> np.ndarray:
    height, width = draw(st.integers(low, high)), draw(st.integers(low, high))
    share = draw(st.sampled_from([0.0, 0.02, 0.1, 0.5, 0.95, 1.0]))
    return np.random.default_rng(draw(st.integers(0, 2**16))).random((height, width)) < share


@FAST
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    height=st.integers(1, 9), width=st.integers(1, 9),
    dtype=st.sampled_from(["bool", "uint8", "int64", "float16", "float32", "float64"]),
    eps=st.sampled_from([0.0, 0.5, 1.0, 2.5]), seed=st.integers(0, 99),
)  # fmt: skip
def test_difference(shape: list[int], height: int, width: int, dtype: str, eps: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a = rng.integers(0, 5, (*shape, height, width)).astype(dtype)
    b = np.where(rng.random(a.shape) < 0.2, rng.integers(0, 5, a.shape), a).astype(dtype)
    leading = tuple(range(len(shape)))
    expected = (np.abs(a.astype(np.float64) - b.astype(np.float64)) > eps).any(axis=leading)
    actual = m.difference_mask(a, b, eps)
    assert actual.dtype == bool
    np.testing.assert_array_equal(actual, expected)


def test_difference_over_bands_and_layouts() -> None:
    rng = np.random.default_rng(0)
    a = rng.standard_normal((2, 300, 400, 3), np.float32)  # channels last: a strided view for the mask
    b = a.copy()
    b[1, 17, 399, 2] += 0.1
    b[0, 299, 0, 0] += 0.001
    a, b = np.moveaxis(a, -1, 1), np.moveaxis(b, -1, 1)
    assert set(zip(*np.nonzero(m.difference_mask(a, b)))) == {(17, 399), (299, 0)}
    assert set(zip(*np.nonzero(m.difference_mask(a, b, 0.01)))) == {(17, 399)}
    assert not m.difference_mask(a, a, 0.01).any()


def test_difference_is_in_the_input_s_own_precision() -> None:
    """uint8 does not wrap, and a float32 difference of exactly the float32 threshold is not above it."""
    assert not m.difference_mask(np.array([[0]], np.uint8), np.array([[255]], np.uint8), 255).any()
    assert m.difference_mask(np.array([[0]], np.uint8), np.array([[255]], np.uint8), 254).all()
    assert not m.difference_mask(np.array([[0]], np.float32), np.array([[0.1]], np.float32), 0.1).any()


def test_difference_of_unlike_shapes_is_refused() -> None:
    with pytest.raises(InputError, match="one shape"):
        m.difference_mask(np.zeros((1, 2, 2)), np.zeros((2, 2)))
    with pytest.raises(InputError, match="one shape"):
        m.difference_mask(np.zeros(2), np.zeros(2))


@FAST
@given(mask=random_masks(), radius=st.integers(0, 6))
def test_dilate_is_a_cross(mask: np.ndarray, radius: int) -> None:
    expected = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape):
        row = mask[y, max(x - radius, 0) : x + radius + 1]
        column = mask[max(y - radius, 0) : y + radius + 1, x]
        expected[y, x] = row.any() or column.any()
    np.testing.assert_array_equal(m.dilate(mask, radius), expected)


@FAST
@given(mask=random_masks(high=4), halvings=st.integers(1, 3), seed=st.integers(0, 99))
def test_reduction_is_repeated_bilinear_halving(mask: np.ndarray, halvings: int, seed: int) -> None:
    r = 2**halvings
    mask = mask.repeat(r, axis=0).repeat(r, axis=1)
    mask &= np.random.default_rng(seed).random(mask.shape) < 0.5
    value = torch.from_numpy(mask.astype(np.float64))[None, None]
    for _ in range(halvings):
        value = F.interpolate(value, scale_factor=0.5, mode="bilinear", align_corners=False)
    value = value[0, 0].numpy()
    expected = value > min(0.3, value.max() - 0.001) if mask.any() else np.zeros(value.shape, bool)
    if value.max() <= 0.001:  # too faint for the margin: whatever is touched at all
        expected = value > 0
    np.testing.assert_array_equal(m.resample_mask(mask, value.shape), expected)


@FAST
@given(
    mask=random_masks(), height=st.integers(1, 16), width=st.integers(1, 16),
    threshold=st.sampled_from([0.0, 0.05, 0.3, 0.9]),
)  # fmt: skip
def test_resampling_by_area(mask: np.ndarray, height: int, width: int, threshold: float) -> None:
    def overlaps(n: int, n_out: int) -> np.ndarray:
        """Length of source cell s inside target cell o, times n_out."""
        o, s = np.arange(n_out)[:, None], np.arange(n)[None]
        return np.maximum(np.minimum((o + 1) * n, (s + 1) * n_out) - np.maximum(o * n, s * n_out), 0)

    mean = overlaps(mask.shape[0], height) @ mask @ overlaps(mask.shape[1], width).T / mask.size
    expected = mean > max(0.0, min(threshold, mean.max() - 0.001))
    if mask.shape == (height, width):
        expected = mask
    actual = m.resample_mask(mask, (height, width), threshold)
    np.testing.assert_array_equal(actual, expected)
    assert actual.any() == mask.any() and actual.all() >= mask.all()


@FAST
@given(mask=random_masks(), scale=st.integers(1, 3))
def test_integer_enlargement_is_nearest(mask: np.ndarray, scale: int) -> None:
    actual = m.resample_mask(mask, (mask.shape[0] * scale, mask.shape[1] * scale))
    np.testing.assert_array_equal(actual, np.kron(mask, np.ones((scale, scale), bool)))


def test_one_pixel_of_a_large_block_survives_alone() -> None:
    mask = np.zeros((512, 512), bool)
    mask[100, 300] = True
    reduced = m.resample_mask(mask, (8, 8))
    assert np.argwhere(reduced).tolist() == [[1, 4]]


@FAST
@given(mask=random_masks(), granularity=st.integers(1, 5))
def test_granulate(mask: np.ndarray, granularity: int) -> None:
    expected = np.zeros_like(mask)
    for y, x in np.argwhere(mask) // granularity * granularity:
        expected[y : y + granularity, x : x + granularity] = True
    np.testing.assert_array_equal(m.granulate(mask, granularity), expected)


@FAST
@given(
    mask=random_masks(low=3), kernel=st.integers(1, 3), stride=st.integers(1, 2), pad=st.integers(0, 2),
    mode=st.sampled_from(geo.MODES),
)  # fmt: skip
def test_reading_mask(mask: np.ndarray, kernel: int, stride: int, pad: int, mode: str) -> None:
    y, x = (geo.window(n, kernel, stride, pad=(pad, 0), mode=mode) for n in mask.shape)
    expected = np.zeros((y.n_out, x.n_out), bool)
    for ty, tx in np.ndindex(expected.shape):
        read = itertools.product(y.index[ty], x.index[tx])
        expected[ty, tx] = any(mask[sy, sx] for sy, sx in read if sy >= 0 and sx >= 0)
    np.testing.assert_array_equal(m.reading_mask(mask, Geometry("g", "a", "b", y, x)), expected)


FULL, HALF, PADDED, DOUBLE = (
    Level("12x8", 12, 8),
    Level("6x4", 6, 4),
    Level("14x10", 14, 10, "pad"),
    Level("24x16", 24, 16),
)
PAD = Geometry("pad", "12x8", "14x10", geo.pad(12, 1, 1, "reflect"), geo.pad(8, 1, 1, "reflect"))


def levels_of(*masks: np.ndarray, **policy: object) -> dict[str, np.ndarray]:
    # A level may be listed before the one that decides it.
    return m.level_masks(masks, [PADDED, FULL, HALF, DOUBLE], {"pad": PAD}, m.MaskPolicy(**policy))  # type: ignore[arg-type]


def test_level_policy() -> None:
    mask = np.zeros((12, 8), bool)
    mask[5, 2] = True
    at = levels_of(mask, dilate=2, level_dilate={"6x4": 0, "24x16": 3}, granularity={"14x10": 2})
    np.testing.assert_array_equal(at["12x8"], m.dilate(mask, 2))
    np.testing.assert_array_equal(at["6x4"], m.resample_mask(mask, (6, 4)))  # of the undilated mask
    np.testing.assert_array_equal(at["24x16"], m.dilate(m.resample_mask(m.dilate(mask, 2), (24, 16)), 3))
    np.testing.assert_array_equal(at["14x10"], m.granulate(m.reading_mask(m.dilate(mask, 2), PAD), 2))


def test_a_level_with_geometry_reads_the_granulated_source() -> None:
    mask = np.zeros((12, 8), bool)
    mask[5, 2] = True
    at = levels_of(mask, dilate=0, granularity={"12x8": 4})
    np.testing.assert_array_equal(at["14x10"], m.reading_mask(m.granulate(mask, 4), PAD))


def test_several_inputs_are_joined_level_by_level() -> None:
    large, small = np.zeros((12, 8), bool), np.zeros((6, 4), bool)
    large[0, 0] = small[5, 3] = True
    at = levels_of(large, small, dilate=0, level_dilate=0)
    alone = [levels_of(mask, dilate=0, level_dilate=0) for mask in (large, small)]
    for level in at:
        np.testing.assert_array_equal(at[level], alone[0][level] | alone[1][level])
    assert at["12x8"].sum() == 1 + 4 and at["6x4"].sum() == 2


@pytest.mark.parametrize(
    "policy", [{}, {"granularity": 4, "level_dilate": 0}, {"dilate": 0, "threshold": 0.99}]
)
def test_empty_stays_empty_and_full_stays_full(policy: dict[str, object]) -> None:
    for value in (False, True):
        for shape in ((12, 8), (6, 4), (13, 7)):
            at = levels_of(np.full(shape, value), **policy)
            assert all((mask == value).all() and mask.dtype == bool for mask in at.values())


@pytest.mark.parametrize(
    "bad",
    [
        {"eps": -1.0}, {"eps": float("nan")}, {"eps": float("inf")},
        {"dilate": 1.5}, {"dilate": -1}, {"dilate": True},
        {"threshold": 1.0}, {"threshold": "a"}, {"level_dilate": {"8x8": -1}}, {"granularity": 0},
        {"granularity": {8: 1}}, {"statistics": "new"}, {"dense_above": 1.1},
    ],
)  # fmt: skip
def test_config_refuses_what_is_out_of_range(bad: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"^{next(iter(bad))} .*, got .*\\.$"):
        SparseConfig(**bad)  # type: ignore[arg-type]


def test_config_defaults() -> None:
    config = SparseConfig()
    assert (config.eps, config.dilate, config.threshold, config.level_dilate) == (0.0, 1, 0.3, 1)
    assert (config.granularity, config.statistics, config.dense_above) == (1, "recorded", 0.5)


@st.composite
def difference_maps(draw: st.DrawFn) -> np.ndarray:
    """Maps with few or many levels: ties among values and among Otsu's thresholds are common."""
    height, width = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    levels = draw(st.sampled_from([1, 2, 3, 7, 255, 10**6]))
    values = np.random.default_rng(draw(st.integers(0, 2**16))).integers(0, levels, (height, width))
    dtype = draw(st.sampled_from(["uint8", "int64", "float16", "float32", "float64"]))
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def blocks(mask: np.ndarray) -> np.ndarray:
    """All 2x2 blocks that are set whole; on an axis of one pixel, of one."""
    ky, kx = (min(2, n) for n in mask.shape)
    out = np.zeros_like(mask)
    for y, x in np.ndindex(mask.shape[0] - ky + 1, mask.shape[1] - kx + 1):
        if mask[y : y + ky, x : x + kx].all():
            out[y : y + ky, x : x + kx] = True
    return out


def grey(difference: np.ndarray) -> np.ndarray:
    values = difference.astype(np.float64)
    return np.rint((values - values.min()) / (values.max() - values.min()) * 255)


@FAST
@given(difference=difference_maps())
def test_a_difference_map_s_mask_by_brute_force(difference: np.ndarray) -> None:
    if not np.isfinite(difference).all():  # float16 of a million
        with pytest.raises(InputError, match="NaN or infinity"):
            m.difference_to_mask(difference)
        return
    actual = m.difference_to_mask(difference)
    assert actual.dtype == bool and actual.shape == difference.shape
    if difference.min() == difference.max():
        assert not actual.any()
        return
    levels = grey(difference)

    def between(t: int) -> float:
        low, high = levels[levels <= t], levels[levels > t]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if low.size and high.size else 0.0

    best = max(between(t) for t in range(255))
    ties = [t for t in range(255) if between(t) >= best * (1 - 1e-9)]
    assert any(np.array_equal(actual, blocks(levels > t)) for t in ties)


@FAST
@given(difference=difference_maps(), scale=st.sampled_from([2.0**-40, 0.5, 4.0]), flip=st.booleans())
def test_a_difference_map_s_mask_knows_no_scale_and_no_side(
    difference: np.ndarray, scale: float, flip: bool
) -> None:
    difference = np.nan_to_num(difference.astype(np.float64), posinf=0)
    wanted = m.difference_to_mask(difference)
    np.testing.assert_array_equal(m.difference_to_mask(difference * scale), wanted)
    np.testing.assert_array_equal(m.difference_to_mask(difference.T).T, wanted)
    turned = difference[::-1, ::-1] if flip else difference[:, ::-1]
    np.testing.assert_array_equal(
        m.difference_to_mask(turned), wanted[::-1, ::-1] if flip else wanted[:, ::-1]
    )


def test_a_difference_map_finds_what_stands_out() -> None:
    rng = np.random.default_rng(0)
    difference = rng.random((64, 64)) * 0.1
    wanted = np.zeros((64, 64), bool)
    wanted[10:22, 30:50] = True
    wanted[40:42, 5:7] = True  # the smallest piece that stays
    difference[wanted] += 1
    difference[60, 60] += 1  # a pixel alone goes
    np.testing.assert_array_equal(m.difference_to_mask(difference), wanted)
    np.testing.assert_array_equal(m.difference_to_mask(-difference), blocks(~wanted & (difference < 1)))


def test_difference_maps_without_contrast_and_nearly_full_ones() -> None:
    for value in (0.0, 1.0, -3.0, 1e308):
        assert not m.difference_to_mask(np.full((8, 8), value)).any()
    full = np.ones((8, 8))
    full[0, 0] = 0  # all but a corner: every other pixel lies in a whole block
    np.testing.assert_array_equal(m.difference_to_mask(full), full > 0)
    extreme = np.zeros((4, 4))
    extreme[:2, :2], extreme[2:, 2:] = 1.7e308, -1.7e308
    assert m.difference_to_mask(extreme)[:2, :2].all()
    tiny = np.zeros((4, 4))
    tiny[:2, :2] = 5e-324
    assert m.difference_to_mask(tiny).sum() == 4


def test_a_difference_map_s_threshold_may_be_given() -> None:
    ramp = np.repeat(np.arange(16.0)[None], 16, axis=0)
    np.testing.assert_array_equal(m.difference_to_mask(ramp, 0.5), ramp >= 8)
    np.testing.assert_array_equal(m.difference_to_mask(ramp, 0.0), ramp >= 1)
    assert not m.difference_to_mask(ramp, 1.0).any()


def test_difference_maps_that_are_refused() -> None:
    for bad in (np.zeros((1, 4, 4)), np.zeros((0, 4)), np.zeros((2, 2), complex), np.array([["a"]])):
        with pytest.raises(InputError, match="numbers \\[H, W\\]"):
            m.difference_to_mask(bad)
    with pytest.raises(InputError, match="NaN or infinity"):
        m.difference_to_mask(np.array([[0.0, np.nan]]))
    with pytest.raises(InputError, match="0 to 1"):
        m.difference_to_mask(np.zeros((2, 2)), 1.5)
