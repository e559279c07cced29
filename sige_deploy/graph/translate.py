"""The pass: a dense network in, the record and edit graphs out.

Nodes are visited once, in order. A node whose inputs are all static belongs to record alone; otherwise the
rule of its op writes rows into edit, or refuses. What is refused becomes a dense island: its inputs are
scattered over their bases, the op runs whole, and its result is gathered back into rows. Only behind ops that
move pixels about the grid do consumers stay whole, until one meets rows again in an elementwise op or a
concatenation.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from sige_deploy.config import SparseConfig
from sige_deploy.errors import ExportError
from sige_deploy.graph.align import adopt
from sige_deploy.graph.builder import is_constant, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Layout, Refusal, image_layout
from sige_deploy.graph.normalise import PASS_DOMAIN
from sige_deploy.graph.rules import load_rules
from sige_deploy.graph.values import Dense, Island, Spatial, Static, View, element_bytes

#: Ops whose result at a pixel comes from elsewhere on the grid: the mask does not follow them, so what comes
#: after stays whole until an elementwise op meets rows again.
MOVES_PIXELS = frozenset(
    "AffineGrid Concat DeformConv Gather GatherElements GatherND GridSample Resize ReverseSequence "
    "ScatterElements ScatterND Slice Transpose".split()
)


@dataclass(frozen=True)
class Output:
    """One output of the network in the edit graph: rows of a level, or whole (``info`` None)."""

    value: ir.Value
    edit: ir.Value
    info: Spatial | None


@dataclass(frozen=True)
class Translation:
    context: Context
    outputs: list[Output]
    pinned: dict[str, str]  # input -> the node through which it reaches every pixel


def translate(
    model: ir.Model, spatial: Sequence[str], config: SparseConfig, free: Sequence[str] = ()
) -> Translation:
    """Run the pass twice: once to learn which inputs reach every pixel, once with the others free to
    change, and those named in ``free``.

    Recorded statistics pin nothing, whatever they follow from: an edit keeps them by definition.
    """
    others = [v.name or "" for v in model.graph.inputs if v.name not in spatial]
    first = _run(model, spatial, config, frozenset())
    pinned: dict[str, str] = {}
    for value, node in first.joins:
        for name in _ancestors(value, first) & set(others) - set(free):
            pinned.setdefault(name, node)
    changing = frozenset(name for name in others if name not in pinned)
    context = _run(model, spatial, config, changing) if changing else first
    outputs = [_output(context, value) for value in model.graph.outputs]
    return Translation(context, outputs, pinned)


def _ancestors(value: ir.Value, ctx: Context) -> set[str]:
    """The inputs that a value follows from by other ways than through pixels."""
    found: set[str] = set()
    seen: set[ir.Value] = set()
    stack = [value]
    while stack:
        v = stack.pop()
        if v in seen or is_constant(v) or not isinstance(ctx.info[v], Static):
            continue
        seen.add(v)
        node = v.producer()
        if node is None:
            found.add(v.name or "")
        else:
            stack.extend(i for i in node.inputs if i is not None)
    return found


def _run(model: ir.Model, spatial: Sequence[str], config: SparseConfig, free: frozenset[str]) -> Context:
    inputs = {v.name: v for v in model.graph.inputs}
    shapes = {name: static_shape(inputs[name]) for name in spatial}
    batches = {shape[0] if shape is not None and len(shape) == 4 else 1 for shape in shapes.values()}
    if len(batches) != 1:
        raise ExportError(
            f"The spatial inputs have batch sizes {sorted(batches)}; give all of them one batch size."
        )
    ctx = Context(config, batches.pop(), free)
    for value in model.graph.inputs:
        ctx.info[value] = Static(value)
    for value in model.graph.initializers.values():
        ctx.info[value] = Static(value)
    for name in spatial:
        shape, dtype = shapes[name], inputs[name].dtype
        assert shape is not None and dtype is not None
        level = ctx.add_input_level(shape[-2], shape[-1])
        layout = image_layout(shape)
        rows = ctx.edit_input(f"rows.{name}", dtype, [ctx.batch, f"P_{level}", layout.channels])
        ctx.set_spatial(inputs[name], level, layout, rows)
    rules = load_rules()
    for node in model.graph:
        ctx.node = node
        _visit(node, ctx, rules)
    ctx.node = None
    return ctx


def _visit(node: ir.Node, ctx: Context, rules: Mapping[str, object]) -> None:
    infos = [ctx.info[v] for v in node.inputs if v is not None]
    if all(isinstance(i, Static) for i in infos):
        for output in node.outputs:
            ctx.info[output] = Static(output)
        return
    if not any(isinstance(i, (Spatial, View)) for i in infos):
        _whole(node, ctx)
        return
    rule = rules.get(node.op_type) if node.domain in ("", "ai.onnx", PASS_DOMAIN) else None
    try:
        if rule is None:
            raise Refusal("the pass has no rule for this op")
        rule(node, ctx)  # type: ignore[operator]
    except Refusal as refusal:
        _island(node, ctx, str(refusal))


def _island(node: ir.Node, ctx: Context, reason: str) -> None:
    values = [v for v in (*node.inputs, *node.outputs) if v is not None and not is_constant(v)]
    island = Island(node.name or node.op_type, node.op_type, reason, sum(element_bytes(v) for v in values))
    ctx.islands.append(island)
    _whole(node, ctx)
    if node.op_type not in MOVES_PIXELS:
        for output in node.outputs:
            _regather(node, ctx, output)


def _regather(node: ir.Node, ctx: Context, output: ir.Value) -> None:
    """Go back to rows behind an island whose output lies on the grid of one of its inputs, or of a known
    level."""
    shape = static_shape(output)
    inputs = [ctx.info[v] for v in node.inputs if v is not None]
    for source in (i for i in inputs if isinstance(i, Spatial)):
        layout, level = source.layout, source.level
        if shape is None or len(shape) != len(layout.dims):
            continue
        if shape != layout.shape:
            level = f"{shape[-2]}x{shape[-1]}"
            is_image = len(shape) == 4 and not any(layout.is_channels(a) for a in (2, 3))
            if not is_image or shape[0] != layout.shape[0] or level not in ctx.levels:
                continue
            layout = Layout((layout.dims[0], *image_layout(shape[1:]).dims), ())
        try:
            adopted = adopt(ctx, output, shape, layout, level)
        except Refusal:
            continue
        ctx.set_spatial(output, adopted.level, adopted.layout, adopted.rows)
        return


def _whole(node: ir.Node, ctx: Context) -> None:
    """Run the node dense in the edit graph."""
    for value in node.inputs:
        if value is not None and isinstance(ctx.info[value], Static) and not is_constant(value):
            ctx.join(value)
    inputs = [None if v is None else ctx.dense(v) for v in node.inputs]
    for output, copy in zip(node.outputs, ctx.edit.clone(node, inputs), strict=True):
        ctx.set_dense(output, copy)


def _output(ctx: Context, value: ir.Value) -> Output:
    info = ctx.info[value]
    if isinstance(info, (Spatial, View)):
        source = ctx.spatial(value)
        return Output(value, _own(ctx, source.rows, f"rows.{value.name}"), source)
    if isinstance(info, Dense):
        whole = info.edit
    else:
        whole = _fresh(ctx, value)
    whole = _own(ctx, whole, value.name or "output")
    whole.shape, whole.type = value.shape, value.type
    return Output(value, whole, None)


def _own(ctx: Context, value: ir.Value, name: str) -> ir.Value:
    """A value that carries this name alone: an output of the edit graph."""
    result = ctx.edit.op("Identity", [value], dtype=value.dtype)
    result.name, result.shape = name, value.shape
    return result


def _fresh(ctx: Context, value: ir.Value) -> ir.Value:
    """A non-spatial output in the edit graph: recorded statistics would be stale there, so they are
    recomputed."""
    memo: dict[ir.Value, ir.Value] = {}

    @functools.cache
    def follows_pixels(v: ir.Value) -> bool:
        if not isinstance(ctx.info[v], Static):
            return True
        node = v.producer()
        return node is not None and any(follows_pixels(i) for i in node.inputs if i is not None)

    def visit(v: ir.Value) -> ir.Value:
        if not isinstance(ctx.info[v], Static):
            return ctx.dense(v)
        if v not in memo:
            node = v.producer()
            if node is None or not follows_pixels(v):
                memo[v] = ctx.edit_value(v)
            else:
                outputs = ctx.edit.clone(node, [None if i is None else visit(i) for i in node.inputs])
                memo.update(zip(node.outputs, outputs, strict=True))
        return memo[v]

    return visit(value)
