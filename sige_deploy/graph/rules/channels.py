"""Concat, Split, Slice and Gather along channel axes; Slice along the grid is a crop, that is a view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sige_deploy.geometry import crop
from sige_deploy.graph.align import adopt
from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.context import Context, Dense, Refusal, Spatial, Static, View, require
from sige_deploy.graph.layout import Atom, Layout
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.windows import read_image


@dataclass(frozen=True)
class Packed:
    """Rows as [B, P, before, axis, after] around one dense axis of channels."""

    value: ir.Value
    before: tuple[Atom, ...]
    after: tuple[Atom, ...]


def pack(ctx: Context, source: Spatial, axis: int) -> Packed:
    layout = source.layout
    require(layout.is_channels(axis), "it works along the pixel grid or the batch")
    mine = layout.dims[axis]
    others = [a for a in layout.order if a not in mine]
    where = [i for i, a in enumerate(layout.order) if a in mine]
    cut = where[0] if where else len(others)
    before, after = tuple(others[:cut]), tuple(others[cut:])
    source = ctx.reordered(source, (*before, *mine, *after))
    sizes = [int(np.prod([a.size for a in group])) for group in (before, mine, after)]
    return Packed(ctx.edit.reshape(source.rows, [0, 0, *sizes]), before, after)


def along(
    ctx: Context, source: Spatial, axis: int, sizes: list[int], op: Callable[[ir.Value, int], list[ir.Value]]
) -> list[tuple[Layout, ir.Value]]:
    """Apply ``op(value, axis of value)`` along one dense channel axis; results have ``sizes`` entries there."""
    order = source.layout.order
    single = len(order) == 0 or tuple(order) == source.layout.dims[axis]
    packed = None if single else pack(ctx, source, axis)
    results = op(source.rows, 2) if packed is None else op(packed.value, 3)
    require(source.layout.is_channels(axis), "it works along the pixel grid or the batch")
    out = []
    for size, result in zip(sizes, results, strict=True):
        atoms = (Atom("C", size),) if size > 1 else ()
        before, after = (packed.before, packed.after) if packed is not None else ((), ())
        dims = (*source.layout.dims[:axis], atoms, *source.layout.dims[axis + 1 :])
        layout = Layout(dims, (*before, *atoms, *after))
        value = result if packed is None else ctx.edit.reshape(result, [0, 0, layout.channels])
        out.append((layout, value))
    return out


@rule("Split")
def split(node: ir.Node, ctx: Context) -> None:
    """Split along channels."""
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    axis = attribute(node, "axis", 0) % len(source.layout.dims)
    shapes = [static_shape(o) for o in node.outputs]
    require(all(s is not None for s in shapes), "its output shapes are not static")
    sizes = [s[axis] for s in shapes if s is not None]

    def op(value: ir.Value, at: int) -> list[ir.Value]:
        parts = ctx.edit.op("Split", [value, ctx.edit.ints(*sizes)], {"axis": at}, outputs=len(sizes))
        return parts if isinstance(parts, list) else [parts]

    require(source.layout.is_channels(axis), "it works along the pixel grid or the batch")
    for output, (layout, rows) in zip(node.outputs, along(ctx, source, axis, sizes, op), strict=True):
        ctx.set_spatial(output, source.level, layout, rows)


@rule("Slice")
def slice_(node: ir.Node, ctx: Context) -> None:
    """Along channels a slice of the rows; along the grid a crop or a stride."""
    require(
        all(is_constant(v) for v in node.inputs[1:] if v is not None), "its bounds are computed at run time"
    )
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    shape, target = static_shape(value), static_shape(output)
    assert shape is not None and target is not None
    starts, ends, axes, steps = _slice_bounds(node, shape)
    grid_axes = [a for a in axes if target[a] != shape[a] or steps[axes.index(a)] < 0]
    layout = (
        ctx.info[value].layout if isinstance(ctx.info[value], (Spatial, View)) else ctx.spatial(value).layout
    )
    if not grid_axes:
        ctx.info[output] = _renamed(ctx, value, output)
    elif all(layout.is_channels(a) for a in grid_axes):
        source = ctx.spatial(value)
        for a in axes:
            i = axes.index(a)
            if a not in grid_axes:
                continue
            bounds = [ctx.edit.ints(v) for v in (starts[i], ends[i])]

            def op(rows: ir.Value, at: int, bounds: list[ir.Value] = bounds, i: int = i) -> list[ir.Value]:
                extra = [ctx.edit.ints(at), ctx.edit.ints(steps[i])]
                return [ctx.edit.op("Slice", [rows, *bounds, *extra])]

            ((layout, rows),) = along(ctx, source, a, [target[a]], op)
            rows.shape, rows.type = ir.Shape([ctx.batch, None, layout.channels]), source.rows.type
            source = Spatial(output, source.level, layout, rows)
        ctx.set_spatial(output, source.level, source.layout, source.rows)
    else:
        require(all(a in (2, 3) for a in grid_axes), "it slices grid and channels at once")
        require(all(s > 0 for s in steps), "it flips the pixel grid")
        read = read_image(ctx, value, padding=None)
        taps = []
        for k, a in enumerate((2, 3)):
            start, step = (starts[axes.index(a)], steps[axes.index(a)]) if a in axes else (0, 1)
            taps.append(read.through(crop(read.grid[k], start, target[a], step), k))
        dims = (*read.source.layout.dims[:2], (Atom("Y", target[2]),), (Atom("X", target[3]),))
        view = read.view.pad_value if read.view is not None else 0.0
        ctx.info[output] = View(
            output, read.source, Layout(dims, read.source.layout.order), taps[0], taps[1], view
        )


def _slice_bounds(node: ir.Node, shape: tuple[int, ...]) -> tuple[list[int], list[int], list[int], list[int]]:
    def ints(i: int) -> list[int] | None:
        value = node.inputs[i] if len(node.inputs) > i else None
        return None if value is None else [int(v) for v in value.const_value.numpy().reshape(-1)]  # type: ignore[union-attr]

    starts, ends = ints(1) or [], ints(2) or []
    axes = [a % len(shape) for a in (ints(3) or range(len(starts)))]
    steps = ints(4) or [1] * len(starts)
    clamped = [slice(s, e, t).indices(shape[a]) for s, e, t, a in zip(starts, ends, steps, axes, strict=True)]
    return [c[0] for c in clamped], [c[1] for c in clamped], axes, steps


def _renamed(ctx: Context, value: ir.Value, output: ir.Value) -> Spatial:
    source = ctx.spatial(value)
    return Spatial(output, source.level, source.layout, source.rows)


@rule("Gather")
def gather(node: ir.Node, ctx: Context) -> None:
    """Constant indices along channels (qkv[0], channel permutations), or a constant table read by spatial indices."""
    data, indices = node.inputs[0], node.inputs[1]
    assert data is not None and indices is not None
    axis = attribute(node, "axis", 0)
    if not isinstance(ctx.info[data], Static):
        require(is_constant(indices), "its indices are computed at run time")
        source = ctx.spatial(data)
        axis %= len(source.layout.dims)
        require(source.layout.is_channels(axis), "it works along the pixel grid or the batch")
        assert indices.const_value is not None
        array = indices.const_value.numpy().astype(np.int64)
        require(array.ndim <= 1, "its indices have more than one axis")
        index = ctx.edit.constant(array.reshape(-1))
        ((layout, rows),) = along(
            ctx, source, axis, [array.size], lambda v, at: [ctx.edit.op("Gather", [v, index], {"axis": at})]
        )
        if array.ndim == 0:
            layout = Layout((*layout.dims[:axis], *layout.dims[axis + 1 :]), layout.order)
        ctx.set_spatial(node.outputs[0], source.level, layout, rows)
        return
    source = ctx.spatial(indices)
    require(axis == 0 and not source.layout.order, "it is not an embedding of one index per pixel")
    require(is_constant(data), "its table is computed at run time")
    shape = static_shape(data)
    assert shape is not None
    atoms = tuple(Atom("C", n) for n in shape[1:] if n > 1)
    dims = (*source.layout.dims, *((Atom("C", n),) if n > 1 else () for n in shape[1:]))
    layout = Layout(dims, tuple(a for dim in dims[len(source.layout.dims) :] for a in dim))
    del atoms
    flat = ctx.edit.op("Squeeze", [source.rows, ctx.edit.ints(2)])
    rows = ctx.edit.op("Gather", [ctx.edit_value(data), flat], {"axis": 0}, dtype=data.dtype)
    ctx.set_spatial(node.outputs[0], source.level, layout, ctx.edit.reshape(rows, [0, 0, layout.channels]))


@rule("Concat")
def concat(node: ir.Node, ctx: Context) -> None:
    """Concatenation of channels; operands that are not spatial get rows first."""
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
    before, after = _others(first, axis)
    parts, total = [], 0
    simple = all(
        len([d for d in s.layout.order if d not in s.layout.dims[axis]]) == 0 for s in spatial.values()
    )
    for i in range(len(values)):
        s = spatial[i]
        total += s.layout.shape[axis]
        if simple:
            parts.append(ctx.in_reading_order(s).rows)
            continue
        packed = pack(ctx, s, axis)
        require(
            [a.size for a in packed.before] == [a.size for a in before]
            and [a.size for a in packed.after] == [a.size for a in after],
            "its operands order their channels differently",
        )
        parts.append(packed.value)
    rows = ctx.edit.op("Concat", parts, {"axis": 2 if simple else 3})
    atom = (Atom("C", total),) if total > 1 else ()
    layout = Layout(
        (*first.layout.dims[:axis], atom, *first.layout.dims[axis + 1 :]), (*before, *atom, *after)
    )
    if not simple:
        rows = ctx.edit.reshape(rows, [0, 0, layout.channels])
    ctx.set_spatial(node.outputs[0], first.level, layout, rows)


def _others(source: Spatial, axis: int) -> tuple[tuple[Atom, ...], tuple[Atom, ...]]:
    mine = source.layout.dims[axis]
    others = [a for a in source.layout.order if a not in mine]
    where = [i for i, a in enumerate(source.layout.order) if a in mine]
    cut = where[0] if where else len(others)
    return tuple(others[:cut]), tuple(others[cut:])


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
