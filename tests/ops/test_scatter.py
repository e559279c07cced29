from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sige_deploy.errors import InputError
from sige_deploy.ops.scatter import scatter

from .helpers import DTYPES, PROFILE, pixels, random, run_function


@PROFILE
@given(
    data=st.data(),
    dtype=DTYPES,
    batch=st.integers(1, 3),
    count=st.integers(1, 20),
    channels=st.integers(1, 3),
)
def test_function_agrees(data: st.DataObject, dtype: type, batch: int, count: int, channels: int) -> None:
    active = data.draw(pixels(count))
    image = random(0, dtype, batch, count, channels)  # rows of one pixel are equal, as buckets make them
    inputs = {
        "base": random(1, dtype, batch, count, channels),
        "rows": image[:, active],
        "active": active,
    }
    expected = np.where(np.isin(np.arange(count), active)[:, None], image, inputs["base"])
    before = inputs["base"].copy()
    np.testing.assert_array_equal(scatter(**inputs), expected)
    np.testing.assert_array_equal(run_function("Scatter", inputs), expected)
    np.testing.assert_array_equal(inputs["base"], before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"active": np.array([4], np.int32)}, r"active must lie in \[0, 4\)"),
        ({"active": np.array([-1], np.int32)}, r"active must lie in \[0, 4\)"),
        ({"rows": np.zeros((1, 2, 2), np.float32)}, r"rows must have shape \[1, 1, 2\]"),
    ],
)
def test_mistakes(change: dict, message: str) -> None:
    arguments = {
        "base": np.zeros((1, 4, 2), np.float32),
        "rows": np.zeros((1, 1, 2), np.float32),
        "active": np.zeros(1, np.int32),
    }
    with pytest.raises(InputError, match=message):
        scatter(**(arguments | change))
