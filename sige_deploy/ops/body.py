"""Writes function bodies: standard ONNX nodes collected into an `onnx_ir.Function`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sige_deploy.ops.signature import DOMAIN, OPSET, Signature

if TYPE_CHECKING:
    import onnx_ir


@dataclass(frozen=True)
class Ref:
    """An attribute of a body node that takes the value of the function's attribute `name`."""

    name: str


class Body:
    """The body of one function variant while it is being written.

    Numbers (alpha, group, heads, ...) stay references to the function's attributes, so one variant serves all
    of them; which inputs are present and which activations run decide the variant, named by `overload`.

    A `Reshape` here never infers (-1) an axis of a tensor that can be empty: ONNX Runtime refuses that.
    """

    def __init__(self, signature: Signature, node: onnx_ir.Node) -> None:
        import onnx_ir as ir
        from onnx_ir.tape import Tape

        signature.check(node)
        self._ir = ir
        self._tape = Tape()
        self.signature = signature
        self.node = node
        self._inputs = {name: ir.Value(name=name) for name in signature.inputs}
        self._present = signature.present(node)

    def input(self, name: str) -> onnx_ir.Value:
        """The function's input of that name."""
        return self._inputs[name]

    def has(self, name: str) -> bool:
        """Whether the node connects that input."""
        return name in self._present

    def attribute(self, name: str) -> Any:
        """The node's value of an attribute, or its default."""
        return self.signature.attribute(self.node, name)

    def op(self, op_type: str, *inputs: onnx_ir.Value, **attributes: Any) -> onnx_ir.Value:
        """Adds a standard node; a `Ref` attribute refers to the function's attribute of that name."""
        return self._tape.op(op_type, inputs, {k: self._convert(k, v) for k, v in attributes.items()})

    def halves(self, value: onnx_ir.Value, axis: int) -> tuple[onnx_ir.Value, onnx_ir.Value]:
        """The first and the second half of one axis."""
        first, second = self._tape.op_multi_out(
            "Split", [value], {"axis": axis, "num_outputs": 2}, num_outputs=2
        )
        return first, second

    def integers(self, *values: int) -> onnx_ir.Value:
        """A constant int64 vector."""
        return self.op("Constant", value_ints=values)

    def scalars(self, *values: int) -> list[onnx_ir.Value]:
        """Constant int64 scalars."""
        return [self.op("Constant", value_int=value) for value in values]

    def number(self, value: float | Ref, like: onnx_ir.Value) -> onnx_ir.Value:
        """A constant scalar of the type of `like`."""
        return self.op("CastLike", self.op("Constant", value_float=value), like)

    def integer(self, value: Ref) -> onnx_ir.Value:
        """An int64 attribute of the function as a vector of one element."""
        return self.op("Unsqueeze", self.op("Constant", value_int=value), self.integers(0))

    def dim(self, value: onnx_ir.Value, axis: int) -> onnx_ir.Value:
        """The size of one axis, int64 [1]; ONNX Runtime folds it where the size is static."""
        return self.op("Shape", value, start=axis, end=axis + 1)

    def reshape(self, value: onnx_ir.Value, *dims: int | onnx_ir.Value) -> onnx_ir.Value:
        """Reshape to dims that are numbers (0 copies the axis, -1 is inferred) or int64 [1] values."""
        shape = self.op("Concat", *(self.integers(d) if isinstance(d, int) else d for d in dims), axis=0)
        if -1 not in dims:
            # Hides the Concat from ONNX Runtime, whose reshape fusion puts -1 for a dim that it cannot trace.
            shape = self.op("Max", shape, self.integers(0))
        return self.op("Reshape", value, shape, allowzero=int(0 not in dims))

    def close(self, output: onnx_ir.Value, overload: str) -> onnx_ir.Function:
        """The finished function, with every attribute of the op declared."""
        ir = self._ir
        output.name = self.signature.output
        graph = ir.Graph(
            list(self._inputs.values()),
            [output],
            nodes=self._tape.nodes,
            opset_imports={"": OPSET},
            name=f"{DOMAIN}.{self.signature.op_type}",
        )
        attributes = [self._declare(name, value) for name, value in self.signature.attributes.items()]
        return ir.Function(DOMAIN, self.signature.op_type, overload, graph=graph, attributes=attributes)

    def _convert(self, name: str, value: Any) -> Any:
        if isinstance(value, Ref):
            default = self.signature.attributes[value.name]
            return self._ir.RefAttr(name, value.name, self._kind(default))
        return value

    def _declare(self, name: str, default: Any) -> onnx_ir.Attr:
        return self._ir.Attr(name, self._kind(default), None if isinstance(default, type) else default)

    def _kind(self, default: Any) -> onnx_ir.AttributeType:
        kind = default if isinstance(default, type) else type(default)
        types = self._ir.AttributeType
        return {str: types.STRING, int: types.INT, float: types.FLOAT}[kind]
