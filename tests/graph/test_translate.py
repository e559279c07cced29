from __future__ import annotations

import tempfile

import numpy as np
import onnx
import pytest

import sige_deploy as sige

from .helpers import Laws, check, ints, network, weight

FRESH = sige.SparseConfig(dense_above=1.0, statistics="fresh")

# ---- inputs ------------------------------------------------------------------------------------------------


def test_two_spatial_inputs_of_one_size() -> None:
    model = network(
        "c = Concat<axis=1>(x, z) y = Conv<pads=[1,1,1,1]>(c, w)",
        "float[1,4,12,10] x, float[1,2,12,10] z",
        weights={"w": weight(3, 6, 3, 3)},
    )
    check(model, spatial=("x", "z"))


def test_spatial_inputs_of_two_sizes() -> None:
    body = """
        u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(z, ,
        scales)
        a = Add(x, u) y = Conv<pads=[1,1,1,1]>(u, w) v = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) r =
        Add(v, z)
    """
    weights = {"scales": np.float32([1, 1, 2, 2]), "w": weight(3, 4, 3, 3)}
    model = network(body, "float[2,4,12,10] x, float[2,4,6,5] z", "float a, float y, float r", weights)
    laws = check(model, spatial=("x", "z"))
    assert {level.id: level.geometry for level in laws.levels} == {"12x10": None, "6x5": None}


def test_spatial_input_without_a_batch_axis() -> None:
    body = "y = Relu(x) b = Unsqueeze(x, zero) c = Conv<pads=[1,1,1,1]>(b, w)"
    check(network(body, "float[4,12,10] x", "float y, float c", {"zero": ints(0), "w": weight(3, 4, 3, 3)}))


@pytest.mark.parametrize("shape", ["1,1,1,1", "1,4,1,6", "1,4,6,1", "2,1,4,4", "1,1,6", "3,1,1"])
def test_axes_of_size_one(shape: str) -> None:
    check(network("r = Relu(x) y = Mul(r, x)", f"float[{shape}] x"))


def test_another_input_is_free_where_the_pixels_do_not_need_it() -> None:
    """An input of the class score alone, and one of the attention's text."""
    body = "y = Relu(x) m = GlobalAveragePool(x) f = Flatten(m) s = MatMul(f, w) t = Mul(s, k)"
    laws = check(
        network(body, "float[1,4,6,5] x, float[1,3] k", "float y, float t", {"w": weight(4, 3)}),
        free={"k": weight(1, 3, seed=5)},
    )
    assert laws.input("k").role == "free"


def test_pinned_input_says_where_it_goes() -> None:
    body = "a = Mul(c, c) y = Conv(x, w) z = Add(y, a)"
    model = network(body, "float[1,4,6,5] x, float[1,3,1,1] c", "float z", {"w": weight(3, 4, 1, 1)})
    model.graph.node[2].name = "inject"
    laws = check(model)
    assert laws.input("c").role == "pinned"
    assert laws.input("c").reason == "it reaches every pixel through inject"
    changed = {**laws.recorded, "c": laws.recorded["c"] + 1}
    with pytest.raises(sige.InputError, match="inject"):
        laws.session.edit(**changed, mask=laws.mask)


def test_a_text_that_is_both_attended_and_added_is_pinned() -> None:
    body = """
        t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)
        a = Attention<q_num_heads=2, kv_num_heads=2>(n, k, k) m = ReduceMean<keepdims=1>(k, one) y = Add(a, m)
    """
    laws = check(
        network(body, "float[1,4,6,5] x, float[1,7,4] k", weights={"flat": ints(0, 4, 30), "one": ints(1)})
    )
    assert laws.input("k").role == "pinned"


def test_unused_other_input() -> None:
    check(network("y = Relu(x)", "float[1,4,6,5] x, float[3] k"))


def test_batch_sizes_must_agree() -> None:
    with pytest.raises(sige.ExportError, match="batch sizes"):
        Laws(network("y = Add(x, z)", "float[1,4,6,5] x, float[2,4,6,5] z"), spatial=("x", "z"))


def test_input_that_is_also_an_operand_of_another_level() -> None:
    body = (
        "p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) y = Conv<pads=[1,1,1,1]>(p, w) z"
        " = Conv<pads=[1,1,1,1]>(x, w)"
    )
    check(network(body, outputs="float y, float z", weights={"w": weight(3, 4, 3, 3)}), mixed=False)


# ---- outputs -----------------------------------------------------------------------------------------------


def test_output_is_the_input() -> None:
    check(network("y = Identity(x)"))
    check(network("y = Identity(x) z = Relu(x)", outputs="float y, float z"))


def test_output_is_another_input() -> None:
    laws = check(network("y = Relu(x) k2 = Identity(k)", "float[1,4,6,5] x, float[3] k", "float y, float k2"))
    np.testing.assert_array_equal(laws.record["k2"], laws.recorded["k"])


def test_output_is_a_constant() -> None:
    check(network("y = Relu(x) c = Identity(w)", outputs="float y, float c", weights={"w": weight(3)}))


def test_two_outputs_are_one_value() -> None:
    laws = check(network("y = Relu(x) z = Identity(y) w = Relu(x)", outputs="float y, float z, float w"))
    assert [o.name for o in laws.manifest.outputs] == ["y", "z", "w"]


def test_output_named_twice() -> None:
    model = network("y = Relu(x)", outputs="float y, float y")
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.raises(sige.ExportError, match="two outputs named 'y'"),
    ):
        onnx.save(model, f"{folder}/net.onnx")
        sige.export(f"{folder}/net.onnx", {"x": weight(1, 4, 12, 10)}, f"{folder}/bundle", ["x"])


