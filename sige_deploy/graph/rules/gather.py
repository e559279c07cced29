"""Gather: constant indices along channels (qkv[0], permutations), or a table of embeddings read by spatial
indices."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, channel_atoms
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.channels import along
from sige_deploy.graph.values import Static, require


@rule("Gather")
def gather(node: ir.Node, ctx: Context) -> None:
    """data[..., indices, ...]"""
    data, indices = node.inputs[0], node.inputs[1]
    assert data is not None and indices is not None
    if isinstance(ctx.info[data], Static):
        _embedding(node, ctx, data, indices)
    else:
        _channels(node, ctx, data, indices)


def _channels(node: ir.Node, ctx: Context, data: ir.Value, indices: ir.Value) -> None:
    require(is_constant(indices), "its indices are computed at run time")
    source = ctx.spatial(data)
    axis = attribute(node, "axis", 0) % len(source.layout.dims)
    assert indices.const_value is not None
    array = indices.const_value.numpy().astype(np.int64)
    require(source.layout.is_channels(axis), "it works along the pixel grid or the batch")
    require(array.ndim <= 1, "its indices have more than one axis")
    index = ctx.edit.constant(array.reshape(-1))
    ((layout, rows),) = along(
        ctx, source, axis, [array.size], lambda v, at: [ctx.edit.op("Gather", [v, index], {"axis": at})]
    )
    if array.ndim == 0:
        layout = Layout((*layout.dims[:axis], *layout.dims[axis + 1 :]), layout.order)
    ctx.set_spatial(node.outputs[0], source.level, layout, rows)


def _embedding(node: ir.Node, ctx: Context, table: ir.Value, indices: ir.Value) -> None:
    """Every index becomes the table's entry: new channel axes behind those of the indices."""
    source, shape = ctx.spatial(indices), static_shape(table)
    require(attribute(node, "axis", 0) == 0, "it reads a table along an axis that is not the first")
    require(shape is not None, "its table has no static shape")
    assert shape is not None
    if not is_constant(table):
        ctx.join(table)
    entry = tuple((Atom("C", n),) if n > 1 else () for n in shape[1:])
    layout = Layout((*source.layout.dims, *entry), (*source.layout.order, *channel_atoms(entry)))
    rows = ctx.edit.op("Gather", [ctx.edit_value(table), source.rows], {"axis": 0}, dtype=table.dtype)
    rows = ctx.edit.reshape(rows, [0, 0, layout.channels])
    ctx.set_spatial(node.outputs[0], source.level, layout, rows)
