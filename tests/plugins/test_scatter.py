from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.helpers import DTYPES, PROFILE, pixels, random

from sige_deploy.ops.scatter import scatter

from . import cpu
from .library import Kernels


@PROFILE
@given(
    data=st.data(),
    dtype=DTYPES,
    batch=st.integers(1, 2),
    count=st.integers(1, 20),
    channels=st.integers(1, 5),
    in_place=st.booleans(),
)
def test_cpu_agrees(
    kernels: Kernels,
    data: st.DataObject,
    dtype: type,
    batch: int,
    count: int,
    channels: int,
    in_place: bool,
) -> None:
    active = data.draw(pixels(count))
    by_pixel = random(1, dtype, batch, count, channels)  # equal pixels get equal rows
    inputs = {
        "base": random(2, dtype, batch, count, channels),
        "rows": np.ascontiguousarray(by_pixel[:, active]),
        "active": active,
    }
    expected = scatter(**inputs)
    np.testing.assert_array_equal(cpu.scatter(kernels, inputs, in_place), expected)


@pytest.mark.parametrize("fresh", [0, 7])
def test_cpu_leaves_the_base(kernels: Kernels, fresh: int) -> None:
    base = random(1, np.float32, 2, 7, 3)
    inputs = {
        "base": base.copy(),
        "rows": random(2, np.float32, 2, fresh, 3),
        "active": np.arange(fresh, dtype=np.int32),
    }
    cpu.scatter(kernels, inputs)
    np.testing.assert_array_equal(inputs["base"], base)
