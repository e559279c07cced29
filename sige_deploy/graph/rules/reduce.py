"""Reductions. Over channels they are local to a row; over the whole grid they are statistics.

A statistic is recorded (the approximation that lets an edit leave the rest of the picture alone) or, with
``statistics="fresh"``, computed in the edit over the whole edited activation.
"""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, size_of
from sige_deploy.graph.normalise import moments as compute_moments
from sige_deploy.graph.rules import rule
from sige_deploy.graph.values import Spatial, Static, require

REDUCTIONS = (
    "ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd "
    "ReduceSum ReduceSumSquare"
).split()


@rule(*REDUCTIONS)
def reduce(node: ir.Node, ctx: Context) -> None:
    """Reduce over channel axes, or over all of the grid."""
    value = node.inputs[0]
    axes_value = node.inputs[1] if len(node.inputs) > 1 else None
    assert value is not None
    require(axes_value is None or is_constant(axes_value), "its axes are computed at run time")
    source = ctx.spatial(value)
    rank = len(source.layout.dims)
    given = [] if axes_value is None else [int(a) % rank for a in axes_value.const_value.numpy().reshape(-1)]  # type: ignore[union-attr]
    given = given or [a % rank for a in attribute(node, "axes", [])]
    if not given and attribute(node, "noop_with_empty_axes", 0):
        ctx.set_spatial(node.outputs[0], source.level, source.layout, source.rows)
        return
    axes = given or list(range(rank))
    if all(source.layout.is_channels(a) for a in axes):
        _local(node, ctx, source, axes)
    else:
        statistic(node, ctx, source, axes)


def statistic(node: ir.Node, ctx: Context, source: Spatial, axes: list[int]) -> None:
    """Outputs are recorded values, or computed over the whole edited activation."""
    covered = {atom for a in axes for atom in source.layout.dims[a]}
    grid = {atom for dim in source.layout.dims for atom in dim if atom.kind in "YX"}
    require(grid <= covered, "it reduces part of the pixel grid")
    record_or_recompute(node, ctx)


def record_or_recompute(node: ir.Node, ctx: Context) -> None:
    """The node's outputs hold no pixel axis: take them from the recording, or compute them over the edited
    whole."""
    if ctx.config.statistics == "recorded":
        for output in node.outputs:
            ctx.info[output] = Static(output)
        return
    inputs = [None if v is None else ctx.dense(v) for v in node.inputs]
    for output, copy in zip(node.outputs, ctx.edit.clone(node, inputs), strict=True):
        ctx.set_dense(output, copy)


def _local(node: ir.Node, ctx: Context, source: Spatial, axes: list[int]) -> None:
    reduced = tuple(a for axis in axes for a in source.layout.dims[axis])
    kept = tuple(a for a in source.layout.order if a not in reduced)
    value = trailing(ctx, source, kept, reduced)
    attributes = {"keepdims": 1} | {
        k: v for k, v in node.attributes.items() if k not in ("keepdims", "axes", "noop_with_empty_axes")
    }
    rows = ctx.edit.op(node.op_type, [value, ctx.edit.ints(-1)], attributes)
    rows = ctx.edit.reshape(rows, [0, 0, size_of(kept)]) if kept else rows
    keep = attribute(node, "keepdims", 1)
    dims = tuple(
        () if axis in axes else dim for axis, dim in enumerate(source.layout.dims) if keep or axis not in axes
    )
    ctx.set_spatial(node.outputs[0], source.level, Layout(dims, kept), rows)


def trailing(ctx: Context, source: Spatial, kept: tuple[Atom, ...], last: tuple[Atom, ...]) -> ir.Value:
    """Rows as [B, P, kept, last]; [B, P, last] where nothing is kept."""
    source = ctx.reordered(source, (*kept, *last))
    return ctx.edit.reshape(source.rows, [0, 0, size_of(kept), size_of(last)]) if kept else source.rows


@rule("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: ir.Node, ctx: Context) -> None:
    """The mean or the maximum over the grid: a statistic."""
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    statistic(node, ctx, source, list(range(2, len(source.layout.dims))))


@rule("Moments")
def moments(node: ir.Node, ctx: Context) -> None:
    """Mean and variance (the pass's own expansion of a normalisation)."""
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    axes = attribute(node, "axes")
    if not all(source.layout.is_channels(a) for a in axes):
        statistic(node, ctx, source, axes)
        return
    reduced = tuple(a for axis in axes for a in source.layout.dims[axis])
    kept = tuple(a for a in source.layout.order if a not in reduced)
    value = trailing(ctx, source, kept, reduced)
    layout = Layout(tuple(() if a in axes else dim for a, dim in enumerate(source.layout.dims)), kept)
    for output, rows in zip(node.outputs, compute_moments(ctx.edit, value, [3 if kept else 2])):
        rows = ctx.edit.reshape(rows, [0, 0, size_of(kept)]) if kept else rows
        ctx.set_spatial(output, source.level, layout, rows)


@rule("ArgMax", "ArgMin")
def arg_reduce(node: ir.Node, ctx: Context) -> None:
    """Along one channel axis."""
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    axis = attribute(node, "axis", 0) % len(source.layout.dims)
    require(source.layout.is_channels(axis), "it works along the pixel grid or the batch")
    mine = source.layout.dims[axis]
    kept = tuple(a for a in source.layout.order if a not in mine)
    value = trailing(ctx, source, kept, mine)
    rows = ctx.edit.op(
        node.op_type, [value], {**node.attributes, "axis": -1, "keepdims": 1}, dtype=ir.DataType.INT64
    )
    rows = ctx.edit.reshape(rows, [0, 0, size_of(kept)]) if kept else rows
    dims = list(source.layout.dims)
    dims[axis : axis + 1] = [()] if attribute(node, "keepdims", 1) else []
    ctx.set_spatial(node.outputs[0], source.level, Layout(tuple(dims), kept), rows)
