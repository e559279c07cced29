"""DepthToSpace and SpaceToDepth are gathers: the first through phases, the second through a b x b window."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.geometry import depth_to_space as phase_taps
from sige_deploy.geometry import window
from sige_deploy.graph.builder import attribute
from sige_deploy.graph.context import Context, Spatial, require
from sige_deploy.graph.layout import Atom, Layout
from sige_deploy.graph.rules import rule


@rule("DepthToSpace")
def depth_to_space_node(node: ir.Node, ctx: Context) -> None:
    """DCR: channel = (i*b + j)*C' + c; CRD (torch pixel_shuffle): channel = c*b*b + i*b + j."""
    value, block = node.inputs[0], attribute(node, "blocksize")
    assert value is not None
    source = ctx.spatial(value)
    require(len(source.layout.dims) == 4 and source.layout.is_channels(1), "its input is not [N, C, H, W]")
    n, c, h, w = source.layout.shape
    dcr = attribute(node, "mode", "DCR") == "DCR"
    sizes = (block, block, c // block**2) if dcr else (c // block**2, block, block)
    split = source.layout.reshape((n, *sizes, h, w))
    factors = split.dims[1:4]
    rest = factors[2] if dcr else factors[0]
    phases = (*factors[0], *factors[1]) if dcr else (*factors[1], *factors[2])
    layout = Layout((split.dims[0], tuple(a for f in factors for a in f), *split.dims[4:]), split.order)
    ordered = ctx.reordered(Spatial(value, source.level, layout, source.rows), (*phases, *rest))
    depth_to_space(ctx, ordered, block, layout.dims[0], rest, node.outputs[0])


@rule("SpaceToDepth")
def space_to_depth_node(node: ir.Node, ctx: Context) -> None:
    """Channel of the result = (i*b + j)*C + c."""
    source = ctx.spatial(node.inputs[0])  # type: ignore[arg-type]
    space_to_depth(ctx, source, attribute(node, "blocksize"), node.outputs[0], channels_first=False)


def depth_to_space(
    ctx: Context,
    source: Spatial,
    block: int,
    batch: tuple[Atom, ...],
    rest: tuple[Atom, ...],
    output: ir.Value,
) -> None:
    """Enlarge the grid by ``block``; the source's channel order is (phase y, phase x, rest)."""
    level = ctx.levels[source.level]
    geometry = ctx.geometry(source.level, phase_taps(level.height, block), phase_taps(level.width, block))
    rows = ctx.gather(source, geometry, phases=geometry.phases)
    grid = (Atom("Y", level.height * block),), (Atom("X", level.width * block),)
    ctx.set_spatial(output, geometry.target, Layout((batch, rest, *grid), rest), rows)


def space_to_depth(
    ctx: Context, source: Spatial, block: int, output: ir.Value, *, channels_first: bool
) -> None:
    """Shrink the grid by ``block``; the block's pixels become channels, before or after the own channels."""
    require(len(source.layout.dims) == 4 and source.layout.is_channels(1), "its input is not [N, C, H, W]")
    source = ctx.in_reading_order(source)
    level = ctx.levels[source.level]
    y, x = window(level.height, block, block), window(level.width, block, block)
    geometry = ctx.geometry(source.level, y, x)
    rows = ctx.gather(source, geometry)
    taps, own = Atom("C", block * block), source.layout.dims[1]
    dims = (*own, taps) if channels_first else (taps, *own)
    grid = (Atom("Y", y.n_out),), (Atom("X", x.n_out),)
    ctx.set_spatial(output, geometry.target, Layout((source.layout.dims[0], dims, *grid), (taps, *own)), rows)
