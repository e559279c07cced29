from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.helpers import ACTIVATION, PROFILE, Window, assert_close, pixels, random, windows

from sige_deploy.ops.gather import gather

from . import cpu
from .library import Kernels


@PROFILE
@given(
    data=st.data(),
    window=windows(),
    batch=st.integers(1, 2),
    channels=st.sampled_from([1, 3, 8, 33]),
    phases=st.sampled_from([1, 2, 4]),
    activation=ACTIVATION,
    pad_value=st.sampled_from([0.0, 1.5, -np.inf]),
)
def test_cpu_agrees(
    kernels: Kernels,
    data: st.DataObject,
    window: Window,
    batch: int,
    channels: int,
    phases: int,
    activation: str,
    pad_value: float,
) -> None:
    source = window.height * window.width
    active = data.draw(pixels(source))
    halo, table = window.tables(active, data.draw(pixels(window.out_height * window.out_width)))
    offsets = np.arange(table.size, dtype=np.int32).reshape(table.shape) % phases
    table = np.where(table < 0, -1, table * phases + offsets).astype(np.int32)
    inputs = {
        "rows": random(1, np.float32, batch, active.size, channels * phases),
        "base": random(2, np.float32, batch, source, channels * phases),
        "halo": halo,
        "table": table,
    }
    for seed, name in enumerate(("scale", "shift"), 3):
        if data.draw(st.booleans(), label=name):
            shape = data.draw(st.sampled_from([1, batch])), 1, channels * phases
            inputs[name] = random(seed, np.float32, *shape)
    attributes = {"activation": activation, "alpha": 0.2, "phases": phases, "pad_value": pad_value}

    expected = gather(**inputs, **attributes)
    actual = cpu.gather(kernels, inputs, **attributes)

    padding = np.isinf(expected)
    np.testing.assert_array_equal(actual[padding], expected[padding])
    assert_close(np.where(padding, 0, actual), np.where(padding, 0, expected))


@pytest.mark.parametrize("threads", [1, 3])
def test_cpu_copies_bits(kernels: Kernels, threads: int) -> None:
    window = Window(16, 16)
    halo, table = window.tables(range(0, 256, 3), range(256))
    rows, base = random(1, np.float32, 2, 86, 20), random(2, np.float32, 2, 256, 20)
    inputs = {"rows": rows, "base": base, "halo": halo, "table": table}
    np.testing.assert_array_equal(cpu.gather(kernels, inputs, threads), gather(**inputs))
