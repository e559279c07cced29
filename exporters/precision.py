"""Half precision for a network that was given in float32.

A torch module is copied and cast as torch casts it, if it can be traced so. An ONNX graph, and that of a
module which then mixes types (it makes float32 values in its forward()), is cast value by value, but for two
things:

* what follows from whole numbers alone (the sines of a time step, positions) stays float32 up to the first
  product with weights, because float16 does not hold whole numbers beyond 2048;
* operands that an op takes in float32 only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

#: Ops with learned weights: here a value that follows from whole numbers becomes float16.
PRODUCTS = frozenset("Attention Conv ConvTranspose Einsum Gemm MatMul".split())
#: Operands that ONNX defines in float32 only.
WIDE_OPERANDS = {"Resize": (1, 2), "Upsample": (1,)}
WIDE_OPS = frozenset({"DynamicQuantizeLinear", "NonMaxSuppression"})
#: The outputs from here on are statistics, in the op's own float32.
WIDE_OUTPUTS = {"LayerNormalization": 1}
WHOLE = frozenset("INT16 INT32 INT64 UINT16 UINT32 UINT64".split())


def half_inputs(example_inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The example inputs with float32 tensors and arrays as float16, the others as they are."""
    return {name: _half(value) for name, value in example_inputs.items()}


def _half(value: Any) -> Any:
    if str(getattr(value, "dtype", "")) not in ("float32", "torch.float32"):
        return value
    return value.half() if hasattr(value, "half") else value.astype(np.float16)


def traced_for_half(module: torch.nn.Module, example_inputs: Mapping[str, Any]) -> tuple[ir.Model, bool]:
    """The graph of a float32 module, and whether `half_graph` has yet to cast it.

    Raises ExportError where torch can trace the module neither in float16 nor as it is.
    """
    from sige_deploy.exporters.torch import to_onnx

    half = copy.deepcopy(module).half()
    try:
        return to_onnx(half, half_inputs(example_inputs)), False
    except ExportError:
        return to_onnx(module, example_inputs), True


def half_graph(model: ir.Model) -> None:
    """Cast a graph whose value types are known, and have no subgraphs, from float32 to float16."""
    import onnx_ir as ir

    graph = model.graph
    wide = _wide_values(graph)
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for given in graph.inputs:
        if given.dtype == ir.DataType.FLOAT:
            given.dtype = ir.DataType.FLOAT16
    for node in list(graph):
        stays = node.op_type in WIDE_OPS or any(o in wide for o in node.outputs)
        for i, value in enumerate(node.inputs):
            if value is None:
                continue
            if stays or i in WIDE_OPERANDS.get(node.op_type, ()):
                if value.dtype == ir.DataType.FLOAT16:
                    node.replace_input_with(i, _as_type(graph, node, value, ir.DataType.FLOAT, casts))
            elif value.dtype == ir.DataType.FLOAT and node.op_type != "Cast":
                node.replace_input_with(i, _as_type(graph, node, value, ir.DataType.FLOAT16, casts))
        if stays:
            continue
        _half_attributes(node)
        for output in node.outputs[: WIDE_OUTPUTS.get(node.op_type, len(node.outputs))]:
            if output.dtype == ir.DataType.FLOAT:
                output.dtype = ir.DataType.FLOAT16
    for name in [n for n, v in graph.initializers.items() if not v.uses() and v not in graph.outputs]:
        del graph.initializers[name]


def _wide_values(graph: ir.Graph) -> set[ir.Value]:
    """Values that follow from whole numbers alone, up to the first product with weights."""
    import onnx_ir as ir

    wide: set[ir.Value] = set()
    for node in graph:
        given = [v for v in node.inputs if v is not None and v.const_value is None]
        floats = [v for v in given if v.dtype == ir.DataType.FLOAT]
        begins = node.op_type == "Cast" and any(v.dtype is not None and v.dtype.name in WHOLE for v in given)
        follows = bool(floats) and all(v in wide for v in floats) and node.op_type not in PRODUCTS
        if begins or follows:
            wide.update(o for o in node.outputs if o.dtype == ir.DataType.FLOAT)
    return wide


def _as_type(
    graph: ir.Graph,
    node: ir.Node,
    value: ir.Value,
    dtype: ir.DataType,
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value],
) -> ir.Value:
    """The value in this type: of a constant a constant, else a Cast in front of the node that asks first."""
    import onnx_ir as ir

    if (value, dtype) not in casts:
        name = f"{value.name}.{dtype.name.lower()}"
        if value.const_value is not None:
            array = value.const_value.numpy()
            tensor = ir.tensor(_rounded(array) if dtype == ir.DataType.FLOAT16 else array.astype(np.float32))
            found = ir.Value(name=name, const_value=tensor)
            graph.register_initializer(found)
        else:
            cast = ir.node("Cast", [value], {"to": dtype}, name=name)
            graph.insert_before(node, cast)
            found = cast.outputs[0]
            found.name = name
        found.type, found.shape = ir.TensorType(dtype), value.shape
        casts[value, dtype] = found
    return casts[value, dtype]


def _rounded(array: np.ndarray) -> np.ndarray:
    """The nearest float16 numbers that are neither infinite nor zero where the given ones are not."""
    limits = np.finfo(np.float16)
    finite = np.where(np.isfinite(array), np.clip(array, limits.min, limits.max), array)
    tiny = (finite != 0) & (np.abs(finite) < limits.smallest_subnormal)
    return np.where(tiny, np.copysign(limits.smallest_subnormal, finite), finite).astype(np.float16)


def _half_attributes(node: ir.Node) -> None:
    import onnx_ir as ir

    for name in ("to", "dtype"):
        found = node.attributes.get(name)
        if found is not None and found.value == ir.DataType.FLOAT:
            node.attributes[name] = ir.Attr(name, ir.AttributeType.INT, int(ir.DataType.FLOAT16))
    filled = node.attributes.get("value")
    if filled is not None and getattr(filled.value, "dtype", None) == ir.DataType.FLOAT:
        tensor = ir.tensor(_rounded(filled.value.numpy()))
        node.attributes["value"] = ir.Attr("value", ir.AttributeType.TENSOR, tensor)
