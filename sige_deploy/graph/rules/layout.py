"""Reshapes and transposes only rename axes: the rows stay where they are.

A reshape that cuts the grid starts one of the spelled-out forms of SpaceToDepth; one that merges channels into
the grid ends a spelled-out DepthToSpace (torch's pixel_unshuffle and pixel_shuffle export so).
"""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context, Folded, Refusal, Spatial, require
from sige_deploy.graph.layout import Layout
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.depth_space import depth_to_space, space_to_depth


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(node: ir.Node, ctx: Context) -> None:
    """Regroup atoms into the output's static shape."""
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    shape = static_shape(output)
    require(shape is not None, "its output shape is not static")
    assert shape is not None
    info = ctx.info[value]
    if isinstance(info, Folded):
        _unfold(ctx, info, output, shape)
        return
    source = ctx.spatial(value)
    try:
        layout = source.layout.reshape(shape)
    except Refusal:
        require(len(shape) > len(source.layout.dims), "the reshape cuts through the pixel grid")
        ctx.info[output] = Folded(output, source, shape)
        return
    if len(layout.dims) == 4 and any(layout.has_space(a) and _mixes(layout, a) for a in (2, 3)):
        _shuffle(ctx, source, layout, output)
        return
    ctx.set_spatial(output, source.level, layout, source.rows)


@rule("Transpose")
def transpose(node: ir.Node, ctx: Context) -> None:
    """Permute the axes' names."""
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None and value.shape is not None
    perm = attribute(node, "perm", list(range(len(value.shape)))[::-1])
    info = ctx.info[value]
    if isinstance(info, Folded):
        require(info.perm is None, "it transposes a cut grid twice")
        ctx.info[output] = Folded(output, info.source, info.shape, tuple(perm))
        return
    source = ctx.spatial(value)
    ctx.set_spatial(output, source.level, source.layout.transpose(perm), source.rows)


def _mixes(layout: Layout, axis: int) -> bool:
    return any(a.kind == "C" for a in layout.dims[axis])


def _unfold(ctx: Context, folded: Folded, output: ir.Value, shape: tuple[int, ...]) -> None:
    """[N, C, H/b, b, W/b, b] -> (0, 1, 3, 5, 2, 4) -> [N, C*b*b, H/b, W/b] is SpaceToDepth with channels slowest."""
    source = folded.source
    dims = source.layout.dims
    require(
        len(dims) == 4 and len(folded.shape) == 6 and len(shape) == 4,
        "the reshape cuts through the pixel grid",
    )
    n, c, h, b, w, b2 = folded.shape
    channels, blocks = (0, 1, 3, 5, 2, 4), (0, 3, 5, 1, 2, 4)
    plain = source.layout.shape == (n, c, h * b, w * b2) and b == b2 and shape == (n, c * b * b, h, w)
    require(plain and folded.perm in (channels, blocks), "the reshape cuts through the pixel grid")
    space_to_depth(ctx, source, b, output, channels_first=folded.perm == channels)


def _shuffle(ctx: Context, source: Spatial, layout: Layout, output: ir.Value) -> None:
    """An axis (Y, r): the grid grows by r, the phase comes from the channels."""
    ydim, xdim = layout.dims[2], layout.dims[3]
    kinds = [[a.kind for a in dim] for dim in (ydim, xdim)]
    require(
        kinds == [["Y", "C"], ["X", "C"]] and layout.is_channels(1), "it merges channels into the pixel grid"
    )
    ry, rx = ydim[1], xdim[1]
    require(ry.size == rx.size, "it enlarges the grid unevenly")
    require(set(layout.order) == set(source.layout.order), "it regroups channels while it enlarges the grid")
    ordered = ctx.reordered(source, (ry, rx, *layout.dims[1]))
    depth_to_space(ctx, ordered, ry.size, layout.dims[0], layout.dims[1], output)
