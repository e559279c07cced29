from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import pytest

import sige_deploy as sige
from sige_deploy.graph.normalise import expand_composites, inline_moments, prepare

from .helpers import Laws, check, ints, network, weight

FRESH = sige.SparseConfig(dense_above=1.0, statistics="fresh")


def prepared(model: onnx.ModelProto, **shapes: tuple[int, ...]) -> ir.Model:
    return prepare(ir.from_proto(model), shapes)


def ops(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


# ---- constants and shapes ----------------------------------------------------------------------------------


def test_shapes_come_from_the_example_inputs() -> None:
    model = prepared(
        network("r = Relu(x) y = Conv(r, w)", "float[n,4,h,w0] x", weights={"w": weight(3, 4, 3, 3)}),
        x=(2, 4, 8, 7),
    )
    assert list(model.graph.outputs[0].shape or []) == [2, 3, 6, 5]


def test_shape_arithmetic_is_folded() -> None:
    body = """
        s = Shape(x) h = Gather(s, two) k = Constant<value_ints=[2]>() d = Mul(h, k)
        t = Concat<axis=0>(head, d, tail) y = Resize<mode="nearest">(x, , , t)
    """
    model = prepared(network(body, weights={"two": ints(2), "head": ints(1, 4), "tail": ints(10)}))
    assert ops(model) == ["Resize"]


def test_shapes_behind_group_normalisation_are_known() -> None:
    model = prepared(
        network("n = GroupNormalization<num_groups=2>(x, g, g) y = Relu(n)", weights={"g": weight(4)})
    )
    assert ops(model) == ["GroupNormalization", "Relu"]
    assert list(model.graph.outputs[0].shape or []) == [1, 4, 12, 10]


def test_old_weights_are_also_inputs() -> None:
    """Until IR version 4 initializers were listed among the inputs."""
    model = network(
        "y = Conv<pads=[1,1,1,1]>(x, w)",
        "float[1,4,12,10] x, float[3,4,3,3] w",
        weights={"w": weight(3, 4, 3, 3)},
        opset=13,
    )
    assert len(model.graph.input) == 2
    recorded = np.zeros((1, 4, 12, 10), np.float32)
    with pytest.raises(sige.ExportError, match="misses w"):
        _export(model, {"x": recorded})


def _export(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        onnx.save(model, f"{folder}/net.onnx")
        sige.export(f"{folder}/net.onnx", inputs, f"{folder}/bundle", ["x"])


# ---- opsets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [13, 17, 18, 20, 21, 22, 24])
def test_opsets(opset: int) -> None:
    body = """
        c = Conv<pads=[1,1,1,1]>(x, w) r = LeakyRelu<alpha=0.2>(c) p = MaxPool<kernel_shape=[2,2],
        strides=[2,2]>(r)
        u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(p, , s)
        q = Pad<mode="reflect">(u, pads) y = Concat<axis=1>(r, u)
    """
    weights = {"w": weight(4, 4, 3, 3), "s": np.float32([1, 1, 2, 2]), "pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}
    check(network(body, outputs="float y, float q", weights=weights, opset=opset), mixed=False)


@pytest.mark.parametrize("opset", [11, 13, 17])
def test_reductions_with_axes_as_attributes(opset: int) -> None:
    body = "m = ReduceMean<axes=[1], keepdims=1>(x) d = Sub(x, m) y = ReduceMax<axes=[1], keepdims=0>(d)"
    check(network(body, opset=opset))


@pytest.mark.parametrize("opset", [9, 10, 11])
def test_squeeze_and_clip_with_attributes(opset: int) -> None:
    body = "u = Unsqueeze<axes=[4]>(x) s = Squeeze<axes=[4]>(u) y = Relu(s) "
    body += "z = Clip<min=-0.5, max=0.5>(s)" if opset < 11 else "z = Clip(s, lo, hi)"
    check(
        network(
            body,
            outputs="float y, float z",
            weights={"lo": np.float32(-0.5), "hi": np.float32(0.5)} if opset >= 11 else {},
            opset=opset,
        )
    )


def test_a_newer_op_is_refused() -> None:
    with pytest.raises(sige.ExportError, match="Swish of opset 24"):
        prepared(network("y = Swish(x)", opset=24))


def test_group_norm_as_instance_norm() -> None:
    """torch exports nn.GroupNorm so, up to opset 20."""
    body = """
        r = Reshape(x, groups) n = InstanceNormalization<epsilon=0.00001>(r, one, nil) s = Reshape(n, whole)
        m = Mul(s, g) y = Add(m, b)
    """
    weights = {
        "groups": ints(0, 2, -1), "whole": ints(2, 4, 6, 5), "one": np.ones(2, np.float32),
        "nil": np.zeros(2, np.float32),
        "g": weight(4, 1, 1), "b": weight(4, 1, 1, seed=8),
    }  # fmt: skip
    model = network(body, "float[2,4,6,5] x", weights=weights, opset=17)
    check(model, mixed=False, full=False)
    check(model, config=FRESH, commit=False)


def test_decomposed_layer_norm() -> None:
    body = """
        t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)
        m = ReduceMean<axes=[-1]>(n) d = Sub(n, m) q = Pow(d, two) v = ReduceMean<axes=[-1]>(q)
        e = Add(v, eps) s = Sqrt(e) z = Div(d, s) k = Mul(z, g) y = Add(k, b)
    """
    weights = {
        "flat": ints(0, 4, 30),
        "two": np.float32(2),
        "eps": np.float32(1e-5),
        "g": weight(4),
        "b": weight(4),
    }
    check(network(body, "float[2,4,6,5] x", weights=weights, opset=13))


def test_decomposed_gelu_and_silu() -> None:
    body = """
        d = Div(x, root) e = Erf(d) a = Add(e, one) m = Mul(x, a) y = Mul(m, half)
        s = Sigmoid(x) z = Mul(x, s)
    """
    weights = {"root": np.float32(2**0.5), "one": np.float32(1), "half": np.float32(0.5)}
    check(network(body, outputs="float y, float z", weights=weights, opset=13))


def test_group_norm_of_opset_18() -> None:
    """Its scale is per group."""
    body = "y = GroupNormalization<num_groups=2>(x, g, b)"
    model = network(body, "float[2,4,6,5] x", weights={"g": weight(2), "b": weight(2, seed=8)}, opset=18)
    try:
        check(model, config=FRESH, commit=False)
    except sige.ExportError as error:
        assert "GroupNormalization" in str(error)


# ---- outputs -----------------------------------------------------------------------------------------------


def test_outputs_keep_their_names() -> None:
    model = prepared(
        network(
            "a = Relu(x) y = Identity(a) b = Relu(x) z = Identity(b) w = Identity(x)",
            outputs="float y, float z, float w",
        )
    )
    assert [v.name for v in model.graph.outputs] == ["y", "z", "w"]
    assert len(set(model.graph.outputs)) == 3


def test_output_of_the_name_of_an_input() -> None:
    model = network("y = Relu(x)")
    model.graph.output.append(model.graph.input[0])
    laws = Laws(model)
    assert [o.name for o in laws.manifest.outputs] == ["y", "x_out"]
    edit = laws.session.edit(**laws.edited, mask=laws.mask)
    np.testing.assert_array_equal(edit["x_out"], laws.mixed()["x"])


# ---- normalisations ----------------------------------------------------------------------------------------

NORMS = {
    "GroupNormalization<num_groups=2>(x, g, b)": "group",
    "InstanceNormalization(x, g, b)": "instance",
    "BatchNormalization(x, g, b, m, v)": "batch",
    "LayerNormalization<axis=1>(x, l)": "layer",
}


@pytest.mark.parametrize("call", NORMS)
def test_expansions_are_the_same_function(call: str) -> None:
    weights = {
        "g": weight(4), "b": weight(4, seed=8), "m": weight(4, seed=9),
        "v": np.float32([0.5, 1, 2, 3]), "l": weight(4, 6, 5),
    }  # fmt: skip
    model = prepared(network(f"y = {call}", "float[2,4,6,5] x", weights=weights))
    before = _run(model)
    expand_composites(model)
    inline_moments(model)
    assert call.split("<")[0].split("(")[0] not in ops(model)
    np.testing.assert_allclose(_run(model), before, atol=1e-5)


def _run(model: ir.Model) -> np.ndarray:
    import onnxruntime

    x = np.random.default_rng(0).normal(3, 2, (2, 4, 6, 5)).astype(np.float32)
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})[0]


def test_a_large_mean_does_not_cancel_the_variance() -> None:
    model = network(
        "n = Add(x, far) y = InstanceNormalization(n, g, b)",
        weights={"far": np.float32(1000), "g": np.ones(4, np.float32), "b": np.zeros(4, np.float32)},
    )
    laws = Laws(model, tolerance=1e-3)
    laws.nothing_changes()


def test_batch_norm_in_training_mode_stays() -> None:
    weights = {n: weight(4) for n in "gbm"} | {"v": np.float32([1, 1, 2, 2])}
    body = "y, m2, v2 = BatchNormalization<training_mode=1>(x, g, b, m, v)"
    model = prepared(network(body, weights=weights))
    expand_composites(model)
    assert ops(model) == ["BatchNormalization"]


# ---- half precision ----------------------------------------------------------------------------------------


def test_half_precision() -> None:
    body = """
        a = Conv<pads=[1,1,1,1]>(x, w) n = GroupNormalization<num_groups=2>(a, g, b) r = Relu(n)
        d = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r) m = MaxPool<kernel_shape=[2,2],
        strides=[2,2]>(r) s = Add(d, m)
        u = Resize<mode="linear">(s, , , size) y = Conv<pads=[1,1,1,1]>(u, w)
    """
    weights = {
        "w": weight(4, 4, 3, 3, dtype=np.float16),
        "g": weight(4, dtype=np.float16),
        "b": weight(4, dtype=np.float16),
        "size": ints(1, 4, 12, 10),
    }
    laws = Laws(network(body, "float16[1,4,12,10] x", "float16 y", weights), tolerance=5e-3)
    assert laws.islands() == []
    assert laws.manifest.precision == "float16"
    laws.nothing_changes()
