"""Every op as a custom layer, with few and with all inputs: models run as the numpy definitions say."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from plugins.tensorrt.networks import CASES, SIZES

from sige_deploy.coreml.checker import faults
from sige_deploy.coreml.context import Context, pad_rows
from sige_deploy.coreml.interpreter import Interpreter
from sige_deploy.coreml.numpy_layers import to_rows
from sige_deploy.errors import ExportError
from sige_deploy.exporters.coreml_edit import edit_model
from sige_deploy.manifest import CacheSpec, GeometrySpec, InputSpec, LevelSpec, Manifest
from sige_deploy.ops import DOMAIN, OPSET, SIGNATURES, VERSION
from sige_deploy.ops.attention import attention
from sige_deploy.ops.conv import conv
from sige_deploy.ops.gather import gather
from sige_deploy.ops.scatter import scatter

pytest.importorskip("coremltools", reason="coremltools is not installed")
OPS: dict[str, Any] = {"Gather": gather, "Conv": conv, "Scatter": scatter, "Attention": attention}
LIVE, ROWS, HALO, HEIGHT, WIDTH = 13, 24, 20, 8, 12
RECORDED = ("base", "base_2", "k_base", "v_base", "scale", "shift")
CONSTANTS = ("weight", "bias")
FRESH = ("rows", "rows_2", "residual", "multiplier", "q", "k", "v")


def arrays(names: list[str], sizes: dict[str, Any], phases: int) -> dict[str, np.ndarray]:
    """Random inputs of an op of one image, with the live count of rows."""
    rng = np.random.default_rng(0)
    made: dict[str, np.ndarray] = {}
    for name in names:
        shape = [1 if i == 0 and d == 2 else d for i, d in enumerate({**SIZES, **sizes}[name])]
        counts = {"P": LIVE, "R": LIVE, "Q": HALO}
        dims = [counts.get(str(d), d) for d in shape]
        if name == "table":
            made[name] = rng.integers(-1, (LIVE + HALO) * phases, dims).astype(np.int32)
        elif name in ("halo", "active"):
            made[name] = np.sort(rng.permutation(HEIGHT * WIDTH)[: dims[0]]).astype(np.int32)
        else:
            made[name] = rng.standard_normal(dims).astype(np.float16).astype(np.float32)
    return made


def manifest(given: dict[str, np.ndarray]) -> Manifest:
    """Of a bundle with one level, one geometry, and a cache for every recorded array."""
    spatial = [
        InputSpec(
            name=name, shape=[1, given[name].shape[2], HEIGHT, WIDTH], dtype="float32", role="spatial",
            level="level", axes=["N", "C", "Y", "X"],
        )
        for name in FRESH
        if name in given
    ]  # fmt: skip
    caches = [
        CacheSpec(name=name, kind="static", shape=list(given[name].shape), dtype="float32")
        for name in RECORDED
        if name in given
    ]
    return Manifest(
        name="one", inputs=spatial, outputs=[], precision="float32", macs=0, parameters=0, caches=caches,
        levels=[LevelSpec(id="level", height=HEIGHT, width=WIDTH)],
        geometries=[GeometrySpec(id="g", source="level", target="level")],
    )  # fmt: skip


def graph(op: str, given: dict[str, np.ndarray], attributes: dict[str, Any]) -> ir.Model:
    """A graph of one node."""
    names = {
        **{n: f"rows.{n}" for n in FRESH},
        "table": "table.g",
        "halo": "halo.g",
        "active": "active.level",
    }
    values: dict[str, ir.Value] = {}
    for name, array in given.items():
        dims: list[Any] = list(array.shape)
        if name in FRESH:
            dims[1] = "P_level"
        kind = ir.TensorType(ir.DataType.from_numpy(array.dtype))
        values[name] = ir.Value(name=names.get(name, name), type=kind, shape=ir.Shape(dims))
        if name in CONSTANTS:
            values[name].const_value = ir.tensor(array, name=name)
    inputs = [values.get(name) for name in SIGNATURES[op].inputs]
    node = ir.node(op, inputs, attributes, domain=DOMAIN, name="node")
    node.outputs[0].name = "out"
    return ir.Model(
        ir.Graph(
            [v for n, v in values.items() if n not in CONSTANTS],
            node.outputs,
            nodes=[node],
            initializers=[values[name] for name in CONSTANTS if name in values],
            opset_imports={"": OPSET, DOMAIN: VERSION},
        ),
        ir_version=11,
    )


@pytest.mark.parametrize("case", CASES)
def test_a_layer_does_what_its_op_does(case: str) -> None:
    op, names, sizes, attributes, _ = CASES[case]
    phases = int(attributes.get("phases", 1))
    given = arrays(names.split(), sizes, phases)
    model = edit_model(graph(op, given, attributes), manifest(given), {"level": ROWS}, 1)
    assert list(faults(model)) == []

    # The model's rows are more than the live ones, so halo entries of its table are further up.
    table = given.get("table", np.zeros((LIVE, 1), np.int32))
    moved = np.where(table >= LIVE * phases, table + (ROWS - LIVE) * phases, table).astype(np.int32)
    padded = np.concatenate([moved, np.repeat(moved[-1:], ROWS - LIVE, 0)])
    context = Context(
        counts={"level": LIVE},
        active={"level": given.get("active", np.zeros(0, np.int32))},
        tables={"g": padded},
        halos={"g": given.get("halo", np.zeros(0, np.int32))},
        arrays={name: given[name] for name in RECORDED if name in given},
    )
    inputs = {
        x.name: pad_rows(given[x.name.removeprefix("rows.")], x.type.multiArrayType.shape[3])
        for x in model.description.input
    }
    got = to_rows(Interpreter(model, dtype=np.float32).predict(inputs, context)["out"])
    expected = OPS[op](*(given.get(name) for name in SIGNATURES[op].inputs), **attributes)
    count = expected.shape[1]
    np.testing.assert_allclose(got[:, :count], expected, rtol=1e-6, atol=1e-6)
    assert op == "Scatter" or not got[:, count:].any()


def test_an_impossible_gate_is_a_fault() -> None:
    op, names, sizes, attributes, _ = CASES["conv_gated"]
    given = arrays(names.split(), sizes, 1)
    model = edit_model(graph(op, given, attributes), manifest(given), {"level": ROWS}, 1)
    parameters = model.neuralNetwork.layers[-1].custom.parameters
    parameters["gate"].stringValue, parameters["group"].intValue = "leaky_relu", 2
    said = list(faults(model))
    assert "layer 'out' has gate 'leaky_relu', which no op has" in said
    assert "layer 'out' has a norm or a gate of several groups" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"v_offset": 200}, "reads 296 channels of v, which has 288"),
        ({"k_base_channels": 160}, "reads 168 channels of k_base, which has 160"),
        ({"q_offset": -1}, "has attributes that do not fit: offsets must be at least 0, got -1"),
        ({"dk": 0}, "has attributes that do not fit: dk and dv must both be positive or both be 0"),
    ],
)
def test_impossible_parts_are_a_fault(changes: dict[str, int], said: str) -> None:
    op, names, sizes, attributes, _ = CASES["attention_wide"]
    given = arrays(names.split(), sizes, 1)
    model = edit_model(graph(op, given, attributes), manifest(given), {"level": ROWS}, 1)
    for name, value in changes.items():
        model.neuralNetwork.layers[0].custom.parameters[name].intValue = value
    assert any(said in fault for fault in faults(model)), list(faults(model))


@pytest.mark.parametrize(
    ("name", "said"),
    [("base", "its base is computed in the graph"), ("scale", "its scale is computed in the graph")],
)
def test_what_the_graph_computes_is_refused_where_layers_read_recorded_arrays(name: str, said: str) -> None:
    given = arrays("rows base halo table weight scale".split(), {"weight": (9, 16, 32)}, 1)
    kept = {key: array for key, array in given.items() if key != name}
    with pytest.raises(ExportError, match=said):
        edit_model(graph("Conv", given, {}), manifest(kept), {"level": ROWS}, 1)
