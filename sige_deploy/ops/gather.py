"""Gather: neighbourhoods of active pixels, out of fresh rows and the base; fused affine and activation.

Without a table it is the affine and the activation of rows. The source may be two side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.errors import ExportError
from sige_deploy.ops.activation import activation as apply_activation
from sige_deploy.ops.activation import activation_nodes
from sige_deploy.ops.body import Body, Ref
from sige_deploy.ops.checks import require, require_indices, require_rows, require_shape
from sige_deploy.ops.signature import Signature

if TYPE_CHECKING:
    import onnx_ir

SOURCE = ("base", "halo", "table")
"""What Gather and Conv need to read neighbours; without these inputs every target reads its own row."""

SECOND = {"base_2": ("rows_2", "base")}
"""The base of a second source is there exactly if that source is, and neighbours are read."""

GATHER = Signature(
    "Gather",
    inputs=("rows", "base", "halo", "table", "scale", "shift", "rows_2", "base_2"),
    required=("rows",),
    output="neighbourhoods",
    attributes={"activation": "identity", "alpha": 0.01, "phases": 1, "pad_value": 0.0},
    together=SOURCE,
    implied=SECOND,
)


def gather(
    rows: np.ndarray,
    base: np.ndarray | None = None,
    halo: np.ndarray | None = None,
    table: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    rows_2: np.ndarray | None = None,
    base_2: np.ndarray | None = None,
    *,
    activation: str = "identity",
    alpha: float = 0.01,
    phases: int = 1,
    pad_value: float = 0.0,
) -> np.ndarray:
    """The K taps of each of R target pixels, side by side; defined in docs/ops.md.

    Without base, halo and table: every target pixel's own row, so R = P and K = 1.

    rows [B, P, C1] and base [B, N, C1] are float32 or float16, rows_2 [B, P, C2] and base_2 [B, N, C2] too,
    C = C1 + C2; halo int32 [Q] and table int32 [R, K]; scale and shift [B or 1, 1, C].
    Returns [B, R, K * (C / phases)] in the dtype of `rows`.
    Raises InputError for shapes, dtypes or indices that do not fit.
    """
    rows, base = side_by_side(rows, base, rows_2, base_2, phases)
    taps = wide_taps(rows, base, halo, table, scale, shift, activation, alpha, phases, pad_value)
    batch, targets, kernel, channels = taps.shape
    return taps.reshape(batch, targets, kernel * channels).astype(rows.dtype)


def side_by_side(
    rows: np.ndarray,
    base: np.ndarray | None,
    rows_2: np.ndarray | None,
    base_2: np.ndarray | None,
    phases: int,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows and base of all channels of the source: those of the first, followed by those of the second."""
    require(
        (base_2 is None) == (rows_2 is None or base is None),
        "base_2 is given exactly if rows_2 and base are.",
    )
    if rows_2 is None:
        return rows, base
    require(phases == 1, f"phases must be 1 with two sources, got {phases}.")
    require_rows("rows", rows)
    require_rows("rows_2", rows_2)
    require_shape("rows_2", rows_2, rows, (*rows.shape[:2], rows_2.shape[2]))
    wide = np.concatenate([rows, rows_2], axis=2)
    if base is None or base_2 is None:
        return wide, base
    require_rows("base", base)
    for name, array, own in (("base", base, rows), ("base_2", base_2, rows_2)):
        require_shape(name, array, rows, (rows.shape[0], base.shape[1], own.shape[2]))
    return wide, np.concatenate([base, base_2], axis=2)


