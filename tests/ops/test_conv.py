from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sige_deploy.errors import InputError
from sige_deploy.ops.conv import conv

from .helpers import (
    ACTIVATION,
    DTYPES,
    GATE,
    PROFILE,
    Window,
    assert_close,
    conv_inputs,
    gated_inputs,
    linear_inputs,
    model_of,
    optimized_ops,
    random,
    run_function,
    windows,
)


@PROFILE
@given(
    data=st.data(),
    dtype=DTYPES,
    window=windows(),
    batch=st.integers(1, 2),
    activation_in=ACTIVATION,
    activation_out=ACTIVATION,
    grouping=st.sampled_from(["plain", "grouped", "depthwise", "depthwise x2"]),
)
def test_function_agrees(
    data: st.DataObject,
    dtype: type,
    window: Window,
    batch: int,
    activation_in: str,
    activation_out: str,
    grouping: str,
) -> None:
    group = 1 if grouping == "plain" else data.draw(st.integers(2, 4))
    per_group = 1 if grouping.startswith("depthwise") else data.draw(st.integers(1, 3))
    outputs = group * {"depthwise": 1, "depthwise x2": 2}.get(grouping, 3)
    inputs = conv_inputs(data, window, batch, (group, per_group, outputs), dtype)
    attributes = {"group": group, "activation_in": activation_in, "activation_out": activation_out}
    if data.draw(st.booleans(), label="slopes"):
        attributes |= {"alpha_in": 0.2, "alpha_out": 0.3}
    assert_close(run_function("Conv", inputs, attributes), conv(**inputs, **attributes))


@PROFILE
@given(
    data=st.data(),
    dtype=DTYPES,
    gate=st.one_of(st.just(""), GATE),
    norm_epsilon=st.sampled_from([0.0, 1e-5, 0.5]),
    activation_out=ACTIVATION,
    channels=st.sampled_from([1, 5, 64]),
    outputs=st.sampled_from([1, 3, 8]),
)
def test_function_agrees_with_norms_and_gates(
    data: st.DataObject,
    dtype: type,
    gate: str,
    norm_epsilon: float,
    activation_out: str,
    channels: int,
    outputs: int,
) -> None:
    inputs = linear_inputs(data, bool(gate), channels, outputs, dtype)
    attributes = {"gate": gate, "norm_epsilon": norm_epsilon, "activation_out": activation_out}
    assert_close(run_function("Conv", inputs, attributes), conv(**inputs, **attributes))


@PROFILE
@given(data=st.data(), window=windows(), batch=st.integers(1, 2), gate=GATE, activation_in=ACTIVATION)
def test_function_agrees_with_a_gate_behind_a_table(
    data: st.DataObject, window: Window, batch: int, gate: str, activation_in: str
) -> None:
    inputs = gated_inputs(data, window, batch, 3, 2)
    attributes = {"gate": gate, "activation_in": activation_in}
    assert_close(run_function("Conv", inputs, attributes), conv(**inputs, **attributes))


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_layer_norm_and_geglu_are_torch(mean: float) -> None:
    """What the exporter makes of LayerNormalization in front of GEGLU: scale and bias of the norm are in
    weight and bias, columns are centred."""
    rows = random(0, np.float32, 2, 7, 48) + np.float32(mean)
    scale, shift = 1 + random(1, np.float32, 48) / 4, random(2, np.float32, 48)
    weight, bias = random(3, np.float32, 48, 40) / 7, random(4, np.float32, 40)
    t = [torch.from_numpy(x) for x in (rows, scale, shift, weight, bias)]
    normed = torch.nn.functional.layer_norm(t[0], (48,), t[1], t[2], eps=1e-5)
    value, gate = (normed @ t[3] + t[4]).chunk(2, dim=2)
    expected = (value * torch.nn.functional.gelu(gate)).numpy()

    scaled = scale[:, None] * weight
    inputs = {
        "rows": rows,
        "base": None,
        "halo": None,
        "table": None,
        "weight": (scaled - scaled.mean(axis=0))[None],
        "bias": bias + shift @ weight,
    }
    attributes = {"norm_epsilon": 1e-5, "gate": "gelu"}
    assert_close(conv(**inputs, **attributes), expected)
    assert_close(run_function("Conv", inputs, attributes), expected)


