"""Queries, keys and values of one activation are one product, which is split.

    x Wq, x Wk, x Wv  =  split(x [Wq Wk Wv])

In the edit graph Attention reads them where they lie in the product (`sige_deploy.graph.fuse.parts`). What
follows from a text, or from anything else that is no pixels, stays as it is: the edit joins that over all
layers (`sige_deploy.graph.fuse.siblings`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from sige_deploy.graph.builder import static_shape
from sige_deploy.graph.linears import Linear, behind, initializer, layer_of
from sige_deploy.graph.moves import RESHAPES


def join_projections(model: ir.Model, spatial: Sequence[str]) -> None:
    """Join the linear layers of one value behind `spatial` that make queries, keys and values, or keys and
    values, of one Attention, and whose results nothing else reads."""
    pixels = behind(model.graph, spatial)
    for node in list(model.graph):
        if node.domain == "" and node.op_type == "Attention":
            found = [_projection(value) for value in node.inputs[:3]]
            for group in (found, found[1:]):
                layers = [layer for layer in group if layer is not None]
                if len(layers) == len(group) and _fit(layers) and layers[0].node.inputs[0] in pixels:
                    _join(model.graph, layers)
                    break
    RemoveUnusedNodesPass()(model)


def _projection(value: ir.Value | None) -> Linear | None:
    """The linear layer that a value is made by, be it moved by reshapes and transposes."""
    while value is not None and len(list(value.uses())) == 1 and not value.is_graph_output():
        node = value.producer()
        if node is None or node.domain != "":
            return None
        if node.op_type not in RESHAPES | {"Transpose"}:
            return layer_of(value)
        value = node.inputs[0]
    return None


def _fit(layers: Sequence[Linear]) -> bool:
    """Whether they are different layers of one kind and one value, each with a weight of its own."""
    nodes = [layer.node for layer in layers]
    kinds = [(n.op_type, {k: a.value for k, a in n.attributes.items()}) for n in nodes]
    types = {(n.inputs[0], n.inputs[1].dtype) for n in nodes if n.inputs[1] is not None}
    outputs = [static_shape(layer.output) for layer in layers]
    alike = len(types) == 1 and all(kind == kinds[0] for kind in kinds) and None not in outputs
    return alike and len(set(nodes)) == len(nodes) and not any(layer.shared for layer in layers)


def _join(graph: ir.Graph, layers: Sequence[Linear]) -> None:
    first = layers[0]
    matrices, biases = [layer.matrix() for layer in layers], [layer.bias() for layer in layers]
    widths = [matrix.shape[1] for matrix in matrices]
    bias = None
    if any(b is not None for b in biases):
        bias = np.concatenate([np.zeros(n) if b is None else b for b, n in zip(biases, widths, strict=True)])
    shape = [*(static_shape(first.output) or ())]
    shape[first.axis] = sum(widths)
    name, outputs = f"{first.output.name}.joined", [layer.output for layer in layers]
    whole = ir.Value(name=name, type=first.output.type, shape=ir.Shape(shape))
    parts = [ir.Value(name=v.name, type=v.type, shape=v.shape) for v in outputs]
    product = ir.node(
        first.node.op_type, first.node.inputs[:2], first.node.attributes, outputs=[whole], name=name
    )
    sizes = initializer(graph, np.array(widths, np.int64), f"{name}.sizes")
    split = ir.node("Split", [whole, sizes], {"axis": first.axis}, outputs=parts, name=f"{name}.split")
    places = {node: i for i, node in enumerate(graph)}
    graph.insert_before(min((layer.node for layer in layers), key=places.__getitem__), [product, split])
    Linear(product, None, first.axis).store(np.concatenate(matrices, axis=1), bias, name)
    for layer, old, part in zip(layers, outputs, parts, strict=True):
        old.name = f"{old.name}/alone"
        old.replace_all_uses_with(part)
        for node in dict.fromkeys((layer.biased or layer.node, layer.node)):
            graph.remove(node, safe=True)