def wide_taps(
    rows: np.ndarray,
    base: np.ndarray | None,
    halo: np.ndarray | None,
    table: np.ndarray | None,
    scale: np.ndarray | None,
    shift: np.ndarray | None,
    activation: str,
    alpha: float,
    phases: int,
    pad_value: float,
) -> np.ndarray:
    """Gather in float64, shaped [B, R, K, C / phases]: what Conv multiplies with its weight."""
    require_rows("rows", rows)
    batch, fresh, channels = rows.shape
    for name, value in (("scale", scale), ("shift", shift)):
        require_shape(name, value, rows, (1, 1, channels), (batch, 1, channels))
    require(
        phases >= 1 and channels % phases == 0, f"phases must divide the {channels} channels, got {phases}."
    )

    def transformed(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        if scale is not None:
            x = x * scale
        if shift is not None:
            x = x + shift
        return apply_activation(activation, x, alpha)

    if base is None or halo is None or table is None:
        require(
            base is None and halo is None and table is None,
            "base, halo and table go together: give all of them or none.",
        )
        require(phases == 1, f"phases must be 1 without a table, got {phases}.")
        return transformed(rows)[:, :, None]
    require_shape("base", base, rows, (batch, base.shape[1] if base.ndim == 3 else 0, channels))
    require_indices("halo", halo, 1, 0, base.shape[1])
    require_indices("table", table, 2, -1, (fresh + halo.size) * phases)
    x = transformed(np.concatenate([rows, base[:, halo]], axis=1))
    x = x.reshape(batch, x.shape[1] * phases, channels // phases)
    padding = np.full((batch, 1, channels // phases), pad_value)
    return np.concatenate([x, padding], axis=1)[:, table]


def function_for(node: onnx_ir.Node) -> onnx_ir.Function:
    """The function body for a Gather node: its optional inputs, activation, and whether it has phases.

    Raises ExportError if the node is not a valid Gather.
    """
    body = Body(GATHER, node)
    overload = source_overload(body, "activation")
    phased = body.attribute("phases") != 1
    if not body.has("table"):
        if phased:
            raise ExportError(f"sige::Gather needs a table where it has phases (node {node.name!r}).")
        x = rows_nodes(body, fresh_nodes(body), "activation", "alpha")
        return body.close(body.op("Identity", x) if x is body.input("rows") else x, overload)
    if phased and body.has("rows_2"):
        raise ExportError(f"sige::Gather takes no rows_2 where it has phases (node {node.name!r}).")
    x = source_nodes(body, "activation", "alpha", Ref("pad_value"))
    channels = channel_nodes(body)
    if phased:
        phases = body.integer(Ref("phases"))
        channels = body.op("Div", channels, phases)
        x = body.reshape(x, 0, -1, channels)
    taps = body.op("Gather", x, body.input("table"), axis=1)
    width = body.op("Mul", body.dim(body.input("table"), 1), channels)
    overload = ".".join(filter(None, (overload, "phases" if phased else "")))
    return body.close(body.reshape(taps, 0, 0, width), overload)


def source_nodes(body: Body, activation: str, alpha: str, pad_value: float | Ref) -> onnx_ir.Value:
    """Adds the concatenation [fresh rows | halo | padding row] after affine and activation, [B, P+Q+1, C].

    Only the halo pixels are read out of the base. The padding row is last, where a table's -1 points.
    `activation` and `alpha` are names of the op's attributes.
    """
    base, halo = body.input("base"), body.op("Gather", body.input("base"), body.input("halo"), axis=1)
    if body.has("rows_2"):
        halo_2 = body.op("Gather", body.input("base_2"), body.input("halo"), axis=1)
        halo = body.op("Concat", halo, halo_2, axis=2)
    parts = [fresh_nodes(body), halo]
    shape = body.op("Concat", body.dim(base, 0), body.integers(1), channel_nodes(body), axis=0)
    padding = body.op("Expand", body.number(pad_value, base), shape)

    affine = body.has("scale") or body.has("shift")
    if not affine and body.attribute(activation) == "identity":
        return body.op("Concat", *parts, padding, axis=1)
    x = rows_nodes(body, body.op("Concat", *parts, axis=1), activation, alpha)
    return body.op("Concat", x, padding, axis=1)


def fresh_nodes(body: Body) -> onnx_ir.Value:
    """The fresh rows of all channels."""
    if not body.has("rows_2"):
        return body.input("rows")
    return body.op("Concat", body.input("rows"), body.input("rows_2"), axis=2)


def channel_nodes(body: Body) -> onnx_ir.Value:
    """Adds the number of channels of the source, int64 [1]."""
    channels = body.dim(body.input("base"), 2)
    return body.op("Add", channels, body.dim(body.input("base_2"), 2)) if body.has("rows_2") else channels


def rows_nodes(body: Body, x: onnx_ir.Value, activation: str, alpha: str) -> onnx_ir.Value:
    """Adds the affine and activation of the source; `x` itself where the op has neither."""
    if body.has("scale"):
        x = body.op("Mul", x, body.input("scale"))
    if body.has("shift"):
        x = body.op("Add", x, body.input("shift"))
    return activation_nodes(body, body.attribute(activation), x, alpha)


def source_overload(body: Body, activation: str) -> str:
    """The part of an overload name for how the source is read, e.g. "affine_silu", "rows.two.silu", or ""."""
    present = [name for name in ("scale", "shift") if body.has(name)]
    affine = "affine" if len(present) == 2 else "".join(present)
    name = body.attribute(activation)
    transform = "_".join(filter(None, (affine, "" if name == "identity" else name)))
    parts = ("" if body.has("table") else "rows", "two" if body.has("rows_2") else "", transform)
    return ".".join(filter(None, parts))
