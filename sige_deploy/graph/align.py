"""Aligning the operands of an elementwise op: broadcasting of dense axes, carried over to rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sige_deploy.graph.builder import is_constant, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, Refusal, channel_atoms, common_factors, rows_atoms, size_of
from sige_deploy.graph.values import Dense, Form, Spatial, Static, View, require


@dataclass(frozen=True)
class Aligned:
    """Operands ready for one elementwise node, and the layout of its result."""

    level: str
    layout: Layout
    operands: list[ir.Value | None]
    packed: bool  # operands carry one axis per C atom; the result must be reshaped to [B, P, C]

    def finish(self, ctx: Context, result: ir.Value) -> ir.Value:
        return ctx.edit.reshape(result, [0, 0, self.layout.channels]) if self.packed else result


def align(ctx: Context, values: Sequence[ir.Value | None], *, keep_scalars: Sequence[int] = ()) -> Aligned:
    """Bring operands (at least one spatial) to a common rows form; ``keep_scalars`` are passed as they are.

    Raises Refusal when axes do not pair: the grid with channels, two levels, a partial grid.
    """
    spatial: dict[int, Spatial] = {}
    for i, value in enumerate(values):
        if value is not None and isinstance(ctx.info.get(value), (Spatial, View)):
            spatial[i] = ctx.spatial(value)
    levels = {s.level for s in spatial.values()}
    if len(levels) != 1:
        raise Refusal(f"it combines levels {', '.join(sorted(levels)) or 'none'}")
    level = levels.pop()
    shapes = {i: _shape(ctx, v) for i, v in enumerate(values) if v is not None and i not in keep_scalars}
    rank = max(len(shape) for shape in shapes.values())
    layouts = {i: _pad_rank(s.layout, rank) for i, s in spatial.items()}
    _adopt_grid_constants(ctx, values, shapes, spatial, layouts, level, rank, keep_scalars)
    orders, result = _unify(layouts, {i: (1,) * (rank - len(s)) + s for i, s in shapes.items()})
    packed = any(order not in ((), result.order) for order in orders.values())
    operands: list[ir.Value | None] = []
    for i, value in enumerate(values):
        if value is None or i in keep_scalars:
            operands.append(None if value is None else _as_given(ctx, value))
        elif i in orders:
            rows = spatial[i].rows
            operands.append(_rows(ctx, spatial[i], orders[i], result) if packed else rows)
        else:
            operands.append(_static(ctx, value, (1,) * (rank - len(shapes[i])) + shapes[i], result, packed))
    return Aligned(level, result, operands, packed)


def _as_given(ctx: Context, value: ir.Value) -> ir.Value:
    """A scalar that every pixel reads, in its own shape."""
    if isinstance(ctx.info[value], Static) and not is_constant(value):
        ctx.join(value)
    return ctx.dense(value)


def _shape(ctx: Context, value: ir.Value) -> tuple[int, ...]:
    info = ctx.info.get(value)
    shape = static_shape(info.edit) if isinstance(info, Dense) else None
    shape = shape if shape is not None else static_shape(value)
    if shape is None:
        raise Refusal(f"{value.name} has no static shape")
    return shape


def _pad_rank(layout: Layout, rank: int) -> Layout:
    return Layout(((),) * (rank - len(layout.dims)) + layout.dims, layout.order)


def _adopt_grid_constants(
    ctx: Context, values: Sequence[ir.Value | None], shapes: dict[int, tuple[int, ...]],
    spatial: dict[int, Spatial], layouts: dict[int, Layout], level: str, rank: int, skip: Sequence[int],
) -> None:  # fmt: skip
    """Operands that vary over the grid but are not spatial yet (position embeddings, islands) get rows."""
    model = next(iter(layouts.values()))
    for i, value in enumerate(values):
        if value is None or i in spatial or i in skip:
            continue
        shape = (1,) * (rank - len(shapes[i])) + shapes[i]
        grid = [
            axis
            for axis, dim in enumerate(model.dims)
            if any(a.kind in "YX" for a in dim) and shape[axis] > 1
        ]
        if not grid:
            continue
        adopted = adopt(ctx, value, shape, model, level)
        spatial[i], layouts[i] = adopted, adopted.layout


def adopt(ctx: Context, value: ir.Value, shape: tuple[int, ...], model: Layout, level: str) -> Spatial:
    """Rows of a value that is whole in the edit graph, on the axes of ``model`` (same rank).

    A grid axis of size 1 is repeated where another one is full.
    """
    dims: list[tuple[Atom, ...]] = []
    repeated: set[Atom] = set()
    for axis, dim in enumerate(model.dims):
        grid = [a for a in dim if a.kind in "YX"]
        if shape[axis] == size_of(dim):
            dims.append(dim)
        elif shape[axis] == 1 and not grid:
            dims.append(())
        elif shape[axis] == 1 and len(grid) == len(dim):
            dims.append(dim)
            repeated.update(dim)
        elif grid or any(a.kind == "N" for a in dim):
            raise Refusal(f"{value.name} covers only part of the pixel grid")
        else:
            dims.append((Atom("C", shape[axis]),))
    layout = Layout(tuple(dims), channel_atoms(tuple(dims)))
    height, width = ctx.levels[level].height, ctx.levels[level].width
    if layout.grid != (height, width):
        raise Refusal(f"{value.name} covers only part of the pixel grid")
    batch = next((a.size for dim in dims for a in dim if a.kind == "N"), 1)
    wanted = rows_atoms(layout)
    flat = [a for dim in dims for a in dim]
    form = Form(
        tuple(1 if a in repeated else a.size for a in flat), tuple(flat.index(a) for a in wanted),
        tuple(a.size for a in wanted) if repeated else None, (batch, height * width, layout.channels),
    )  # fmt: skip
    whole = ctx.static_form(value, form)
    rows = ctx.edit.op("Gather", [whole, ctx.active(level)], {"axis": 1}, dtype=value.dtype)
    return Spatial(value, level, layout, rows)


def _unify(
    layouts: dict[int, Layout], shapes: dict[int, tuple[int, ...]]
) -> tuple[dict[int, tuple[Atom, ...]], Layout]:
    """The result's layout, and every operand's channel order told in the result's atoms."""
    rank = len(next(iter(layouts.values())).dims)
    dims: list[tuple[Atom, ...]] = []
    refined = dict(layouts)
    renamed: dict[int, dict[Atom, Atom]] = {i: {} for i in layouts}
    for axis in range(rank):
        users = [i for i in layouts if refined[i].dims[axis]]
        if not users:
            size = max(shape[axis] for shape in shapes.values())
            dims.append((Atom("C", size),) if size > 1 else ())
            continue
        atoms = tuple(Atom(*factor) for factor in common_factors([refined[i].dims[axis] for i in users]))
        sizes = [a.size for a in atoms]
        for i in users:
            if [a.size for a in refined[i].dims[axis]] != sizes:
                refined[i] = refined[i].refine(axis, sizes)
            renamed[i].update(zip(refined[i].dims[axis], atoms, strict=True))
        dims.append(atoms)
    orders = {i: tuple(renamed[i][a] for a in layout.order) for i, layout in refined.items()}
    everything = channel_atoms(tuple(dims))
    longest = max(orders.values(), key=len)
    return orders, Layout(tuple(dims), longest if len(longest) == len(everything) else everything)


