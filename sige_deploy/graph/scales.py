"""Constant factors behind a linear op go into its weights: (W x + b) * f = (f W) x + f b.

Layer scales and the small factors of residual branches are such; an Add or an activation behind them then
meets the linear op itself, and fuses with it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant, static_shape

#: Inputs of the ops that the factor multiplies: the weights, and what is added.
LINEAR = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (1,)}


def fold_scales(model: ir.Model) -> None:
    """Fold each Mul by a constant, one number or one per channel, that alone reads a linear op's result."""
    for node in list(model.graph):
        if node.op_type == "Mul" and node.domain == "":
            for value, factor in (node.inputs, node.inputs[::-1]):
                if is_constant(factor) and _fold(model.graph, node, value, factor):
                    break


def _fold(graph: ir.Graph, product: ir.Node, value: ir.Value | None, factor: ir.Value | None) -> bool:
    assert factor is not None and factor.const_value is not None
    scale = factor.const_value.numpy().astype(np.float64)
    node, added = _producer(value, product), None
    if node is not None and node.op_type == "Add":
        places = [i for i, v in enumerate(node.inputs) if is_constant(v)]
        if len(places) != 1:
            return False
        added = (node, places[0])
        node = _producer(node.inputs[1 - places[0]], node)
    if node is None or node.op_type not in LINEAR or node.domain != "" or value is None:
        return False
    places = [i for i in LINEAR[node.op_type] if i < len(node.inputs) and node.inputs[i] is not None]
    if not all(is_constant(node.inputs[i]) for i in places):
        return False
    per_output = _per_output(node, scale)
    if per_output is None:
        return False
    rank = len(node.outputs[0].shape or ())
    if added is not None and not _fits(added[0].inputs[added[1]], rank):
        return False
    name = product.outputs[0].name
    _multiply(graph, node, 1, per_output, f"{name}.scaled_weight")
    if 2 in places:
        _multiply(graph, node, 2, scale.reshape(-1), f"{name}.scaled_bias")
    if added is not None:
        _multiply(graph, *added, scale, f"{name}.scaled_addend")
    ir.convenience.replace_all_uses_with(product.outputs[0], value, replace_graph_outputs=True)
    graph.remove(product, safe=True)
    return True


def _producer(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """The node that makes the value, if this reader alone reads it."""
    if value is None or value.is_graph_output() or [use.node for use in value.uses()] != [reader]:
        return None
    return value.producer()


def _per_output(node: ir.Node, scale: np.ndarray) -> np.ndarray | None:
    """The factor in the shape that multiplies the node's weights; None where it is not one per output."""
    weight = node.inputs[1]
    shape = (None if weight is None else static_shape(weight)) or ()
    rank = len(shape)
    if scale.size == 1:
        return scale.reshape(())
    if node.op_type in ("Gemm", "MatMul"):
        transposed = bool(attribute(node, "transB", 0))
        fits = rank >= 2 and scale.size == scale.shape[-1] == shape[-2 if transposed else -1]
        return scale.reshape((-1, 1) if transposed else (-1,)) if fits else None
    axis = 1 if node.op_type == "ConvTranspose" else 0
    outputs = shape[axis]
    ones = (1,) * (rank - 2)
    fits = scale.shape[1 - rank :] == (outputs, *ones) and scale.size == outputs
    if not fits or (axis == 1 and attribute(node, "group", 1) != 1):
        return None
    return scale.reshape((outputs, *ones, 1) if axis == 0 else (outputs, *ones))


def _fits(value: ir.Value | None, rank: int) -> bool:
    """Whether adding the constant leaves the rank as it is."""
    assert value is not None and value.const_value is not None
    return len(value.const_value.shape) <= rank


def _multiply(graph: ir.Graph, node: ir.Node, place: int, factor: np.ndarray, name: str) -> None:
    old = node.inputs[place]
    assert old is not None and old.const_value is not None and old.dtype is not None
    array = old.const_value.numpy().astype(np.float64) * factor
    tensor = ir.tensor(np.ascontiguousarray(array.astype(old.dtype.numpy())))
    value = ir.Value(
        name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape)
    )
    graph.register_initializer(value)
    node.replace_input_with(place, value)
