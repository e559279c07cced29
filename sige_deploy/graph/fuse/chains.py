"""Scale, shift and activation that no Conv or Gather takes over: one Gather without a table does them all."""

from __future__ import annotations

from sige_deploy.graph.fuse.state import Fusion
from sige_deploy.graph.fuse.steps import FLOATS, chain_behind


def fuse_chains(fusion: Fusion) -> None:
    """From the back, so that every chain is met at its end."""
    for node in fusion.ctx.edit.nodes[::-1]:
        if node.domain != "" or len(node.outputs) != 1 or not node.outputs[0].uses():
            continue
        end = node.outputs[0]
        if end.dtype not in FLOATS or end.shape is None or len(end.shape) != 3:
            continue
        chain = chain_behind(fusion.ctx.edit, end)
        if chain is not None and chain.length > 1:
            attributes = {} if chain.activation is None else chain.activation.attributes()
            inputs = {"rows": chain.x, "scale": chain.scale, "shift": chain.shift}
            fusion.replace(end, "Gather", inputs, attributes)
