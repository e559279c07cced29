from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops.helpers import (
    ACTIVATION,
    GATE,
    PROFILE,
    Window,
    assert_close,
    channel_groups,
    conv_inputs,
    gated_inputs,
    linear_inputs,
    random,
    two_sources,
    windows,
)

from sige_deploy.ops.conv import conv

from . import cpu
from .library import CPU, Kernels, conv_args, gather_args


@PROFILE
@given(
    data=st.data(),
    window=windows(),
    batch=st.integers(1, 2),
    activation_in=ACTIVATION,
    activation_out=ACTIVATION,
    grouping=st.sampled_from(["plain", "grouped", "depthwise", "depthwise x2"]),
)
def test_cpu_agrees(
    kernels: Kernels,
    data: st.DataObject,
    window: Window,
    batch: int,
    activation_in: str,
    activation_out: str,
    grouping: str,
) -> None:
    group, per_group, outputs = channel_groups(data, grouping, [3, 70], [1, 3, 15, 16, 17, 32, 33, 70])
    inputs = conv_inputs(data, window, batch, (group, per_group, outputs))
    attributes = {
        "group": group,
        "activation_in": activation_in,
        "activation_out": activation_out,
        "alpha_in": 0.2,
        "alpha_out": 0.3,
    }
    assert_close(cpu.conv(kernels, inputs, **attributes), conv(**inputs, **attributes))


@PROFILE
@given(
    data=st.data(),
    gate=st.one_of(st.just(""), GATE),
    norm_epsilon=st.sampled_from([0.0, 1e-5, 0.5]),
    activation_out=ACTIVATION,
    channels=st.sampled_from([1, 3, 36, 70, 300]),
    outputs=st.sampled_from([1, 16, 17, 33, 70]),
)
def test_cpu_agrees_with_norms_and_gates(
    kernels: Kernels,
    data: st.DataObject,
    gate: str,
    norm_epsilon: float,
    activation_out: str,
    channels: int,
    outputs: int,
) -> None:
    inputs = linear_inputs(data, bool(gate), channels, outputs)
    attributes = {"gate": gate, "norm_epsilon": norm_epsilon, "activation_out": activation_out}
    assert_close(cpu.conv(kernels, inputs, **attributes), conv(**inputs, **attributes))


@PROFILE
@given(data=st.data(), window=windows(), batch=st.integers(1, 2), gate=GATE, activation_in=ACTIVATION)
def test_cpu_agrees_with_a_gate_behind_a_table(
    kernels: Kernels, data: st.DataObject, window: Window, batch: int, gate: str, activation_in: str
) -> None:
    inputs = gated_inputs(data, window, batch, 5, data.draw(st.sampled_from([1, 17, 40])))
    attributes = {"gate": gate, "activation_in": activation_in}
    assert_close(cpu.conv(kernels, inputs, **attributes), conv(**inputs, **attributes))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("outputs", [24, 200])
@pytest.mark.parametrize("rows", [15, 200])
def test_cpu_agrees_with_norms_and_gates_at_many_rows(
    kernels: Kernels, rows: int, outputs: int, threads: int
) -> None:
    shapes = {"rows": (2, rows, 300), "weight": (1, 300, 2 * outputs), "bias": (2 * outputs,)}
    shapes |= {"multiplier": (2, rows, outputs), "residual": (2, rows, outputs)}
    inputs: dict[str, np.ndarray | None] = {"base": None, "halo": None, "table": None}
    inputs |= {name: random(seed, np.float32, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    attributes = {"norm_epsilon": 1e-5, "gate": "gelu"}
    assert_close(cpu.conv(kernels, inputs, threads, **attributes), conv(**inputs, **attributes))


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("group", "outputs"), [(1, 96), (2, 40), (36, 36)])
@pytest.mark.parametrize("rows", [1, 15, 200])
def test_cpu_agrees_without_a_table(
    kernels: Kernels, rows: int, group: int, outputs: int, threads: int, transformed: bool
) -> None:
    shapes = {"rows": (2, rows, 36), "weight": (1, 36 // group, outputs), "bias": (outputs,)}
    shapes |= {"multiplier": (2, rows, outputs), "residual": (2, rows, outputs)}
    if transformed:
        shapes |= {"scale": (2, 1, 36), "shift": (1, 1, 36)}
    inputs: dict[str, np.ndarray | None] = {"rows": None, "base": None, "halo": None, "table": None}
    inputs |= {name: random(seed, np.float32, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    attributes = {
        "group": group,
        "activation_in": "silu" if transformed else "identity",
        "activation_out": "relu",
    }
    assert_close(cpu.conv(kernels, inputs, threads, **attributes), conv(**inputs, **attributes))


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("group", "outputs"), [(1, 96), (2, 40), (48, 48)])
def test_cpu_reads_two_sources(
    kernels: Kernels, group: int, outputs: int, threads: int, transformed: bool, table: bool
) -> None:
    """Groups and vectors of channels may straddle the two."""
    shapes = {"rows": (2, 200, 48), "weight": (9 if table else 1, 48 // group, outputs), "bias": (outputs,)}
    if transformed:
        shapes |= {"scale": (2, 1, 48), "shift": (1, 1, 48)}
    inputs: dict[str, np.ndarray | None] = {"base": None, "halo": None, "table": None}
    if table:
        inputs["halo"], inputs["table"] = Window(20, 20).tables(range(0, 400, 2), range(400))
        shapes |= {"base": (2, 400, 48)}
    inputs |= {name: random(seed, np.float32, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    attributes = {"group": group, "activation_in": "silu" if transformed else "identity"}
    expected = conv(**inputs, **attributes)
    for channels in (16, 19, 40):
        actual = cpu.conv(kernels, two_sources(inputs, channels), threads, **attributes)
        assert_close(actual, expected)


def test_rows_alone_need_no_workspace(kernels: Kernels) -> None:
    """They are not copied, unless they are transformed."""
    inputs = {"rows": random(1, np.float32, 1, 50, 8), "weight": random(2, np.float32, 1, 8, 4)}

    def workspace(op: str, **attributes: str) -> int:
        args = (conv_args if op == "conv" else gather_args)(inputs, attributes, None)
        return kernels.size(f"sige_{op}_workspace_size", args, CPU)

    assert workspace("conv") == 0
    assert workspace("conv", activation_in="relu") >= 50 * 8 * 4
    assert 50 * 4 <= workspace("conv", norm_epsilon=1e-5) < 50 * 8 * 4
    assert workspace("gather", activation="relu") == 0


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("group", "outputs"), [(1, 96), (2, 40), (48, 48)])
def test_cpu_agrees_at_many_rows(kernels: Kernels, group: int, outputs: int, threads: int) -> None:
    window = Window(20, 20)
    active = np.arange(0, 400, 2, dtype=np.int32)
    halo, table = window.tables(active, range(400))
    inputs = {
        "rows": random(1, np.float32, 2, active.size, 48),
        "base": random(2, np.float32, 2, 400, 48),
        "halo": halo,
        "table": table,
        "weight": random(3, np.float32, 9, 48 // group, outputs),
        "scale": random(4, np.float32, 2, 1, 48),
        "shift": random(5, np.float32, 1, 1, 48),
        "residual": random(6, np.float32, 2, 400, outputs),
    }
    attributes = {"group": group, "activation_in": "silu"}
    assert_close(cpu.conv(kernels, inputs, threads, **attributes), conv(**inputs, **attributes))
