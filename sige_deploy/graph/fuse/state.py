"""The edit graph while its nodes are replaced, and lookups around a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_ir as ir

from sige_deploy.graph.context import Context
from sige_deploy.graph.values import Spatial
from sige_deploy.ops import DOMAIN, SIGNATURES


class Fusion:
    """Replaces values of the edit graph, and keeps what the pass knows of them."""

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.owners = {info.rows: info for info in ctx.info.values() if isinstance(info, Spatial)}

    def nodes(self, *op_types: str) -> list[ir.Node]:
        """The graph's nodes of these ops of our domain."""
        return [n for n in self.ctx.edit.nodes if n.domain == DOMAIN and n.op_type in op_types]

    def base(self, rows: ir.Value) -> ir.Value:
        """The recorded activation of these rows."""
        return self.ctx.base(self.owners[rows])

    def replace(
        self, old: ir.Value, op_type: str, inputs: Mapping[str, ir.Value | None], attributes: dict[str, Any]
    ) -> None:
        """Compute a value by one op of our domain instead; drops the nodes that were needed for it alone."""
        new = self.ctx.edit.sparse_op(op_type, inputs, attributes)
        new.shape, new.type = old.shape, old.type
        self.put(old, new)

    def put(self, old: ir.Value, new: ir.Value) -> None:
        """Put an equal value in the place of another; drops the nodes that were needed for that alone."""
        old.replace_all_uses_with(new)
        if old in self.owners:
            self.owners[new] = replace(self.owners.pop(old), rows=new)
        self.ctx.replace_rows(old, new)
        producer = old.producer()
        assert producer is not None
        self.drop(producer)

    def drop(self, node: ir.Node) -> None:
        """Remove a node whose outputs nothing reads, and those before it that it alone read."""
        stack = [node]
        while stack:
            node = stack.pop()
            if any(output.uses() for output in node.outputs) or node not in self.ctx.edit.nodes:
                continue
            before = [v.producer() for v in node.inputs if v is not None]
            for i in range(len(node.inputs)):
                node.replace_input_with(i, None)
            self.ctx.edit.nodes.remove(node)
            stack.extend(producer for producer in before if producer is not None)


def named_inputs(node: ir.Node) -> dict[str, ir.Value | None]:
    """The inputs of a node of our domain, by name."""
    return dict(zip(SIGNATURES[node.op_type].inputs, node.inputs))


def has_table(node: ir.Node) -> bool:
    """Whether a Conv or Gather reads neighbours, out of a base."""
    return named_inputs(node).get("table") is not None


def consumers(value: ir.Value) -> list[ir.Node]:
    """The nodes that read a value, each once."""
    return list(dict.fromkeys(use.node for use in value.uses()))
