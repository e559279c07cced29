"""What convolution and pooling share: reading a 4-D spatial input through windows."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from sige_deploy.geometry import AxisTaps, compose
from sige_deploy.graph.builder import attribute, static_shape
from sige_deploy.graph.context import Context
from sige_deploy.graph.layout import Atom, Layout, Refusal
from sige_deploy.graph.values import Spatial, View, require


@dataclass(frozen=True)
class Window:
    """Attributes of a 2-D window op, per axis."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]


def read_window(
    node: ir.Node, kernel: tuple[int, ...], grid: tuple[int, int], out: tuple[int, int]
) -> Window:
    """Kernel, strides, dilations and pads of a node; ``grid``, ``out``: its input's and output's (H, W)."""
    require(len(kernel) == 2, f"its kernel has {len(kernel)} axes, not 2")
    strides = attribute(node, "strides", [1, 1])
    dilations = attribute(node, "dilations", [1, 1])
    pads = attribute(node, "pads", [0, 0, 0, 0])
    auto = attribute(node, "auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        pads = [0, 0, 0, 0]
        for axis in range(2):
            reach = (out[axis] - 1) * strides[axis] + dilations[axis] * (kernel[axis] - 1) + 1
            total = max(0, reach - grid[axis])
            low = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[axis], pads[axis + 2] = low, total - low
    elif auto == "VALID":
        pads = [0, 0, 0, 0]
    return Window(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]),
        ((pads[0], pads[2]), (pads[1], pads[3])),
    )  # fmt: skip


@dataclass(frozen=True)
class Read:
    """A 4-D input to read windows of: rows and base of ``source``, through ``view`` where there is one."""

    source: Spatial
    batch: tuple[Atom, ...]
    channels: int
    grid: tuple[int, int]
    view: View | None

    def through(self, taps: AxisTaps, axis: int) -> AxisTaps:
        if self.view is None:
            return taps
        return compose(taps, self.view.y if axis == 0 else self.view.x)


def read_image(ctx: Context, value: ir.Value, *, padding: float | None = 0.0) -> Read:
    """The input as an image [N, C, H, W]; a view is read through when its padding equals the op's own.

    padding: what the op pads with; None when it pads nothing.
    """
    info = ctx.info[value]
    view = info if isinstance(info, View) else None
    if view is not None and padding not in (None, view.pad_value) and _pads(view):
        ctx.decline("it pads with another value than the pad in front of it, which is gathered by itself")
        view = None
    source = view.source if view is not None else ctx.spatial(value)
    layout = source.layout
    if not layout.is_image:
        raise Refusal("its input is not an image [N, C, H, W]")
    seen = view.layout if view is not None else layout
    return Read(ctx.in_reading_order(source), layout.dims[0], layout.channels, seen.grid, view)


def _pads(view: View) -> bool:
    return bool(view.y.index.min() < 0 or view.x.index.min() < 0)


def image_output(
    ctx: Context, output: ir.Value, level: str, batch: tuple[Atom, ...], channels: int, rows: ir.Value
) -> None:
    """Declare an output [N, C, H, W] whose rows have one channel axis."""
    grid = ctx.levels[level]
    c = (Atom("C", channels),) if channels > 1 else ()
    ctx.set_spatial(output, level, Layout((batch, c, *grid_dims(*grid.shape)), c), rows)


def image_view(output: ir.Value, read: Read, y: AxisTaps, x: AxisTaps, pad_value: float = 0.0) -> View:
    """What was read as an image, re-indexed and not yet gathered."""
    layout = Layout((*read.source.layout.dims[:2], *grid_dims(y.n_out, x.n_out)), read.source.layout.order)
    return View(output, read.source, layout, y, x, pad_value)


def grid_dims(height: int, width: int) -> tuple[tuple[Atom, ...], tuple[Atom, ...]]:
    """The last two axes of an image."""
    return (Atom("Y", height),) if height > 1 else (), (Atom("X", width),) if width > 1 else ()


def output_grid(node: ir.Node) -> tuple[int, int]:
    shape = static_shape(node.outputs[0])
    if shape is None or len(shape) != 4:
        raise Refusal("its output is not an image of static shape")
    return shape[2], shape[3]
