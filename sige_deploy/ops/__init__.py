"""The ops of ONNX domain "sige": numpy definitions, and function bodies of standard ONNX operators.

docs/ops.md defines them. One op per module: `gather.gather`, `conv.conv`, `scatter.scatter`,
`attention.attention`, each with its `function_for`. Importing this package needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sige_deploy.errors import ExportError
from sige_deploy.ops import attention, conv, gather, scatter
from sige_deploy.ops.activation import ACTIVATIONS
from sige_deploy.ops.signature import DOMAIN, OPSET, VERSION, Signature

if TYPE_CHECKING:
    import onnx_ir

__all__ = ["ACTIVATIONS", "DOMAIN", "OPSET", "SIGNATURES", "VERSION", "Signature", "function_for"]

SIGNATURES: dict[str, Signature] = {
    signature.op_type: signature
    for signature in (gather.GATHER, conv.CONV, scatter.SCATTER, attention.ATTENTION)
}
"""Per op type: names of the inputs, and attributes with their defaults."""

_FUNCTIONS: dict[str, Callable[[onnx_ir.Node], onnx_ir.Function]] = {
    "Gather": gather.function_for,
    "Conv": conv.function_for,
    "Scatter": scatter.function_for,
    "Attention": attention.function_for,
}


def function_for(node: onnx_ir.Node) -> onnx_ir.Function:
    """The model-local function for a node of domain "sige"; the caller then sets the node's overload to its.

    Two nodes get functions of the same overload only if the bodies are the same, so a model needs each
    (op type, overload) once. Raises ExportError for an unknown op or an invalid node.
    """
    if node.domain != DOMAIN or node.op_type not in _FUNCTIONS:
        raise ExportError(
            f"There is no op {node.domain}::{node.op_type}; domain {DOMAIN!r} has {', '.join(_FUNCTIONS)}."
        )
    return _FUNCTIONS[node.op_type](node)
