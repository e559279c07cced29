"""Linear layers with constant weights in a dense network: MatMul, with or without an Add, Gemm, 1x1 Conv."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import as_shape, attribute, is_constant, static_shape
from sige_deploy.graph.moves import RESHAPES


@dataclass(frozen=True)
class Linear:
    """y = x W + b along one axis.

    node: the product. biased: the node that adds the bias, be it the same, or None. axis: of y's channels.
    """

    node: ir.Node
    biased: ir.Node | None
    axis: int

    @property
    def output(self) -> ir.Value:
        return (self.biased or self.node).outputs[0]

    @property
    def transposed(self) -> bool:
        """Whether the weight is [out, in]."""
        return self.node.op_type == "Conv" or bool(attribute(self.node, "transB", 0))

    @property
    def shared(self) -> bool:
        """Whether others read the weight too."""
        weight = self.node.inputs[1]
        return weight is None or len(list(weight.uses())) > 1 or weight.is_graph_output()

    def matrix(self) -> np.ndarray:
        """W [in, out] in float64."""
        array = constant_of(self.node.inputs[1])
        array = array.reshape(array.shape[:2])
        return array.T if self.transposed else array

    def bias(self) -> np.ndarray | None:
        """b [out] in float64, or None."""
        if self.biased is None:
            return None
        return constant_of(self.biased.inputs[self._place()]).reshape(-1)

    def _place(self) -> int:
        """Of the bias among the inputs."""
        if self.biased is not self.node:
            assert self.biased is not None
            return next(i for i, v in enumerate(self.biased.inputs) if is_constant(v))
        return 2

    def holds(self, matrix: np.ndarray, bias: np.ndarray | None) -> bool:
        """Whether the type of the weight can hold these numbers."""
        weight = self.node.inputs[1]
        assert weight is not None and weight.dtype is not None
        largest = np.finfo(weight.dtype.numpy()).max
        return all(a is None or bool(np.abs(a).max() <= largest) for a in (matrix, bias))

    def store(self, matrix: np.ndarray, bias: np.ndarray | None, name: str) -> None:
        """Give the layer this weight [in, out] and bias [out], rounded to the type that the weight has. None
        leaves the layer without a bias."""
        graph, old = self.node.graph, self.node.inputs[1]
        assert isinstance(graph, ir.Graph) and old is not None and old.dtype is not None
        dtype, shape = old.dtype.numpy(), static_shape(old) or ()
        weight = np.ascontiguousarray((matrix.T if self.transposed else matrix).astype(dtype))
        weight = weight.reshape(*weight.shape, *shape[2:])
        self.node.replace_input_with(1, initializer(graph, weight, f"{name}.weight"))
        if bias is None:
            return
        value = initializer(graph, bias.astype(dtype), f"{name}.bias")
        if self.biased is not None:
            self.biased.replace_input_with(self._place(), value)
        elif self.node.op_type == "MatMul":
            add_behind(self.node, value)
        else:
            self.node.resize_inputs(3)
            self.node.replace_input_with(2, value)


def constant_of(value: ir.Value | None) -> np.ndarray:
    """A constant in float64."""
    assert value is not None and value.const_value is not None
    return value.const_value.numpy().astype(np.float64)


def initializer(graph: ir.Graph, array: np.ndarray, name: str) -> ir.Value:
    """A new constant of the graph; the name must be free."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=as_shape(tensor))
    graph.register_initializer(value)
    return value


