"""Softmax and LayerNormalization over channels are local to a row."""

from __future__ import annotations

import math

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, size_of
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.reduce import trailing
from sige_deploy.graph.values import Form, Spatial, View, require


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(node: ir.Node, ctx: Context) -> None:
    """Over one channel axis."""
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    axis = attribute(node, "axis", -1) % len(source.layout.dims)
    require(source.layout.is_channels(axis), "it normalises over the pixel grid")
    kept, mine = _parts(source, axis, axis + 1)
    rows = ctx.edit.op(node.op_type, [trailing(ctx, source, kept, mine)], {"axis": -1})
    _finish(node, ctx, source, kept, mine, rows)


@rule("LayerNormalization", "RMSNormalization")
def layer_norm(node: ir.Node, ctx: Context) -> None:
    """Over trailing channel axes."""
    require(len(node.outputs) == 1, "its statistics outputs are used")
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    rank = len(source.layout.dims)
    axis = attribute(node, "axis", -1) % rank
    for a in range(axis, rank):
        require(source.layout.is_channels(a), "it normalises over the pixel grid")
    kept, mine = _parts(source, axis, rank)
    inputs: list[ir.Value | None] = [trailing(ctx, source, kept, mine)]
    for parameter in node.inputs[1:]:
        inputs.append(None if parameter is None else _parameter(ctx, parameter, size_of(mine)))
    rows = ctx.edit.op(node.op_type, inputs, {**node.attributes, "axis": -1})
    _finish(node, ctx, source, kept, mine, rows)


def _parameter(ctx: Context, value: ir.Value, size: int) -> ir.Value:
    """A scale or bias as [size] or [1]."""
    shape = static_shape(value)
    fits = shape is not None and math.prod(shape) in (1, size)
    require(
        fits and not isinstance(ctx.info[value], (Spatial, View)), "its scale or bias differs among pixels"
    )
    assert shape is not None
    return ctx.static_form(value, Form(shape, tuple(range(len(shape))), None, (math.prod(shape),)))


def _parts(source: Spatial, start: int, stop: int) -> tuple[tuple[Atom, ...], tuple[Atom, ...]]:
    mine = tuple(a for dim in source.layout.dims[start:stop] for a in dim)
    return tuple(a for a in source.layout.order if a not in mine), mine


def _finish(
    node: ir.Node,
    ctx: Context,
    source: Spatial,
    kept: tuple[Atom, ...],
    mine: tuple[Atom, ...],
    rows: ir.Value,
) -> None:
    if kept:
        rows = ctx.edit.reshape(rows, [0, 0, size_of(kept) * size_of(mine)])
    ctx.set_spatial(node.outputs[0], source.level, Layout(source.layout.dims, (*kept, *mine)), rows)
