"""Slice: along channels a slice of the rows; along the grid a crop or a stride, that is a view."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sige_deploy.geometry import crop
from sige_deploy.graph.builder import is_constant, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.channels import along
from sige_deploy.graph.rules.windows import image_view, read_image
from sige_deploy.graph.values import Spatial, View, require


@dataclass(frozen=True)
class Cut:
    """What a Slice keeps of one axis: ``picked`` of its ``size`` entries."""

    axis: int
    size: int
    picked: range


@rule("Slice")
def slice_(node: ir.Node, ctx: Context) -> None:
    """value[..., start:end:step, ...]"""
    bounds = [v for v in node.inputs[1:] if v is not None]
    require(all(is_constant(v) for v in bounds), "its bounds are computed at run time")
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    info, shape = ctx.info[value], static_shape(value)
    assert shape is not None
    cuts = _cuts(node, shape)
    require(all(cut.picked for cut in cuts), "its result is empty")
    source = info if isinstance(info, (Spatial, View)) else ctx.spatial(value)
    grid = [cut for cut in cuts if not source.layout.is_channels(cut.axis)]
    if grid:
        view = _cropped(ctx, value, output, grid)
        if len(grid) == len(cuts):
            ctx.info[output] = view
            return
        geometry = ctx.geometry(view.source.level, view.y, view.x)
        rows = ctx.gather(view.source, geometry, pad_value=view.pad_value)
        result = Spatial(output, geometry.target, view.layout, rows)
    else:
        result = ctx.spatial(value)
    for cut in cuts:
        if cut not in grid:
            result = _channels(ctx, result, cut)
    ctx.set_spatial(output, result.level, result.layout, result.rows)


def _cuts(node: ir.Node, shape: tuple[int, ...]) -> list[Cut]:
    """The axes that do not stay as they are."""

    def ints(i: int) -> list[int] | None:
        value = node.inputs[i] if len(node.inputs) > i else None
        return None if value is None else value.const_value.numpy().reshape(-1).tolist()  # type: ignore[union-attr]

    starts, ends = ints(1) or [], ints(2) or []
    axes, steps = ints(3) or range(len(starts)), ints(4) or [1] * len(starts)
    cuts = []
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        size = shape[axis]
        cuts.append(Cut(axis % len(shape), size, range(size)[slice(start, end, step)]))
    return [cut for cut in cuts if cut.picked != range(cut.size)]


def _cropped(ctx: Context, value: ir.Value, output: ir.Value, cuts: list[Cut]) -> View:
    require(all(cut.axis in (2, 3) for cut in cuts), "it works along the batch, or the grid is not [H, W]")
    require(all(cut.picked.step > 0 for cut in cuts), "it flips the pixel grid")
    read = read_image(ctx, value, padding=None)
    picked = {cut.axis: cut.picked for cut in cuts}
    taps = []
    for axis in range(2):
        kept = picked.get(2 + axis, range(read.grid[axis]))
        taps.append(read.through(crop(read.grid[axis], kept.start, len(kept), kept.step), axis))
    return image_view(output, read, taps[0], taps[1], read.view.pad_value if read.view is not None else 0.0)


def _channels(ctx: Context, source: Spatial, cut: Cut) -> Spatial:
    kept = cut.picked
    stop = kept.stop if kept.stop >= 0 else -cut.size - 1  # backwards to the very first entry
    bounds = [ctx.edit.ints(n) for n in (kept.start, stop)]

    def op(rows: ir.Value, at: int) -> list[ir.Value]:
        return [ctx.edit.op("Slice", [rows, *bounds, ctx.edit.ints(at), ctx.edit.ints(kept.step)])]

    ((layout, rows),) = along(ctx, source, cut.axis, [len(kept)], op)
    return Spatial(source.value, source.level, layout, rows)
