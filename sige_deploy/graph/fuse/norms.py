"""LayerNormalization in front of linear layers: they divide by the deviation of their rows.

With unit scale, no bias and weights whose columns have mean zero (`sige_deploy.graph.norms` sees to that),
the mean of a row falls out of the product:

    ((x - mean) / deviation) W = (x W) / deviation
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant
from sige_deploy.graph.fuse.state import Fusion, consumers, named_inputs
from sige_deploy.graph.fuse.steps import FLOATS
from sige_deploy.ops import DOMAIN


def fuse_norms(fusion: Fusion) -> None:
    """Every LayerNormalization of rows all of whose readers can do its work: each of them does it then."""
    for node in list(fusion.ctx.edit.nodes):
        if node.domain != "" or node.op_type != "LayerNormalization" or not _is_plain(node):
            continue
        x, normed = node.inputs[0], node.outputs[0]
        epsilon = float(attribute(node, "epsilon", 1e-5))
        readers = consumers(normed)
        if epsilon <= 0 or not readers or not all(_divides(reader, normed) for reader in readers):
            continue
        for reader in readers:
            attributes = dict(reader.attributes) | {"norm_epsilon": epsilon}
            fusion.replace(reader.outputs[0], "Conv", named_inputs(reader) | {"rows": x}, attributes)


def _is_plain(node: ir.Node) -> bool:
    """Whether it is over all channels of rows [B, P, C], of unit scale and without bias."""
    x, scale, bias = [*node.inputs, None][:3]
    if x is None or x.dtype not in FLOATS or len(x.shape or ()) != 3 or len(node.outputs) != 1:
        return False
    if attribute(node, "axis", -1) not in (2, -1) or not _equals(scale, 1):
        return False
    return bias is None or _equals(bias, 0)


def _equals(value: ir.Value | None, number: float) -> bool:
    return value is not None and is_constant(value) and bool(np.all(value.const_value.numpy() == number))  # type: ignore[union-attr]


def _divides(node: ir.Node, rows: ir.Value) -> bool:
    """Whether the node is a linear layer of these rows alone, with centred columns."""
    if (node.domain, node.op_type) != (DOMAIN, "Conv") or list(node.inputs).count(rows) != 1:
        return False
    inputs = named_inputs(node)
    others = [inputs.get(name) for name in ("table", "scale", "shift", "rows_2")]
    if inputs["rows"] is not rows or any(value is not None for value in others):
        return False
    plain = attribute(node, "group", 1) == 1 and not attribute(node, "norm_epsilon", 0.0)
    plain = plain and attribute(node, "activation_in", "identity") == "identity"
    weight = inputs["weight"]
    return plain and weight is not None and is_constant(weight) and _is_centred(weight)


def _is_centred(weight: ir.Value) -> bool:
    """Whether the mean of every column is zero, but for the rounding of each of its numbers."""
    assert weight.const_value is not None
    array = weight.const_value.numpy()[0]
    limits = np.finfo(array.dtype)
    sums, sizes = array.sum(axis=0, dtype=np.float64), np.abs(array).sum(axis=0, dtype=np.float64)
    rounding = sizes * limits.eps + limits.smallest_subnormal * len(array)
    return bool(np.all(np.abs(sums) <= rounding))
