"""Two linear layers with nothing but a residual between are one layer of two activations side by side.

    (h V + c + r) W + b  =  [h r] [V W; W] + (c W + b)

As at the end of a diffusion model's transformer: the feed-forward's second layer, and the projection out of
the tokens. In the edit graph that is one Conv of two sources (`sige_deploy.graph.fuse.sources`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sige_deploy.graph.builder import Builder, attribute, is_constant, static_shape
from sige_deploy.graph.linears import Linear, behind, layer_of, linear, moved
from sige_deploy.graph.moves import RESHAPES


@dataclass(frozen=True)
class Pair:
    """`second` reads first(h) + residual, moved by reshapes and transposes; of each of these the node, and
    the axis of the channels behind it."""

    first: Linear
    residual: ir.Value
    moves: Sequence[tuple[ir.Node, int]]
    second: Linear


def merge_over_residuals(model: ir.Model, spatial: Sequence[str]) -> None:
    """Merge each such pair behind `spatial`, where nothing else reads what lies between, and the one layer
    multiplies no more than the two did: where `second` has no more outputs than `first`."""
    pixels = behind(model.graph, spatial)
    for node in list(model.graph):
        if node.domain == "" and node.op_type == "Add":
            pair = _pair(node)
            if pair is not None and {pair.first.node.inputs[0], pair.residual} <= pixels:
                _merge(model.graph, pair)
    RemoveUnusedNodesPass()(model)


def _pair(add: ir.Node) -> Pair | None:
    """The two layers of which this node adds the residual between."""
    left, right = add.inputs
    for value, residual in ((left, right), (right, left)):
        first = None if value is None else layer_of(value)
        if first is None or residual is None or not _fits(first, residual):
            continue
        found = _reader(add.outputs[0], first.axis)
        second = None if found is None else linear(*found[1])
        if found is not None and second is not None and _worth(first, second):
            return Pair(first, residual, found[0], second)
    return None


def _fits(layer: Linear, residual: ir.Value) -> bool:
    """Whether the sum alone reads the layer, and the residual has its pixels."""
    output, source = layer.output, layer.node.inputs[0]
    alone = len(list(output.uses())) == 1 and not output.is_graph_output() and not layer.shared
    shape = static_shape(output)
    alike = shape is not None and shape == static_shape(residual) and output.dtype == residual.dtype
    made = None if source is None else source.producer()
    two = made is not None and made.domain == "" and made.op_type == "Concat"  # more sources than a Conv has
    return alone and alike and not is_constant(residual) and not two and not _strided(layer)


def _worth(first: Linear, second: Linear) -> bool:
    widths = [(static_shape(layer.output) or ())[layer.axis] for layer in (first, second)]
    types = {layer.node.inputs[1].dtype for layer in (first, second) if layer.node.inputs[1] is not None}
    return widths[1] <= widths[0] and len(types) == 1 and not second.shared and not _strided(second)


def _strided(layer: Linear) -> bool:
    return layer.node.op_type == "Conv" and any(n != 1 for n in attribute(layer.node, "strides", [1]))


def _reader(
    value: ir.Value, axis: int
) -> tuple[list[tuple[ir.Node, int]], tuple[ir.Node, ir.Value, int]] | None:
    """The reshapes and transposes behind a value, and the one node that reads it behind them."""
    moves: list[tuple[ir.Node, int]] = []
    while True:
        nodes = [use.node for use in value.uses()]
        if len(nodes) != 1 or value.is_graph_output():
            return None
        (node,) = nodes
        if node.domain != "" or node.op_type not in RESHAPES | {"Transpose"} or node.inputs[0] is not value:
            return moves, (node, value, axis)
        after = moved(node, value, axis)
        if after is None:
            return None
        value, axis = node.outputs[0], after
        moves.append((node, axis))


def _merge(graph: ir.Graph, pair: Pair) -> None:
    """Put the one layer, and the moves behind it, in front of the second layer, for all who read that."""
    first, second = pair.first, pair.second
    inner, outer = first.matrix(), second.matrix()
    matrix = np.concatenate([inner @ outer, outer])
    bias, added = second.bias(), first.bias()
    if added is not None:
        bias = added @ outer + (0 if bias is None else bias)
    if not first.holds(matrix, bias):
        return
    old, name = second.output, second.output.name
    builder = Builder(f"{name}/merged/")
    both = builder.op("Concat", [first.node.inputs[0], pair.residual], {"axis": first.axis})
    both.shape = _resized(pair.residual, first.axis, len(matrix))
    value = _layer(builder, first, both, matrix, bias)
    for move, axis in pair.moves:
        shape = _resized(move.outputs[0], axis, outer.shape[1])
        if move.op_type == "Transpose":
            value = builder.op("Transpose", [value], dict(move.attributes))
        else:
            value = builder.reshape(value, shape.numpy())
        value.shape = shape
    graph.insert_before(second.node, builder.nodes)
    for constant in builder.initializers.values():
        graph.register_initializer(constant)
    old.name = f"{name}/alone"
    ir.convenience.replace_all_uses_with(old, value, replace_graph_outputs=True)
    value.name = name


def _layer(
    builder: Builder, like: Linear, value: ir.Value, matrix: np.ndarray, bias: np.ndarray | None
) -> ir.Value:
    """value x matrix + bias as a Conv where `like` is one, else as a MatMul; in the type of its weight."""
    weight = like.node.inputs[1]
    assert weight is not None and weight.dtype is not None
    dtype = weight.dtype.numpy()
    constants = [matrix.astype(dtype)] + ([] if bias is None else [bias.astype(dtype)])
    shape = _resized(value, like.axis, matrix.shape[1])
    if like.node.op_type == "Conv":
        constants[0] = constants[0].T.reshape(*matrix.shape[::-1], *[1] * (len(shape) - 2))
        values = [value, *(builder.constant(a, "weight") for a in constants)]
        result = builder.op("Conv", values, dict(like.node.attributes))
    else:
        result = builder.op("MatMul", [value, builder.constant(constants[0], "weight")])
        if bias is not None:
            result.shape = shape
            result = builder.op("Add", [result, builder.constant(constants[1], "bias")])
    result.shape = shape
    return result


def _resized(value: ir.Value, axis: int, width: int) -> ir.Shape:
    """The shape of a value with so many channels."""
    shape = [*(static_shape(value) or ())]
    shape[axis] = width
    return ir.Shape(shape)
