"""Reshapes and transposes only rename axes: the rows stay where they are, unless pixels become channels or
back."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Refusal
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.depth_space import cut_grid, enlarges_grid, merge_grid, regrouped
from sige_deploy.graph.values import require


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: ir.Node, ctx: Context) -> None:
    """Regroup atoms into the output's static shape."""
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    shape = static_shape(output)
    require(shape is not None, "its output shape is not static")
    assert shape is not None
    source = ctx.spatial(value)
    try:
        result = regrouped(ctx, source, shape)
    except Refusal:
        level, layout, rows = cut_grid(ctx, source, shape)
        ctx.set_spatial(output, level, layout, rows)
        return
    if enlarges_grid(result.layout):
        merge_grid(ctx, result, result.layout, output)
    else:
        ctx.set_spatial(output, result.level, result.layout, result.rows)


@rule("Transpose")
def transpose(node: ir.Node, ctx: Context) -> None:
    """Permute the axes' names."""
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None and value.shape is not None
    perm = attribute(node, "perm", list(range(len(value.shape)))[::-1])
    source = ctx.spatial(value)
    ctx.set_spatial(output, source.level, source.layout.transpose(perm), source.rows)
