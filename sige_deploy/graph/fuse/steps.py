"""The elementwise steps that Conv and Gather take over: scale and shift per channel, an activation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import Builder, attribute, is_constant
from sige_deploy.graph.fuse.state import consumers

#: The types that the ops of our domain compute with.
FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


@dataclass(frozen=True)
class Activation:
    """One of the op set's activations (docs/ops.md); alpha is the slope of leaky_relu."""

    name: str
    alpha: float | None = None

    def attributes(self, side: str = "") -> dict[str, Any]:
        """Attributes of a Gather, or of one side ("_in", "_out") of a Conv."""
        return {f"activation{side}": self.name} | ({} if self.alpha is None else {f"alpha{side}": self.alpha})


@dataclass(frozen=True)
class Chain:
    """act(x * scale + shift), and how many nodes it takes as it stands."""

    x: ir.Value
    scale: ir.Value | None
    shift: ir.Value | None
    activation: Activation | None
    length: int


def activated(value: ir.Value) -> tuple[ir.Value, Activation | None]:
    """The value behind the activation that alone consumes ``value``, and that activation."""
    users = consumers(value)
    if len(users) == 1 and (found := _single(users[0], value)) is not None:
        return users[0].outputs[0], found
    if len(users) == 2:  # SiLU: x * sigmoid(x)
        sigmoid = next((u for u in users if u.op_type == "Sigmoid"), None)
        product = next((u for u in users if u.op_type == "Mul"), None)
        if sigmoid is not None and product is not None:
            gate = sigmoid.outputs[0]
            if set(product.inputs) == {value, gate} and consumers(gate) == [product]:
                return product.outputs[0], Activation("silu")
    return value, None


def _single(node: ir.Node, value: ir.Value) -> Activation | None:
    if node.domain != "" or node.inputs[0] is not value:
        return None
    match node.op_type:
        case "Relu" | "Sigmoid" | "Tanh":
            return Activation(node.op_type.lower())
        case "LeakyRelu":
            return Activation("leaky_relu", float(attribute(node, "alpha", 0.01)))
        case "PRelu":
            slope = node.inputs[1]
            if is_constant(slope) and np.ptp(slopes := slope.const_value.numpy()) == 0:  # type: ignore[union-attr]
                return Activation("leaky_relu", float(slopes.flat[0]))
        case "Gelu":
            return Activation("gelu_tanh" if attribute(node, "approximate", "none") == "tanh" else "gelu")
    return None


def chain_behind(builder: Builder, end: ir.Value) -> Chain | None:
    """The longest act(x * scale + shift) that ends in ``end``; every value between is read by it alone."""
    activation, source, nodes = _activation_before(end)
    alone = not nodes or set(consumers(source)) == set(nodes)
    steps: list[tuple[str, ir.Value]] = []  # ("Mul" or "Add", parameter), in the order of computation
    sources: list[ir.Value] = []
    value = source
    while alone and (found := _step_before(builder, value)) is not None:
        operation, value, parameter = found
        steps.insert(0, (operation, parameter))
        sources.insert(0, value)
        alone = len(consumers(value)) == 1
    for start, x in enumerate(sources):
        affine = _composed(builder, steps[start:])
        if affine is not None:
            return Chain(x, *affine, activation, len(nodes) + len(steps) - start)
    return None if activation is None else Chain(source, None, None, activation, len(nodes))


def _activation_before(end: ir.Value) -> tuple[Activation | None, ir.Value, list[ir.Node]]:
    """The activation that makes ``end``, what it is applied to, and its nodes that read that."""
    node = end.producer()
    if node is None or node.domain != "":
        return None, end, []
    source = node.inputs[0]
    if source is not None and (found := _single(node, source)) is not None:
        return found, source, [node]
    if node.op_type == "Mul":  # SiLU
        for source, gate in (node.inputs, node.inputs[::-1]):
            assert source is not None and gate is not None
            sigmoid = gate.producer()
            gated = sigmoid is not None and sigmoid.op_type == "Sigmoid" and sigmoid.inputs[0] is source
            if gated and consumers(gate) == [node]:
                assert sigmoid is not None
                return Activation("silu"), source, [sigmoid, node]
    return None, end, []


def _step_before(builder: Builder, value: ir.Value) -> tuple[str, ir.Value, ir.Value] | None:
    """("Mul" or "Add", rows, parameter) of the node that makes ``value``."""
    node = value.producer()
    if node is None or node.domain != "" or node.op_type not in ("Add", "Mul", "Sub", "Div"):
        return None
    orders = [node.inputs] if node.op_type in ("Sub", "Div") else [node.inputs, node.inputs[::-1]]
    for rows, parameter in orders:
        if rows is None or parameter is None or rows.shape is None or rows.shape != value.shape:
            continue
        found = per_channel(builder, parameter, rows)
        if found is not None and node.op_type in ("Add", "Mul"):
            return node.op_type, rows, found
        if found is not None and is_constant(found):
            array = constant_of(found)
            if node.op_type == "Sub":
                return "Add", rows, constant(builder, -array, rows)
            if np.all(array != 0):
                return "Mul", rows, constant(builder, 1 / array, rows)
    return None


def _composed(
    builder: Builder, steps: Sequence[tuple[str, ir.Value]]
) -> tuple[ir.Value | None, ir.Value | None] | None:
    """Scale and shift that do all these steps; None where that takes arithmetic on what is not constant."""
    scale: ir.Value | None = None
    shift: ir.Value | None = None
    for operation, parameter in steps:
        involved = [shift] if operation == "Add" else [scale, shift]
        if any(v is not None for v in involved) and not all(
            map(is_constant, filter(None, [*involved, parameter]))
        ):
            return None
        if operation == "Add":
            shift = parameter if shift is None else _combined(builder, np.add, shift, parameter)
        else:
            scale = parameter if scale is None else _combined(builder, np.multiply, scale, parameter)
            shift = None if shift is None else _combined(builder, np.multiply, shift, parameter)
    return scale, shift


def _combined(builder: Builder, operation: np.ufunc, a: ir.Value, b: ir.Value) -> ir.Value:
    return constant(builder, operation(constant_of(a), constant_of(b)), a)


def per_channel(builder: Builder, parameter: ir.Value, rows: ir.Value) -> ir.Value | None:
    """The parameter as [B or 1, 1, C] if it broadcasts over rows [B, P, C] so; a constant may be a scalar."""
    if rows.shape is None or len(rows.shape) != 3 or rows.dtype not in FLOATS:
        return None
    channels = rows.shape[2]
    if not isinstance(channels, int):
        return None
    if (
        parameter.shape is not None
        and len(parameter.shape) == 3
        and list(parameter.shape[1:]) == [1, channels]
    ):
        return parameter
    if not is_constant(parameter):
        return None
    array = constant_of(parameter)
    if array.size != 1 and (
        array.shape[-1] != channels or array.ndim > 3 or array.shape[-2:-1] not in ((), (1,))
    ):
        return None
    array = array.reshape(-1, 1, array.shape[-1] if array.ndim else 1)
    return constant(builder, np.broadcast_to(array, (len(array), 1, channels)), rows)


def constant_of(value: ir.Value) -> np.ndarray:
    """A constant's values in float64."""
    assert value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def constant(builder: Builder, array: np.ndarray, like: ir.Value) -> ir.Value:
    """An initializer of the type of ``like``."""
    assert like.dtype is not None
    return builder.constant(array.astype(like.dtype.numpy()), "folded")
