"""OneHot of label maps: every index becomes a channel axis."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout
from sige_deploy.graph.rules import rule
from sige_deploy.graph.values import require


@rule("OneHot")
def one_hot(node: ir.Node, ctx: Context) -> None:
    """values[1] where the new axis equals the index, values[0] elsewhere."""
    indices, depth, values = node.inputs
    output = node.outputs[0]
    assert indices is not None and depth is not None and values is not None
    require(is_constant(depth) and is_constant(values), "its depth or values are computed at run time")
    source, shape = ctx.spatial(indices), static_shape(output)
    require(shape is not None, "its depth is not static")
    assert shape is not None
    axis = attribute(node, "axis", -1) % len(shape)
    new = (Atom("C", shape[axis]),) if shape[axis] > 1 else ()
    layout = Layout(
        (*source.layout.dims[:axis], new, *source.layout.dims[axis:]), (*source.layout.order, *new)
    )
    inputs = [source.rows, ctx.edit_value(depth), ctx.edit_value(values)]
    rows = ctx.edit.op("OneHot", inputs, {"axis": -1}, dtype=output.dtype)
    ctx.set_spatial(output, source.level, layout, ctx.edit.reshape(rows, [0, 0, layout.channels]))
