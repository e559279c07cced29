"""Every op through ONNX Runtime with the native library against its numpy definition."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
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
    conv_inputs,
    gather_inputs,
    linear_inputs,
    model_of,
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

from ..library import CUDA
from .sessions import kernels_run, run, session_of

SHORT = settings(PROFILE, max_examples=60)


@SHORT
@given(
    data=st.data(),
    window=windows(),
    batch=st.integers(1, 2),
    phases=st.sampled_from([1, 4]),
    activation=ACTIVATION,
    pad_value=st.sampled_from([0.0, 1.5, -np.inf]),
)
def test_gather(
    library: Path,
    data: st.DataObject,
    window: Window,
    batch: int,
    phases: int,
    activation: str,
    pad_value: float,
) -> None:
    inputs = gather_inputs(data, window, batch, 3, phases)
    attributes = {"activation": activation, "alpha": 0.2, "phases": phases, "pad_value": pad_value}
    expected = gather(**inputs, **attributes)
    actual = run(library, "Gather", inputs, attributes)
    padding = np.isinf(expected)
    np.testing.assert_array_equal(actual[padding], expected[padding])
    assert_close(np.where(padding, 0, actual), np.where(padding, 0, expected))


@SHORT
@given(
    data=st.data(),
    window=windows(),
    batch=st.integers(1, 2),
    activation_in=ACTIVATION,
    activation_out=ACTIVATION,
    grouping=st.sampled_from([(1, 3, 5), (2, 3, 4), (3, 1, 3)]),
    initializers=st.sampled_from([("weight", "bias"), ()]),
)
def test_conv(
    library: Path,
    data: st.DataObject,
    window: Window,
    batch: int,
    activation_in: str,
    activation_out: str,
    grouping: tuple[int, int, int],
    initializers: tuple[str, ...],
) -> None:
    inputs = conv_inputs(data, window, batch, grouping)
    attributes: dict[str, str | int | float] = {
        "group": grouping[0],
        "activation_in": activation_in,
        "activation_out": activation_out,
    }
    if data.draw(st.booleans(), label="slopes"):
        attributes |= {"alpha_in": 0.2, "alpha_out": 0.3}
    expected = conv(**inputs, **attributes)  # type: ignore[arg-type]
    assert_close(run(library, "Conv", inputs, attributes, initializers), expected)


@SHORT
@given(
    data=st.data(),
    gate=st.one_of(st.just(""), GATE),
    norm_epsilon=st.sampled_from([0.0, 1e-5]),
    channels=st.sampled_from([1, 70]),
    outputs=st.sampled_from([1, 33]),
    initializers=st.sampled_from([("weight", "bias"), ()]),
)
def test_conv_with_norms_and_gates(
    library: Path,
    data: st.DataObject,
    gate: str,
    norm_epsilon: float,
    channels: int,
    outputs: int,
    initializers: tuple[str, ...],
) -> None:
    inputs = linear_inputs(data, bool(gate), channels, outputs)
    attributes: dict[str, str | int | float] = {"gate": gate, "norm_epsilon": norm_epsilon}
    expected = conv(**inputs, **attributes)  # type: ignore[arg-type]
    assert_close(run(library, "Conv", inputs, attributes, initializers), expected)


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        (
            {"norm_epsilon": 1e-5, "activation_in": "relu"},
            "norm_epsilon goes with rows alone: no table, affine",
        ),
        ({"norm_epsilon": -1.0}, "norm_epsilon is negative, expected 0 or more."),
        (
            {"gate": "leaky_relu"},
            "gate goes with a group of 1 and without an embedding, and is not leaky_relu.",
        ),
        ({"gate": "mish"}, "gate is 'mish', which is no activation of the op set."),
        ({"gate": "gelu"}, "weight has 7 columns, expected 2 for each output of a gate."),
    ],
)
def test_impossible_norms_and_gates_are_refused_when_the_session_is_made(
    library: Path, attributes: dict[str, str | float], sentence: str
) -> None:
    model = model_of(
        "Conv", {"rows": random(1, np.float32, 1, 4, 6), "weight": random(2, np.float32, 1, 6, 7)}
    )
    for name, value in attributes.items():
        make = ir.AttrString if isinstance(value, str) else ir.AttrFloat32
        model.graph[0].attributes.add(make(name, value))  # type: ignore[arg-type]
    with pytest.raises(Exception, match=re.escape(f"sige::Conv: {sentence}")):
        session_of(model, library)


@SHORT
@given(data=st.data(), batch=st.integers(1, 2), count=st.integers(1, 20))
def test_scatter(library: Path, data: st.DataObject, batch: int, count: int) -> None:
    active = data.draw(pixels(count))
    by_pixel = random(1, np.float32, batch, count, 3)  # equal pixels get equal rows
    inputs = {"base": random(2, np.float32, batch, count, 3), "rows": by_pixel[:, active], "active": active}
    np.testing.assert_array_equal(run(library, "Scatter", inputs), scatter(**inputs))


@SHORT
@given(
    data=st.data(),
    batch=st.integers(1, 2),
    count=st.sampled_from([1, 31, 33]),
    heads=st.integers(1, 3),
    dv=st.sampled_from([1, 20]),
    scale=st.sampled_from([0.0, 0.3]),
    crossing=st.booleans(),
    wide=st.sampled_from(["no", "apart", "together"]),
)
def test_attention(
    library: Path,
    data: st.DataObject,
    batch: int,
    count: int,
    heads: int,
    dv: int,
    scale: float,
    crossing: bool,
    wide: str,
) -> None:
    active = data.draw(pixels(count))
    inputs = attention_inputs(np.float32, batch, count, active, heads * 8, heads * dv)
    if crossing:
        inputs |= dict.fromkeys(("k", "v", "active"))
    attributes = {"heads": heads, "scale": scale}
    expected = attention(**inputs, heads=heads, scale=scale)
    if wide != "no":
        inputs, parts = widened(inputs, heads, together=wide == "together")
        attributes |= parts
    assert_close(run(library, "Attention", inputs, attributes), expected)


def _many_rows() -> dict[str, np.ndarray]:
    active = np.arange(0, 400, 2, dtype=np.int32)
    halo, table = Window(20, 20).tables(active, range(400))
    return {
        "rows": random(1, np.float32, 2, active.size, 48),
        "base": random(2, np.float32, 2, 400, 48),
        "halo": halo,
        "table": table,
        "weight": random(3, np.float32, 9, 48, 40),
        "scale": random(4, np.float32, 2, 1, 48),
        "residual": random(6, np.float32, 2, 400, 40),
    }


def test_the_engines_threads_do_the_work_together(library: Path) -> None:
    inputs = _many_rows()
    one, three = (run(library, "Conv", inputs, {"activation_in": "silu"}, threads=n) for n in (1, 3))
    assert_close(one, conv(**inputs, activation_in="silu"))
    np.testing.assert_array_equal(three, one)


@pytest.mark.parametrize("attributes", [{}, {"activation_in": "silu", "activation_out": "tanh"}])
def test_a_registered_kernel_replaces_the_body_of_an_overload(
    library: Path, tmp_path: Path, attributes: dict[str, str | int | float]
) -> None:
    inputs = _many_rows()
    model = model_of("Conv", inputs, attributes)
    assert model.graph[0].overload
    feeds = {name: array for name, array in inputs.items() if name != "weight"}
    assert kernels_run(session_of(model, library, profile=tmp_path / "native"), feeds) == ["Conv"]
    assert "Conv" not in kernels_run(session_of(model, None, profile=tmp_path / "bodies"), feeds)


def test_a_wrong_shape_is_one_sentence_of_the_engine(library: Path) -> None:
    inputs = _many_rows()
    model = model_of("Conv", inputs)
    model.graph.inputs[0].shape = None
    session = session_of(model, library)
    feeds = {name: array for name, array in inputs.items() if name != "weight"}
    feeds["rows"] = np.ascontiguousarray(feeds["rows"][:, :, :7])
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail) as error:
        session.run(None, feeds)
    assert "sige::Conv: rows has shape [2, 200, 7], expected [2, any, 48]." in str(error.value)


def test_rows_alone_are_read_by_one_kernel(library: Path, tmp_path: Path) -> None:
    """The inputs that are left out lie in front of, and between, others."""
    inputs = {
        "rows": random(1, np.float32, 2, 30, 48),
        "weight": random(2, np.float32, 1, 48, 40),
        "multiplier": random(3, np.float32, 2, 30, 40),
    }
    session = session_of(model_of("Conv", inputs), library, profile=tmp_path / "native")
    feeds = {name: array for name, array in inputs.items() if name != "weight"}
    assert kernels_run(session, feeds) == ["Conv"]
    session = session_of(model_of("Gather", {"rows": inputs["rows"]}), library, profile=tmp_path / "native")
    assert kernels_run(session, {"rows": inputs["rows"]}) == ["Gather"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"base": None},
            "sige::Gather: base, halo and table go together, but the node has only some of them.",
        ),
        ({"phases": 2}, "sige::Gather: phases is 2, expected 1 without a table."),
    ],
)
def test_half_a_source_is_refused_when_the_session_is_made(
    library: Path, change: dict[str, int | None], sentence: str
) -> None:
    source = (
        {} if "phases" in change else {"halo": np.zeros(1, np.int32), "table": np.zeros((1, 1), np.int32)}
    )
    inputs = {"rows": random(1, np.float32, 1, 4, 2), "base": random(2, np.float32, 1, 4, 2), **source}
    model = model_of("Gather", inputs if source else {"rows": inputs["rows"]})
    if source:
        model.graph[0].replace_input_with(1, None)
    else:
        model.graph[0].attributes.add(ir.AttrInt64("phases", 2))
    with pytest.raises(Exception, match=re.escape(sentence)):
        session_of(model, library)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("base_2", "base_2 belongs to rows_2 and base, but the node does not have all or none of them."),
        ("rows_2", "base_2 belongs to rows_2 and base, but the node does not have all or none of them."),
        ("phases", "phases is 2, expected 1 with two sources."),
    ],
)
def test_half_a_second_source_is_refused_when_the_session_is_made(
    library: Path, change: str, sentence: str
) -> None:
    inputs = {"rows": random(1, np.float32, 1, 4, 4), "base": random(2, np.float32, 1, 4, 4)}
    inputs |= {"halo": np.zeros(1, np.int32), "table": np.zeros((1, 1), np.int32)}
    model = model_of("Gather", two_sources(inputs, 2))
    if change == "phases":
        model.graph[0].attributes.add(ir.AttrInt64("phases", 2))
    else:
        model.graph[0].replace_input_with(6 + ("rows_2", "base_2").index(change), None)
    with pytest.raises(Exception, match=re.escape(f"sige::Gather: {sentence}")):
        session_of(model, library)


def test_a_second_source_of_another_size_is_one_sentence_of_the_engine(library: Path) -> None:
    inputs = two_sources(_many_rows(), 12)
    model = model_of("Conv", inputs)
    for value in model.graph.inputs:
        if value.name == "rows_2":
            value.shape = None
    session = session_of(model, library)
    feeds = {name: array for name, array in inputs.items() if name != "weight"}
    feeds["rows_2"] = np.ascontiguousarray(feeds["rows_2"][:, 1:])
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.Fail) as error:
        session.run(None, feeds)
    assert "sige::Conv: rows_2 has shape [2, 199, 12], expected [2, 200, 12]." in str(error.value)


def test_an_unknown_activation_is_refused_when_the_session_is_made(library: Path) -> None:
    model = model_of("Conv", _many_rows(), {"activation_in": "silu"})
    model.graph[0].attributes.add(ir.AttrString("activation_in", "mish"))
    with pytest.raises(Exception, match="activation_in is 'mish', which is no activation of the op set"):
        session_of(model, library)


def test_float16_has_no_kernel_on_the_cpu(library: Path) -> None:
    """Which is why native.supports refuses such bundles: there is no fall-back on the body."""
    bound = ctypes.CDLL(str(library))  # to its neighbour, or to kernels that another test has loaded before
    if not bound.sige_has_backend(CUDA):
        pytest.skip("the library registers float16 for CUDA")
    half = {"base": random(1, np.float16, 1, 4, 2), "rows": random(2, np.float16, 1, 1, 2)}
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph):
        session_of(model_of("Scatter", {**half, "active": np.zeros(1, np.int32)}), library)
