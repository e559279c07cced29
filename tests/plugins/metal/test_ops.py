"""Each Metal kernel against the numpy definition of its op, within the tolerance of docs/ops.md."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.helpers import (
    ACTIVATION,
    GATE,
    PROFILE,
    Window,
    assert_close,
    attention_inputs,
    channel_groups,
    conv_inputs,
    gated_inputs,
    gather_inputs,
    linear_inputs,
    pixels,
    random,
    two_sources,
    widened,
    windows,
)

from sige_deploy.ops.attention import attention
from sige_deploy.ops.conv import conv
from sige_deploy.ops.gather import gather
from sige_deploy.ops.scatter import scatter

from .kernels import MetalKernels

HALF = np.float16
CASES = settings(PROFILE, max_examples=60)


@CASES
@given(
    data=st.data(),
    window=windows(),
    batch=st.integers(1, 2),
    channels=st.sampled_from([1, 3, 8, 33]),
    phases=st.sampled_from([1, 2, 4]),
    activation=ACTIVATION,
    pad_value=st.sampled_from([0.0, 1.5, -np.inf]),
)
def test_gather_agrees(
    metal: MetalKernels,
    data: st.DataObject,
    window: Window,
    batch: int,
    channels: int,
    phases: int,
    activation: str,
    pad_value: float,
) -> None:
    inputs = gather_inputs(data, window, batch, channels, phases, HALF)
    attributes = {"activation": activation, "alpha": 0.2, "phases": phases, "pad_value": pad_value}

    expected = gather(**inputs, **attributes)
    actual = metal.gather(**inputs, **attributes)

    padding = np.isinf(expected)
    np.testing.assert_array_equal(actual[padding], expected[padding])
    assert_close(np.where(padding, HALF(0), actual), np.where(padding, HALF(0), expected))


@pytest.mark.parametrize("channels", [1, 8, 17])
def test_gather_copies_bits(metal: MetalKernels, channels: int) -> None:
    halo, table = Window(16, 16).tables(range(0, 256, 3), range(256))
    rows, base = random(1, HALF, 2, 86, 20), random(2, HALF, 2, 256, 20)
    for inputs in ({"rows": rows, "base": base, "halo": halo, "table": table}, {"rows": rows}):
        np.testing.assert_array_equal(metal.gather(**two_sources(inputs, channels)), gather(**inputs))


@CASES
@given(
    data=st.data(),
    window=windows(),
    batch=st.integers(1, 2),
    activation_in=ACTIVATION,
    activation_out=ACTIVATION,
    grouping=st.sampled_from(["plain", "plain", "grouped", "depthwise", "depthwise x2"]),
)
def test_conv_agrees(
    metal: MetalKernels,
    data: st.DataObject,
    window: Window,
    batch: int,
    activation_in: str,
    activation_out: str,
    grouping: str,
) -> None:
    group, per_group, outputs = channel_groups(data, grouping, [3, 8], [1, 3, 4, 16, 32, 33, 70])
    inputs = _of_order_one(conv_inputs(data, window, batch, (group, per_group, outputs), HALF))
    attributes = {
        "group": group,
        "activation_in": activation_in,
        "activation_out": activation_out,
        "alpha_in": 0.2,
        "alpha_out": 0.3,
    }
    assert_close(metal.conv(**_source(inputs), **attributes), conv(**_source(inputs), **attributes))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("group", "channels", "outputs"), [(1, 48, 96), (1, 4, 3), (2, 48, 40), (3, 42, 36), (48, 48, 48)]
)
def test_conv_agrees_at_many_rows(
    metal: MetalKernels, plain: bool, group: int, channels: int, outputs: int
) -> None:
    """Several tiles of rows, outputs and depth, with and without simdgroup matrices; groups of all kinds."""
    active = np.arange(0, 225, 3, dtype=np.int32)
    halo, table = Window(15, 15).tables(active, active)
    inputs = {
        "rows": random(1, HALF, 2, active.size, channels),
        "base": random(2, HALF, 2, 225, channels),
        "halo": halo,
        "table": table,
        "weight": random(3, HALF, 9, channels // group, outputs),
        "scale": random(4, HALF, 2, 1, channels),
        "shift": random(5, HALF, 1, 1, channels),
        "residual": random(6, HALF, 2, active.size, outputs),
    }
    attributes = {"group": group, "activation_in": "silu"}
    inputs = two_sources(_of_order_one(inputs), channels // 3)
    kernels = metal.plain() if plain else metal
    assert_close(kernels.conv(**inputs, **attributes), conv(**inputs, **attributes))


def test_conv_multiplies_rows(metal: MetalKernels) -> None:
    """A linear layer of its own rows, with a depth that ends inside a stage."""
    shapes = {"rows": (2, 40, 70), "weight": (1, 70, 33), "bias": (33,)}
    shapes |= {"embedding": (2, 1, 33), "multiplier": (2, 40, 33), "residual": (2, 40, 33)}
    inputs = _of_order_one(
        {name: random(seed, HALF, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    )
    attributes = {"activation_out": "gelu"}
    assert_close(metal.conv(**_source(inputs), **attributes), conv(**_source(inputs), **attributes))


@CASES
@given(
    data=st.data(),
    gate=st.one_of(st.just(""), GATE),
    norm_epsilon=st.sampled_from([0.0, 1e-5, 0.5]),
    activation_out=ACTIVATION,
    channels=st.sampled_from([1, 3, 36, 70]),
    outputs=st.sampled_from([1, 3, 16, 33]),
    plain=st.booleans(),
)
def test_conv_agrees_with_norms_and_gates(
    metal: MetalKernels,
    data: st.DataObject,
    gate: str,
    norm_epsilon: float,
    activation_out: str,
    channels: int,
    outputs: int,
    plain: bool,
) -> None:
    inputs = linear_inputs(data, bool(gate), channels, outputs, HALF)
    attributes = {"gate": gate, "norm_epsilon": norm_epsilon, "activation_out": activation_out}
    kernels = metal.plain() if plain else metal
    assert_close(kernels.conv(**inputs, **attributes), conv(**inputs, **attributes))


@CASES
@given(data=st.data(), window=windows(), batch=st.integers(1, 2), gate=GATE, activation_in=ACTIVATION)
def test_conv_agrees_with_a_gate_behind_a_table(
    metal: MetalKernels, data: st.DataObject, window: Window, batch: int, gate: str, activation_in: str
) -> None:
    inputs = _of_order_one(gated_inputs(data, window, batch, 5, data.draw(st.sampled_from([1, 33])), HALF))
    attributes = {"gate": gate, "activation_in": activation_in}
    assert_close(metal.conv(**inputs, **attributes), conv(**inputs, **attributes))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("live", [0, 33, 70])
def test_conv_agrees_with_norms_and_gates_at_many_rows(metal: MetalKernels, plain: bool, live: int) -> None:
    """Several tiles of rows, outputs and depth; the mean of a row is a hundred times its deviation."""
    shapes = {"rows": (1, live, 150), "weight": (1, 150, 140), "bias": (140,), "residual": (1, live, 70)}
    arrays = {name: random(seed, np.float64, *shape) for seed, (name, shape) in enumerate(shapes.items())}
    arrays["rows"] += 100
    arrays["weight"] = (arrays["weight"] - arrays["weight"].mean(axis=1, keepdims=True)) / 12
    given = _source({name: array.astype(HALF) for name, array in arrays.items()})
    padded = given | {name: _nan(given[name], 70) for name in ("rows", "residual")}
    attributes = {"norm_epsilon": 1e-5, "gate": "gelu"}
    actual = (metal.plain() if plain else metal).conv(**padded, **attributes, live=live)
    assert_close(actual[:, :live], conv(**given, **attributes))
    assert not actual[:, live:].any()


@CASES
@given(
    data=st.data(),
    batch=st.integers(1, 2),
    count=st.integers(1, 20),
    channels=st.integers(1, 9),
    width=st.integers(1, 20),
)
def test_scatter_agrees(
    metal: MetalKernels, data: st.DataObject, batch: int, count: int, channels: int, width: int
) -> None:
    active = data.draw(pixels(count))
    base, by_pixel = random(1, HALF, batch, count, channels), random(2, HALF, batch, count, channels)
    rows = np.ascontiguousarray(by_pixel[:, active])  # equal pixels get equal rows
    actual = metal.scatter(base, rows, active, width=min(width, count))
    np.testing.assert_array_equal(actual, scatter(base, rows, active))


@settings(PROFILE, max_examples=25)
@given(
    data=st.data(),
    batch=st.integers(1, 2),
    count=st.sampled_from([1, 2, 31, 32, 33, 140]),
    heads=st.integers(1, 3),
    dk=st.sampled_from([1, 8, 40]),
    dv=st.sampled_from([4, 16, 20, 40]),
    scale=st.sampled_from([0.0, 0.3]),
    crossing=st.booleans(),
    wide=st.sampled_from(["no", "apart", "together"]),
)
def test_attention_agrees(
    metal: MetalKernels,
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
    inputs = attention_inputs(HALF, batch, count, active, heads * dk, heads * dv)
    if crossing:
        inputs |= dict.fromkeys(("k", "v", "active"))
    expected = attention(**inputs, heads=heads, scale=scale)
    parts: dict[str, int] = {}
    if wide != "no":
        inputs, parts = widened(inputs, heads, together=wide == "together")
    assert_close(metal.attention(**inputs, heads=heads, scale=scale, **parts), expected)


@pytest.mark.parametrize(("heads", "dk", "dv"), [(1, 70, 3), (2, 160, 160), (1, 512, 512)])
def test_attention_of_wide_heads(metal: MetalKernels, heads: int, dk: int, dv: int) -> None:
    inputs = attention_inputs(HALF, 1, 70, np.arange(0, 70, 4, dtype=np.int32), heads * dk, heads * dv)
    for kernels in (metal, metal.plain()):
        assert_close(kernels.attention(**inputs, heads=heads), attention(**inputs, heads=heads))


def test_attention_keeps_large_scores_finite(metal: MetalKernels) -> None:
    inputs = attention_inputs(HALF, 1, 100, np.arange(0, 100, 9, dtype=np.int32), 32, 32)
    inputs["q"] *= HALF(30)
    assert_close(metal.attention(**inputs, heads=2, scale=1.0), attention(**inputs, heads=2, scale=1.0))


@pytest.mark.parametrize("live", [0, 1, 31, 40])
def test_rows_past_the_live_count_are_zeros(metal: MetalKernels, live: int) -> None:
    """What padded rows, tables and active pixels hold is never looked at: NaN, and indices out of range."""
    padded, channels, outputs = 70, 12, 36
    active = np.arange(0, 2 * live, 2, dtype=np.int32)
    halo, table = Window(16, 16).tables(active, active)
    moved = np.where(table >= live, table + padded - live, table).astype(np.int32)
    rows, base = random(1, HALF, 1, live, channels), random(2, HALF, 1, 256, channels)
    residual, weight = random(3, HALF, 1, live, outputs), random(4, HALF, 9, channels, outputs) / HALF(10)
    q = random(5, HALF, 1, live, channels)
    pad = {"live": live}
    nan, far = _nan(rows, padded), _far(active, padded)
    padded_table, padded_residual = _far(moved, padded), _nan(residual, padded)
    lost = [
        metal.gather(nan, base, halo, padded_table, **pad),
        metal.conv(nan, base, halo, padded_table, weight, residual=padded_residual, **pad),
        metal.attention(_nan(q, padded), nan, nan, base, base, far, heads=3, **pad),
    ]
    expected = [
        gather(rows, base, halo, table),
        conv(rows, base, halo, table, weight, residual=residual),
        attention(q, rows, rows, base, base, active, heads=3),
    ]
    for actual, known in zip(lost, expected):
        assert_close(actual[:, :live], known)
        assert not actual[:, live:].any()
    scattered = metal.scatter(base, nan, far, **pad)
    np.testing.assert_array_equal(scattered, scatter(base, rows, active))


def _source(inputs: dict) -> dict:
    return {name: inputs.get(name) for name in ("rows", "base", "halo", "table")} | inputs


def _of_order_one(inputs: dict) -> dict:
    """With a weight whose sums of products stay of order 1."""
    taps, depth, _ = inputs["weight"].shape
    return inputs | {"weight": inputs["weight"] * HALF((taps * depth) ** -0.5)}


def _nan(rows: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([rows, np.full((1, count - rows.shape[1], rows.shape[2]), np.nan, HALF)], axis=1)


def _far(indices: np.ndarray, count: int) -> np.ndarray:
    pad = np.full((count - len(indices), *indices.shape[1:]), 1 << 30, np.int32)
    return np.concatenate([indices, pad])
