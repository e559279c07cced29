"""Matrix products: linear layers, attention written as two products, and products over the grid.

With S the grid axis (a token per pixel), c channels, and h heads:

* rows x matrix      [.., S, c] x [c, d]          a linear layer
* queries x keys     [h, S, c] x [h, c, S']       rows x the whole other operand; S' becomes a channel axis
* scores x values    [h, S, S'] x [h, S', d]      the same
* matrix x tokens    [m, c] x [c, S]              a linear layer on the left
* values x scores    [h, d, S'] x [h, S', S]      the mirror of scores x values
* tokens x tokens    [c, S] x [S, d]              a sum over the grid: a statistic
* windows            [S, m, c] x [S, c, n]        a product inside every row
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, Refusal, size_of
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.reduce import record_or_recompute, trailing
from sige_deploy.graph.values import Dense, Form, Spatial, Static, View, require
from sige_deploy.graph.weights import linear_weight


@rule("MatMul")
def matmul(node: ir.Node, ctx: Context) -> None:
    """See the module's table."""
    left, right = node.inputs
    assert left is not None and right is not None
    a, b = _spatial(ctx, left), _spatial(ctx, right)
    if (a is not None and len(a.layout.dims) < 2) or (b is not None and len(b.layout.dims) < 2):
        raise Refusal("it multiplies vectors")
    if a is not None and b is not None and _in_windows(a, b):
        _within_rows(ctx, node.outputs[0], a, b)
    elif a is not None and a.layout.is_channels(-1):
        require(b is None or _contracts(b), "its second operand keeps the grid where channels are summed")
        if b is None and len(static_shape(right) or ()) == 2:
            linear(ctx, node.outputs[0], a, right, transposed=False)
        else:
            _batched(ctx, node.outputs[0], a, right, mirrored=False)
    elif b is not None and b.layout.is_channels(-2):
        shape = static_shape(left)
        require(shape is not None, "its first operand has no static shape")
        assert shape is not None
        if a is None and math.prod(shape[:-2]) == 1:
            linear(ctx, node.outputs[0], b, left, transposed=True)
        else:
            _batched(ctx, node.outputs[0], b, left, mirrored=True)
    elif a is not None and b is not None and a.layout.has_space(-1) and b.layout.has_space(-2):
        require(not (a.layout.has_space(-2) or b.layout.has_space(-1)), "it sums over part of the pixel grid")
        record_or_recompute(node, ctx)
    else:
        raise Refusal("it sums over the pixel grid against a matrix")


@rule("Gemm")
def gemm(node: ir.Node, ctx: Context) -> None:
    """alpha * A B + beta * C on flattened tokens [N*S, c]."""
    value, weight = node.inputs[0], node.inputs[1]
    assert value is not None and weight is not None
    require(not attribute(node, "transA", 0), "it transposes its first operand")
    source = _spatial(ctx, value)
    require(source is not None and source.layout.is_channels(-1), "its first operand is not a row per pixel")
    assert source is not None
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    shape = () if bias is None else static_shape(bias)
    require(shape is not None and math.prod(shape) == (shape or (1,))[-1], "its third operand is not a bias")
    linear(
        ctx, node.outputs[0], source, weight, transposed=bool(attribute(node, "transB", 0)), bias=bias,
        alpha=attribute(node, "alpha", 1.0), beta=attribute(node, "beta", 1.0),
    )  # fmt: skip


