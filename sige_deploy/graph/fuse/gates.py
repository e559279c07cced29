"""Gated layers: conv(x) * act(conv'(x)) is one Conv, whose weight has the columns of the gate behind its own.

GEGLU and SwiGLU are such (Shazeer, arXiv 2002.05202), written as one layer that is split or as two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.fuse.state import Fusion, consumers, named_inputs
from sige_deploy.ops import DOMAIN
from sige_deploy.ops.activation import GATES

SOURCE = ("rows", "base", "halo", "table", "scale", "shift", "rows_2", "base_2")
INTO = ("activation_in", "alpha_in", "norm_epsilon")


def fuse_gates(fusion: Fusion) -> None:
    """Every Conv whose multiplier is another Conv of the same source, which it alone reads."""
    for node in fusion.nodes("Conv"):
        gate = _gate_of(node)
        if gate is None or not _fit(fusion, node, gate):
            continue
        inputs, opened = named_inputs(node), named_inputs(gate)
        weights = [inputs["weight"], opened["weight"]]
        joined = fusion.ctx.store.join([v.name or "" for v in weights if v is not None])
        inputs["weight"] = fusion.ctx.edit.initializer(*joined)
        inputs["bias"] = _biases(fusion, inputs, opened)
        inputs["multiplier"] = None
        activation = attribute(gate, "activation_out", "identity")
        fusion.replace(
            node.outputs[0], "Conv", inputs, dict[str, Any](node.attributes) | {"gate": activation}
        )


def _gate_of(node: ir.Node) -> ir.Node | None:
    value = named_inputs(node).get("multiplier")
    if value is None or consumers(value) != [node] or list(node.inputs).count(value) != 1:
        return None
    gate = value.producer()
    return gate if gate is not None and (gate.domain, gate.op_type) == (DOMAIN, "Conv") else None


def _fit(fusion: Fusion, node: ir.Node, gate: ir.Node) -> bool:
    """Whether both read the same in the same way, and the gate's result is nothing but activated."""
    first, second = named_inputs(node), named_inputs(gate)
    if any(first.get(name) is not second.get(name) for name in SOURCE):
        return False
    if any(attribute(node, name) != attribute(gate, name) for name in INTO):
        return False
    added = [first.get("embedding"), *(second.get(n) for n in ("embedding", "residual", "multiplier"))]
    if any(value is not None for value in added):
        return False
    grouped = any(attribute(n, "group", 1) != 1 or attribute(n, "gate", "") for n in (node, gate))
    if grouped or attribute(gate, "activation_out", "identity") not in GATES:
        return False
    weights, biases = ([inputs.get(name) for inputs in (first, second)] for name in ("weight", "bias"))
    if not all(bias is None or is_constant(bias) for bias in biases):
        return False
    stored = all(
        w is not None and w.name in fusion.ctx.store.tensors and len(consumers(w)) == 1 for w in weights
    )
    return stored and len({static_shape(w) for w in weights if w is not None}) == 1


def _biases(
    fusion: Fusion, first: dict[str, ir.Value | None], second: dict[str, ir.Value | None]
) -> ir.Value | None:
    """Both biases side by side, zeros for a missing one."""
    weight, rows = first["weight"], first["rows"]
    assert weight is not None and rows is not None and rows.dtype is not None
    biases = [inputs.get("bias") for inputs in (first, second)]
    if biases == [None, None]:
        return None
    zeros = np.zeros((static_shape(weight) or ())[2] // 2, rows.dtype.numpy())
    arrays = [zeros if b is None else b.const_value.numpy() for b in biases]  # type: ignore[union-attr]
    return fusion.ctx.edit.constant(np.concatenate(arrays), "folded")
