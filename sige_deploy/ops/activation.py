"""Activations that Gather and Conv can apply, as numpy and as standard ONNX nodes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.errors import ExportError, InputError
from sige_deploy.ops.body import Body, Ref

if TYPE_CHECKING:
    import onnx_ir

ACTIVATIONS = ("identity", "relu", "leaky_relu", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh")
GATES = tuple(name for name in ACTIVATIONS if name != "leaky_relu")
"""What may gate a Conv: activations without a slope."""


def activation(name: str, x: np.ndarray, alpha: float = 0.01) -> np.ndarray:
    """Applies the activation `name` to a float array of any shape, in that array's dtype.

    `alpha` is the slope of leaky_relu below zero; the others ignore it.
    Raises InputError for an unknown name.
    """
    if name == "identity":
        return x
    if name == "relu":
        return np.maximum(x, 0)
    if name == "leaky_relu":
        return np.where(x < 0, alpha * x, x)
    if name == "silu":
        return x * _sigmoid(x)
    if name == "gelu":
        erf = np.asarray(np.frompyfunc(math.erf, 1, 1)(x / math.sqrt(2)), dtype=x.dtype)
        return 0.5 * x * (1 + erf)
    if name == "gelu_tanh":
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if name == "sigmoid":
        return _sigmoid(x)
    if name == "tanh":
        return np.tanh(x)
    raise InputError(_unknown(name))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _unknown(name: str) -> str:
    return f"There is no activation {name!r}; expected one of {', '.join(ACTIVATIONS)}."


def activation_nodes(body: Body, name: str, x: onnx_ir.Value, alpha: str) -> onnx_ir.Value:
    """Adds the nodes of an activation to a function body; `alpha` names the attribute that is its slope."""
    if name == "identity":
        return x
    if name == "relu":
        return body.op("Relu", x)
    if name == "leaky_relu":
        return body.op("LeakyRelu", x, alpha=Ref(alpha))
    if name == "silu":
        return body.op("Mul", x, body.op("Sigmoid", x))
    if name == "gelu":
        return body.op("Gelu", x, approximate="none")
    if name == "gelu_tanh":
        return body.op("Gelu", x, approximate="tanh")
    if name == "sigmoid":
        return body.op("Sigmoid", x)
    if name == "tanh":
        return body.op("Tanh", x)
    raise ExportError(_unknown(name))
