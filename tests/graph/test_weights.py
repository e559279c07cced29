from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from sige_deploy.graph.builder import Builder
from sige_deploy.graph.weights import Relayout, WeightStore, conv_transpose_weight, conv_weight
from sige_deploy.ops.conv import conv

from .helpers import weight


def test_conv_layout() -> None:
    """docs/ops.md: weight[k, c, o] = oihw[o, c, k // kw, k % kw]."""
    oihw = weight(5, 4, 3, 2)
    stored = conv_weight("w", oihw.shape).apply(oihw)
    np.testing.assert_array_equal(stored, oihw.transpose(2, 3, 1, 0).reshape(6, 4, 5))


@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose_layout(group: int) -> None:
    """Output block g reads input block g."""
    iohw = weight(4, 3, 2, 2)
    stored = conv_transpose_weight("w", iohw.shape, group).apply(iohw)
    assert stored.shape == (4, 4 // group, 3 * group)
    rows, halo = weight(1, 1, 4), np.zeros(0, np.int32)
    base = np.zeros((1, 1, 4), np.float32)
    got = conv(rows, base, halo, np.array([[-1, 0, -1, -1]], np.int32), stored, group=group)
    blocks = [
        rows[0, 0, g * 4 // group : (g + 1) * 4 // group]
        @ iohw[g * 4 // group : (g + 1) * 4 // group, :, 0, 1]
        for g in range(group)
    ]
    np.testing.assert_allclose(got[0, 0], np.concatenate(blocks), rtol=1e-6)


@pytest.mark.parametrize(
    "relayout",
    [
        conv_weight("w", (5, 4, 3, 2)),
        conv_weight("w", (5, 4, 1)),
        conv_transpose_weight("w", (4, 3, 2, 2), 2),
    ],
    ids=["conv", "conv1d", "conv transpose"],
)
def test_restored_weights_are_the_original(relayout: Relayout) -> None:
    import onnxruntime

    original = weight(*relayout.original)
    builder = Builder("")
    stored = ir.Value(name="stored", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(relayout.stored))
    restored = relayout.restore(builder, stored)
    graph = ir.Graph(
        [stored], [restored], nodes=builder.nodes, initializers=list(builder.initializers.values()),
        opset_imports={"": 23}, name="restore",
    )  # fmt: skip
    model = ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"stored": relayout.apply(original)})[0], original)


def test_one_stored_form_per_weight() -> None:
    store = WeightStore()
    array = weight(4, 4, 3, 3)
    original = ir.Value(name="w", const_value=ir.tensor(array))
    first = store.stored(original, conv_weight("w", array.shape))
    again = store.stored(original, conv_weight("w", array.shape))
    assert first is not None
    assert first == again
    assert store.stored(original, conv_transpose_weight("w", array.shape, 1)) is None
    assert list(store.tensors) == ["w.taps"]


def values(store: WeightStore, relayout: Relayout) -> np.ndarray:
    """The original weight, as a dense graph reads it."""
    import onnxruntime

    builder = Builder("")
    restored = store.read(builder, relayout)
    graph = ir.Graph(
        [], [restored], nodes=builder.nodes, initializers=list(builder.initializers.values()),
        opset_imports={"": 23}, name="read",
    )  # fmt: skip
    restored.type, restored.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(relayout.original)
    model = ir.to_proto(ir.Model(graph, ir_version=11)).SerializeToString()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {})[0]


def kept(*shapes: tuple[int, ...]) -> tuple[WeightStore, list[np.ndarray], list[Relayout]]:
    """A store of convolution weights a, b, ..."""
    store, arrays, relayouts = WeightStore(), [], []
    for i, shape in enumerate(shapes):
        name = "abc"[i]
        arrays.append(weight(*shape, seed=i))
        relayouts.append(conv_weight(name, shape))
        assert store.stored(ir.Value(name=name, const_value=ir.tensor(arrays[-1])), relayouts[-1]) is not None
    return store, arrays, relayouts


def test_pieces_in_order_become_the_form_again() -> None:
    store, (array,), (relayout,) = kept((6, 4, 3, 3))
    whole = store.tensors["a.taps"].numpy()
    pieces = store.split("a.taps", [np.arange(2), np.arange(2, 6)])
    assert sorted(store.tensors) == ["a.taps.0", "a.taps.1"]
    name, tensor = store.join([name for name, _ in pieces])
    assert name == "a.taps" and store.pieces == {} and list(store.tensors) == ["a.taps"]
    np.testing.assert_array_equal(tensor.numpy(), whole)
    np.testing.assert_array_equal(values(store, relayout), array)


def test_pieces_in_another_order() -> None:
    store, (array,), (relayout,) = kept((6, 4, 1, 1))
    pieces = store.split("a.taps", [np.array([4, 0, 5]), np.array([3, 1, 2])])
    name, tensor = store.join([pieces[1][0], pieces[0][0]])
    assert list(store.tensors) == [name]
    order = [3, 1, 2, 4, 0, 5]
    np.testing.assert_array_equal(tensor.numpy()[0], array[order, :, 0, 0].T)
    np.testing.assert_array_equal(values(store, relayout), array)


def test_weights_side_by_side() -> None:
    """Two whole weights, and a piece of a third beside them."""
    store, arrays, relayouts = kept((6, 4, 3, 3), (2, 4, 3, 3), (5, 4, 3, 3))
    first, _ = store.join(["a.taps", "b.taps"])
    pieces = store.split("c.taps", [np.array([1, 3]), np.array([0, 2, 4])])
    second, tensor = store.join([first, pieces[1][0]])
    assert tensor.shape[-1] == 11 and sorted(store.tensors) == sorted([second, pieces[0][0]])
    for array, relayout in zip(arrays, relayouts, strict=True):
        np.testing.assert_array_equal(values(store, relayout), array)
