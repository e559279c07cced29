"""Reshapes and transposes that undo one another.

A text's keys are computed as [N, T, C], split into heads and transposed for the dense attention; the rows'
attention reads them as they were computed. What a chain of reshapes and transposes does is found by moving
the numbers 0, 1, 2, ... through it.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.values import Form

RESHAPES = frozenset("Flatten Identity Reshape Squeeze Unsqueeze".split())


def undone(value: ir.Value, form: Form) -> ir.Value | None:
    """The value before the nearest reshapes and transposes that the form takes back, so that reshaping it
    gives the same; None if there is none. A reshape alone costs nothing, so the form must move something."""
    chain: list[ir.Node] = []
    source = value
    while (node := source.producer()) is not None and node.domain == "":
        before = node.inputs[0] if node.inputs else None
        known = before is not None and static_shape(before) is not None and static_shape(source) is not None
        if not known or node.op_type not in RESHAPES | {"Transpose"}:
            break
        assert before is not None
        chain.insert(0, node)
        source = before
        if node.op_type == "Transpose" and _in_order(chain, source, form):
            return source
    return None


def _in_order(chain: list[ir.Node], source: ir.Value, form: Form) -> bool:
    shape = static_shape(source)
    assert shape is not None
    moved = np.arange(math.prod(shape)).reshape(shape)
    for node in chain:
        if node.op_type == "Transpose":
            moved = moved.transpose(attribute(node, "perm", list(range(moved.ndim))[::-1]))
        else:
            moved = moved.reshape(static_shape(node.outputs[0]) or ())
    moved = form.of_array(moved)
    return bool(np.array_equal(moved.reshape(-1), np.arange(math.prod(shape))))
