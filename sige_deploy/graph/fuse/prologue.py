"""In front of a Conv or Gather: act(x * scale + shift), where only such ops read its result."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.fuse.state import Fusion, consumers, has_table, named_inputs
from sige_deploy.graph.fuse.steps import chain_behind
from sige_deploy.ops import DOMAIN


def fuse_prologues(fusion: Fusion) -> None:
    """Every reader applies the chain itself, however many they are: that costs less than writing the rows."""
    done: set[ir.Value] = set()
    for node in fusion.nodes("Conv", "Gather"):
        rows = node.inputs[0]
        if rows is None or rows in done:
            continue
        done.add(rows)
        readers = consumers(rows)
        if not all(_reads_rows_alone(reader, rows) for reader in readers):
            continue
        chain = chain_behind(fusion.ctx.edit, rows)
        if chain is None or (chain.x not in fusion.owners and any(has_table(r) for r in readers)):
            continue
        for reader in readers:
            inputs = named_inputs(reader)
            inputs |= {"rows": chain.x, "scale": chain.scale, "shift": chain.shift}
            if has_table(reader):
                inputs["base"] = fusion.base(chain.x)
            attributes = dict(reader.attributes)
            if chain.activation is not None:
                attributes |= chain.activation.attributes("_in" if reader.op_type == "Conv" else "")
            fusion.replace(reader.outputs[0], reader.op_type, inputs, attributes)


def _reads_rows_alone(node: ir.Node, rows: ir.Value) -> bool:
    """Whether the node reads the value as its rows and as nothing else, and applies nothing to it yet."""
    if node.domain != DOMAIN or node.op_type not in ("Conv", "Gather"):
        return False
    inputs = named_inputs(node)
    places = [name for name, value in inputs.items() if value is rows]
    applied = {"activation_in" if node.op_type == "Conv" else "activation"} & set(node.attributes)
    affine = any(inputs.get(name) is not None for name in ("scale", "shift"))
    return places == ["rows"] and not applied and not affine
