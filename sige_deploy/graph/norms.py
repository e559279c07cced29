"""Folding scale and bias of a LayerNormalization into the linear layers that read it, and centring these.

    (n * gamma + beta) W + b = n (gamma W) + (beta W + b),      n = (x - mean) / deviation

The mean of n over the channels is zero, so that the columns of gamma W may be shifted by any number: their
own means are subtracted. Then the mean of x falls out of the product, and a sparse linear layer need only
divide by the deviation (`sige_deploy.graph.fuse.norms`).
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.linears import Linear, constant_of, initializer, linear, readers


def fold_norms(model: ir.Model) -> None:
    """Fold each LayerNormalization over channels that constant linear layers alone read.

    Where others read a layer's weight too, all stays as it is. RMSNormalization subtracts no mean, and stays.
    """
    for node in list(model.graph):
        if node.domain == "" and node.op_type == "LayerNormalization":
            _fold(model.graph, node)
    RemoveUnusedNodesPass()(model)


def _fold(graph: ir.Graph, norm: ir.Node) -> None:
    value, scale, bias = [*norm.inputs, None][:3]
    shape = None if value is None else static_shape(value)
    if shape is None or len(norm.outputs) > 1 or attribute(norm, "axis", -1) % len(shape) != len(shape) - 1:
        return
    if scale is None or not is_constant(scale) or (bias is not None and not is_constant(bias)):
        return
    layers = _layers(norm.outputs[0], len(shape) - 1)
    if not layers:
        return
    gamma, beta = np.ones(shape[-1]) * constant_of(scale), None if bias is None else constant_of(bias)
    folded = [(layer, *_folded(layer, gamma, beta)) for layer in layers]
    if not all(layer.holds(matrix, added) for layer, matrix, added in folded):
        return
    for layer, matrix, added in folded:
        layer.store(matrix, added, f"{layer.node.outputs[0].name}.normed")
    norm.resize_inputs(2)
    assert scale.dtype is not None
    ones = np.ones(shape[-1], scale.dtype.numpy())
    norm.replace_input_with(1, initializer(graph, ones, f"{norm.outputs[0].name}.scale"))


def _layers(normed: ir.Value, axis: int) -> list[Linear] | None:
    """What reads the norm, if that is linear layers with weights of their own alone."""
    layers = [linear(*reader) for reader in readers(normed, axis) or []]
    found = [layer for layer in layers if layer is not None and not layer.shared]
    return found if len(found) == len(layers) else None


def _folded(
    layer: Linear, gamma: np.ndarray, beta: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Weight and bias with the norm's in them, columns centred."""
    matrix, bias = layer.matrix(), layer.bias()
    if beta is not None and beta.any():
        bias = beta @ matrix + (0 if bias is None else bias)
    matrix = matrix * gamma[:, None]
    return matrix - matrix.mean(axis=0), bias
