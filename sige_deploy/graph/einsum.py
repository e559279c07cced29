"""Einsum of two operands as Transpose, Reshape and MatMul, which the rules for matrix products understand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir

from sige_deploy.graph.builder import Builder, attribute, static_shape


def expand_einsum(node: ir.Node, b: Builder) -> ir.Value | None:
    """out[batch, left, right] = A[batch, left, k] B[batch, k, right]; None where the equation is of another
    kind.

    Labels in both operands and the result are the batch, in both operands alone are summed (k); a label
    summed in one operand alone, or repeated within one, is not a matrix product.
    """
    equation = attribute(node, "equation").replace(" ", "")
    if len(node.inputs) != 2 or "." in equation or "->" not in equation:
        return None
    terms, out = equation.split("->")
    left_labels, right_labels = terms.split(",")
    shapes = [static_shape(v) for v in node.inputs if v is not None]
    if any(len(set(t)) != len(t) for t in (left_labels, right_labels, out)) or None in shapes:
        return None
    size = {
        k: n for t, s in zip((left_labels, right_labels), shapes, strict=True) for k, n in zip(t, s or ())
    }
    both = [k for k in left_labels if k in right_labels]
    batch, summed = [k for k in both if k in out], [k for k in both if k not in out]
    left = [k for k in left_labels if k not in both]
    right = [k for k in right_labels if k not in both]
    if not summed or any(k not in out for k in (*left, *right)):
        return None

    def operand(value: ir.Value | None, labels: str, groups: Sequence[Sequence[str]]) -> ir.Value:
        assert value is not None
        order = [k for group in groups for k in group]
        moved = b.transpose(value, [labels.index(k) for k in order])
        shape = [*(size[k] for k in groups[0]), *(math.prod(size[k] for k in g) for g in groups[1:])]
        if [size[k] for k in order] != shape:
            moved = b.reshape(moved, shape)
        moved.shape = ir.Shape(shape)
        return moved

    x = operand(node.inputs[0], left_labels, (batch, left, summed))
    y = operand(node.inputs[1], right_labels, (batch, summed, right))
    order = [*batch, *left, *right]
    result = b.op("MatMul", [x, y])
    if len(left) != 1 or len(right) != 1:
        result = b.reshape(result, [size[k] for k in order])
    return b.transpose(result, [order.index(k) for k in out])
