"""Fusing what stands around a sparse convolution into it.

    epilogue   act(conv(x) + embedding + residual)     from Add and activation behind the Conv
    prologue   conv(act(x * scale + shift))            from the affine map and activation in front of it

The epilogue saves passes over rows. The prologue changes what is recorded: the base is x itself, before norm
and activation, and the Conv applies both to fresh rows and halo alike (docs/ops.md gives the order). Values
are the same.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from sige_deploy.graph.builder import attribute
from sige_deploy.graph.context import Context
from sige_deploy.graph.values import Spatial
from sige_deploy.ops import DOMAIN

ROWS, BASE, SCALE, SHIFT, EMBEDDING, RESIDUAL = 0, 1, 6, 7, 8, 9
INPUTS = 10


def fuse(ctx: Context) -> None:
    """Fuse every Conv of the edit graph; replaced nodes are left without consumers."""
    replaced: dict[ir.Value, ir.Value] = {}
    owners = {info.rows: info for info in ctx.info.values() if isinstance(info, Spatial)}
    for node in [n for n in ctx.edit.nodes if n.domain == DOMAIN and n.op_type == "Conv"]:
        _fuse_conv(ctx, node, owners, replaced)
    for cache in ctx.caches.values():
        while cache.rows in replaced:
            cache.rows = replaced[cache.rows]


def _fuse_conv(
    ctx: Context, node: ir.Node, owners: dict[ir.Value, Spatial], replaced: dict[ir.Value, ir.Value]
) -> None:
    inputs: list[ir.Value | None] = [*node.inputs, *[None] * INPUTS][:INPUTS]
    attributes: dict[str, Any] = dict(node.attributes)
    prologue = _prologue(node, owners)
    if prologue is not None:
        inputs[ROWS], inputs[SCALE], inputs[SHIFT], activation = prologue
        inputs[BASE] = ctx.base(owners[prologue[0]])
        attributes |= _named(activation, "in")
    last, embedding, residual, activation = _epilogue(node.outputs[0])
    inputs[EMBEDDING], inputs[RESIDUAL] = embedding, residual
    attributes |= _named(activation, "out")
    if prologue is None and last is node.outputs[0]:
        return
    result = ctx.edit.op("Conv", inputs, attributes, domain=DOMAIN, dtype=last.dtype)
    result.shape = last.shape
    last.replace_all_uses_with(result)
    replaced[last] = result
    if last in owners:
        owners[result] = owners[last]


Activation = tuple[str, float | None] | None


def _named(activation: Activation, side: str) -> dict[str, Any]:
    if activation is None:
        return {}
    name, alpha = activation
    return {f"activation_{side}": name} | ({} if alpha is None else {f"alpha_{side}": alpha})


def _consumers(value: ir.Value) -> list[ir.Node]:
    return list(dict.fromkeys(use.node for use in value.uses()))


def _activated(value: ir.Value) -> tuple[ir.Value, Activation]:
    """The value behind the activation that alone consumes ``value``, and that activation."""
    users = _consumers(value)
    if len(users) == 1 and (found := _single(users[0])) is not None:
        return users[0].outputs[0], found
    if len(users) == 2:  # SiLU: x * sigmoid(x)
        sigmoid = next((u for u in users if u.op_type == "Sigmoid"), None)
        product = next((u for u in users if u.op_type == "Mul"), None)
        if sigmoid is not None and product is not None:
            gate = sigmoid.outputs[0]
            if set(product.inputs) == {value, gate} and _consumers(gate) == [product]:
                return product.outputs[0], ("silu", None)
    return value, None


def _single(node: ir.Node) -> Activation:
    match node.op_type:
        case "Relu" | "Sigmoid" | "Tanh":
            return node.op_type.lower(), None
        case "LeakyRelu":
            return "leaky_relu", float(attribute(node, "alpha", 0.01))
        case "Gelu":
            return ("gelu_tanh" if attribute(node, "approximate", "none") == "tanh" else "gelu"), None
    return None


def _epilogue(value: ir.Value) -> tuple[ir.Value, ir.Value | None, ir.Value | None, Activation]:
    """Follow Add (per-channel), Add (rows) and an activation behind ``value``, each its only consumer."""
    embedding = residual = None
    while residual is None:
        users = _consumers(value)
        if len(users) != 1 or users[0].op_type != "Add" or set(users[0].inputs) == {value}:
            break
        other = next(v for v in users[0].inputs if v is not value)
        if other is None or other.shape is None or value.shape is None:
            break
        if other.shape == value.shape:
            residual = other
        elif embedding is None and _per_channel(other, value):
            embedding = other
        else:
            break
        value = users[0].outputs[0]
    value, activation = _activated(value)
    return value, embedding, residual, activation


def _per_channel(parameter: ir.Value, rows: ir.Value) -> bool:
    """Whether ``parameter`` is [B or 1, 1, C] for rows [B, P, C]."""
    if parameter.shape is None or rows.shape is None or len(parameter.shape) != 3:
        return False
    return parameter.shape[1] == 1 and parameter.shape[2] == rows.shape[2]


def _prologue(
    node: ir.Node, owners: dict[ir.Value, Spatial]
) -> tuple[ir.Value, ir.Value | None, ir.Value | None, Activation] | None:
    """x, scale, shift and activation with rows = act(x * scale + shift), every step read by the next
    alone."""
    value = node.inputs[ROWS]
    assert value is not None
    users = [node]
    value, activation, users = _before_activation(value, users)
    value, shift, users = _before_parameter("Add", value, users)
    value, scale, users = _before_parameter("Mul", value, users)
    if value is node.inputs[ROWS] or value not in owners:
        return None
    return value, scale, shift, activation


def _before_activation(value: ir.Value, users: list[ir.Node]) -> tuple[ir.Value, Activation, list[ir.Node]]:
    node = value.producer()
    if node is None or _consumers(value) != users:
        return value, None, users
    source = node.inputs[0]
    if source is not None and (found := _single(node)) is not None:
        return source, found, [node]
    if node.op_type == "Mul":
        for source in node.inputs:
            if source is not None and _activated(source) == (value, ("silu", None)):
                return source, ("silu", None), _consumers(source)
    return value, None, users


def _before_parameter(
    op_type: str, value: ir.Value, users: list[ir.Node]
) -> tuple[ir.Value, ir.Value | None, list[ir.Node]]:
    node = value.producer()
    if node is None or node.op_type != op_type or _consumers(value) != users:
        return value, None, users
    for rows, parameter in (node.inputs, node.inputs[::-1]):
        if rows is not None and parameter is not None and _per_channel(parameter, value):
            return rows, parameter, [node]
    return value, None, users
