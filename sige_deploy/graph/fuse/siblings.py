"""Linear layers of one value that is no pixels (a text, an embedding) are one product.

They are small: a UNet projects the text for every cross-attention and the embedding for every residual block.
One product with the weights side by side, split, does the same in two launches; keys and values are read out
of the product itself (`parts`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.fuse.state import Fusion, consumers


def fuse_siblings(fusion: Fusion) -> None:
    """Every value that several MatMuls, or several Gemms, with constant matrices read."""
    builder = fusion.ctx.edit
    seen: set[ir.Value] = set()
    for node in list(builder.nodes):
        value = node.inputs[0] if node.inputs else None
        if value is None or value in seen or not _is_linear(node, value):
            continue
        seen.add(value)
        if value in fusion.owners or static_shape(value) is None:
            continue
        same = [n for n in consumers(value) if n.op_type == node.op_type and _is_linear(n, value)]
        if len(same) > 1:
            _join(fusion, value, same)


def _is_linear(node: ir.Node, value: ir.Value) -> bool:
    """Whether the node is value x W, or value x W + b, with constants in their plain forms."""
    if node.domain != "" or node.op_type not in ("MatMul", "Gemm") or node.inputs[0] is not value:
        return False
    weight, *rest = node.inputs[1:]
    constant = is_constant(weight) and all(is_constant(v) for v in rest)
    if not constant or weight is None or len(static_shape(weight) or ()) != 2:
        return False
    if node.op_type == "MatMul":
        return True
    width = (static_shape(weight) or ())[0 if attribute(node, "transB", 0) else 1]
    biased = len(rest) == 1 and rest[0] is not None and static_shape(rest[0]) == (width,)
    factors = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
    return factors and biased and not attribute(node, "transA", 0)


def _join(fusion: Fusion, value: ir.Value, nodes: Sequence[ir.Node]) -> None:
    builder = fusion.ctx.edit
    weights = [_matrix(node) for node in nodes]
    inputs = [value, builder.constant(np.concatenate(weights, axis=1), "siblings")]
    if nodes[0].op_type == "Gemm":
        biases = [node.inputs[2].const_value.numpy() for node in nodes]  # type: ignore[union-attr]
        inputs.append(builder.constant(np.concatenate(biases), "siblings"))
    whole = builder.op(nodes[0].op_type, inputs, dtype=value.dtype)
    sizes = [w.shape[1] for w in weights]
    widths = builder.ints(*sizes)
    whole.shape = ir.Shape([*(static_shape(value) or ())[:-1], sum(sizes)])
    parts = builder.op("Split", [whole, widths], {"axis": -1}, dtype=value.dtype, outputs=len(nodes))
    for node, part in zip(nodes, parts, strict=True):
        old = node.outputs[0]
        part.shape, part.type = old.shape, old.type
        old.replace_all_uses_with(part)
        fusion.drop(node)


def _matrix(node: ir.Node) -> np.ndarray:
    """The constant as [in, out]."""
    array = node.inputs[1].const_value.numpy()  # type: ignore[union-attr]
    return array.T if node.op_type == "Gemm" and attribute(node, "transB", 0) else array
