from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.helpers import ACTIVATION, PROFILE, Window, assert_close, gather_inputs, random, two_sources, windows

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
    inputs = gather_inputs(data, window, batch, channels, phases)
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


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("channels", [1, 8, 17])
def test_cpu_copies_bits_of_two_sources(kernels: Kernels, channels: int, threads: int) -> None:
    halo, table = Window(16, 16).tables(range(0, 256, 3), range(256))
    rows, base = random(1, np.float32, 2, 86, 20), random(2, np.float32, 2, 256, 20)
    for inputs in ({"rows": rows, "base": base, "halo": halo, "table": table}, {"rows": rows}):
        actual = cpu.gather(kernels, two_sources(inputs, channels), threads)
        np.testing.assert_array_equal(actual, gather(**inputs))


@pytest.mark.parametrize("threads", [1, 3])
def test_cpu_agrees_at_many_rows_without_a_table(kernels: Kernels, threads: int) -> None:
    shapes = {"rows": (2, 150, 36), "scale": (2, 1, 36), "shift": (1, 1, 36)}
    inputs = {name: random(seed, np.float32, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    assert_close(cpu.gather(kernels, inputs, threads, activation="silu"), gather(**inputs, activation="silu"))
    rows = {"rows": inputs["rows"]}
    np.testing.assert_array_equal(cpu.gather(kernels, rows, threads), inputs["rows"])
