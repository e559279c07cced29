"""A small writer of ONNX nodes (onnx-ir), and the store of weights that all graphs of a bundle share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from sige_deploy.ops import DOMAIN, SIGNATURES


def is_constant(value: ir.Value | None) -> bool:
    return value is not None and value.const_value is not None


def static_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The shape as ints, or None when it is unknown or symbolic."""
    if value.shape is None or not all(isinstance(d, int) for d in value.shape):
        return None
    return tuple(int(d) for d in value.shape)  # type: ignore[arg-type]


def as_shape(tensor: ir.TensorProtocol) -> ir.Shape:
    """A tensor's shape as a value's shape."""
    return ir.Shape(tensor.shape.numpy())


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """The attribute's Python value (strings decoded, sequences as lists), or the default."""
    found = node.attributes.get(name)
    if found is None:
        return default
    value = found.value
    if isinstance(value, bytes):
        return value.decode()
    return list(value) if isinstance(value, (tuple, list)) else value


class Builder:
    """Appends nodes to one graph; keeps value names unique and small constants shared."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[ir.Node] = []
        self.initializers: dict[str, ir.Value] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._count = 0

    def name(self, hint: str) -> str:
        self._count += 1
        return f"{self.prefix}{hint}_{self._count}"

    def op(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        attributes: dict[str, Any] | None = None,
        *,
        domain: str = "",
        dtype: ir.DataType | None = None,
        outputs: int = 1,
    ) -> Any:
        """Append a node; returns its output value, or the list of them when ``outputs`` > 1."""
        while inputs and inputs[-1] is None:
            inputs = inputs[:-1]
        results = [ir.Value(name=self.name(op_type.lower())) for _ in range(outputs)]
        if dtype is None:
            dtype = next((v.dtype for v in inputs if v is not None and v.dtype is not None), None)
        for result in results:
            result.type = ir.TensorType(dtype) if dtype is not None else None
        node = ir.node(op_type, list(inputs), attributes=attributes or {}, domain=domain, outputs=results)
        node.name = self.name(f"node_{op_type}")
        self.nodes.append(node)
        return results[0] if outputs == 1 else results

    def sparse_op(
        self, op_type: str, inputs: Mapping[str, ir.Value | None], attributes: dict[str, Any] | None = None
    ) -> ir.Value:
        """Append a node of our own domain, its inputs given by name (docs/ops.md)."""
        names = SIGNATURES[op_type].inputs
        assert set(inputs) <= set(names)
        result: ir.Value = self.op(op_type, [inputs.get(name) for name in names], attributes, domain=DOMAIN)
        return result

    def clone(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[ir.Value]:
        """Append a copy of a node of another graph on other inputs; output types and shapes are kept."""
        outputs = [ir.Value(name=self.name(v.name or "v"), type=v.type, shape=v.shape) for v in node.outputs]
        copy = ir.Node(
            node.domain, node.op_type, list(inputs), list(node.attributes.values()), overload=node.overload,
            outputs=outputs, name=self.name(f"node_{node.op_type}"),
        )  # fmt: skip
        self.nodes.append(copy)
        return outputs

    def constant(self, array: np.ndarray, hint: str = "const") -> ir.Value:
        """An initializer holding the array; equal small arrays are shared."""
        array = np.ascontiguousarray(array) if np.ndim(array) else np.asarray(array)
        key = (array.dtype.str, array.shape, array.tobytes() if array.nbytes <= 4096 else b"")
        if array.nbytes <= 4096 and key in self._constants:
            return self._constants[key]
        value = self.initializer(self.name(hint), ir.tensor(array))
        if array.nbytes <= 4096:
            self._constants[key] = value
        return value

    def initializer(self, name: str, tensor: ir.TensorProtocol) -> ir.Value:
        """The initializer of that name, created on first use."""
        if name not in self.initializers:
            value = ir.Value(
                name=name,
                const_value=tensor,
                type=ir.TensorType(tensor.dtype),
                shape=as_shape(tensor),
            )
            self.initializers[name] = value
        return self.initializers[name]

    def ints(self, *values: int) -> ir.Value:
        return self.constant(np.array(values, np.int64), "shape")

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape with ONNX's 0 (keep) and -1 (infer) conventions."""
        return self.op("Reshape", [value, self.ints(*shape)])

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        return value if list(perm) == sorted(perm) else self.op("Transpose", [value], {"perm": list(perm)})
