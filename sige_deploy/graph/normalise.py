"""Bringing a network into the form that the rules read.

That is opset 23, static shapes, folded constants, and norms spelled out. A normalisation over the grid is its
statistics and an affine map:

    y = (x - mean) / sqrt(var + eps) * gamma + beta = x * s + t
    s = gamma / sqrt(var + eps)
    t = beta - mean * s

so that the rules for reductions (recorded statistics) and for elementwise ops cover it without a rule of its
own. Of a float16 network, the statistics and the making of s and t are in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import (
    IdentityEliminationPass,
    InlinePass,
    LiftConstantsToInitializersPass,
    RemoveUnusedNodesPass,
    ShapeInferencePass,
)

from sige_deploy.errors import ExportError
from sige_deploy.graph.builder import Builder, attribute, is_constant, static_shape
from sige_deploy.graph.einsum import expand_einsum
from sige_deploy.graph.modulate import fold_modulations
from sige_deploy.graph.opset import at_opset
from sige_deploy.graph.scales import fold_scales
from sige_deploy.ops import OPSET

PASS_DOMAIN = "sige.pass"
HALF = "float16"  # overload of the statistics op


def prepare(model: ir.Model, shapes: Mapping[str, tuple[int, ...]]) -> ir.Model:
    """The model at opset 23 with these input shapes, constants folded and every shape inferred.

    Raises ExportError when the opset cannot be converted, when control flow is left, or a shape stays
    unknown.
    """
    import onnxscript.optimizer

    names = [[v.name or "" for v in values] for values in (model.graph.inputs, model.graph.outputs)]
    model = at_opset(model)
    for value in model.graph.inputs:
        if value.name is not None and value.name in shapes:
            _check_shape(value, shapes[value.name])
            value.shape = ir.Shape(shapes[value.name])
    InlinePass()(model)
    for node in model.graph.all_nodes():
        for output in node.outputs:
            if static_shape(output) is None:
                output.shape = None
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    _infer_shapes(model)
    onnxscript.optimizer.optimize(model, num_iterations=3, onnx_shape_inference=True)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    IdentityEliminationPass()(model)
    fold_modulations(model)
    fold_scales(model)
    RemoveUnusedNodesPass()(model)
    _infer_shapes(model)
    _restore_names(model, *names)
    _check(model)
    return model


def _infer_shapes(model: ir.Model) -> None:
    """ONNX infers nothing behind GroupNormalization, so it passes as Clip, whose result has its input's shape
    too."""
    norms = [n for n in model.graph.all_nodes() if n.op_type == "GroupNormalization" and n.domain == ""]
    for node in norms:
        node.op_type = "Clip"
    ShapeInferencePass()(model)
    for node in norms:
        node.op_type = "GroupNormalization"


def _check_shape(value: ir.Value, given: tuple[int, ...]) -> None:
    declared = list(given) if value.shape is None else list(value.shape)
    fits = len(declared) == len(given) and all(
        d == n for d, n in zip(declared, given, strict=True) if isinstance(d, int)
    )
    if not fits:
        takes = ", ".join(map(str, declared))
        raise ExportError(f"Example input '{value.name}' has shape {list(given)}; the model takes [{takes}].")


def _check(model: ir.Model) -> None:
    names = [v.name or "" for v in model.graph.outputs]
    for name in names:
        if names.count(name) > 1:
            raise ExportError(f"The model has two outputs named '{name}'; give each a name of its own.")
    for node in model.graph:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise ExportError(
                f"The model has control flow ({node.op_type} '{node.name}') that constants do "
                f"not decide; export it "
                "with a fixed path."
            )
    for value in model.graph.outputs:
        if static_shape(value) is None:
            raise ExportError(
                f"The shape of output '{value.name}' does not follow from the shapes of the "
                f"example inputs; give the "
                "model's values static shapes (onnx.shape_inference), or leave the output out."
            )


def _restore_names(model: ir.Model, inputs: list[str], outputs: list[str]) -> None:
    """Names as they were, and a value of its own for every output: passes merge equal ones.

    An output that has the name of an input gets a suffix.
    """
    for value, name in zip(model.graph.inputs, inputs, strict=True):
        value.name = name
    found = model.graph.outputs
    taken = set(model.graph.inputs)
    for i, name in enumerate(outputs):
        value = found[i]
        if value in taken or is_constant(value):
            if value.is_initializer():
                del model.graph.initializers[value.name]  # type: ignore[arg-type]
                value.name = f"{value.name}/value"
                model.graph.register_initializer(value)
            builder = Builder(f"{name}/")
            found[i] = builder.op("Identity", [value])
            found[i].shape, found[i].type = value.shape, value.type
            model.graph.extend(builder.nodes)
        found[i].name = f"{name}_out" if name in inputs else name
        taken.add(found[i])


def expand_composites(model: ir.Model) -> None:
    """Replace normalisations by statistics and an affine map (LayerNormalization: over a grid), Einsum by
    MatMul."""
    for node in list(model.graph):
        expand = EXPANSIONS.get(node.op_type)
        if expand is None or node.domain != "" or static_shape(node.outputs[0]) is None:
            continue
        builder = Builder(f"{node.name or node.op_type}/")
        result = expand(node, builder)
        if result is None:
            continue
        result.shape, result.type = node.outputs[0].shape, node.outputs[0].type
        model.graph.insert_before(node, builder.nodes)
        for value in builder.initializers.values():
            model.graph.register_initializer(value)
        name = node.outputs[0].name
        ir.convenience.replace_all_uses_with(node.outputs[0], result, replace_graph_outputs=True)
        model.graph.remove(node, safe=True)
        result.name = name
    _add_moments(model)
    ShapeInferencePass()(model)


def _moments(b: Builder, x: ir.Value, axes: list[int]) -> tuple[ir.Value, ir.Value]:
    shape = static_shape(x)
    assert shape is not None
    assert x.dtype is not None
    mean, variance = moments(b, x, axes)
    for value in (mean, variance):
        value.shape = ir.Shape([1 if a in axes else n for a, n in enumerate(shape)])
    return mean, variance


def moments(b: Builder, x: ir.Value, axes: list[int]) -> list[ir.Value]:
    """mean and variance over the axes, which are kept; of float16 in float32."""
    half = x.dtype == ir.DataType.FLOAT16
    outputs: list[ir.Value] = b.op(
        "Moments", [x], {"axes": axes}, domain=PASS_DOMAIN, dtype=ir.DataType.FLOAT if half else x.dtype,
        outputs=2,
    )  # fmt: skip
    producer = outputs[0].producer()
    assert producer is not None
    producer.overload = HALF if half else ""
    return outputs


def _affine(
    b: Builder,
    x: ir.Value,
    mean: ir.Value,
    variance: ir.Value,
    gamma: ir.Value | None,
    beta: ir.Value | None,
    eps: float,
) -> tuple[ir.Value, ir.Value]:
    """s and t in x's type; statistics, gamma and beta broadcast against each other."""
    mean, variance = _wide(b, mean), _wide(b, variance)
    gamma, beta = (None if v is None else _wide(b, v) for v in (gamma, beta))
    epsilon = b.constant(np.asarray(eps, mean.dtype.numpy()))  # type: ignore[union-attr]
    scale = b.op("Reciprocal", [b.op("Sqrt", [b.op("Add", [variance, epsilon])])])
    scale = scale if gamma is None else b.op("Mul", [scale, gamma])
    shift = b.op("Mul", [mean, scale])
    shift = b.op("Neg", [shift]) if beta is None else b.op("Sub", [beta, shift])
    if x.dtype == scale.dtype:
        return scale, shift
    scale, shift = (b.op("Cast", [v], {"to": x.dtype}, dtype=x.dtype) for v in (scale, shift))
    return scale, shift


