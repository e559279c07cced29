"""The custom layers in numpy: the definitions of docs/ops.md on the live rows, zeros in the padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sige_deploy.coreml.context import Context
from sige_deploy.coreml.layers import Layer, weight_shapes
from sige_deploy.ops import SIGNATURES
from sige_deploy.ops.attention import attention
from sige_deploy.ops.conv import conv
from sige_deploy.ops.gather import gather
from sige_deploy.ops.scatter import scatter

#: (layer, its input tensors [1, C, 1, P] in order, context) -> its output tensor.
Implementation = Callable[[Layer, Sequence[np.ndarray], Context], np.ndarray]


def to_rows(tensor: np.ndarray) -> np.ndarray:
    """[1, C, 1, P] as [1, P, C]."""
    return np.ascontiguousarray(tensor[:, :, 0].transpose(0, 2, 1))


def to_tensor(rows: np.ndarray) -> np.ndarray:
    """[1, P, C] as [1, C, 1, P]."""
    return np.ascontiguousarray(rows.transpose(0, 2, 1)[:, :, None])


def _reading(layer: Layer, tensors: Sequence[np.ndarray], context: Context) -> np.ndarray:
    """Gather and Conv."""
    p, op = layer.parameters, layer.op
    count = context.counts[p["level"]]
    dtype = tensors[0].dtype
    given = {name: to_rows(tensor) for name, tensor in zip(layer.inputs, tensors)}
    outputs, rows = int(p["outputs"]), int(p["rows"])
    if count == 0:
        return np.zeros((1, outputs, 1, rows), dtype)
    for name in ("residual", "multiplier"):
        if name in given:
            given[name] = given[name][:, :count]
    if p["geometry"]:
        given["halo"] = context.halos[p["geometry"]]
        given["table"] = context.tables[p["geometry"]][:count]
        for name in ("base", "base_2"):
            if p[name]:
                given[name] = context.arrays[p[name]].astype(dtype)
    else:
        given = {k: v[:, :count] if k in ("rows", "rows_2") else v for k, v in given.items()}
    for name in ("scale", "shift"):
        if p[f"{name}_name"]:
            given[name] = context.arrays[p[f"{name}_name"]].astype(dtype)
    for name, shape in weight_shapes(layer).items():
        given[name] = layer.weights[name].reshape(shape).astype(dtype)
    return _padded(_run(conv if op == "Conv" else gather, layer, given), rows)


def _scatter(layer: Layer, tensors: Sequence[np.ndarray], context: Context) -> np.ndarray:
    p, rows = layer.parameters, to_rows(tensors[0])
    count = context.counts[p["level"]]
    base = context.arrays[p["base"]].astype(rows.dtype)
    return to_tensor(scatter(base, rows[:, :count], context.active[p["level"]][:count]))


def _attention(layer: Layer, tensors: Sequence[np.ndarray], context: Context) -> np.ndarray:
    p = layer.parameters
    count = context.counts[p["level"]]
    dtype = tensors[0].dtype
    if count == 0:
        return np.zeros((1, int(p["outputs"]), 1, int(p["rows"])), dtype)
    given = {name: to_rows(tensor)[:, :count] for name, tensor in zip(layer.inputs, tensors)}
    if "k" in given:
        given["active"] = context.active[p["level"]][:count]
    given |= {name: context.arrays[p[name]].astype(dtype) for name in ("k_base", "v_base")}
    return _padded(_run(attention, layer, given), int(p["rows"]))


#: By class name.
NUMPY: Mapping[str, Implementation] = {
    "SIGEGather": _reading,
    "SIGEConv": _reading,
    "SIGEScatter": _scatter,
    "SIGEAttention": _attention,
}


def _run(op: Callable[..., np.ndarray], layer: Layer, given: Mapping[str, np.ndarray]) -> np.ndarray:
    signature = SIGNATURES[layer.op]
    attributes: dict[str, Any] = {name: layer.parameters[name] for name in signature.attributes}
    return op(*(given.get(name) for name in signature.inputs), **attributes)


def _padded(rows: np.ndarray, count: int) -> np.ndarray:
    whole = np.zeros((1, count, rows.shape[2]), rows.dtype)
    whole[:, : rows.shape[1]] = rows
    return to_tensor(whole)
