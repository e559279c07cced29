"""Expand repeats values along channel axes; the grid keeps its size."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.builder import static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, channel_atoms
from sige_deploy.graph.rules import rule
from sige_deploy.graph.values import require


@rule("Expand")
def expand(node: ir.Node, ctx: Context) -> None:
    """Axes of size 1 become channel factors."""
    source, output = ctx.spatial(node.inputs[0]), node.outputs[0]  # type: ignore[arg-type]
    shape = static_shape(output)
    require(shape is not None, "its output shape is not static")
    assert shape is not None
    padded: list[tuple[Atom, ...]] = [()] * (len(shape) - len(source.layout.dims))
    given = [*padded, *source.layout.dims]
    fresh = [(Atom("C", n),) if not dim and n > 1 else () for dim, n in zip(given, shape, strict=True)]
    dims = tuple(dim or new for dim, new in zip(given, fresh, strict=True))
    order = channel_atoms(dims)
    if not any(fresh):
        ctx.set_spatial(output, source.level, Layout(dims, source.layout.order), source.rows)
        return
    kept = tuple(a for a in order if a in source.layout.order)
    rows = ctx.edit.reshape(
        ctx.rows_view(source, kept), [0, 0, *(a.size if a in source.layout.order else 1 for a in order)]
    )
    rows = ctx.edit.op("Expand", [rows, ctx.edit.ints(1, 1, *(a.size for a in order))])
    layout = Layout(dims, order)
    ctx.set_spatial(output, source.level, layout, ctx.edit.reshape(rows, [0, 0, layout.channels]))
