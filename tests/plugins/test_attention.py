from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.helpers import PROFILE, assert_close, attention_inputs, pixels, random, widened

from sige_deploy.ops.attention import attention

from . import cpu
from .library import Kernels


@PROFILE
@given(
    data=st.data(),
    batch=st.integers(1, 2),
    count=st.sampled_from([1, 2, 31, 32, 33, 300]),
    heads=st.integers(1, 3),
    dk=st.sampled_from([1, 8, 40]),
    dv=st.sampled_from([1, 16, 20, 40]),
    scale=st.sampled_from([0.0, 0.3]),
    crossing=st.booleans(),
    wide=st.sampled_from(["no", "apart", "together"]),
)
def test_cpu_agrees(
    kernels: Kernels,
    data: st.DataObject,
    batch: int,
    count: int,
    heads: int,
    dk: int,
    dv: int,
    scale: float,
    crossing: bool,
    wide: str,
) -> None:
    active = data.draw(pixels(min(count, 40))) + np.int32(max(count - 40, 0))
    inputs = attention_inputs(np.float32, batch, count, active, heads * dk, heads * dv)
    if crossing:
        inputs |= dict.fromkeys(("k", "v", "active"))
    expected = attention(**inputs, heads=heads, scale=scale)
    parts: dict[str, int] = {}
    if wide != "no":
        inputs, parts = widened(inputs, heads, together=wide == "together")
    assert_close(cpu.attention(kernels, inputs, heads=heads, scale=scale, **parts), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_cpu_keeps_large_scores_finite(kernels: Kernels, threads: int) -> None:
    active = np.arange(0, 600, 9, dtype=np.int32)
    inputs = {
        name: random(seed, np.float32, 2, count, 32)
        for seed, (name, count) in enumerate(
            {"q": active.size, "k": active.size, "v": active.size, "k_base": 600, "v_base": 600}.items()
        )
    }
    inputs["q"] *= 30
    inputs["active"] = active
    actual = cpu.attention(kernels, inputs, threads, heads=2, scale=1.0)
    assert_close(actual, attention(**inputs, heads=2, scale=1.0))
