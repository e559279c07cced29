"""Work along one channel axis of rows; Split."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, size_of
from sige_deploy.graph.rules import rule
from sige_deploy.graph.values import Spatial, require

Atoms = tuple[Atom, ...]


def around(source: Spatial, axis: int) -> tuple[Atoms, Atoms]:
    """The channel atoms before and after those of one dense axis, in the order of the rows."""
    mine = source.layout.dims[axis]
    others = tuple(a for a in source.layout.order if a not in mine)
    cut = next((i for i, a in enumerate(source.layout.order) if a in mine), len(others))
    return others[:cut], others[cut:]


def pack(ctx: Context, source: Spatial, axis: int, before: Atoms, after: Atoms) -> ir.Value:
    """Rows as [B, P, before, axis, after] around one dense axis of channels."""
    require(source.layout.is_channels(axis), "it works along the pixel grid or the batch")
    mine = source.layout.dims[axis]
    source = ctx.reordered(source, (*before, *mine, *after))
    sizes = [size_of(group) for group in (before, mine, after)]
    return ctx.edit.reshape(source.rows, [0, 0, *sizes])


def along(
    ctx: Context,
    source: Spatial,
    axis: int,
    sizes: list[int],
    op: Callable[[ir.Value, int], list[ir.Value]],
) -> list[tuple[Layout, ir.Value]]:
    """Apply ``op(value, axis of value)`` along one dense channel axis; results have ``sizes`` entries
    there."""
    require(source.layout.is_channels(axis), "it works along the pixel grid or the batch")
    order = source.layout.order
    single = len(order) == 0 or order == source.layout.dims[axis]
    before, after = ((), ()) if single else around(source, axis)
    results = op(source.rows, 2) if single else op(pack(ctx, source, axis, before, after), 3)
    out = []
    for size, result in zip(sizes, results, strict=True):
        atoms = (Atom("C", size),) if size > 1 else ()
        dims = (*source.layout.dims[:axis], atoms, *source.layout.dims[axis + 1 :])
        layout = Layout(dims, (*before, *atoms, *after))
        value = result if single else ctx.edit.reshape(result, [0, 0, layout.channels])
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

    for output, (layout, rows) in zip(node.outputs, along(ctx, source, axis, sizes, op), strict=True):
        ctx.set_spatial(output, source.level, layout, rows)
