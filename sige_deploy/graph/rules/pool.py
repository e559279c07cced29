"""Pooling: a gather and a reduction over its taps."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sige_deploy.geometry import AxisTaps, resampling, window
from sige_deploy.graph.builder import attribute
from sige_deploy.graph.context import Context
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.resize import weighted_gather
from sige_deploy.graph.rules.windows import Window, image_output, output_grid, read_image, read_window
from sige_deploy.graph.values import require


@rule("MaxPool")
def max_pool(node: ir.Node, ctx: Context) -> None:
    """Padding is the lowest value of the type."""
    require(len(node.outputs) == 1, "its indices are used")
    value = node.inputs[0]
    assert value is not None and value.dtype is not None
    require(value.dtype.is_floating_point(), "its input is not of floating point")
    lowest = float(np.finfo(value.dtype.numpy()).min)
    read = read_image(ctx, value, padding=lowest)
    out = output_grid(node)
    w = read_window(node, tuple(attribute(node, "kernel_shape")), read.grid, out)
    y, x = (read.through(_taps(w, a, read.grid[a], out[a]), a) for a in range(2))
    geometry = ctx.geometry(read.source.level, y, x)
    rows = ctx.gather(read.source, geometry, pad_value=lowest)
    rows = ctx.edit.reshape(rows, [0, 0, geometry.taps, read.channels])
    rows = ctx.edit.op("ReduceMax", [rows, ctx.edit.ints(2)], {"keepdims": 0})
    image_output(ctx, node.outputs[0], geometry.target, read.batch, read.channels, rows)


@rule("AveragePool")
def average_pool(node: ir.Node, ctx: Context) -> None:
    """The mean over the taps inside the image, or inside image and padding (count_include_pad)."""
    value = node.inputs[0]
    assert value is not None
    read = read_image(ctx, value)
    out = output_grid(node)
    w = read_window(node, tuple(attribute(node, "kernel_shape")), read.grid, out)
    include = bool(attribute(node, "count_include_pad", 0))
    y, x = (read.through(_mean_taps(w, a, read.grid[a], out[a], include), a) for a in range(2))
    geometry = ctx.geometry(read.source.level, y, x)
    rows = weighted_gather(ctx, read.source, geometry)
    image_output(ctx, node.outputs[0], geometry.target, read.batch, read.channels, rows)


def _taps(w: Window, axis: int, n_in: int, n_out: int) -> AxisTaps:
    """The window's taps; ceil mode reaches beyond the declared padding, so the far pad follows from the
    output."""
    reach = (n_out - 1) * w.strides[axis] + w.dilations[axis] * (w.kernel[axis] - 1) + 1
    before = w.pads[axis][0]
    return window(n_in, w.kernel[axis], w.strides[axis], w.dilations[axis], (before, reach - n_in - before))


def _mean_taps(w: Window, axis: int, n_in: int, n_out: int, include_pad: bool) -> AxisTaps:
    taps = _taps(w, axis, n_in, n_out)
    before, after = w.pads[axis]
    start = np.arange(n_out)[:, None] * w.strides[axis] - before
    position = start + np.arange(w.kernel[axis])[None] * w.dilations[axis]
    counted = (position >= -before) & (position < n_in + after) if include_pad else taps.index >= 0
    share = 1.0 / np.maximum(counted.sum(axis=1, keepdims=True), 1)
    weight = np.where(taps.index >= 0, share, 0.0).astype(np.float32)
    return resampling(taps.index, weight, n_in)
