"""Conv: a gather of k*k neighbours fused into a GEMM; 1x1 convolutions need no table."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.geometry import window
from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.windows import image_output, output_grid, read_image, read_window
from sige_deploy.graph.values import require
from sige_deploy.graph.weights import conv_weight


@rule("Conv")
def conv(node: ir.Node, ctx: Context) -> None:
    """y[p] = sum over taps k of W[k] x[table[p, k]] + b."""
    value, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert value is not None and weight is not None and weight.name is not None
    shape = static_shape(weight)
    require(shape is not None, "its weights have no static shape")
    assert shape is not None
    if len(shape) == 3:
        _on_tokens(node, ctx, value, weight, bias, shape)
        return
    read = read_image(ctx, value)
    out = output_grid(node)
    w = read_window(node, tuple(shape[2:]), read.grid, out)
    group = attribute(node, "group", 1)
    stored = ctx.weight(weight, conv_weight(weight.name, shape))
    edit_bias = ctx.parameter(bias)
    identity = w.kernel == (1, 1) and w.strides == (1, 1) and w.pads == ((0, 0), (0, 0))
    if identity and group == 1 and read.view is None:
        level = read.source.level
        rows = ctx.linear(read.source.rows, stored, edit_bias)
    else:
        y, x = (
            read.through(window(read.grid[a], w.kernel[a], w.strides[a], w.dilations[a], w.pads[a]), a)
            for a in range(2)
        )
        require((y.n_out, x.n_out) == out, "its output size does not follow from its attributes")
        geometry = ctx.geometry(read.source.level, y, x)
        halo, table = ctx.tables(geometry)
        inputs = {
            "rows": read.source.rows, "base": ctx.base(read.source), "halo": halo, "table": table,
            "weight": stored, "bias": edit_bias,
        }  # fmt: skip
        rows = ctx.edit.sparse_op("Conv", inputs, {"group": group} if group > 1 else {})
        level = geometry.target
    ctx.count_macs(level, ctx.batch * out[0] * out[1] * shape[0] * shape[1] * shape[2] * shape[3])
    image_output(ctx, node.outputs[0], level, read.batch, shape[0], rows)


def _on_tokens(
    node: ir.Node,
    ctx: Context,
    value: ir.Value,
    weight: ir.Value,
    bias: ir.Value | None,
    shape: tuple[int, ...],
) -> None:
    """A 1-D convolution of kernel 1 over a flattened grid [N, C, H*W]."""
    source = ctx.spatial(value)
    layout = source.layout
    plain = shape[2] == 1 and attribute(node, "group", 1) == 1 and attribute(node, "strides", [1]) == [1]
    require(plain and attribute(node, "pads", [0, 0]) == [0, 0], "it mixes tokens along the flattened grid")
    require(len(layout.dims) == 3 and layout.is_channels(1), "its input is not [N, C, H*W]")
    source = ctx.in_reading_order(source)
    assert weight.name is not None
    stored = ctx.weight(weight, conv_weight(weight.name, shape))
    rows = ctx.linear(source.rows, stored, ctx.parameter(bias))
    c = (Atom("C", shape[0]),) if shape[0] > 1 else ()
    ctx.count_macs(source.level, ctx.batch * layout.grid[0] * layout.grid[1] * shape[0] * shape[1])
    ctx.set_spatial(node.outputs[0], source.level, Layout((layout.dims[0], c, layout.dims[2]), c), rows)