def test_output_is_also_a_base() -> None:
    body = "r = Relu(x) y = Conv<pads=[1,1,1,1]>(r, w)"
    check(network(body, outputs="float r, float y", weights={"w": weight(3, 4, 3, 3)}))


def test_output_is_a_view() -> None:
    body = 'p = Pad<mode="reflect">(x, pads) y = Conv(p, w)'
    check(
        network(
            body,
            outputs="float p, float y",
            weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "w": weight(3, 4, 3, 3)},
        )
    )


def test_output_is_integer() -> None:
    check(
        network(
            "y = ArgMax<axis=1>(x) z = Greater(x, k)", outputs="int64 y, bool z", weights={"k": np.float32(0)}
        )
    )


# ---- what the pass does not know ---------------------------------------------------------------------------


def test_unknown_op_is_an_island_between_rows() -> None:
    """At its own place the island is computed whole; only active pixels of it are taken."""
    body = "r = Relu(x) l = LRN<size=3>(r) y = Conv<pads=[1,1,1,1]>(l, w)"
    laws = check(network(body, weights={"w": weight(3, 4, 3, 3)}), islands=["LRN"])
    assert laws.manifest.islands[0].reason == "the pass has no rule for this op"
    assert laws.output("y").level == "12x10"
    check(network("l = LRN<size=3>(x) y = Neg(l)"), islands=["LRN"])


def test_scan_over_pixels_is_an_island() -> None:
    check(network("y = CumSum(x, a)", weights={"a": np.int64(2)}), islands=["CumSum"])


def test_function_of_another_domain_is_inlined() -> None:
    function = """
        <domain: "test", opset_import: ["" : 23]>
        swish (a) => (b) { s = Sigmoid(a) b = Mul(a, s) }
    """
    check(network("y = test.swish(x)", functions=function))


def test_op_of_another_domain() -> None:
    """ONNX Runtime's own Gelu: no rule, but the runtime has it."""
    model = network("y = test.Gelu(x)")
    model.opset_import[1].domain = "com.microsoft"
    model.graph.node[0].domain = "com.microsoft"
    with pytest.raises(sige.ExportError, match="shape of output 'y'"):
        Laws(model)
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4, 12, 10])
    )
    check(model, islands=["Gelu"])


def test_control_flow_is_refused() -> None:
    text = """
        c = Constant<value_int=1>() b = Cast<to=9>(k)
        y = If(b) <then_branch = g1 () => (float[1,4,12,10] t) { t = Relu(x) },
                   else_branch = g2 () => (float[1,4,12,10] e) { e = Neg(x) }>
    """
    model = network(text, "float[1,4,12,10] x, float k")
    with pytest.raises(sige.ExportError, match=r"control flow \(If "):
        Laws(model)


def test_control_flow_that_constants_decide() -> None:
    text = """
        y = If(yes) <then_branch = g1 () => (float[1,4,12,10] t) { t = Relu(x) },
                     else_branch = g2 () => (float[1,4,12,10] e) { e = Neg(x) }>
    """
    check(network(text, weights={"yes": np.bool_(True)}))


def test_island_with_two_outputs() -> None:
    body = "v, i = TopK<axis=1>(x, k) y = Neg(v)"
    check(network(body, outputs="float y, int64 i", weights={"k": ints(2)}), islands=["TopK"])


def test_grid_sample() -> None:
    body = "s = GridSample(x, grid) y = Add(s, x)"
    weights = {"grid": np.clip(weight(1, 12, 10, 2), -1, 1)}
    check(network(body, weights=weights), islands=["GridSample"], mixed=False)


def test_islands_are_counted_in_bytes() -> None:
    laws = check(network("y = LRN<size=3>(x)"), islands=["LRN"])
    assert laws.manifest.islands[0].bytes == 2 * 4 * 4 * 12 * 10


# ---- together ----------------------------------------------------------------------------------------------


def test_residual_network_at_three_levels() -> None:
    body = """
        a = Conv<pads=[1,1,1,1]>(x, w0) b = Relu(a)
        c = Conv<pads=[1,1,1,1], strides=[2,2]>(b, w1) d = Relu(c)
        e = Conv<pads=[1,1,1,1], strides=[2,2]>(d, w1) f = GroupNormalization<num_groups=2>(e, g, o) h =
        Sigmoid(f) i = Mul(f, h)
        j = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(i, , s)
        k = Add(j, d)
        l = ConvTranspose<strides=[2,2]>(k, w2) m = Concat<axis=1>(l, b) n = Conv<pads=[1,1,1,1]>(m, w3) y =
        Tanh(n)
    """
    weights = {
        "w0": weight(4, 3, 3, 3), "w1": weight(4, 4, 3, 3), "w2": weight(4, 4, 2, 2),
        "w3": weight(3, 8, 3, 3),
        "g": weight(4), "o": weight(4), "s": np.float32([1, 1, 2, 2]),
    }  # fmt: skip
    model = network(body, "float[2,3,16,12] x", weights=weights)
    check(model, mixed=False, full=False)
    check(model, config=FRESH, mixed=False, commit=False)


def test_policies_do_not_change_the_laws() -> None:
    body = "p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) y = Relu(p)"
    config = sige.SparseConfig(dense_above=1.0, dilate=3, level_dilate=2, granularity=4, threshold=0.6)
    check(network(body, "float[1,4,16,16] x"), config=config)