def add_behind(node: ir.Node, value: ir.Value) -> None:
    """Add a constant to the result of a node, for all who read that."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    old = node.outputs[0]
    new = ir.Value(name=old.name, type=old.type, shape=old.shape)
    old.name = f"{old.name}/product"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    graph.insert_after(node, ir.node("Add", [old, value], outputs=[new], name=f"{new.name}/bias"))


def linear(node: ir.Node, value: ir.Value, axis: int) -> Linear | None:
    """The layer that reads the value's channels, on this axis, by this node."""
    if node.domain != "" or node.inputs[0] is not value or list(node.inputs).count(value) != 1:
        return None
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    if weight is None or not is_constant(weight):
        return None
    rank, shape = len(value.shape or ()), static_shape(weight) or ()
    if node.op_type == "MatMul":
        if axis != rank - 1 or len(shape) != 2:
            return None
        return Linear(node, _bias_behind(node, shape[1]), axis)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None and not is_constant(bias):
        return None
    biased = None if bias is None else node
    if node.op_type == "Gemm":
        outputs = shape[0 if attribute(node, "transB", 0) else 1]
        plain = attribute(node, "alpha", 1.0) == attribute(node, "beta", 1.0) == 1.0
        fits = bias is None or (static_shape(bias) or ())[-1:] == (outputs,) == (_size(bias),)
        plain = plain and fits and not attribute(node, "transA", 0)
        return Linear(node, biased, 1) if plain and axis == 1 else None
    if node.op_type == "Conv":
        taps = math.prod(shape[2:]) * attribute(node, "group", 1)
        plain = taps == 1 and not any(attribute(node, "pads", [0]))
        plain = plain and attribute(node, "auto_pad", "NOTSET") == "NOTSET"
        return Linear(node, biased, 1) if plain and axis == 1 else None
    return None


def layer_of(value: ir.Value) -> Linear | None:
    """The linear layer whose result this value is."""
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if node.op_type == "Add":
        products = [v for v in node.inputs if v is not None and v.producer() is not None]
        layer = None if len(products) != 1 else product_of(products[0])
        return layer if layer is not None and layer.biased is node else None
    layer = product_of(value)
    return layer if layer is not None and layer.output is value else None


def product_of(value: ir.Value) -> Linear | None:
    """The linear layer whose product, be it without the bias, this value is."""
    node = value.producer()
    source = None if node is None or not node.inputs else node.inputs[0]
    if node is None or source is None:
        return None
    return linear(node, source, 1 if node.op_type == "Conv" else len(source.shape or ()) - 1)


def _bias_behind(node: ir.Node, outputs: int) -> ir.Node | None:
    """The Add of a constant [out] that alone reads a product."""
    value = node.outputs[0]
    users = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output() or (users[0].domain, users[0].op_type) != ("", "Add"):
        return None
    bias = users[0].inputs[1] if users[0].inputs[0] is value else users[0].inputs[0]
    if bias is value or bias is None or not is_constant(bias):
        return None
    shape = static_shape(bias) or ()
    fits = shape[-1:] == (outputs,) and _size(bias) == outputs and len(shape) <= len(value.shape or ())
    return users[0] if fits else None


def _size(value: ir.Value) -> int:
    return math.prod(static_shape(value) or ())


def behind(graph: ir.Graph, names: Sequence[str]) -> set[ir.Value]:
    """Inputs of these names, and all that follows from them."""
    found = {value for value in graph.inputs if value.name in names}
    for node in graph:
        if any(value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def readers(value: ir.Value, axis: int) -> list[tuple[ir.Node, ir.Value, int]] | None:
    """The nodes that read a value whose channels lie on `axis`, be it moved by reshapes and transposes: each
    with what it reads, and the axis there. None where it is an output too, or a reshape cuts the channels
    up."""
    if value.is_graph_output():
        return None
    found = []
    for node in dict.fromkeys(use.node for use in value.uses()):
        if node.domain != "" or node.inputs[0] is not value or node.op_type not in RESHAPES | {"Transpose"}:
            found.append((node, value, axis))
            continue
        after = moved(node, value, axis)
        further = None if after is None else readers(node.outputs[0], after)
        if further is None:
            return None
        found += further
    return found


def moved(node: ir.Node, value: ir.Value, axis: int) -> int | None:
    """The axis of a value's channels behind a reshape or transpose; None where a reshape cuts them up."""
    before, after = static_shape(value), static_shape(node.outputs[0])
    if before is None or after is None:
        return None
    if node.op_type == "Transpose":
        perm: Sequence[int] = attribute(node, "perm", list(range(len(before)))[::-1])
        return list(perm).index(axis)
    outer = math.prod(before[:axis])
    fits = [i for i, n in enumerate(after) if n == before[axis] and math.prod(after[:i]) == outer]
    return fits[0] if fits else None
