"""Pad over the grid is a view: the op that follows reads through it, so the padded image never exists."""

from __future__ import annotations

import onnx_ir as ir

from sige_deploy.geometry import AxisTaps, compose
from sige_deploy.geometry import pad as pad_taps
from sige_deploy.graph.builder import attribute, is_constant
from sige_deploy.graph.context import Context
from sige_deploy.graph.rules import rule
from sige_deploy.graph.rules.windows import image_view, output_grid, read_image
from sige_deploy.graph.values import require

MODES = {"constant": "zero", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@rule("Pad")
def pad(node: ir.Node, ctx: Context) -> None:
    """Zero, constant, reflect, edge or wrap padding of H and W; negative pads crop."""
    value, output = node.inputs[0], node.outputs[0]
    inputs = [*node.inputs, None, None, None][:4]
    assert value is not None and value.shape is not None
    rank = len(value.shape)
    require(is_constant(inputs[1]), "its pads are computed at run time")
    require(inputs[2] is None or is_constant(inputs[2]), "its pad value is computed at run time")
    amounts = _full(_ints(inputs[1]), _ints(inputs[3]) if inputs[3] is not None else list(range(rank)), rank)
    require(rank == 4 and not any(amounts[0] + amounts[1]), "it pads the batch or the channels")
    fill = float(inputs[2].const_value.numpy().reshape(-1)[0]) if inputs[2] is not None else 0.0  # type: ignore[union-attr]
    mode = MODES[attribute(node, "mode", "constant")]
    padded = fill if mode == "zero" else 0.0
    read = read_image(ctx, value, padding=padded)
    y, x = (read.through(_taps(read.grid[a], *amounts[2 + a], mode), a) for a in range(2))
    require((y.n_out, x.n_out) == output_grid(node), "its output size does not follow from its pads")
    ctx.info[output] = image_view(output, read, y, x, padded)


def _taps(n_in: int, before: int, after: int, mode: str) -> AxisTaps:
    """Crop, then pad: what wraps or mirrors is the cropped image."""
    kept = pad_taps(n_in, min(before, 0), min(after, 0))
    return compose(pad_taps(kept.n_out, max(before, 0), max(after, 0), mode), kept)


def _ints(value: ir.Value | None) -> list[int]:
    assert value is not None and value.const_value is not None
    return [int(v) for v in value.const_value.numpy().reshape(-1)]


def _full(pads: list[int], axes: list[int], rank: int) -> list[tuple[int, int]]:
    """(before, after) for every axis."""
    result = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        result[axis % rank] = (pads[i], pads[i + len(axes)])
    return result
