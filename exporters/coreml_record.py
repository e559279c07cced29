"""The record graph of a bundle as an ML Program without custom layers, op by op, in the graph's own types."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.coreml.messages import quiet
from sige_deploy.errors import ExportError

if TYPE_CHECKING:
    import onnx_ir as ir

_UNARY = {
    "Sigmoid": "sigmoid", "Relu": "relu", "Tanh": "tanh", "Sin": "sin", "Cos": "cos", "Sqrt": "sqrt",
    "Exp": "exp", "Abs": "abs", "Identity": "identity",
}  # fmt: skip
_BINARY = {"Add": "add", "Sub": "sub", "Mul": "mul", "Div": "real_div", "Pow": "pow"}
_REDUCTIONS = {"ReduceMean": "reduce_mean", "ReduceSum": "reduce_sum", "ReduceMax": "reduce_max"}
_CASTS = {1: "fp32", 6: "int32", 7: "int32", 10: "fp16"}  # by ONNX's number of the type


def record_package(record: ir.Model, path: str | os.PathLike[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Write the record graph to `path`, a .mlpackage; returns the graph's names of inputs and of outputs, by
    the model's.

    A model's names are identifiers, and its integers are int32. Raises ExportError with the first node that
    has no translation, and the reason; then nothing is written.
    """
    quiet()
    import coremltools as ct

    program, *names = _Translation(record).program()
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars of coremltools
        model = ct.convert(
            program,
            convert_to="mlprogram",
            compute_precision=ct.precision.FLOAT32,  # changes no type
            minimum_deployment_target=ct.target.iOS16,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        )
    model.save(str(path))
    return names[0], names[1]


def identifier(name: str) -> str:
    """A name as a model has it: letters, digits and underscores."""
    plain = re.sub(r"\W", "_", name)
    return f"_{plain}" if plain[:1].isdigit() else plain


class _Translation:
    def __init__(self, record: ir.Model) -> None:
        from coremltools.converters.mil import Builder

        self.graph, self.mb = record.graph, Builder
        self.known: dict[ir.Value, Any] = {}  # numpy arrays and variables of the program

    def program(self) -> tuple[Any, dict[str, str], dict[str, str]]:
        import coremltools as ct
        from coremltools.converters.mil.mil import Function, Program, types

        kinds = {"FLOAT": types.fp32, "FLOAT16": types.fp16, "INT64": types.int32, "INT32": types.int32}
        inputs: dict[str, Any] = {}
        for value in self.graph.inputs:
            kind = kinds.get(value.dtype.name if value.dtype is not None else "")
            if kind is None or value.shape is None or not 1 <= len(value.shape) <= 5:
                raise ExportError(
                    f"Core ML cannot take input '{value.name}' of the record graph: it takes floats and "
                    f"integers of 1 to 5 dimensions, this is {value.dtype} {value.shape}."
                )
            inputs[self._unused(str(value.name), inputs)] = self.mb.placeholder(
                shape=value.shape.numpy(), dtype=kind
            )
        function = Function(inputs, opset_version=ct.target.iOS16)
        with function:
            self.known.update(zip(self.graph.inputs, function.inputs.values()))
            for node in self.graph:
                self._translate(node)
            names: dict[str, str] = {}
            outputs = []
            for value in self.graph.outputs:
                name = self._unused(str(value.name), {**names, **inputs})
                names[name] = str(value.name)
                outputs.append(self.mb.identity(x=self._read(value), name=name))
            function.set_outputs(outputs)
        program = Program()
        program.add_function("main", function)
        given = dict(zip(inputs, (str(value.name) for value in self.graph.inputs)))
        return program, given, names

    def _unused(self, name: str, used: Mapping[str, Any]) -> str:
        name = identifier(name)
        while name in used:
            name += "_"
        return name

    def _translate(self, node: ir.Node) -> None:
        kind = node.op_type
        given = [None if value is None else self._read(value) for value in node.inputs]
        constant = all(value is None or isinstance(value, np.ndarray) for value in given)
        if constant and kind in _FOLDED:
            self.known[node.outputs[0]] = _FOLDED[kind](self, node, given)
            return
        if node.domain or (kind not in _OPS and kind not in {*_UNARY, *_BINARY, *_REDUCTIONS}):
            self.refuse(node, "there is no translation of this op")
        if len(node.outputs) != 1 and kind != "Split":
            self.refuse(node, "it has several outputs")
        if kind in _UNARY:
            results = getattr(self.mb, _UNARY[kind])(x=given[0])
        elif kind in _BINARY:
            x, y = (_scalar(value) for value in given)
            results = getattr(self.mb, _BINARY[kind])(x=x, y=y)
        elif kind in _REDUCTIONS:
            results = _reduce(self, node, given)
        else:
            results = _OPS[kind](self, node, given)
        for value, result in zip(node.outputs, results if isinstance(results, tuple) else (results,)):
            if value.shape is not None and all(isinstance(d, int) for d in value.shape):
                assert tuple(value.shape.numpy()) == tuple(result.shape), (
                    node.name,
                    value.shape,
                    result.shape,
                )
            self.known[value] = result

    def _read(self, value: ir.Value) -> Any:
        if value not in self.known:
            assert value.const_value is not None, value.name
            self.known[value] = _narrow(value.const_value.numpy())
        return self.known[value]

    def constant(self, node: ir.Node, value: Any, what: str) -> np.ndarray:
        """An input that has to be known beforehand."""
        if not isinstance(value, np.ndarray):
            self.refuse(node, f"its {what} is computed in the graph")
        return value

    def refuse(self, node: ir.Node, reason: str) -> Any:
        kind = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise ExportError(f"Core ML cannot run node '{node.name}' ({kind}) of the record graph: {reason}.")