@pytest.mark.parametrize(
    ("window", "group"),
    [
        (Window(6, 7), 1),
        (Window(6, 7), 2),
        (Window(6, 7), 4),
        (Window(7, 6, kernel=(1, 1), stride=2, pad=0), 1),
        (Window(7, 6, stride=2), 1),
        (Window(8, 6, kernel=(4, 4), stride=2), 2),
        (Window(9, 8, dilation=2, pad=2), 1),
        (Window(4, 5, up=2), 1),
        (Window(5, 6, kernel=(7, 7), pad=3), 4),
        (Window(6, 5, kernel=(1, 3), pad=1), 1),
    ],
)
@pytest.mark.parametrize("fresh", ["all", "some"])
def test_dense_is_torch_conv2d(window: Window, group: int, fresh: str) -> None:
    """Every output pixel from all, or only some, fresh source pixels is the dense convolution."""
    batch, channels, outputs = 2, 4, 8
    image = random(0, np.float32, batch, window.height * window.width, channels)
    weight = random(1, np.float32, outputs, channels // group, *window.kernel)
    bias = random(2, np.float32, outputs)
    active = np.arange(0, image.shape[1], 1 if fresh == "all" else 3, dtype=np.int32)
    base = image.copy()
    base[:, active] = 99  # fresh pixels must never come from the base
    halo, table = window.tables(active, range(window.out_height * window.out_width))
    inputs = {
        "rows": image[:, active],
        "base": base,
        "halo": halo,
        "table": table,
        "weight": weight.transpose(2, 3, 1, 0).reshape(-1, channels // group, outputs),
        "bias": bias,
    }
    dense = torch.from_numpy(image).unflatten(1, (window.height, window.width)).permute(0, 3, 1, 2)
    dense = torch.nn.functional.interpolate(dense, scale_factor=window.up, mode="nearest")
    expected = torch.nn.functional.conv2d(
        dense,
        torch.from_numpy(weight),
        torch.from_numpy(bias),
        window.stride,
        window.pad,
        window.dilation,
        group,
    )
    expected_rows = expected.flatten(2).transpose(1, 2).numpy()
    assert_close(conv(**inputs, group=group), expected_rows)
    assert_close(run_function("Conv", inputs, {"group": group}), expected_rows)


def test_affine_silu_is_torch() -> None:
    """The block of a diffusion UNet: affine (recorded GroupNorm), SiLU, conv, time embedding, residual."""
    window, channels = Window(5, 5), 6
    image = random(0, np.float32, 1, 25, channels)
    halo, table = window.tables(range(25), range(25))
    weight = random(1, np.float32, channels, channels, 3, 3)
    inputs = {
        "rows": image,
        "base": np.zeros_like(image),
        "halo": halo,
        "table": table,
        "weight": weight.transpose(2, 3, 1, 0).reshape(9, channels, channels),
        "scale": random(2, np.float32, 1, 1, channels),
        "shift": random(3, np.float32, 1, 1, channels),
        "embedding": random(4, np.float32, 1, 1, channels),
        "residual": random(5, np.float32, 1, 25, channels),
    }
    t = {name: torch.from_numpy(value) for name, value in inputs.items()}
    dense = torch.nn.functional.silu(t["rows"] * t["scale"] + t["shift"])
    dense = dense.transpose(1, 2).unflatten(2, (5, 5))
    dense = torch.nn.functional.conv2d(dense, torch.from_numpy(weight), padding=1).flatten(2).transpose(1, 2)
    expected = torch.nn.functional.leaky_relu(dense + t["embedding"] + t["residual"], 0.2).numpy()
    attributes = {"activation_in": "silu", "activation_out": "leaky_relu", "alpha_out": 0.2}
    assert_close(conv(**inputs, **attributes), expected)
    assert_close(run_function("Conv", inputs, attributes), expected)


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (1, "Gather Reshape MatMul"),
        (8, "Gather Mul ReduceSum"),
        (2, "Reshape Transpose Gather Reshape MatMul Transpose Reshape"),
    ],
)
def test_weights_and_shapes_fold_away(tmp_path: Path, group: int, expected: str) -> None:
    inputs = {
        "rows": random(0, np.float32, 1, 3, 8),
        "base": random(0, np.float32, 1, 16, 8),
        "halo": np.arange(4, dtype=np.int32),
        "table": np.zeros((3, 9), np.int32),
        "weight": random(0, np.float32, 9, 8 // group, 8),
        "bias": random(0, np.float32, 8),
        "scale": random(0, np.float32, 1, 1, 8),
        "shift": random(0, np.float32, 1, 1, 8),
    }
    left = optimized_ops(model_of("Conv", inputs, {"group": group}), str(tmp_path / "optimized.onnx"))
    source = "Gather Concat Mul Add Concat"
    assert sorted(left) == sorted(f"{source} {expected} Add".split())


@pytest.mark.parametrize(
    ("group", "expected"), [(1, "MatMul"), (8, "Mul"), (2, "Reshape Transpose MatMul Transpose Reshape")]
)
def test_without_a_table_rows_are_multiplied_as_they_are(tmp_path: Path, group: int, expected: str) -> None:
    shapes = {"weight": (1, 8 // group, 8), "scale": (1, 1, 8), "shift": (1, 1, 8), "bias": (8,)}
    shapes |= dict.fromkeys(("rows", "multiplier", "residual"), (1, 3, 8))
    inputs = {name: random(0, np.float32, *shape) for name, shape in shapes.items()}
    model = model_of("Conv", inputs, {"group": group, "activation_in": "relu"})
    left = optimized_ops(model, str(tmp_path / "optimized.onnx"))
    assert left == f"Mul Add Relu {expected} Add Mul Add".split()


def test_bases_of_two_sources_are_not_copied(tmp_path: Path) -> None:
    """Only their halo pixels are put side by side; channels of two sources need no more shape arithmetic."""
    shapes = {"rows": (1, 3, 3), "base": (1, 16, 3), "rows_2": (1, 3, 5), "base_2": (1, 16, 5)}
    inputs = {name: random(0, np.float32, *shape) for name, shape in shapes.items()}
    inputs |= {"halo": np.arange(4, dtype=np.int32), "table": np.zeros((3, 9), np.int32)}
    inputs |= {"weight": random(1, np.float32, 9, 8, 4), "shift": random(2, np.float32, 1, 1, 8)}
    left = optimized_ops(model_of("Conv", inputs), str(tmp_path / "optimized.onnx"))
    source = "Gather Gather Concat Concat Concat Add Concat"
    assert sorted(left) == sorted(f"{source} Gather Reshape MatMul".split())


def test_modulated_by_rows_is_torch() -> None:
    """SPADE's norm * (1 + gamma) + beta, gamma from a linear layer of rows."""
    inputs = {
        "rows": random(0, np.float32, 2, 5, 6),
        "base": None,
        "halo": None,
        "table": None,
        "weight": random(1, np.float32, 1, 6, 4),
        "bias": random(2, np.float32, 4),
        "embedding": random(3, np.float32, 2, 1, 4),
        "residual": random(4, np.float32, 2, 5, 4),
        "multiplier": random(5, np.float32, 2, 5, 4),
    }
    t = {name: torch.from_numpy(value) for name, value in inputs.items() if value is not None}
    gamma = torch.nn.functional.linear(t["rows"], t["weight"][0].T, t["bias"]) + t["embedding"]
    expected = torch.relu(t["multiplier"] * gamma + t["residual"]).numpy()
    assert_close(conv(**inputs, activation_out="relu"), expected)
    assert_close(run_function("Conv", inputs, {"activation_out": "relu"}), expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.zeros((9, 2, 3), np.float32)}, r"weight must have shape \[1, 2, 3\], got \[9, 2, 3\]"),
        ({"bias": np.zeros(4, np.float32)}, r"bias must have shape \[3\]"),
        ({"residual": np.zeros((1, 1, 3), np.float32)}, r"residual must have shape \[1, 4, 3\]"),
        ({"multiplier": np.zeros((1, 4, 1), np.float32)}, r"multiplier must have shape \[1, 4, 3\]"),
        ({"table": None}, "base, halo and table go together"),
        ({"embedding": np.zeros((1, 3), np.float32)}, r"embedding must have shape \[1, 1, 3\]"),
        ({"group": 2}, "group must divide 2 input and 3 output channels, got 2"),
        ({"norm_epsilon": -1e-5}, "Conv takes a norm_epsilon of 0 or more, got -1e-05"),
        ({"norm_epsilon": 1e-5}, "Conv takes no base where it has a norm_epsilon"),
        ({"gate": "swish"}, "Conv takes a gate out of identity, relu, silu, .* or none, got 'swish'"),
        ({"gate": "leaky_relu"}, "got 'leaky_relu'"),
        ({"gate": "silu"}, r"weight must have 2 \* Cout columns for a gate, got 3"),
        (
            {"gate": "silu", "group": 2},
            "Conv takes a group of 1 where it has a gate, got 2",
        ),
        (
            {"gate": "silu", "embedding": np.zeros((1, 1, 3), np.float32)},
            "Conv takes no embedding where it has a gate",
        ),
        (
            {"gate": "silu", "weight": np.zeros((1, 2, 6), np.float32), "bias": np.zeros(3, np.float32)},
            r"bias must have shape \[6\]",
        ),
    ],
)
def test_mistakes(change: dict, message: str) -> None:
    arguments = {
        "rows": np.zeros((1, 2, 2), np.float32),
        "base": np.zeros((1, 4, 2), np.float32),
        "halo": np.zeros(0, np.int32),
        "table": np.zeros((4, 1), np.int32),
        "weight": np.zeros((1, 2, 3), np.float32),
    }
    with pytest.raises(InputError, match=message):
        conv(**(arguments | change))
