"""Attention (ONNX opset 23). Queries are rows; what they meet decides the form.

* keys and values of the same grid: ``sige.Attention``, the base with the fresh rows in place;
* keys and values of text or of another grid: ``sige.Attention`` without fresh keys, to the whole of them;
* tokens inside windows (the grid is a batch axis): every row attends within itself.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, Refusal, channel_atoms, size_of
from sige_deploy.graph.rules import rule
from sige_deploy.graph.values import Form, Spatial, Static, View, require


@rule("Attention")
def attention(node: ir.Node, ctx: Context) -> None:
    """softmax(scale Q K^T) V per head; operands [N, h, L, d] or [N, L, h*d]."""
    query, key, value, mask = [*node.inputs, None][:4]
    assert query is not None and key is not None and value is not None
    require(len(node.outputs) == 1 and not any(node.inputs[4:]), "it has a past or further outputs")
    plain = not attribute(node, "is_causal", 0) and not attribute(node, "softcap", 0.0)
    require(plain, "it is causal or capped")
    require(isinstance(ctx.info[query], (Spatial, View)), "its queries are not pixels")
    q = ctx.in_reading_order(ctx.spatial(query))
    shapes = [static_shape(v) for v in (query, key, value)]
    rank = len(q.layout.dims)
    require(rank in (3, 4) and None not in shapes, "its operands have no static shape")
    _, key_shape, value_shape = ([*s] for s in shapes if s is not None)
    heads = q.layout.shape[1] if rank == 4 else attribute(node, "q_num_heads")
    require(
        heads == (key_shape[1] if rank == 4 else attribute(node, "kv_num_heads")),
        "its keys have fewer heads than its queries",
    )
    depth = q.layout.shape[-1] if rank == 4 else q.layout.shape[-1] // heads
    scale = float(attribute(node, "scale") or 1.0 / math.sqrt(depth))
    tokens = q.layout.dims[rank - 2]
    pixels = ctx.levels[q.level].height * ctx.levels[q.level].width
    window = 1 if any(a.kind in "YX" for a in tokens) else size_of(tokens)
    out_channels = value_shape[-1] * (heads if rank == 4 else 1)
    q_channels = q.layout.channels // window
    ctx.count_macs(q.level, ctx.batch * pixels * window * key_shape[rank - 2] * (q_channels + out_channels))
    if all(a.kind in "YX" for a in tokens) and size_of(tokens) == pixels:
        require(mask is None, "it has a mask")
        require(all(a.kind == "N" for a in q.layout.dims[0]), "its batch axis holds channels")
        infos = [ctx.info[v] for v in (key, value)]
        if all(isinstance(i, (Spatial, View)) for i in infos) and _same_grid(ctx, q, key, value):
            rows = _over_grid(ctx, q, key, value, heads, scale)
        else:
            inputs = {"q": q.rows, "k_base": _whole(ctx, key, heads), "v_base": _whole(ctx, value, heads)}
            rows = ctx.edit.sparse_op("Attention", inputs, {"heads": heads, "scale": scale})
    else:
        require(rank == 4 and all(a.kind == "C" for a in tokens), "its tokens mix pixels and channels")
        rows = _in_windows(ctx, q, key, value, mask, scale)
    layout = _with_last(q.layout, value_shape[-1])
    ctx.set_spatial(node.outputs[0], q.level, layout, rows)


def _with_last(layout: Layout, size: int) -> Layout:
    """The queries' layout with the values' size on the last axis, channels in reading order."""
    dims = (*layout.dims[:-1], (Atom("C", size),) if size > 1 else ())
    return Layout(dims, channel_atoms(dims))


def _same_grid(ctx: Context, q: Spatial, *others: ir.Value) -> bool:
    """Whether keys and values are pixels of the queries' level on the queries' axes."""
    found = [ctx.spatial(v) for v in others]
    axis = len(q.layout.dims) - 2
    return all(x.level == q.level and x.layout.dims[axis] and not x.layout.is_channels(axis) for x in found)


def _over_grid(
    ctx: Context, q: Spatial, key: ir.Value, value: ir.Value, heads: int, scale: float
) -> ir.Value:
    k, v = (ctx.in_reading_order(ctx.spatial(x)) for x in (key, value))
    inputs = {
        "q": q.rows, "k": k.rows, "v": v.rows, "k_base": ctx.base(k), "v_base": ctx.base(v),
        "active": ctx.active(q.level),
    }  # fmt: skip
    return ctx.edit.sparse_op("Attention", inputs, {"heads": heads, "scale": scale})


def _whole(ctx: Context, value: ir.Value, heads: int) -> ir.Value:
    """Keys or values that are not the queries' pixels as [B, T, h*d]; they may change between edits."""
    shape = static_shape(value)
    assert shape is not None
    n, t, c = shape if len(shape) == 3 else (shape[0], shape[2], shape[1] * shape[3])
    split, perm = ((n, t, c), (0, 1, 2)) if len(shape) == 3 else (shape, (0, 2, 1, 3))
    require(n == ctx.batch, "its keys have another batch size than its queries")
    form = Form(split, perm, None, (n, t, c))
    if isinstance(ctx.info[value], Static):
        return ctx.static_form(value, form, join=False)
    return form.of_value(ctx.edit, ctx.dense(value))


