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
