"""Resize. Nearest is a view: what follows reads through it. Linear and cubic gather weighted neighbours.

Every mode of ONNX Resize is separable and linear in its input, so the taps of an axis are read off the op
itself: it is run once on the unit vectors of that axis. No coordinate rule is written down twice.
"""

from __future__ import annotations

import functools

import numpy as np
import onnx_ir as ir

from sige_deploy.geometry import AxisTaps, Geometry, resampling
from sige_deploy.graph.builder import Builder, attribute, is_constant, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.windows import image_output, image_view, output_grid, read_image
from sige_deploy.graph.values import Spatial, require

ATTRIBUTES = (
    "antialias", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside",
    "extrapolation_value", "mode",
    "nearest_mode",
)  # fmt: skip


@rule("Resize", "Upsample")
def resize(node: ir.Node, ctx: Context) -> None:
    """Interpolation of [N, C, H, W] over H and W."""
    value, output = node.inputs[0], node.outputs[0]
    assert value is not None
    settings = {name: attribute(node, name) for name in ATTRIBUTES if name in node.attributes}
    mode = settings.get("mode", "nearest")
    require(settings.get("coordinate_transformation_mode") != "tf_crop_and_resize", "it crops by a region")
    require(attribute(node, "keep_aspect_ratio_policy", "stretch") == "stretch", "it keeps the aspect ratio")
    read = read_image(ctx, value)
    out = output_grid(node)
    before, after = static_shape(value), static_shape(output)
    require(before is not None and after is not None and before[:2] == after[:2], "it resizes channels")
    factors = _factors(node)
    key = tuple(sorted(settings.items()))
    taps = [_axis_taps(read.grid[a], out[a], factors[a], key) for a in range(2)]
    require(tuple(t.n_out for t in taps) == out, "its output size does not follow from its scales")
    y, x = (read.through(taps[a], a) for a in range(2))
    if y.weight is None and x.weight is None:
        ctx.info[output] = image_view(output, read, y, x)
        return
    require(mode in ("linear", "cubic"), f"its mode is {mode}")
    geometry = ctx.geometry(read.source.level, y, x)
    rows = weighted_gather(ctx, read.source, geometry)
    image_output(ctx, output, geometry.target, read.batch, read.channels, rows)


def _factors(node: ir.Node) -> list[float | None]:
    """The scales of H and W where the node gives scales."""
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if scales is None or static_shape(scales) == (0,):
        return [None, None]
    require(is_constant(scales), "its scales are computed at run time")
    assert scales.const_value is not None
    axes = [a % 4 for a in attribute(node, "axes", range(4))]
    given = dict(zip(axes, scales.const_value.numpy().tolist()))
    return [given.get(2, 1.0), given.get(3, 1.0)]


def weighted_gather(ctx: Context, source: Spatial, geometry: Geometry) -> ir.Value:
    """rows[p] = sum over taps of weight[p, k] * x[table[p, k]]."""
    rows = ctx.gather(source, geometry)
    weights = ctx.tap_weights(geometry)
    if source.value.dtype != ir.DataType.FLOAT:
        weights = ctx.edit.op("CastLike", [weights, rows], dtype=source.value.dtype)
    weights = ctx.edit.op("Unsqueeze", [weights, ctx.edit.ints(1)])
    rows = ctx.edit.reshape(rows, [0, 0, geometry.taps, source.layout.channels])
    rows = ctx.edit.op("MatMul", [weights, rows], dtype=source.value.dtype)
    return ctx.edit.op("Squeeze", [rows, ctx.edit.ints(2)])


@functools.lru_cache(maxsize=256)
def _axis_taps(
    n_in: int, n_out: int, scale: float | None, settings: tuple[tuple[str, object], ...]
) -> AxisTaps:
    """Taps of one axis; unweighted when every output copies one input."""
    matrix = _response(n_in, n_out, scale, dict(settings))
    used = np.abs(matrix) > 0
    k = int(used.sum(axis=1).max())
    order = np.argsort(~used, axis=1, kind="stable")[:, :k]
    weight = np.take_along_axis(matrix, order, axis=1)
    index = np.where(np.take_along_axis(used, order, axis=1), order, -1)
    if k == 1 and np.all(weight == 1.0):
        return resampling(index, None, n_in)
    return resampling(index, weight, n_in)


def _response(n_in: int, n_out: int, scale: float | None, settings: dict[str, object]) -> np.ndarray:
    """float32 [n_out, n_in]: what Resize makes of each unit vector."""
    import onnxruntime

    builder = Builder("")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1, 1, n_in, n_in]))
    if scale is not None:
        sizes = [None, builder.constant(np.array([1, 1, scale, 1], np.float32))]
    else:
        sizes = [None, None, builder.ints(1, 1, n_out, n_in)]
    y = builder.op("Resize", [x, *sizes], settings)
    y.shape = ir.Shape([1, 1, n_out, n_in])
    graph = ir.Graph(
        [x], [y], nodes=builder.nodes, initializers=list(builder.initializers.values()),
        opset_imports={"": 23},
        name="resize",
    )  # fmt: skip
    model = ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.eye(n_in, dtype=np.float32)[None, None]})[0][0, 0]
