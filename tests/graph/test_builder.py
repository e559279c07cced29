from __future__ import annotations

import numpy as np
import onnx_ir as ir

from sige_deploy.graph.builder import Builder, attribute, is_constant, static_shape


def value(*shape: int | str, name: str = "x") -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(shape))


def test_names_are_unique_and_prefixed() -> None:
    builder = Builder("p/")
    x = value(2)
    names = [builder.op("Relu", [x]).name for _ in range(3)]
    assert len(set(names)) == 3
    assert all(name.startswith("p/") for name in names)
    assert len({node.name for node in builder.nodes}) == 3


def test_small_constants_are_shared() -> None:
    builder = Builder("")
    assert builder.ints(1, 2) is builder.ints(1, 2)
    assert builder.ints(1, 2) is not builder.ints(2, 1)
    assert builder.constant(np.float32(1)) is not builder.constant(np.float16(1))
    assert builder.constant(np.float32(1)) is not builder.constant(np.float32([1]))
    large = np.zeros(4096, np.float32)
    assert builder.constant(large) is not builder.constant(large)


def test_trailing_inputs_that_are_missing_are_left_out() -> None:
    builder = Builder("")
    builder.op("Clip", [value(2), None, None])
    assert len(builder.nodes[0].inputs) == 1


def test_types_follow_the_first_input() -> None:
    builder = Builder("")
    assert builder.op("Relu", [value(2)]).dtype == ir.DataType.FLOAT
    assert builder.op("Cast", [value(2)], {"to": 7}, dtype=ir.DataType.INT64).dtype == ir.DataType.INT64
    first, second = builder.op("Split", [value(2)], {"num_outputs": 2}, outputs=2)
    assert first.dtype == second.dtype == ir.DataType.FLOAT


def test_identity_transpose_writes_nothing() -> None:
    builder = Builder("")
    x = value(2, 3)
    assert builder.transpose(x, [0, 1]) is x
    assert builder.nodes == []


def test_clone() -> None:
    source, target = Builder("a/"), Builder("b/")
    x = value(2)
    y = source.op("LeakyRelu", [x], {"alpha": 0.5})
    y.shape = ir.Shape([2])
    node = y.producer()
    assert node is not None
    (copy,) = target.clone(node, [value(2, name="z")])
    twin = copy.producer()
    assert twin is not None
    assert twin is not node
    assert attribute(twin, "alpha") == 0.5
    assert static_shape(copy) == (2,)
    assert copy.name != y.name


def test_attribute_values() -> None:
    node = ir.node("Conv", [value(1)], attributes={"pads": [1, 2], "auto_pad": "VALID", "group": 3})
    assert attribute(node, "pads") == [1, 2]
    assert attribute(node, "auto_pad") == "VALID"
    assert attribute(node, "group", 1) == 3
    assert attribute(node, "strides", [1, 1]) == [1, 1]


def test_static_shapes() -> None:
    assert static_shape(value(2, 3)) == (2, 3)
    assert static_shape(value(2, "n")) is None
    assert static_shape(ir.Value(name="x")) is None
    assert not is_constant(value(2))
    assert not is_constant(None)
    assert is_constant(Builder("").ints(1))
