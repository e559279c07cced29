"""Two activations side by side: a Conv or Gather reads both, where a Concat put them together only for that.

The base of the concatenation becomes the two values' own bases. A skip connection's is recorded for the
encoder's convolution anyway, so this saves memory as well as the pass over the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from sige_deploy.graph.builder import attribute
from sige_deploy.graph.fuse.state import Fusion, consumers, has_table, named_inputs
from sige_deploy.ops import DOMAIN


def fuse_sources(fusion: Fusion) -> None:
    """Every reader of a Concat reads both of its operands, or all of them read it as it stands."""
    for node in list(fusion.ctx.edit.nodes):
        if node.domain != "" or node.op_type != "Concat" or attribute(node, "axis") != 2:
            continue
        both, whole = node.inputs, node.outputs[0]
        readers = consumers(whole)
        if len(both) != 2 or not readers or not all(_takes_two(fusion, r, whole, both) for r in readers):
            continue
        for reader in readers:
            inputs = named_inputs(reader)
            for value, suffix in zip(both, ("", "_2"), strict=True):
                assert value is not None
                inputs[f"rows{suffix}"] = value
                if has_table(reader):
                    inputs[f"base{suffix}"] = fusion.base(value)
            fusion.replace(reader.outputs[0], reader.op_type, inputs, dict(reader.attributes))


def _takes_two(fusion: Fusion, node: ir.Node, whole: ir.Value, both: Sequence[ir.Value | None]) -> bool:
    """Whether the node reads the value as rows of its only source, and could read both operands."""
    if node.domain != DOMAIN or node.op_type not in ("Conv", "Gather") or attribute(node, "phases", 1) != 1:
        return False
    inputs = named_inputs(node)
    alone = [name for name, value in inputs.items() if value is whole] == ["rows"]
    if not alone or inputs.get("rows_2") is not None:
        return False
    return not has_table(node) or all(value in fusion.owners for value in both)
