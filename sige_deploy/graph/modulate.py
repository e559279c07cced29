"""Folding a normalisation into the convolutions that modulate it.

A network of SPADE's kind (arXiv 1903.07291) scales and shifts a batch normalisation per pixel by two
convolutions of one map f:

    y = (x * s + t) * (G f + g) + (B f + b)
      = x * (s G f + s g) + ((B + t G) f + (b + t g))

s and t are constants of the trained network, so their place is in the weights: the normalisation is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import attribute, is_constant


@dataclass(frozen=True)
class _Modulation:
    """y = mul(norm(x), scale(f) + offset) + shift(f); ``scaled`` is the other operand of mul."""

    product: ir.Node
    scaled: ir.Value
    scale: ir.Node
    offset: np.ndarray
    shift: ir.Node


def fold_modulations(model: ir.Model) -> None:
    """Fold every BatchNormalization of constant statistics all of whose readers are such modulations."""
    for node in list(model.graph):
        if node.op_type == "BatchNormalization" and node.domain == "":
            _fold(model.graph, node)


def _fold(graph: ir.Graph, norm: ir.Node) -> None:
    x, *parameters = norm.inputs
    output = norm.outputs[0]
    if attribute(norm, "training_mode", 0) or len(norm.outputs) > 1 or output.is_graph_output():
        return
    if x is None or not all(is_constant(v) for v in parameters):
        return
    found = [_modulation(user, output) for user in dict.fromkeys(use.node for use in output.uses())]
    folded = [m for m in found if m is not None]
    if not folded or len(folded) < len(found):
        return
    gamma, beta, mean, variance = (v.const_value.numpy().astype(np.float64) for v in parameters)  # type: ignore[union-attr]
    s = gamma / np.sqrt(variance + attribute(norm, "epsilon", 1e-5))
    t = beta - mean * s
    for m in folded:
        (scale, g), (shift, b) = _weights(m.scale), _weights(m.shift)
        g = g + m.offset
        _set_weights(graph, m.shift, shift + _over_outputs(t, scale) * scale, b + t * g)
        _set_weights(graph, m.scale, _over_outputs(s, scale) * scale, s * g)
        m.product.replace_input_with(list(m.product.inputs).index(output), x)
        m.product.replace_input_with(list(m.product.inputs).index(m.scaled), m.scale.outputs[0])
        offset = m.scaled.producer()
        if offset is not m.scale and offset is not None:
            graph.remove(offset, safe=True)
    graph.remove(norm, safe=True)


def _modulation(product: ir.Node, normed: ir.Value) -> _Modulation | None:
    if product.op_type != "Mul" or list(product.inputs).count(normed) != 1:
        return None
    scaled = next(v for v in product.inputs if v is not normed)
    behind = _only_reader(product.outputs[0])
    if scaled is None or behind is None or behind.op_type != "Add" or _only_reader(scaled) is not product:
        return None
    shift = _conv(next((v for v in behind.inputs if v is not product.outputs[0]), None), behind)
    node, scale = scaled.producer(), None
    offset: np.ndarray = np.zeros(1)
    if node is not None and node.op_type == "Add":
        for value, addend in (node.inputs, node.inputs[::-1]):
            if is_constant(addend) and (scale := _conv(value, node)) is not None:
                assert addend is not None and addend.const_value is not None
                offset = addend.const_value.numpy().astype(np.float64)
                break
    else:
        scale = _conv(scaled, product)
    if scale is None or shift is None or scale.inputs[0] is not shift.inputs[0] or not _alike(scale, shift):
        return None
    channels = len(_weights(scale)[1])
    if offset.size != 1 and (offset.shape[-3:] != (channels, 1, 1) or offset.size != channels):
        return None
    return _Modulation(product, scaled, scale, offset.reshape(-1), shift)


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def _conv(value: ir.Value | None, reader: ir.Node) -> ir.Node | None:
    """The Conv of constant weights whose output this reader alone reads."""
    node = None if value is None else value.producer()
    if node is None or value is None or node.op_type != "Conv" or _only_reader(value) is not reader:
        return None
    return node if all(is_constant(v) for v in node.inputs[1:]) else None


def _alike(a: ir.Node, b: ir.Node) -> bool:
    """Whether two Convs differ in their weights' values alone."""
    attributes = [{name: x.value for name, x in node.attributes.items()} for node in (a, b)]
    return attributes[0] == attributes[1] and _weights(a)[0].shape == _weights(b)[0].shape


def _weights(conv: ir.Node) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias in float64."""
    weight, bias = [*conv.inputs[1:], None][:2]
    assert weight is not None and weight.const_value is not None
    w = weight.const_value.numpy().astype(np.float64)
    return w, np.zeros(len(w)) if bias is None else bias.const_value.numpy().astype(np.float64)  # type: ignore[union-attr]


def _over_outputs(vector: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return vector.reshape(-1, *[1] * (weight.ndim - 1))


def _set_weights(graph: ir.Graph, conv: ir.Node, weight: np.ndarray, bias: np.ndarray) -> None:
    old = conv.inputs[1]
    assert old is not None and old.dtype is not None
    conv.resize_inputs(3)
    for i, array in ((1, weight), (2, bias)):
        tensor = ir.tensor(np.ascontiguousarray(array.astype(old.dtype.numpy())))
        value = ir.Value(
            name=f"{conv.outputs[0].name}.modulated_{'weight' if i == 1 else 'bias'}",
            const_value=tensor,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(array.shape),
        )
        graph.register_initializer(value)
        conv.replace_input_with(i, value)
