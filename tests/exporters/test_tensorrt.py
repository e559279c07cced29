"""An edit graph as TensorRT reads it."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from sige_deploy.exporters.tensorrt_graph import for_tensorrt
from sige_deploy.ops import OPSET, function_for


def linear() -> ir.Model:
    """A Conv without a table and without a bias, but with a residual."""
    rows, weight, residual = (
        ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT16), shape=ir.Shape(shape))
        for name, shape in {"a": (1, "P", 4), "w": (1, 4, 8), "b": (1, "P", 8)}.items()
    )
    given = [rows, None, None, None, weight, None, None, None, None, residual]
    node = ir.node("Conv", given, {"activation_out": "relu"}, domain="sige")
    function = function_for(node)
    node.overload = function.overload
    other = ir.node("Relu", node.outputs)
    opsets = {"": OPSET, "sige": 1}
    graph = ir.Graph([rows, weight, residual], other.outputs, nodes=[node, other], opset_imports=opsets)
    return ir.Model(graph, ir_version=11, functions=[function])


def test_a_node_has_its_inputs_without_gaps_and_says_which_they_are() -> None:
    model = for_tensorrt(linear())
    conv, relu = model.graph
    assert [value.name for value in conv.inputs if value is not None] == ["a", "w", "b"]
    assert len(conv.inputs) == 3
    assert {name: attribute.value for name, attribute in conv.attributes.items()} == {
        "inputs": "rows weight residual",
        "group": 1,
        "activation_in": "identity",
        "alpha_in": 0.01,
        "activation_out": "relu",
        "alpha_out": 0.01,
        "norm_epsilon": 0.0,
        "gate": "",
        "early": 0,
        "plugin_namespace": "sige",
        "plugin_version": "1",
    }
    assert not relu.attributes and relu.inputs == conv.outputs


def test_every_node_has_a_name_of_its_own() -> None:
    model = linear()
    conv = model.graph[0]
    for name in ("", "conv", "conv"):
        model.graph.append(ir.node("Conv", list(conv.inputs), domain="sige", name=name))
    names = [node.name for node in for_tensorrt(model).graph if node.domain == "sige"]
    assert names[1:] == ["Conv_2", "conv", "Conv_4"] and len(set(names)) == 4


@pytest.mark.parametrize("kind", ["functions", "overloads"])
def test_no_function_body_stands_in_for_a_missing_plugin(kind: str) -> None:
    model = for_tensorrt(linear())
    assert not (model.functions if kind == "functions" else [n for n in model.graph if n.overload])
