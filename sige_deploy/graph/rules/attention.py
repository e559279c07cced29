"""Attention (ONNX opset 23): queries are rows; keys and values are the base with the fresh rows in place."""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_ir as ir

from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context, Form, Spatial, Static, View, require
from sige_deploy.graph.layout import Layout, size_of
from sige_deploy.graph.rules import rule
from sige_deploy.ops import DOMAIN


@dataclass(frozen=True)
class Heads:
    """Head counts of queries and of keys and values."""

    q: int
    kv: int


@rule("Attention")
def attention(node: ir.Node, ctx: Context) -> None:
    """softmax(scale Q K^T) V per head."""
    query, key, value = node.inputs[:3]
    assert query is not None and key is not None and value is not None
    require(len(node.outputs) == 1 and not any(node.inputs[3:]), "it has a mask, a past or further outputs")
    require(
        not attribute(node, "is_causal", 0) and not attribute(node, "softcap", 0.0), "it is causal or capped"
    )
    require(isinstance(ctx.info[query], (Spatial, View)), "its queries are not pixels")
    q = ctx.in_reading_order(ctx.spatial(query))
    rank = len(q.layout.dims)
    shape = static_shape(key)
    require(shape is not None and rank in (3, 4), "its operands have no static shape")
    assert shape is not None
    token_axis = 2 if rank == 4 else 1
    dims = q.layout.dims
    require(not q.layout.is_channels(token_axis) and all(
        a.kind in "YX" for a in dims[token_axis]), "its tokens are not the pixels of one grid")  # fmt: skip
    heads = Heads(dims_heads(q.layout), shape[1]) if rank == 4 else Heads(
        attribute(node, "q_num_heads"), attribute(node, "kv_num_heads"))  # fmt: skip
    require(heads.q == heads.kv, "its keys have fewer heads than its queries")
    depth = q.layout.channels // heads.q
    scale = attribute(node, "scale") or 1.0 / math.sqrt(depth)
    output = node.outputs[0]
    out_shape = static_shape(output)
    assert out_shape is not None
    tokens = shape[2] if rank == 4 else shape[1]
    pixels = ctx.levels[q.level].height * ctx.levels[q.level].width
    out_channels = math.prod(out_shape) // (ctx.batch * pixels)
    ctx.count_macs(q.level, ctx.batch * pixels * tokens * (q.layout.channels + out_channels))
    infos = [ctx.info[v] for v in (key, value)]
    own = all(isinstance(i, (Spatial, View)) for i in infos)
    if own and all(ctx.spatial(v).level == q.level for v in (key, value)):
        rows = _self_attention(ctx, q, key, value, heads.q, scale)
    else:
        k, v = (_whole(ctx, x, rank, heads.kv) for x in (key, value))
        rows = ctx.edit.op(
            "Attention",
            [q.rows, k, v],
            {"q_num_heads": heads.q, "kv_num_heads": heads.kv, "scale": float(scale)},
        )
    per_head = Layout(q.layout.dims, q.layout.order)
    if out_channels == q.layout.channels:
        layout = per_head
    else:
        layout = _value_layout(q.layout, rank, heads.q, out_channels)
    ctx.set_spatial(output, q.level, layout, rows)


def dims_heads(layout: Layout) -> int:
    return size_of(layout.dims[1])


def _self_attention(
    ctx: Context, q: Spatial, key: ir.Value, value: ir.Value, heads: int, scale: float
) -> ir.Value:
    k, v = (ctx.in_reading_order(_tokens_last(ctx, ctx.spatial(x), q)) for x in (key, value))
    inputs = [q.rows, k.rows, v.rows, ctx.base(k), ctx.base(v), ctx.active(q.level)]
    return ctx.edit.op("Attention", inputs, {"heads": heads, "scale": float(scale)}, domain=DOMAIN)


def _tokens_last(ctx: Context, x: Spatial, q: Spatial) -> Spatial:
    """Keys and values have the queries' axes: [N, h, S, d] or [N, S, h*d]."""
    require(len(x.layout.dims) == len(q.layout.dims), "its operands have different ranks")
    axis = 2 if len(q.layout.dims) == 4 else 1
    require(
        all(a.kind in "YX" for a in x.layout.dims[axis]) and x.layout.dims[axis], "its keys are not pixels"
    )
    return x


def _whole(ctx: Context, value: ir.Value, rank: int, heads: int) -> ir.Value:
    """Keys or values as [B, T, h*d] in the edit graph; computed ones may change between edits."""
    shape = static_shape(value)
    require(shape is not None, "its keys have no static shape")
    assert shape is not None
    if rank == 4:
        n, h, t, d = shape
        form = Form(shape, (0, 2, 1, 3), None, (n, t, h * d))
    else:
        form = Form(shape, (0, 1, 2), None, shape)
    if isinstance(ctx.info[value], Static):
        return ctx.static_form(value, form, join=False)
    return form.of_value(ctx.edit, ctx.dense(value))


def _value_layout(layout: Layout, rank: int, heads: int, channels: int) -> Layout:
    from sige_deploy.graph.layout import Atom, channel_atoms

    size = channels // heads if rank == 4 else channels
    last = (Atom("C", size),) if size > 1 else ()
    dims = (*layout.dims[:-1], last)
    return Layout(dims, channel_atoms(dims))
