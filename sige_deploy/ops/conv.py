"""Conv: the same gather, fused with the GEMM (implicit GEMM) and an epilogue.

Without a table it is a linear layer, or 1x1 convolution, of rows."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.errors import ExportError
from sige_deploy.ops.activation import GATES, activation, activation_nodes
from sige_deploy.ops.body import Body, Ref
from sige_deploy.ops.checks import require, require_shape
from sige_deploy.ops.gather import (
    SECOND,
    SOURCE,
    fresh_nodes,
    rows_nodes,
    side_by_side,
    source_nodes,
    source_overload,
    wide_taps,
)
from sige_deploy.ops.signature import Signature

if TYPE_CHECKING:
    import onnx_ir

CONV = Signature(
    "Conv",
    inputs=(
        "rows", "base", "halo", "table", "weight", "bias", "scale", "shift", "embedding", "residual",
        "multiplier", "rows_2", "base_2",
    ),
    required=("rows", "weight"),
    output="convolved",
    attributes={
        "group": 1,
        "activation_in": "identity",
        "alpha_in": 0.01,
        "activation_out": "identity",
        "alpha_out": 0.01,
        "norm_epsilon": 0.0,
        "gate": "",
        "early": 0,
    },
    together=SOURCE,
    implied=SECOND,
)  # fmt: skip


def conv(
    rows: np.ndarray,
    base: np.ndarray | None,
    halo: np.ndarray | None,
    table: np.ndarray | None,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    scale: np.ndarray | None = None,
    shift: np.ndarray | None = None,
    embedding: np.ndarray | None = None,
    residual: np.ndarray | None = None,
    multiplier: np.ndarray | None = None,
    rows_2: np.ndarray | None = None,
    base_2: np.ndarray | None = None,
    *,
    group: int = 1,
    activation_in: str = "identity",
    alpha_in: float = 0.01,
    activation_out: str = "identity",
    alpha_out: float = 0.01,
    norm_epsilon: float = 0.0,
    gate: str = "",
    early: int = 0,
) -> np.ndarray:
    """activation_out((gathered @ weight + bias + embedding) * multiplier + residual); defined in docs/ops.md.

    With norm_epsilon above 0, gathered @ weight is divided by the deviation of the row; with a gate, the last
    Cout columns of product and bias, activated, multiply the first.

    rows [B, P, C1] and base [B, N, C1] are float32 or float16, rows_2 [B, P, C2] and base_2 [B, N, C2] too,
    Cin = C1 + C2; halo int32 [Q] and table int32 [R, K]; bases, halo and table are None where every target
    reads its own row (R = P, K = 1); weight [K, Cin/group, Cout]; bias [Cout]; scale and shift
    [B or 1, 1, Cin]; embedding [B or 1, 1, Cout]; residual and multiplier [B, R, Cout]. With a gate,
    weight is [K, Cin, 2 * Cout] and bias [2 * Cout].
    Returns [B, R, Cout] in the dtype of `rows`; accumulates in float64.
    Raises InputError for shapes, dtypes or indices that do not fit.
    """
    given = {"base": base, "scale": scale, "shift": shift, "rows_2": rows_2, "embedding": embedding}
    present = {name for name, array in given.items() if array is not None}
    fault = _fault(norm_epsilon, gate, activation_in, group, present)
    require(fault is None, f"Conv {fault}.")
    rows, base = side_by_side(rows, base, rows_2, base_2, 1)
    taps = wide_taps(rows, base, halo, table, scale, shift, activation_in, alpha_in, 1, 0.0)
    batch, targets, kernel, channels = taps.shape
    columns = weight.shape[-1]
    require(
        group >= 1 and channels % group == 0 and columns % group == 0,
        f"group must divide {channels} input and {columns} output channels, got {group}.",
    )
    require_shape("weight", weight, rows, (kernel, channels // group, columns))
    require_shape("bias", bias, rows, (columns,))
    require(not gate or columns % 2 == 0, f"weight must have 2 * Cout columns for a gate, got {columns}.")
    outputs = columns // 2 if gate else columns
    require_shape("embedding", embedding, rows, (1, 1, outputs), (batch, 1, outputs))
    for name, value in (("residual", residual), ("multiplier", multiplier)):
        require_shape(name, value, rows, (batch, targets, outputs))

    y = np.einsum(
        "brkgc,kcgo->brgo",
        taps.reshape(batch, targets, kernel, group, channels // group),
        weight.astype(np.float64).reshape(kernel, channels // group, group, columns // group),
        optimize=True,
    ).reshape(batch, targets, columns)
    if norm_epsilon > 0:
        y = y / np.sqrt(taps.var(axis=3) + norm_epsilon)
    for addend in (bias, embedding):
        if addend is not None:
            y = y + addend
    if gate:
        y = y[..., :outputs] * activation(gate, y[..., outputs:])
    if multiplier is not None:
        y = y * multiplier
    if residual is not None:
        y = y + residual
    return activation(activation_out, y, alpha_out).astype(rows.dtype)


def _fault(
    norm_epsilon: float, gate: str, activation_in: str, group: int, present: Collection[str]
) -> str | None:
    """What is wrong with a row norm or gate next to the other attributes and the inputs in `present`."""
    if not norm_epsilon >= 0:
        return f"takes a norm_epsilon of 0 or more, got {norm_epsilon}"
    if gate and gate not in GATES:
        return f"takes a gate out of {', '.join(GATES)} or none, got {gate!r}"
    excluded = [name for name in ("base", "scale", "shift", "rows_2") if name in present]
    if activation_in != "identity":
        excluded.append("activation_in")
    if norm_epsilon > 0 and excluded:
        return f"takes no {excluded[0]} where it has a norm_epsilon"
    if gate and "embedding" in present:
        return "takes no embedding where it has a gate"
    if (norm_epsilon > 0 or gate) and group != 1:
        return (
            f"takes a group of 1 where it has a {'norm_epsilon' if norm_epsilon > 0 else 'gate'}, got {group}"
        )
    return None


def function_for(node: onnx_ir.Node) -> onnx_ir.Function:
    """The function body for a Conv node: its optional inputs, activations, and kind of grouping.

    Raises ExportError if the node is not a valid Conv.
    """
    body = Body(CONV, node)
    epsilon, gate = body.attribute("norm_epsilon"), body.attribute("gate")
    fault = _fault(
        epsilon, gate, body.attribute("activation_in"), body.attribute("group"), CONV.present(node)
    )
    if fault is not None:
        raise ExportError(f"sige::Conv {fault} (node {node.name!r}).")
    if body.has("table"):
        x = source_nodes(body, "activation_in", "alpha_in", 0.0)
    else:
        x = rows_nodes(body, fresh_nodes(body), "activation_in", "alpha_in")
    if epsilon > 0:
        x = _normed(body, x)
    grouping = _grouping(body)
    y = {"": _plain, "depthwise": _depthwise, "group": _grouped}[grouping](body, x)

    addends = [name for name in ("bias", "embedding") if body.has(name)]
    if addends:  # one addend for all rows of an image: added up first, it costs one pass over the rows
        total = body.input(addends[0])
        for name in addends[1:]:
            total = body.op("Add", total, body.input(name))
        y = body.op("Add", y, total)
    if gate:
        y, opened = body.halves(y, 2)
        y = body.op("Mul", y, activation_nodes(body, gate, opened, ""))
    rows = [name for name in ("multiplier", "residual") if body.has(name)]
    for name in rows:
        y = body.op("Mul" if name == "multiplier" else "Add", y, body.input(name))
    name = body.attribute("activation_out")
    y = activation_nodes(body, name, y, "alpha_out")
    source, out = source_overload(body, "activation_in"), "" if name == "identity" else f"out_{name}"
    norm, gated = "norm" if epsilon > 0 else "", f"gate_{gate}" if gate else ""
    return body.close(y, ".".join(filter(None, (source, norm, *addends, gated, *rows, out, grouping))))


def _grouping(body: Body) -> str:
    group = body.attribute("group")
    if group == 1:
        return ""
    weight = body.node.inputs[CONV.inputs.index("weight")]
    shape = None if weight is None else weight.shape
    return "depthwise" if shape is not None and shape[1] == 1 and shape[2] == group else "group"


def _normed(body: Body, x: onnx_ir.Value) -> onnx_ir.Value:
    """Rows divided by their deviation, in float32; narrower than the products, they are cheaper to divide."""
    import onnx_ir as ir

    wide, axis = body.op("Cast", x, to=ir.DataType.FLOAT), body.integers(2)
    centred = body.op("Sub", wide, body.op("ReduceMean", wide, axis, keepdims=1))
    variance = body.op("ReduceMean", body.op("Mul", centred, centred), axis, keepdims=1)
    epsilon = body.op("Constant", value_float=Ref("norm_epsilon"))
    deviation = body.op("Sqrt", body.op("Add", variance, epsilon))
    return body.op("CastLike", body.op("Div", wide, deviation), x)


def _plain(body: Body, x: onnx_ir.Value) -> onnx_ir.Value:
    """[B, R, K*Cin] @ [K*Cin, Cout]; the weight is folded and prepacked when the session is made."""
    weight = body.op("Flatten", body.input("weight"), axis=2)
    if body.has("table"):
        taps = body.op("Gather", x, body.input("table"), axis=1)
        x = body.reshape(taps, 0, 0, body.dim(weight, 0))
    return body.op("MatMul", x, weight)


def _depthwise(body: Body, x: onnx_ir.Value) -> onnx_ir.Value:
    """One output per input channel: 3 to 12 times faster than batched MatMul or Einsum in ONNX Runtime."""
    if not body.has("table"):
        return body.op("Mul", x, body.input("weight"))
    weight = body.op("Squeeze", body.input("weight"), body.integers(1))
    taps = body.op("Gather", x, body.input("table"), axis=1)
    return body.op("ReduceSum", body.op("Mul", taps, weight), body.integers(2), keepdims=0)


def _grouped(body: Body, x: onnx_ir.Value) -> onnx_ir.Value:
    """A MatMul batched over groups; the sources are split by group before the taps multiply them K-fold."""
    group = body.integer(Ref("group"))
    outputs = body.dim(body.input("weight"), 2)
    weight = body.reshape(body.input("weight"), 0, 0, group, body.op("Div", outputs, group))
    weight = body.op("Transpose", weight, perm=[2, 0, 1, 3])
    weight = body.reshape(weight, 0, -1, body.dim(weight, 3))
    # With a table the padding row is there, so that a channel count can be inferred; rows alone may be none.
    width = -1 if body.has("table") else body.dim(weight, 1)
    x = body.op("Transpose", body.reshape(x, 0, 0, group, width), perm=[0, 2, 1, 3])
    if body.has("table"):
        taps = body.op("Gather", x, body.input("table"), axis=2)
        x = body.reshape(taps, 0, 0, 0, body.dim(weight, 1))
    y = body.op("MatMul", x, weight)
    return body.reshape(body.op("Transpose", y, perm=[0, 2, 1, 3]), 0, 0, outputs)
