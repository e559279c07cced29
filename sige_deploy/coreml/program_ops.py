"""The operations of ML Programs that the exporter writes, in numpy, with Core ML's parameter names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sige_deploy.ops.activation import activation

Array = np.ndarray


def _conv(
    x: Array,
    weight: Array,
    strides: Array,
    pad_type: str,
    pad: Array,
    dilations: Array,
    groups: Array,
    bias: Array | None = None,
) -> Array:
    """x [N, C, H, W] by weight [O, C/groups, kh, kw]; pad: before and after each side."""
    assert pad_type == "custom"
    padded = np.pad(x, [(0, 0), (0, 0), *pad.reshape(-1, 2).tolist()])
    reach = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, (2, 3))
    windows = windows[:, :, :: strides[0], :: strides[1], :: dilations[0], :: dilations[1]]
    parts = int(groups)
    out = [
        np.tensordot(part.astype(np.float32), kernel.astype(np.float32), ([1, 4, 5], [1, 2, 3]))
        for part, kernel in zip(np.split(windows, parts, 1), np.split(weight, parts, 0))
    ]
    y = np.concatenate(out, -1).transpose(0, 3, 1, 2)
    return (y if bias is None else y + bias[:, None, None]).astype(x.dtype)


def _slice(x: Array, begin: Array, end: Array, stride: Array) -> Array:
    return x[tuple(slice(*map(int, bounds)) for bounds in zip(begin, end, stride))]


def _matmul(x: Array, y: Array, transpose_x: Any = False, transpose_y: Any = False) -> Array:
    x = np.swapaxes(x, -1, -2) if transpose_x else x
    y = np.swapaxes(y, -1, -2) if transpose_y else y
    return np.matmul(x.astype(np.float32), y.astype(np.float32)).astype(np.result_type(x, y))


def _softmax(x: Array, axis: Array) -> Array:
    powers = np.exp(x - x.max(int(axis), keepdims=True))
    return powers / powers.sum(int(axis), keepdims=True)


def _layer_norm(x: Array, axes: Array, gamma: Array, epsilon: Array, beta: Array | None = None) -> Array:
    where = tuple(int(axis) for axis in axes)
    wide = x.astype(np.float32)
    centred = wide - wide.mean(where, keepdims=True)
    y = centred / np.sqrt((centred**2).mean(where, keepdims=True) + np.float32(epsilon)) * gamma
    return (y if beta is None else y + beta).astype(x.dtype)


def _mean(x: Array, axes: Array, keep_dims: Array) -> Array:
    return x.mean(tuple(map(int, axes)), dtype=np.float32, keepdims=bool(keep_dims)).astype(x.dtype)


def _sum(x: Array, axes: Array, keep_dims: Array) -> Array:
    return x.sum(tuple(map(int, axes)), keepdims=bool(keep_dims))


def _max(x: Array, axes: Array, keep_dims: Array) -> Array:
    return x.max(tuple(map(int, axes)), keepdims=bool(keep_dims))


def _concat(values: Sequence[Array], axis: Array, interleave: Array) -> Array:
    assert not interleave
    return np.concatenate(values, int(axis))


def _split(x: Array, split_sizes: Array, axis: Array) -> list[Array]:
    return np.split(x, np.cumsum(split_sizes)[:-1], int(axis))


def _upsample(x: Array, scale_factor_height: Array, scale_factor_width: Array) -> Array:
    return x.repeat(int(scale_factor_height), 2).repeat(int(scale_factor_width), 3)


def _cast(x: Array, dtype: str) -> Array:
    return x.astype({"fp16": np.float16, "fp32": np.float32, "int32": np.int32}[dtype])


def _gelu(x: Array, mode: str) -> Array:
    return activation({"EXACT": "gelu", "TANH_APPROXIMATION": "gelu_tanh"}[mode], x)


def _binary(function: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def operation(x: Array, y: Array) -> Array:
        return function(x, y)

    return operation


def _unary(function: Callable[[Array], Array]) -> Callable[..., Array]:
    def operation(x: Array) -> Array:
        return function(x)

    return operation


def _named(name: str) -> Callable[..., Array]:
    return _unary(lambda x: np.asarray(activation(name, x), x.dtype))


def _leaky_relu(x: Array, alpha: Array) -> Array:
    return activation("leaky_relu", x, float(alpha)).astype(x.dtype)


def _expand(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, tuple(map(int, axes)))


def _reshape(x: Array, shape: Array) -> Array:
    return x.reshape(tuple(map(int, shape)))


def _transpose(x: Array, perm: Array) -> Array:
    return x.transpose(tuple(map(int, perm)))


#: By type; a result of several arrays is a list.
NUMPY: Mapping[str, Callable[..., Any]] = {
    "abs": _unary(np.abs),
    "add": _binary(np.add),
    "cast": _cast,
    "concat": _concat,
    "conv": _conv,
    "cos": _unary(np.cos),
    "exp": _unary(np.exp),
    "expand_dims": _expand,
    "gelu": _gelu,
    "identity": _unary(lambda x: x),
    "layer_norm": _layer_norm,
    "leaky_relu": _leaky_relu,
    "matmul": _matmul,
    "mul": _binary(np.multiply),
    "pow": _binary(np.power),
    "real_div": _binary(np.divide),
    "reduce_max": _max,
    "reduce_mean": _mean,
    "reduce_sum": _sum,
    "relu": _named("relu"),
    "reshape": _reshape,
    "sigmoid": _named("sigmoid"),
    "silu": _named("silu"),
    "sin": _unary(np.sin),
    "slice_by_index": _slice,
    "softmax": _softmax,
    "split": _split,
    "sqrt": _unary(np.sqrt),
    "sub": _binary(np.subtract),
    "tanh": _named("tanh"),
    "transpose": _transpose,
    "upsample_nearest_neighbor": _upsample,
}
#: Names of the parameters of each type.
PARAMETERS: Mapping[str, frozenset[str]] = {
    name: frozenset(inspect.signature(operation).parameters) for name, operation in NUMPY.items()
}
