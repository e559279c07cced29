"""Concat of channels; operands that are not spatial get rows first."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.align import adopt
from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, Refusal, channel_atoms
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.channels import Atoms, around, pack
from sige_deploy.graph.values import Dense, Spatial, View, require


@rule("Concat")
def concat(node: ir.Node, ctx: Context) -> None:
    """The operands side by side along one channel axis."""
    values = [v for v in node.inputs if v is not None]
    spatial = {i: ctx.spatial(v) for i, v in enumerate(values) if isinstance(ctx.info[v], (Spatial, View))}
    first = next(iter(spatial.values()))
    axis = attribute(node, "axis") % len(first.layout.dims)
    require(len({s.level for s in spatial.values()}) == 1, "it joins different levels")
    for s in spatial.values():
        require(s.layout.is_channels(axis), "it joins along the pixel grid or the batch")
    for i, value in enumerate(values):
        if i not in spatial:
            spatial[i] = _adopted(ctx, value, first, axis)
    operands = [spatial[i] for i in range(len(values))]
    total = sum(s.layout.shape[axis] for s in operands)
    if any(around(s, axis) != ((), ()) for s in operands):
        orders = _orders(operands, axis)
        packed = [pack(ctx, s, axis, *order) for s, order in zip(operands, orders)]
        rows = ctx.edit.op("Concat", packed, {"axis": 3})
        rows = ctx.edit.reshape(rows, [0, 0, first.layout.channels // first.layout.shape[axis] * total])
        before, after = orders[0]
    else:
        rows = ctx.edit.op("Concat", [ctx.in_reading_order(s).rows for s in operands], {"axis": 2})
        before, after = (), ()
    atom = (Atom("C", total),) if total > 1 else ()
    dims = (*operands[0].layout.dims[:axis], atom, *operands[0].layout.dims[axis + 1 :])
    ctx.set_spatial(node.outputs[0], first.level, Layout(dims, (*before, *atom, *after)), rows)


def _orders(operands: list[Spatial], axis: int) -> list[tuple[Atoms, Atoms]]:
    """The atoms before and after the axis, in one order for all: the operands' own where it is the same."""
    orders = [around(s, axis) for s in operands]
    if len({_places(s.layout, order) for s, order in zip(operands, orders)}) > 1:
        orders = [_in_reading_order(s.layout, axis) for s in operands]
    return orders


def _places(layout: Layout, order: tuple[Atoms, Atoms]) -> tuple[tuple[tuple[int, int, int], ...], ...]:
    """Where the atoms of an order stand in the dense axes: (axis, position, size) of each."""
    where = {a: (d, i, a.size) for d, dim in enumerate(layout.dims) for i, a in enumerate(dim)}
    return tuple(tuple(where[a] for a in group) for group in order)


def _in_reading_order(layout: Layout, axis: int) -> tuple[Atoms, Atoms]:
    return channel_atoms(layout.dims[:axis]), channel_atoms(layout.dims[axis + 1 :])


def _adopted(ctx: Context, value: ir.Value, model: Spatial, axis: int) -> Spatial:
    info = ctx.info[value]
    shape = static_shape(info.edit if isinstance(info, Dense) else value) or static_shape(value)
    if shape is None or len(shape) != len(model.layout.dims):
        raise Refusal(f"{value.name} has no static shape")
    others = [n for a, n in enumerate(shape) if a != axis]
    expected = [n for a, n in enumerate(model.layout.shape) if a != axis]
    if others != expected:
        raise Refusal(f"{value.name} does not cover the pixel grid")
    return adopt(ctx, value, shape, model.layout, model.level)
