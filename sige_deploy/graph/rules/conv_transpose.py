"""ConvTranspose: the same Conv over another table; taps that hit no source pixel read the padding row."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.geometry import transposed
from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.windows import image_output, output_grid, read_image, read_window
from sige_deploy.graph.values import require
from sige_deploy.graph.weights import conv_transpose_weight


@rule("ConvTranspose")
def conv_transpose(node: ir.Node, ctx: Context) -> None:
    """Tap i of output o reads source s with s*stride + i*dilation - pad == o."""
    value, weight = node.inputs[0], node.inputs[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    assert value is not None and weight is not None and weight.name is not None
    require("output_shape" not in node.attributes, "it fixes output_shape")
    require(attribute(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID"), "it pads automatically")
    shape = static_shape(weight)
    require(shape is not None, "its weights have no static shape")
    assert shape is not None
    read = read_image(ctx, value)
    group, extra = attribute(node, "group", 1), attribute(node, "output_padding", [0, 0])
    out = output_grid(node)
    w = read_window(node, tuple(shape[2:]), read.grid, out)
    taps = [
        transposed(read.grid[a], w.kernel[a], w.strides[a], w.dilations[a], w.pads[a], extra[a])
        for a in range(2)
    ]
    geometry = ctx.geometry(read.source.level, read.through(taps[0], 0), read.through(taps[1], 1))
    require(geometry.target_shape == out, "its output size does not follow from its attributes")
    halo, table = ctx.tables(geometry)
    stored = ctx.weight(weight, conv_transpose_weight(weight.name, shape, group))
    inputs = {
        "rows": read.source.rows, "base": ctx.base(read.source), "halo": halo, "table": table,
        "weight": stored, "bias": ctx.parameter(bias),
    }  # fmt: skip
    rows = ctx.edit.sparse_op("Conv", inputs, {"group": group} if group > 1 else {})
    macs = ctx.batch * read.grid[0] * read.grid[1] * shape[0] * shape[1] * shape[2] * shape[3]
    ctx.count_macs(geometry.target, macs)
    image_output(ctx, node.outputs[0], geometry.target, read.batch, shape[1] * group, rows)