def _wide(b: Builder, value: ir.Value) -> ir.Value:
    """A float16 value in float32, another one as it is."""
    if value.dtype != ir.DataType.FLOAT16:
        return value
    return b.op("Cast", [value], {"to": ir.DataType.FLOAT}, dtype=ir.DataType.FLOAT)


def _group_norm(node: ir.Node, b: Builder) -> ir.Value:
    x, gamma, beta = node.inputs[:3]
    assert x is not None and gamma is not None and beta is not None
    shape = static_shape(x)
    assert shape is not None
    groups = shape[1] if node.op_type == "InstanceNormalization" else attribute(node, "num_groups")
    n, c, ones = shape[0], shape[1], [1] * (len(shape) - 2)
    grouped = b.reshape(x, [n, groups, c // groups, *shape[2:]])
    grouped.shape = ir.Shape([n, groups, c // groups, *shape[2:]])
    mean, variance = _moments(b, grouped, list(range(2, len(shape) + 1)))
    per = [1, groups, c // groups, *ones]
    if static_shape(gamma) == (groups,) and groups != c:  # opset 18 scales groups, not channels
        per = [1, groups, 1, *ones]
    gamma, beta = b.reshape(gamma, per), b.reshape(beta, per)
    scale, shift = _affine(b, x, mean, variance, gamma, beta, attribute(node, "epsilon", 1e-5))
    whole = [n, groups, c // groups, *ones]
    if per[2] == 1 and groups != c:
        scale, shift = (b.op("Expand", [v, b.ints(*whole)]) for v in (scale, shift))
    scale, shift = (b.reshape(v, [n, c, *ones]) for v in (scale, shift))
    return b.op("Add", [b.op("Mul", [x, scale]), shift])


def _batch_norm(node: ir.Node, b: Builder) -> ir.Value | None:
    x, gamma, beta, mean, variance = node.inputs[:5]
    assert x is not None and x.shape is not None and gamma is not None and beta is not None
    assert mean is not None and variance is not None
    if attribute(node, "training_mode", 0) or len(node.outputs) != 1:
        return None
    eps = attribute(node, "epsilon", 1e-5)
    per = [-1, *[1] * (len(x.shape) - 2)]
    if all(is_constant(v) for v in (gamma, beta, mean, variance)):
        g, o, m, v = (p.const_value.numpy().astype(np.float64) for p in (gamma, beta, mean, variance))  # type: ignore[union-attr]
        s = g / np.sqrt(v + eps)
        dtype = x.dtype.numpy()  # type: ignore[union-attr]
        scale, shift = (b.constant(a.astype(dtype).reshape(per), "affine") for a in (s, o - m * s))
    else:
        scale, shift = (b.reshape(v, per) for v in _affine(b, x, mean, variance, gamma, beta, eps))
    return b.op("Add", [b.op("Mul", [x, scale]), shift])


def _layer_norm(node: ir.Node, b: Builder) -> ir.Value | None:
    """Only over several axes (a grid is among them); one channel axis stays a LayerNormalization."""
    x, gamma = node.inputs[:2]
    beta = node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None
    shape = static_shape(x)
    if shape is None or len(node.outputs) != 1:
        return None
    axis = attribute(node, "axis", -1) % len(shape)
    if len(shape) - axis < 2:
        return None
    mean, variance = _moments(b, x, list(range(axis, len(shape))))
    scale, shift = _affine(b, x, mean, variance, None, None, attribute(node, "epsilon", 1e-5))
    y = b.op("Add", [b.op("Mul", [x, scale]), shift])
    y = b.op("Mul", [y, gamma])
    return y if beta is None else b.op("Add", [y, beta])


EXPANSIONS: dict[str, Callable[[ir.Node, Builder], ir.Value | None]] = {
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _group_norm,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "Einsum": expand_einsum,
}


def moments_function(overload: str) -> ir.Function:
    """mean and variance over ``axes``, axes kept: two passes, so that a large mean does not cancel the
    variance. HALF: of float16, in float32."""
    b = Builder("")
    given = ir.Value(name="x")
    axes = b.op("Constant", [])
    node = axes.producer()
    assert node is not None
    node.attributes["value_ints"] = ir.RefAttr("value_ints", "axes", ir.AttributeType.INTS)
    x = b.op("Cast", [given], {"to": ir.DataType.FLOAT}) if overload == HALF else given
    mean = b.op("ReduceMean", [x, axes])
    centred = b.op("Sub", [x, mean])
    variance = b.op("ReduceMean", [b.op("Mul", [centred, centred]), axes])
    graph = ir.Graph([given], [mean, variance], nodes=b.nodes, opset_imports={"": OPSET}, name="Moments")
    attributes = [ir.Attr("axes", ir.AttributeType.INTS, None)]
    return ir.Function(PASS_DOMAIN, "Moments", overload, graph=graph, attributes=attributes)


def _add_moments(model: ir.Model) -> None:
    for overload in ("", HALF):
        function = moments_function(overload)
        model.functions[function.identifier()] = function
    model.opset_imports[PASS_DOMAIN] = 1


def inline_moments(model: ir.Model) -> None:
    """Replace the pass's own statistics op by standard ones."""
    _add_moments(model)
    InlinePass()(model)
    for overload in ("", HALF):
        model.functions.pop((PASS_DOMAIN, "Moments", overload), None)
    model.opset_imports.pop(PASS_DOMAIN, None)