def linear(
    ctx: Context,
    output: ir.Value,
    source: Spatial,
    weight: ir.Value,
    *,
    transposed: bool,
    bias: ir.Value | None = None,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> None:
    """alpha * rows x W (or x W^T) + beta * bias along the contracted axis: the last, or, for matrix x
    tokens, the
    one before."""
    shape = static_shape(output)
    assert shape is not None
    axis = len(source.layout.dims) - (2 if source.layout.has_space(-1) else 1)
    mine = source.layout.dims[axis]
    kept = tuple(a for a in source.layout.order if a not in mine)
    given = static_shape(weight) or ()
    atoms = (Atom("C", shape[axis]),) if shape[axis] > 1 else ()
    if not kept and alpha == 1.0 and weight.name is not None and isinstance(ctx.info[weight], Static):
        stored = ctx.weight(weight, linear_weight(weight.name, given, transposed))
        rows = ctx.linear(ctx.reordered(source, mine).rows, stored, _bias(ctx, bias, shape[axis], beta))
    else:
        rows = _product(ctx, trailing(ctx, source, kept, mine), weight, given, transposed)
        rows = _scaled(ctx, rows, alpha)
        if bias is not None:
            rows = ctx.edit.op("Add", [rows, _bias(ctx, bias, shape[axis], beta)])
    if kept:
        rows = ctx.edit.reshape(rows, [0, 0, size_of(kept) * shape[axis]])
    dims = (*source.layout.dims[:axis], atoms, *source.layout.dims[axis + 1 :])
    ctx.count_macs(source.level, math.prod(shape) * size_of(mine))
    ctx.set_spatial(output, source.level, Layout(dims, (*kept, *atoms)), rows)


def _product(
    ctx: Context, rows: ir.Value, weight: ir.Value, shape: tuple[int, ...], transposed: bool
) -> ir.Value:
    if not is_constant(weight):
        ctx.join(weight)
    info = ctx.info[weight]
    matrix = info.edit if isinstance(info, Dense) else ctx.edit_value(weight)
    if len(shape) > 2:
        matrix = ctx.edit.reshape(matrix, shape[-2:])
    if transposed:
        matrix = ctx.edit.transpose(matrix, [1, 0])
    return ctx.edit.op("MatMul", [rows, matrix])


def _bias(ctx: Context, bias: ir.Value | None, size: int, factor: float) -> ir.Value | None:
    """factor * bias as [size]."""
    if bias is None:
        return None
    shape = static_shape(bias) or ()
    if is_constant(bias):
        assert bias.const_value is not None
        array = bias.const_value.numpy()
        if factor != 1.0 or array.shape != (size,):
            scaled = np.broadcast_to((array * factor).astype(array.dtype).reshape(-1), (size,))
            return ctx.edit.constant(scaled, bias.name or "bias")
        return ctx.edit_value(bias)
    require(not isinstance(ctx.info[bias], (Spatial, View)), "its bias follows from the edited pixels")
    expand = (size,) if math.prod(shape) != size else None
    flat = ctx.static_form(bias, Form((math.prod(shape),), (0,), expand, (size,)))
    return _scaled(ctx, flat, factor)


def _scaled(ctx: Context, value: ir.Value, factor: float) -> ir.Value:
    if factor == 1.0:
        return value
    assert value.dtype is not None
    return ctx.edit.op("Mul", [value, ctx.edit.constant(np.asarray(factor, value.dtype.numpy()), "factor")])


def _in_windows(a: Spatial, b: Spatial) -> bool:
    """Whether both operands keep the whole grid among their batch axes."""
    return all(
        len(x.layout.dims) > 2 and not (x.layout.has_space(-1) or x.layout.has_space(-2)) for x in (a, b)
    )


def _within_rows(ctx: Context, output: ir.Value, a: Spatial, b: Spatial) -> None:
    """[B, P, h, m, c] x [B, P, h, c, n]."""
    batches = [[[(x.kind, x.size) for x in dim] for dim in s.layout.dims[:-2]] for s in (a, b)]
    require(a.level == b.level and batches[0] == batches[1], "its windows lie on different grids")
    rows = []
    for s in (a, b):
        heads = tuple(x for dim in s.layout.dims[:-2] for x in dim if x.kind == "C")
        order = (*heads, *s.layout.dims[-2], *s.layout.dims[-1])
        require(set(order) == set(s.layout.order), "its channels are spread over several axes")
        sides = (size_of(s.layout.dims[-2]), size_of(s.layout.dims[-1]))
        rows.append(ctx.edit.reshape(ctx.reordered(s, order).rows, [0, 0, size_of(heads), *sides]))
    m, c, n = size_of(a.layout.dims[-2]), size_of(a.layout.dims[-1]), size_of(b.layout.dims[-1])
    heads = tuple(x for dim in a.layout.dims[:-2] for x in dim if x.kind == "C")
    last = (Atom("C", n),) if n > 1 else ()
    layout = Layout((*a.layout.dims[:-1], last), (*heads, *a.layout.dims[-2], *last))
    result = ctx.edit.op("MatMul", rows, dtype=output.dtype)
    pixels = ctx.levels[a.level].height * ctx.levels[a.level].width
    ctx.count_macs(a.level, ctx.batch * pixels * size_of(heads) * m * c * n)
    ctx.set_spatial(output, a.level, layout, ctx.edit.reshape(result, [0, 0, layout.channels]))


def _spatial(ctx: Context, value: ir.Value) -> Spatial | None:
    return ctx.spatial(value) if isinstance(ctx.info[value], (Spatial, View)) else None


def _contracts(b: Spatial) -> bool:
    """Whether the axis before the last is channels (keys^T) or the whole grid (values)."""
    return b.layout.is_channels(-2) or not b.layout.has_space(-1)


def _batched(ctx: Context, output: ir.Value, rows_of: Spatial, other: ir.Value, *, mirrored: bool) -> None:
    """Rows [B, P, h, c] against a whole operand [B, h, c, d]; ``mirrored``: other x rows."""
    layout, shape = rows_of.layout, static_shape(output)
    assert shape is not None
    contracted, grid = (-2, -1) if mirrored else (-1, -2)
    require(
        layout.has_space(grid) and not any(a.kind == "C" for a in layout.dims[grid]),
        "it mixes grid and channels",
    )
    batch = [a for dim in layout.dims[:-2] for a in dim]
    require(all(a.kind in "NC" for a in batch), "its batch axes hold the pixel grid")
    heads = tuple(a for a in batch if a.kind == "C")
    mine = layout.dims[contracted]
    require(set(layout.order) == {*heads, *mine}, "its channels are spread over several axes")
    size = shape[-2] if mirrored else shape[-1]
    if not isinstance(ctx.info.get(other, Static(other)), Static):
        ctx.decline(
            "it is attention as a matrix product: keys or values are scattered whole, scores are stored"
        )
    whole = _whole(ctx, other, layout, batch, heads, mirrored=mirrored)
    ordered = ctx.reordered(rows_of, (*heads, *mine))
    h = size_of(heads)
    value = ordered.rows
    if h > 1:
        value = ctx.edit.transpose(ctx.edit.reshape(value, [0, 0, h, size_of(mine)]), [0, 2, 1, 3])
    result = ctx.edit.op("MatMul", [value, whole], dtype=output.dtype)
    if h > 1:
        result = ctx.edit.reshape(ctx.edit.transpose(result, [0, 2, 1, 3]), [0, 0, h * size])
    atoms = (Atom("C", size),) if size > 1 else ()
    dims = list(layout.dims)
    dims[contracted] = atoms
    pixels = ctx.levels[rows_of.level].height * ctx.levels[rows_of.level].width
    ctx.count_macs(rows_of.level, ctx.batch * h * pixels * size_of(mine) * size)
    ctx.set_spatial(output, rows_of.level, Layout(tuple(dims), (*heads, *atoms)), result)


def _whole(
    ctx: Context,
    other: ir.Value,
    layout: Layout,
    batch: list[Atom],
    heads: tuple[Atom, ...],
    *,
    mirrored: bool,
) -> ir.Value:
    """The other operand as [N or 1, h, c, d] ([N or 1, c, d] for one head), transposed when mirrored."""
    shape = static_shape(other)
    require(shape is not None, f"{other.name} has no static shape")
    assert shape is not None
    rank = len(layout.dims)
    require(len(shape) <= rank, "its second operand has more axes than the rows")
    shape = (1,) * (rank - len(shape)) + shape
    split: list[int] = []
    for axis, dim in enumerate(layout.dims[:-2]):
        require(shape[axis] in (1, size_of(dim)), "its batch axes do not pair")
        split.extend(1 if shape[axis] == 1 else a.size for a in dim)
    order = [i for i, a in enumerate(batch) if a.kind == "N"] + [batch.index(a) for a in heads]
    n = next((split[i] for i, a in enumerate(batch) if a.kind == "N"), 1)
    h = math.prod(split[batch.index(a)] for a in heads)
    k, d = shape[-2:]
    last = [len(batch) + 1, len(batch)] if mirrored else [len(batch), len(batch) + 1]
    sides = (d, k) if mirrored else (k, d)
    form = Form((*split, k, d), (*order, *last), None, (n, h, *sides) if size_of(heads) > 1 else (n, *sides))
    if isinstance(ctx.info.get(other, Static(other)), Static):
        return ctx.static_form(other, form, join=not (ctx.node is not None and _in_attention(ctx.node)))
    return form.of_value(ctx.edit, ctx.dense(other))


def _in_attention(node: ir.Node) -> bool:
    """Whether this product feeds a softmax or reads one: its static operand is then cross-attention's keys or
    values, which may change between edits."""
    return _near_softmax(node, forward=True) or _near_softmax(node, forward=False)


def _near_softmax(node: ir.Node, *, forward: bool, depth: int = 6) -> bool:
    through = {"Add", "Mul", "Div", "Sub", "Cast", "Reshape", "Transpose", "Identity", "MatMul", "Softmax"}
    for value in node.outputs if forward else node.inputs:
        if value is None or depth == 0:
            continue
        producer = value.producer()
        neighbours = list(value.consumers()) if forward else [producer] if producer is not None else []
        for near in neighbours:
            if near.op_type == "Softmax":
                return True
            plain = near.op_type in through and near.op_type != "MatMul"
            if plain and _near_softmax(near, forward=forward, depth=depth - 1):
                return True
    return False
