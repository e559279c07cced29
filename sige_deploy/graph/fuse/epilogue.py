"""Behind a Conv: act((conv(x) + bias + embedding) * multiplier + residual). Behind a Gather: act(x).

Each step is taken over while it alone reads the value before it, so that no operand can follow from the Conv.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant
from sige_deploy.graph.fuse.state import Fusion, consumers, named_inputs
from sige_deploy.graph.fuse.steps import activated, constant, constant_of, per_channel


def fuse_epilogues(fusion: Fusion) -> None:
    for node in fusion.nodes("Conv"):
        _behind_conv(fusion, node)
    for node in fusion.nodes("Gather"):
        _behind_gather(fusion, node)


def _behind_conv(fusion: Fusion, node: ir.Node) -> None:
    if attribute(node, "activation_out", "identity") != "identity":
        return
    inputs, attributes = named_inputs(node), dict[str, Any](node.attributes)
    value = first = node.outputs[0]
    while (found := _absorbed(fusion, value, inputs)) is not None:
        value = found
    value, activation = activated(value)
    if activation is not None:
        attributes |= activation.attributes("_out")
    if value is not first:
        fusion.replace(value, "Conv", inputs, attributes)


def _absorbed(fusion: Fusion, value: ir.Value, inputs: dict[str, ir.Value | None]) -> ir.Value | None:
    """The value behind the node that alone reads ``value``, if the Conv can do what the node does."""
    users = consumers(value)
    if len(users) != 1 or users[0].domain != "" or users[0].op_type not in ("Add", "Sub", "Mul"):
        return None
    (node,) = users
    left, right = node.inputs
    other = right if left is value else left
    if other is None or left is right or (node.op_type == "Sub" and other is left):
        return None
    name = _slot(fusion, node.op_type, value, other, inputs)
    if name == "bias":
        inputs["bias"] = _biased(fusion, inputs.get("bias"), other, value, -1 if node.op_type == "Sub" else 1)
    elif name is not None:
        inputs[name] = other
    return None if name is None else node.outputs[0]


def _slot(
    fusion: Fusion, op_type: str, value: ir.Value, other: ir.Value, inputs: dict[str, ir.Value | None]
) -> str | None:
    """The input of the Conv that does what the node does."""
    given = {name for name, v in inputs.items() if v is not None}
    bias = inputs.get("bias")
    if op_type == "Mul":
        taken = given & {"multiplier", "residual"}
        return "multiplier" if not taken and _same_rows(value, other) else None
    parameter = per_channel(fusion.ctx.edit, other, value) if "multiplier" not in given else None
    if parameter is not None:
        folds = is_constant(parameter) and len(constant_of(parameter)) == 1
        if folds and (bias is None or is_constant(bias)):
            return "bias"
        if op_type == "Add" and parameter is other and "embedding" not in given:
            return "embedding"
    return "residual" if op_type == "Add" and "residual" not in given and _same_rows(value, other) else None


def _same_rows(value: ir.Value, other: ir.Value) -> bool:
    return value.shape is not None and value.shape == other.shape and value.dtype == other.dtype


def _biased(fusion: Fusion, bias: ir.Value | None, addend: ir.Value, rows: ir.Value, sign: int) -> ir.Value:
    """bias + sign * addend, [Cout]."""
    parameter = per_channel(fusion.ctx.edit, addend, rows)
    assert parameter is not None
    total = sign * constant_of(parameter).reshape(-1)
    return constant(fusion.ctx.edit, total if bias is None else total + constant_of(bias), rows)


def _behind_gather(fusion: Fusion, node: ir.Node) -> None:
    """Only where no target reads padding, which comes after the activation."""
    value, activation = activated(node.outputs[0])
    inputs = named_inputs(node)
    if activation is None or attribute(node, "activation", "identity") != "identity":
        return
    if not fusion.ctx.pads(inputs["table"]):
        fusion.replace(value, "Gather", inputs, dict(node.attributes) | activation.attributes())