def _narrow(array: np.ndarray) -> np.ndarray:
    """Integers as int32, for Core ML has no others; those that it cannot hold, such as the largest int64 for
    an open end, as near as can be."""
    if array.dtype == np.int64:
        bounds = np.iinfo(np.int32)
        array = array.clip(bounds.min, bounds.max).astype(np.int32)
    return array


def _scalar(value: Any) -> Any:
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _get(node: ir.Node, name: str, default: Any) -> Any:
    return node.attributes[name].value if name in node.attributes else default


def _constant(t: _Translation, node: ir.Node, given: list[Any]) -> np.ndarray:
    (attribute,) = node.attributes.values()
    value = attribute.value
    array = value.numpy() if attribute.name == "value" else np.asarray(value)
    return _narrow(array.astype(np.float32) if array.dtype == np.float64 else array)


def _target_shape(node: ir.Node, x: Any, shape: np.ndarray) -> list[int]:
    sizes = [int(size) for size in shape]
    if not _get(node, "allowzero", 0):
        sizes = [x.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
    if -1 in sizes:
        rest = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = int(np.prod(x.shape)) // rest
    return sizes


def _reshape(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    sizes = _target_shape(node, given[0], t.constant(node, given[1], "shape"))
    if len(sizes) > 5:
        t.refuse(node, f"it gives {len(sizes)} dimensions, and Core ML has at most 5")
    if not sizes:
        return t.mb.squeeze(x=given[0])
    return t.mb.reshape(x=given[0], shape=np.array(sizes, np.int32))


def _transpose(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    return t.mb.transpose(x=given[0], perm=list(_get(node, "perm", reversed(range(len(given[0].shape))))))


def _unsqueeze(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    return t.mb.expand_dims(x=given[0], axes=t.constant(node, given[1], "axes"))


def _cast(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    kind = _CASTS.get(int(_get(node, "to", 0)))
    if kind is None:
        t.refuse(node, "Core ML has no such type")
    return t.mb.cast(x=given[0], dtype=kind)


def _concat(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    return t.mb.concat(values=given, axis=int(_get(node, "axis", 0)))


def _slice(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    x, rank = given[0], len(given[0].shape)
    starts, ends = (t.constant(node, given[i], "range") for i in (1, 2))
    axes = (
        t.constant(node, given[3], "axes") if len(given) > 3 and given[3] is not None else range(len(starts))
    )
    steps = (
        t.constant(node, given[4], "steps") if len(given) > 4 and given[4] is not None else [1] * len(starts)
    )
    begin, end, stride = [0] * rank, list(x.shape), [1] * rank
    for axis, *bounds, step in zip(axes, starts, ends, steps):
        if step < 1:
            t.refuse(node, f"its step is {step}")
        begin[axis], end[axis], stride[axis] = *slice(*map(int, bounds)).indices(x.shape[axis])[:2], int(step)
    return t.mb.slice_by_index(x=x, begin=begin, end=end, stride=stride)


def _split(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    axis = int(_get(node, "axis", 0))
    if len(given) > 1 and given[1] is not None:
        sizes = t.constant(node, given[1], "sizes")
    else:
        whole, parts = given[0].shape[axis], len(node.outputs)
        sizes = np.diff([*range(0, whole, -(-whole // parts)), whole]).astype(np.int32)
    if len(sizes) == 1:
        return t.mb.identity(x=given[0])
    return tuple(t.mb.split(x=given[0], split_sizes=sizes, axis=axis))


def _gemm(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    if _get(node, "alpha", 1.0) != 1 or _get(node, "beta", 1.0) != 1:
        t.refuse(node, "it has an alpha or beta other than 1")
    flips = {"transpose_x": bool(_get(node, "transA", 0)), "transpose_y": bool(_get(node, "transB", 0))}
    y = t.mb.matmul(x=given[0], y=given[1], **flips)
    return y if len(given) < 3 or given[2] is None else t.mb.add(x=y, y=given[2])


def _matmul(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    return t.mb.matmul(x=given[0], y=given[1])


def _conv(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    weight = given[1]
    spatial = len(weight.shape) - 2
    if _get(node, "auto_pad", "NOTSET") != "NOTSET":
        t.refuse(node, "it pads by itself (auto_pad)")
    before, after = np.array(_get(node, "pads", [0] * 2 * spatial)).reshape(2, spatial)
    bias = {} if len(given) < 3 or given[2] is None else {"bias": t.constant(node, given[2], "bias")}
    return t.mb.conv(
        x=given[0],
        weight=weight,
        strides=list(_get(node, "strides", [1] * spatial)),
        dilations=list(_get(node, "dilations", [1] * spatial)),
        groups=int(_get(node, "group", 1)),
        pad_type="custom",
        pad=[int(n) for pair in zip(before, after) for n in pair],
        **bias,
    )


def _reduce(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    kind = _REDUCTIONS[node.op_type]
    if len(given) < 2 or given[1] is None:
        t.refuse(node, "it names no axes")
    axes = [int(axis) for axis in t.constant(node, given[1], "axes")]
    return getattr(t.mb, kind)(x=given[0], axes=axes, keep_dims=bool(_get(node, "keepdims", 1)))


def _reciprocal(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    return t.mb.real_div(x=_one(given[0]), y=given[0])


def _leaky_relu(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    return t.mb.leaky_relu(x=given[0], alpha=_number(given[0], _get(node, "alpha", 0.01)))


def _gelu(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    tanh = _get(node, "approximate", "none") == "tanh"
    return t.mb.gelu(x=given[0], mode="TANH_APPROXIMATION" if tanh else "EXACT")


def _softmax(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    return t.mb.softmax(x=given[0], axis=int(_get(node, "axis", -1)))


def _layer_norm(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    axis = int(_get(node, "axis", -1)) % len(given[0].shape)
    gain = t.constant(node, given[1], "scale")
    bias = {} if len(given) < 3 or given[2] is None else {"beta": t.constant(node, given[2], "bias")}
    epsilon = _number(given[0], _get(node, "epsilon", 1e-5))
    axes = list(range(axis, len(given[0].shape)))
    return t.mb.layer_norm(x=given[0], axes=axes, gamma=gain, epsilon=epsilon, **bias)


def _attention(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    plain = not (_get(node, "is_causal", 0) or _get(node, "softcap", 0.0))
    if len(given[0].shape) != 4 or any(value is not None for value in given[3:]) or not plain:
        t.refuse(node, "it is masked, capped, or not given heads as a dimension")
    q, k, v = given[:3]
    if q.shape[1] != k.shape[1]:
        t.refuse(node, "its queries have other heads than its keys")
    factor = _get(node, "scale", 0.0) or q.shape[-1] ** -0.5
    scores = t.mb.matmul(x=t.mb.mul(x=q, y=_number(q, factor)), y=k, transpose_y=True)
    return t.mb.matmul(x=t.mb.softmax(x=scores, axis=-1), y=v)


def _resize(t: _Translation, node: ir.Node, given: list[Any]) -> Any:
    """Nearest neighbours by whole factors: repeated pixels, or every n-th."""
    x = given[0]
    if len(given) > 3 and given[3] is not None:
        sizes = [int(n) for n in t.constant(node, given[3], "sizes")]
    else:
        scales = t.constant(node, given[2], "scales")
        sizes = [int(np.floor(n * scale)) for n, scale in zip(x.shape, scales)]
    rule = [_get(node, name, "") for name in ("mode", "coordinate_transformation_mode", "nearest_mode")]
    if rule != ["nearest", "asymmetric", "floor"] or len(sizes) != 4 or list(x.shape[:2]) != sizes[:2]:
        t.refuse(node, "it is not to the nearest pixel of an image (asymmetric, floor)")
    old, new = list(x.shape[2:]), sizes[2:]
    if all(b % a == 0 for a, b in zip(old, new)):
        up = [b // a for a, b in zip(old, new)]
        return t.mb.upsample_nearest_neighbor(x=x, scale_factor_height=up[0], scale_factor_width=up[1])
    if all(a % b == 0 for a, b in zip(old, new)):
        stride = [1, 1, *(a // b for a, b in zip(old, new))]
        return t.mb.slice_by_index(x=x, begin=[0] * 4, end=list(x.shape), stride=stride)
    return t.refuse(node, f"it goes from {old} to {new}, which is no whole factor")


def _number(like: Any, value: float) -> Any:
    from coremltools.converters.mil.mil import types

    return (np.float16 if like.dtype == types.fp16 else np.float32)(value)


def _one(like: Any) -> Any:
    return _number(like, 1.0)


Translator = Callable[[_Translation, Any, list[Any]], Any]
_OPS: Mapping[str, Translator] = {
    "Attention": _attention,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky_relu,
    "MatMul": _matmul,
    "Reciprocal": _reciprocal,
    "Reshape": _reshape,
    "Resize": _resize,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
#: Of constants: weights are stored in the layout of the edit graph.
_FOLDED: Mapping[str, Translator] = {
    "Constant": _constant,
    "Identity": lambda t, node, given: given[0],
    "Reshape": lambda t, node, given: given[0].reshape(_target_shape(node, *given)),
    "Transpose": lambda t, node, given: given[0].transpose(_get(node, "perm", None)),
    "Unsqueeze": lambda t, node, given: np.expand_dims(given[0], tuple(given[1])),
}