def _in_windows(
    ctx: Context, q: Spatial, key: ir.Value, value: ir.Value, mask: ir.Value | None, scale: float
) -> ir.Value:
    """Rows as [B, P, h, L, d]: a window is a pixel of the coarse level, its tokens are channels."""
    k, v = ctx.spatial(key), ctx.spatial(value)
    require(k.level == v.level == q.level, "its windows lie on different grids")
    rows = window_rows(ctx, q, (1, 2, 3))
    keys, values = window_rows(ctx, k, (1, 3, 2)), window_rows(ctx, v, (1, 2, 3))
    result = _weigh(ctx, rows, keys, values, _bias(ctx, mask), scale)
    heads, tokens, depth = q.layout.shape[1], q.layout.shape[2], v.layout.shape[3]
    return ctx.edit.reshape(result, [0, 0, heads * tokens * depth])


def window_rows(ctx: Context, source: Spatial, axes: tuple[int, ...]) -> ir.Value:
    """Rows as [B, P, one axis per dense channel axis], in this order of axes."""
    require(all(source.layout.is_channels(a) for a in axes), "its tokens mix pixels and channels")
    order = tuple(a for axis in axes for a in source.layout.dims[axis])
    require(set(order) == set(source.layout.order), "its batch axes hold channels")
    rows = ctx.reordered(source, order).rows
    return ctx.edit.reshape(rows, [0, 0, *(size_of(source.layout.dims[a]) for a in axes)])


def _bias(ctx: Context, mask: ir.Value | None) -> ir.Value | None:
    """An additive mask that is the same for all windows, [1, 1, h or 1, L, L]."""
    if mask is None:
        return None
    shape = static_shape(mask)
    if shape is None or not isinstance(ctx.info[mask], Static) or mask.dtype == ir.DataType.BOOL:
        raise Refusal("its mask is boolean or follows from pixels")
    shape = (1,) * (4 - len(shape)) + shape
    require(shape[0] == 1, "its mask differs from window to window")
    return ctx.static_form(mask, Form(shape, (0, 1, 2, 3), None, (1, *shape)))


def _weigh(
    ctx: Context, q: ir.Value, k: ir.Value, v: ir.Value, bias: ir.Value | None, scale: float
) -> ir.Value:
    assert q.dtype is not None
    factor = ctx.edit.constant(np.asarray(scale, q.dtype.numpy()), "scale")
    scores = ctx.edit.op("MatMul", [ctx.edit.op("Mul", [q, factor]), k])
    if bias is not None:
        scores = ctx.edit.op("Add", [scores, bias])
    return ctx.edit.op("MatMul", [ctx.edit.op("Softmax", [scores], {"axis": -1}), v])
