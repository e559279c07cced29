"""The domain as a whole: what ONNX and ONNX Runtime make of the functions; how variants are told apart."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx_ir.passes.common import InlinePass

from sige_deploy import ops
from sige_deploy.errors import ExportError
from sige_deploy.ops.activation import GATES
from sige_deploy.ops.attention import attention
from sige_deploy.ops.conv import conv
from sige_deploy.ops.gather import gather
from sige_deploy.ops.scatter import scatter

from .helpers import Window, assert_close, model_of, random, session_of

BATCH, CHANNELS, WINDOW = 2, 4, Window(4, 4)
SHAPES = {
    "rows": [BATCH, "P", CHANNELS],
    "base": [BATCH, 16, CHANNELS],
    "halo": ["Q"],
    "table": ["P", 9],
    "active": ["P"],
    "weight": [9, CHANNELS, CHANNELS],
    "depthwise": [9, 1, CHANNELS],
    "bias": [CHANNELS],
    "affine": [1, 1, CHANNELS],
}


def make_nodes(v: dict[str, ir.Value]) -> list[ir.Node]:
    """Two convs of one variant, a third of another, a depthwise one, attention, and the other two ops."""

    def node(op_type: str, inputs: list[ir.Value | None], **attributes: str | int | float) -> ir.Node:
        return ir.node(op_type, inputs, attributes, domain=ops.DOMAIN)

    def convolution(rows: ir.Value, *optional: ir.Value | None, **attributes: str | int | float) -> ir.Node:
        return node("Conv", [rows, v["base"], v["halo"], v["table"], *optional], **attributes)

    a = convolution(v["rows"], v["weight"], v["bias"], activation_in="leaky_relu", alpha_in=0.2)
    b = convolution(a.outputs[0], v["weight"], v["bias"], activation_in="leaky_relu")
    c = convolution(b.outputs[0], v["weight"], None, v["affine"], None, None, a.outputs[0])
    d = convolution(c.outputs[0], v["depthwise"], group=CHANNELS)
    x = d.outputs[0]
    e = node("Attention", [x, x, x, v["base"], v["base"], v["active"]], heads=2)
    f = node("Gather", [e.outputs[0], v["base"], v["halo"], v["table"]])
    g = node("Scatter", [v["base"], e.outputs[0], v["active"]])
    return [a, b, c, d, e, f, g]


def make_model() -> ir.Model:
    integers = ("halo", "table", "active")
    values = {
        name: ir.Value(
            name=name,
            shape=ir.Shape(shape),
            type=ir.TensorType(ir.DataType.INT32 if name in integers else ir.DataType.FLOAT),
        )
        for name, shape in SHAPES.items()
    }
    nodes = make_nodes(values)
    functions = {}
    for node in nodes:
        function = ops.function_for(node)
        node.overload = function.overload
        functions[function.identifier()] = function
    outputs = [node.outputs[0] for node in nodes[-2:]]
    shapes = {"gathered": [BATCH, "P", 9 * CHANNELS], "scattered": SHAPES["base"]}
    for output, (name, shape) in zip(outputs, shapes.items()):
        output.name, output.type, output.shape = name, ir.TensorType(ir.DataType.FLOAT), ir.Shape(shape)
    graph = ir.Graph(
        list(values.values()),
        outputs,
        nodes=nodes,
        opset_imports={"": ops.OPSET, ops.DOMAIN: ops.VERSION},
        name="all_ops",
    )
    return ir.Model(graph, ir_version=10, functions=functions.values())


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("inlined", [False, True])
def test_model_passes_checker_and_runs_with_nothing_registered(level: str, inlined: bool) -> None:
    model = make_model()
    if inlined:
        InlinePass()(model)
        assert not model.functions
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    session = session_of(model, graph_optimization_level=getattr(onnxruntime.GraphOptimizationLevel, level))

    active = np.array([1, 2, 9], np.int32)
    halo, table = WINDOW.tables(active, active)
    sizes = {"P": active.size, "Q": halo.size}
    feeds = {
        name: random(seed, np.float32, *(sizes.get(d, d) for d in shape))
        for seed, (name, shape) in enumerate(SHAPES.items())
    }
    feeds |= {"halo": halo, "table": table, "active": active}
    gathered, scattered = session.run(None, feeds)

    around = (feeds["base"], halo, table)
    weight, bias = feeds["weight"], feeds["bias"]
    a = conv(feeds["rows"], *around, weight, bias, activation_in="leaky_relu", alpha_in=0.2)
    b = conv(a, *around, weight, bias, activation_in="leaky_relu")
    c = conv(b, *around, weight, scale=feeds["affine"], residual=a)
    d = conv(c, *around, feeds["depthwise"], group=CHANNELS)
    e = attention(d, d, d, feeds["base"], feeds["base"], active, heads=2)
    assert_close(gathered, gather(e, *around))
    assert_close(scattered, scatter(feeds["base"], e, active))


def test_nothing_need_be_static() -> None:
    """With every dimension symbolic the bodies still run: shapes are then computed at run time."""
    inputs = {
        "rows": random(0, np.float32, 2, 3, 4),
        "base": random(1, np.float32, 2, 16, 4),
        "halo": np.array([0, 3], np.int32),
        "table": np.array([[0, -1], [4, 2], [3, 1]], np.int32),
        "weight": random(2, np.float32, 2, 2, 6),
    }
    for attributes in ({"group": 2}, {"group": 2, "activation_in": "sigmoid"}):
        model = model_of("Conv", inputs, attributes, initializers=())
        for value in model.graph.inputs:
            value.shape = ir.Shape([f"{value.name}_{axis}" for axis in range(len(value.shape))])
        result = session_of(model).run(None, inputs)[0]
        assert_close(result, conv(**inputs, **attributes))


def test_overload_decides_the_body() -> None:
    """Nodes that differ only in numbers share a variant; other nodes never do."""

    def variant(
        op_type: str, present: int, table: bool = True, **attributes: str | int | float
    ) -> ir.Function:
        signature = ops.SIGNATURES[op_type]
        fixed = {*signature.required, *signature.together, *signature.implied}
        optional = [name for name in signature.inputs if name not in fixed]
        names = {name for bit, name in enumerate(optional) if present >> bit & 1}
        names |= {*signature.required, *(signature.together if table else ())}
        names |= {name for name, owners in signature.implied.items() if names.issuperset(owners)}
        inputs = [ir.Value(name=name) if name in names else None for name in signature.inputs]
        return ops.function_for(ir.node(op_type, inputs, attributes, domain=ops.DOMAIN))

    def content(function: ir.Function) -> str:
        proto = ir.serde.serialize_function(function)
        proto.overload = ""
        return str(proto)

    seen: dict[tuple[str, str], str] = {}
    bodies: dict[str, str] = {}
    variants = [
        variant("Conv", present, table, activation_in=activation, group=group)
        for present, table, activation, group in itertools.product(
            range(128), (False, True), ("identity", "silu"), (1, 2, 4)
        )
    ]
    variants += [variant("Conv", 1, activation_out=activation) for activation in ops.ACTIVATIONS]
    variants += [
        variant("Conv", present, False, norm_epsilon=epsilon, gate=gate)
        for present, epsilon, gate in itertools.product((0, 1), (0.0, 1e-5, 1e-6), ("", *GATES))
    ]
    variants += [
        variant("Gather", present, activation=activation, phases=phases, pad_value=1.0)
        for present, activation, phases in itertools.product(range(8), ops.ACTIVATIONS, (1, 2, 4))
        if phases == 1 or present < 4
    ]
    variants += [
        variant("Gather", present, table=False, activation=activation, pad_value=pad_value)
        for present, activation, pad_value in itertools.product(range(8), ops.ACTIVATIONS, (0.0, 1.0))
    ]
    variants += [variant("Attention", 0, heads=heads, scale=s) for heads in (1, 8) for s in (0.0, 0.1, 0.2)]
    variants += [
        variant("Attention", 0, heads=heads, q_offset=offset, dk=dk, dv=2 * dk)
        for heads, offset, dk in itertools.product((1, 8), (0, 3), (2, 4))
    ]
    for function in variants:
        text = content(function)
        assert seen.setdefault((function.name, function.overload), text) == text
        assert bodies.setdefault(text, function.overload) == function.overload


def test_overload_names() -> None:
    def name(inputs: list[str], **attributes: str | int | float) -> str:
        values = [
            ir.Value(name=n, shape=ir.Shape([9, 1, 8])) if n in (*inputs, "rows", "weight") else None
            for n in ops.SIGNATURES["Conv"].inputs
        ]
        return ops.function_for(ir.node("Conv", values, attributes, domain=ops.DOMAIN)).overload

    source = ["base", "halo", "table"]
    assert name(source) == ""
    assert name([]) == "rows"
    addends = ["scale", "shift", "bias", "residual"]
    assert name([*source, *addends], activation_in="silu") == "affine_silu.bias.residual"
    assert name(addends, activation_in="silu") == "rows.affine_silu.bias.residual"
    assert name([*source, "rows_2", "base_2", *addends], activation_in="silu").startswith("two.affine_silu.")
    assert name(["rows_2", "bias"]) == "rows.two.bias"
    shifted = [*source, "shift", "embedding", "multiplier"]
    assert name(shifted, activation_out="relu", group=2) == "shift.embedding.multiplier.out_relu.group"
    assert name([*source, "bias"], activation_in="gelu", group=8) == "gelu.bias.depthwise"
    assert name(["bias"], norm_epsilon=1e-5, gate="gelu") == "rows.norm.bias.gate_gelu"
    assert name([*source, "residual"], gate="identity") == "gate_identity.residual"


def test_functions_declare_every_attribute() -> None:
    function = ops.function_for(
        ir.node("Attention", [ir.Value(name=n) for n in "abcdef"], {"heads": 1}, domain=ops.DOMAIN)
    )
    assert set(function.attributes) == set(ops.SIGNATURES["Attention"].attributes)
    assert function.attributes["heads"].value is None
    assert function.attributes["scale"].value == 0.0
    assert function.opset_imports == {"": ops.OPSET}


@pytest.mark.parametrize(
    ("op_type", "domain", "inputs", "attributes", "message"),
    [
        ("Pool", "sige", 3, {}, "no op sige::Pool; domain 'sige' has Gather, Conv, Scatter, Attention"),
        ("Conv", "", 5, {}, "no op ::Conv"),
        ("Conv", "sige", 4, {}, "Conv needs input 'weight'"),
        ("Scatter", "sige", 4, {}, r"Scatter takes at most 3 inputs \(base, rows, active\)"),
        ("Attention", "sige", 6, {}, "Attention needs attribute 'heads'"),
        ("Attention", "sige", 6, {"heads": 1, "dk": 2}, "dk and dv must both be positive or both be 0"),
        ("Attention", "sige", 6, {"heads": 1, "v_offset": 2}, "offsets need dk and dv, got an offset of 2"),
        ("Conv", "sige", 5, {"norm_epsilon": 1e-5}, "Conv takes no base where it has a norm_epsilon"),
        ("Conv", "sige", 5, {"gate": "leaky_relu"}, r"takes a gate out of .*, got 'leaky_relu' \(node"),
        ("Conv", "sige", 9, {"gate": "gelu"}, "Conv takes no embedding where it has a gate"),
        ("Gather", "sige", 4, {"group": 2}, "Gather has no attribute 'group'"),
        ("Gather", "sige", 4, {"activation": "swish"}, "no activation 'swish'"),
        ("Gather", "sige", 3, {}, "Gather takes base, halo, table together or not at all"),
        ("Gather", "sige", 1, {"phases": 2}, "Gather needs a table where it has phases"),
        ("Gather", "sige", 8, {"phases": 2}, "Gather takes no rows_2 where it has phases"),
        ("Gather", "sige", 7, {}, "Gather takes base_2 exactly if it takes rows_2 and base, which node"),
    ],
)
def test_invalid_nodes(op_type: str, domain: str, inputs: int, attributes: dict, message: str) -> None:
    values = [ir.Value(name=f"x{i}") for i in range(inputs)]
    with pytest.raises(ExportError, match=message):
        ops.function_for(ir.node(op_type, values, attributes, domain=domain))


def test_import_needs_numpy_only() -> None:
    heavy = "{'onnx', 'onnx_ir', 'onnxscript', 'onnxruntime', 'torch'}"
    code = f"import sys, sige_deploy.ops; print(sorted({heavy} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_worked_example_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ops.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(compile(example, "docs/ops.md", "exec"), {})


def test_docs_name_every_attribute_and_activation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ops.md").read_text(encoding="utf-8")
    for signature in ops.SIGNATURES.values():
        inputs = ", ".join(name if name in signature.required else f"{name}?" for name in signature.inputs)
        assert f"    {signature.op_type}({inputs}) -> {signature.output} [" in page
        for name in signature.attributes:
            assert f"`{name}`" in page
    for name in ops.ACTIVATIONS:
        assert f"| `{name}` |" in page
