"""Codes keep every row by itself, and are as far off as they say."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy.runs.codes import BLOCK, Blocks8, Exact, Half, code_of

FAST = settings(max_examples=30, derandomize=True, deadline=None, database=None)


def values(seed: int, channels: int, scale: float, dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((2, 5, channels)) * scale).astype(dtype)


@FAST
@given(seed=st.integers(0, 999), channels=st.integers(1, 150), scale=st.sampled_from([0.0, 1e-30, 1.0, 1e30]))
def test_8_bits_are_off_by_half_a_code(seed: int, channels: int, scale: float) -> None:
    before = values(seed, channels, scale)
    code = Blocks8()
    parts = code.encode(before)
    assert [(p.shape, p.dtype) for p in parts] == code.parts((before.shape, before.dtype))
    after = code.decode(parts, before.dtype)
    assert after.dtype == before.dtype and after.shape == before.shape
    for start in range(0, channels, BLOCK):
        block = slice(start, start + BLOCK)
        largest = np.abs(before[..., block]).max(axis=-1, keepdims=True)
        assert (np.abs(after[..., block] - before[..., block]) <= largest * (0.5001 / 127)).all()


@FAST
@given(seed=st.integers(0, 99), channels=st.integers(1, 70))
def test_rows_are_coded_one_by_one(seed: int, channels: int) -> None:
    before = values(seed, channels, 1.0)
    for code in (Exact(), Half(), Blocks8()):
        whole = code.encode(before)
        some = code.encode(before[:, [3, 1]])
        assert all((a[:, [3, 1]] == b).all() for a, b in zip(whole, some))


def test_what_half_precision_cannot_hold_stays_finite() -> None:
    before = np.array([[[1e30, -1e30, 1.0]]], np.float32)
    assert Half().decode(Half().encode(before), before.dtype).tolist() == [[[65504.0, -65504.0, 1.0]]]


def test_which_code_an_array_has() -> None:
    f32, f16, i64 = (np.dtype(name) for name in ("float32", "float16", "int64"))
    kinds = [
        type(code_of(storage, dtype, base, by_rows)).__name__
        for storage in ("exact", "float16", "int8")
        for dtype, base, by_rows in [
            (f32, True, True), (f32, True, False), (f16, True, True), (f16, True, False), (f32, False, False),
            (i64, True, True),
        ]
    ]  # fmt: skip
    assert kinds == [
        *["Exact"] * 6,
        "Half", "Half", "Exact", "Exact", "Exact", "Exact",
        "Blocks8", "Half", "Blocks8", "Exact", "Exact", "Exact",
    ]  # fmt: skip