def _present(order: tuple[Atom, ...], result: Layout) -> tuple[Atom, ...]:
    """The operand's atoms in the result's order."""
    return tuple(a for a in result.order if a in order)


def _rows(ctx: Context, source: Spatial, order: tuple[Atom, ...], result: Layout) -> ir.Value:
    """Rows with one axis per C atom of the result."""
    value = ctx.edit.reshape(source.rows, [0, 0, *(a.size for a in order)])
    value = ctx.edit.transpose(value, [0, 1, *(2 + order.index(a) for a in _present(order, result))])
    if len(order) == len(result.order):
        return value
    return ctx.edit.reshape(value, [0, 0, *(a.size if a in order else 1 for a in result.order)])


def _static(ctx: Context, value: ir.Value, shape: tuple[int, ...], result: Layout, packed: bool) -> ir.Value:
    """A non-spatial operand as [N or 1, 1, C or 1], or with one axis per C atom when packed."""
    if is_constant(value) and static_shape(value) == ():
        return ctx.edit_value(value)
    sizes: dict[Atom, int] = {}
    for axis, dim in enumerate(result.dims):
        require(shape[axis] in (1, size_of(dim)), f"{value.name} does not broadcast over the rows")
        sizes.update({a: 1 if shape[axis] == 1 else a.size for a in dim})
    require(all(n == 1 for a, n in sizes.items() if a.kind in "YX"), f"{value.name} covers part of the grid")
    flat = list(sizes)
    order = rows_atoms(result)
    split, perm = tuple(sizes.values()), tuple(flat.index(a) for a in order)
    batch = next((sizes[a] for a in flat if a.kind == "N"), 1)
    channels = [sizes[a] for a in result.order]
    if packed:
        return ctx.static_form(value, Form(split, perm, None, (batch, 1, *channels)))
    expand = None
    if 1 < math.prod(channels) < result.channels:
        channels = [a.size for a in result.order]
        expand = tuple(a.size if a.kind == "C" else sizes[a] for a in order)
    return ctx.static_form(value, Form(split, perm, expand, (batch, 1, math.prod(channels))))
