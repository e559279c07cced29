"""Trading pixels for channels and back: SpaceToDepth, DepthToSpace, and the reshapes that spell them out.

A reshape may cut an axis of the grid, Y -> (Y / b, b): the level becomes b times coarser and b a channel
factor; the rows are a gather over b pixels. A reshape may merge channels into the grid, (Y, r) -> Y * r: the
level becomes finer, and every fine pixel reads its phase of a coarse row. Patch embeddings, window
partitions, packed latents, pixel_shuffle and pixel_unshuffle are all made of these two.
"""

from __future__ import annotations

from dataclasses import replace

import onnx_ir as ir

from sige_deploy.geometry import depth_to_space as phases_of
from sige_deploy.geometry import window
from sige_deploy.graph.builder import attribute
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Dims, Layout, Refusal, size_of
from sige_deploy.graph.rules import rule
from sige_deploy.graph.values import Spatial, require


@rule("DepthToSpace")
def depth_to_space(node: ir.Node, ctx: Context) -> None:
    """DCR: channel = (i*b + j)*C' + c; CRD (torch pixel_shuffle): channel = c*b*b + i*b + j."""
    source, b = _image(node, ctx)
    n, c, h, w = source.layout.shape
    dcr = attribute(node, "mode", "DCR") == "DCR"
    source = regrouped(ctx, source, (n, b, b, c // b**2, h, w) if dcr else (n, c // b**2, b, b, h, w))
    split = source.layout
    factors = split.dims[1:4]
    i, j, rest = factors if dcr else (factors[1], factors[2], factors[0])
    own = Layout((split.dims[0], tuple(a for f in factors for a in f), *split.dims[4:]), split.order)
    y, x = split.dims[4] or (Atom("Y", 1),), split.dims[5] or (Atom("X", 1),)
    merged = Layout((split.dims[0], rest, (*y, *i), (*x, *j)), split.order)
    merge_grid(ctx, Spatial(source.value, source.level, own, source.rows), merged, node.outputs[0])


@rule("SpaceToDepth")
def space_to_depth(node: ir.Node, ctx: Context) -> None:
    """Channel of the result = (i*b + j)*C + c."""
    source, b = _image(node, ctx)
    n, c, h, w = source.layout.shape
    level, layout, rows = cut_grid(ctx, source, (n, c, h // b, b, w // b, b))
    batch, own, y, i, x, j = layout.dims
    ctx.set_spatial(node.outputs[0], level, Layout((batch, (*i, *j, *own), y, x), layout.order), rows)


def _image(node: ir.Node, ctx: Context) -> tuple[Spatial, int]:
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    layout = source.layout
    require(layout.is_image, "its input is not an image [N, C, H, W]")
    return source, attribute(node, "blocksize")


def regrouped(ctx: Context, source: Spatial, shape: tuple[int, ...]) -> Spatial:
    """The rows under a reshape of the dense axes; channels are put in reading order where their factors do
    not fit."""
    try:
        return replace(source, layout=source.layout.reshape(shape))
    except Refusal:
        source = ctx.in_reading_order(source)
        return replace(source, layout=source.layout.joined().reshape(shape))


def cut_grid(ctx: Context, source: Spatial, shape: tuple[int, ...]) -> tuple[str, Layout, ir.Value]:
    """Reshape that cuts the grid into blocks: the coarser level, the layout, and the gathered rows."""
    cuts: dict[Atom, tuple[Atom, Atom]] = {}
    layout = source.layout.reshape(shape, cuts)
    blocks = {coarse.kind: block for coarse, block in cuts.values()}
    level = ctx.levels[source.level]
    by, bx = (blocks[k].size if k in blocks else 1 for k in "YX")
    geometry = ctx.geometry(source.level, window(level.height, by, by), window(level.width, bx, bx))
    order = (*(blocks[k] for k in "YX" if k in blocks), *layout.order)
    return geometry.target, Layout(layout.dims, order), ctx.gather(source, geometry)


def merge_grid(ctx: Context, source: Spatial, layout: Layout, output: ir.Value) -> None:
    """Enlarge the grid by the C atoms that follow Y or X in a dense axis of ``layout``; its atoms are the
    source's."""
    require(set(layout.order) == set(source.layout.order), "it regroups channels while it enlarges the grid")
    phases = {kind: tuple(a for dim in layout.dims for a in _followers(dim, kind)) for kind in "YX"}
    taken = {a for group in phases.values() for a in group}
    rest = tuple(a for a in source.layout.order if a not in taken)
    ordered = ctx.reordered(source, (*phases["Y"], *phases["X"], *rest))
    level = ctx.levels[source.level]
    y, x = phases_of(level.height, size_of(phases["Y"])), phases_of(level.width, size_of(phases["X"]))
    geometry = ctx.geometry(source.level, y, x)
    rows = ctx.gather(ordered, geometry, phases=geometry.phases)
    fine = {"Y": Atom("Y", y.n_out), "X": Atom("X", x.n_out)}
    dims: Dims = tuple(tuple(fine.get(a.kind, a) for a in dim if a not in taken) for dim in layout.dims)
    ctx.set_spatial(output, geometry.target, Layout(dims, rest), rows)


def enlarges_grid(layout: Layout) -> bool:
    """Whether an image's axis is Y or X with channel factors behind it."""
    mixed = [
        dim for dim in layout.dims if {a.kind for a in dim} >= {"C"} and any(a.kind in "YX" for a in dim)
    ]
    plain = all(dim[0].kind in "YX" and sum(a.kind in "YX" for a in dim) == 1 for dim in mixed)
    return len(layout.dims) == 4 and bool(mixed) and plain


def _followers(dim: tuple[Atom, ...], kind: str) -> tuple[Atom, ...]:
    """The C atoms of an axis behind its atom of this kind."""
    if not dim or dim[0].kind != kind:
        return ()
    return tuple(a for a in dim[1:] if a.kind == "C")
