"""Scatter: rows over a copy of the base."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.ops.body import Body
from sige_deploy.ops.checks import require_indices, require_rows, require_shape
from sige_deploy.ops.signature import Signature

if TYPE_CHECKING:
    import onnx_ir

SCATTER = Signature(
    "Scatter",
    inputs=("base", "rows", "active"),
    required=("base", "rows", "active"),
    output="scattered",
    attributes={},
)


def scatter(base: np.ndarray, rows: np.ndarray, active: np.ndarray) -> np.ndarray:
    """A copy of base [B, N, C] with rows [B, P, C] at the pixels active int32 [P]; defined in docs/ops.md.

    Both arrays are float32 or float16. Raises InputError for shapes, dtypes or indices that do not fit.
    """
    require_rows("base", base)
    require_indices("active", active, 1, 0, base.shape[1])
    require_shape("rows", rows, base, (base.shape[0], active.size, base.shape[2]))
    result = base.copy()
    result[:, active] = rows
    return result


def function_for(node: onnx_ir.Node) -> onnx_ir.Function:
    """The function body for a Scatter node. Raises ExportError if the node is not a valid Scatter."""
    body = Body(SCATTER, node)
    base = body.input("base")
    return body.close(overlay(body, base, body.input("rows"), scatter_indices(body, base)), "")


def scatter_indices(body: Body, base: onnx_ir.Value) -> onnx_ir.Value:
    """Adds int64 [B, P, 1]: the active pixels of every image, counted through [B*N] pixels."""
    batch = body.op("Squeeze", body.dim(base, 0))
    first = body.op("Mul", body.op("Range", *body.scalars(0), batch, *body.scalars(1)), body.dim(base, 1))
    pixels = body.op("Unsqueeze", body.op("Cast", body.input("active"), to=7), body.integers(-1))
    return body.op("Add", body.op("Unsqueeze", first, body.integers(1, 2)), pixels)


def overlay(body: Body, base: onnx_ir.Value, rows: onnx_ir.Value, indices: onnx_ir.Value) -> onnx_ir.Value:
    """Adds base [B, N, C] with rows [B, P, C] at `indices` in their place."""
    flat = body.op("Flatten", base, axis=2)
    return body.op("Reshape", body.op("ScatterND", flat, indices, rows), body.op("Shape", base))
