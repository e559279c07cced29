"""Two linear layers with a residual between: one layer of two activations."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir as ir
import onnxruntime
import pytest

import sige_deploy as sige
from sige_deploy.graph.residuals import merge_over_residuals

from .helpers import Laws, check, ints, network, weight

IMAGE = "float[2,4,6,5] x"
TOKENS = "t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t) h = Sigmoid(n) "
BACK = " u = Transpose<perm=[0,2,1]>({}) i = Reshape(u, image) "
WEIGHTS = {
    "flat": ints(0, 4, 30), "image": ints(0, 4, 6, 5), "rows": ints(60, 4), "grid": ints(0, 6, 5, 4),
    "w": weight(4, 4, seed=2), "b": weight(4, seed=3), "v": weight(4, 4, seed=4), "c": weight(4, seed=5),
    "k": weight(4, 4, 1, 1, seed=6), "f": weight(3, 4, 1, 1, seed=7), "d": weight(3, seed=8),
    "g": weight(4, 3, seed=9), "j": weight(4, 6, seed=10), "e": weight(3, 4, seed=11),
    "m": weight(4, 4, 3, 3, seed=12), "s": weight(4, 6, 1, 1, seed=13), "z": weight(1, 30, 4, seed=14),
}  # fmt: skip
BIASED = "p = MatMul(h, w) q = Add(b, p) a = Add(q, n) "


def model_of(body: str, outputs: str = "float y", dtype: str = "float") -> onnx.ModelProto:
    names = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    halves = {k: v.astype(np.float16) if dtype == "float16" and v.dtype != np.int64 else v
              for k, v in WEIGHTS.items() if k in names}  # fmt: skip
    floats = [text.replace("float", dtype) for text in (IMAGE, outputs)]
    return network(body, *floats, halves)


def convs(model: onnx.ModelProto, folder: Path) -> list[str]:
    """Overloads of the Convs of the edit graph, which has no Concat."""
    onnx.save(model, folder / "net.onnx")
    example = {"x": np.zeros((2, 4, 6, 5), np.float32)}
    bundle = sige.export(folder / "net.onnx", example, folder / "bundle", ["x"])
    nodes = onnx.load(bundle.path("edit.onnx"), load_external_data=False).graph.node
    assert not [n for n in nodes if n.op_type == "Concat"]
    for conv in (n for n in nodes if n.op_type == "Conv" and "two" in n.overload):
        assert [bool(name) for name in conv.input[1:4]] == [False] * 3  # no table, so no bases
    return [n.overload for n in nodes if n.op_type == "Conv"]


MERGED = {
    "as in a transformer": (
        TOKENS + BIASED + BACK.format("a") + "o = Conv(i, f, d) y = Relu(o)", "rows.two.bias.out_relu"
    ),
    "residual behind": (
        TOKENS + BIASED + BACK.format("a") + "o = Conv(i, k, c) y = Add(o, x)", "rows.two.bias.residual"
    ),
    "two matrices": (TOKENS + BIASED + "o = MatMul(a, v) y = Add(o, c)", "rows.two.bias"),
    "no bias": (TOKENS + "p = MatMul(h, w) a = Add(n, p) y = MatMul(a, v)", "rows.two"),
    "first bias": (TOKENS + BIASED + "y = MatMul(a, g)", "rows.two.bias"),
    "second bias": (
        TOKENS + "p = MatMul(h, w) a = Add(n, p) o = MatMul(a, v) y = Add(c, o)", "rows.two.bias"
    ),
    "gemms": (
        TOKENS + "r = Reshape(n, rows) l = Reshape(h, rows) q = Gemm(l, w, b) a = Add(r, q) "
        "y = Gemm<transB=1>(a, e)",
        "rows.two.bias",
    ),
    "convs": ("h = Sigmoid(x) q = Conv(h, k, b) a = Add(q, x) y = Conv(a, f, d)", "rows.two.bias"),
    "conv and matrix": (
        "h = Sigmoid(x) q = Conv(h, k) a = Add(x, q) t = Transpose<perm=[0,2,3,1]>(a) y = MatMul(t, g)",
        "rows.two",
    ),
    "either side": (
        TOKENS + "p = MatMul(h, w) l = MatMul(n, v) q = Relu(l) a = Add(p, q) y = MatMul(a, g)", "rows.two"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MERGED)
def test_one_layer_of_two_sources(case: str, tmp_path: Path) -> None:
    body, overload = MERGED[case]
    found = [o for o in convs(model_of(body), tmp_path) if "two" in o]
    assert found == [overload]
    laws = check(model_of(body))
    assert laws.manifest.launches["sige.Conv"] == (2 if case == "either side" else 1)


def test_the_last_block_of_several_merges(tmp_path: Path) -> None:
    """What an earlier block adds is read by the next block's layers too."""
    body = (
        TOKENS + BIASED + "h2 = Sigmoid(a) p2 = MatMul(h2, v) q2 = Add(p2, c) a2 = Add(q2, a)"
        + BACK.format("a2") + "o = Conv(i, k) y = Add(o, x)"
    )  # fmt: skip
    assert sorted(convs(model_of(body), tmp_path)) == ["rows.sigmoid.bias.residual", "rows.two.bias.residual"]
    check(model_of(body))


def test_one_of_three_layers_in_a_row_stays(tmp_path: Path) -> None:
    """A Conv has two sources."""
    body = "h = Sigmoid(x) q = Conv(h, k, b) a = Add(q, x) l = Conv(a, k2, c) i = Add(l, x) y = Conv(i, f, d)"
    model = model_of(body)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight(4, 4, 1, 1, seed=20), "k2"))
    assert sorted(convs(model, tmp_path)) == ["rows.bias", "rows.two.bias.residual"]
    check(model)


APART = {
    "the sum is an output": (TOKENS + BIASED + "y = MatMul(a, v)", "float y, float a"),
    "the layer is an output": (TOKENS + BIASED + "y = MatMul(a, v)", "float y, float q"),
    "others read the sum": (TOKENS + BIASED + "o = MatMul(a, v) y = Add(o, a)", "float y"),
    "others read the layer": (TOKENS + BIASED + "o = MatMul(a, v) y = Add(o, q)", "float y"),
    "an activation between": (TOKENS + BIASED + "r = Relu(a) y = MatMul(r, v)", "float y"),
    "more outputs": (TOKENS + BIASED + "y = MatMul(a, j)", "float y"),
    "one weight": (TOKENS + "p = MatMul(h, w) a = Add(p, n) y = MatMul(a, w)", "float y"),
    "a constant": (TOKENS + "p = MatMul(h, w) a = Add(p, z) y = MatMul(a, v)", "float y"),
    "to itself": (TOKENS + "p = MatMul(h, w) a = Add(p, p) y = MatMul(a, v)", "float y"),
    "neighbours": ("h = Sigmoid(x) q = Conv(h, k) a = Add(q, x) y = Conv<pads=[1,1,1,1]>(a, m)", "float y"),
    "strided": ("h = Sigmoid(x) q = Conv(h, k) a = Add(q, x) y = Conv<strides=[2,2]>(a, f)", "float y"),
    "three sources": (
        "h = Sigmoid(x) r = Conv(x, f) l = Concat<axis=1>(h, r) q = Conv(l, s7) a = Add(q, x) y = Conv(a, k)",
        "float y",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", APART)
def test_what_others_read_or_costs_more_stays(case: str) -> None:
    body, outputs = APART[case]
    model = model_of(body, outputs)
    if "s7" in body:
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight(4, 7, 1, 1), "s7"))
    assert set(merged(model)) == {t.name for t in model.graph.initializer}


def merged(model: onnx.ModelProto) -> Mapping[str, np.ndarray]:
    """The constants of a network behind the step."""
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    merge_over_residuals(inferred, ["x"])
    return {n: v.const_value.numpy() for n, v in inferred.graph.initializers.items()}  # type: ignore[union-attr]


def test_the_residual_must_follow_from_pixels() -> None:
    body = TOKENS + "p = MatMul(h, w) a = Add(p, r) y = MatMul(a, v)"
    weights = {n: WEIGHTS[n] for n in ("flat", "w", "v")}
    model = network(body, f"{IMAGE}, float[2,30,4] r", weights=weights)
    assert set(merged(model)) == set(weights)


def test_the_matrix_is_exact_and_rounded_once() -> None:
    w, b, v, c = (WEIGHTS[n].astype(np.float64) for n in "wbvc")
    got = merged(model_of(TOKENS + BIASED + "o = MatMul(a, v) y = Add(o, c)"))
    weights = [a for n, a in got.items() if "weight" in n]
    biases = [a for n, a in got.items() if "bias" in n]
    np.testing.assert_array_equal(weights, [np.concatenate([w @ v, v]).astype(np.float32)])
    np.testing.assert_array_equal(biases, [(b @ v + c).astype(np.float32)])
    assert not set("wbvc") & set(got)


def test_float16_weights_that_would_overflow_stay() -> None:
    weights = {"flat": WEIGHTS["flat"], "w": np.full((4, 4), 200.0, np.float16)}
    weights["v"] = weights["w"] / 2
    body = TOKENS + "p = MatMul(h, w) a = Add(p, n) y = MatMul(a, v)"
    model = network(body, "float16[2,4,6,5] x", "float16 y", weights)
    assert set(merged(model)) == set(weights)


def test_half_precision() -> None:
    body = MERGED["residual behind"][0]
    laws = Laws(model_of(body, dtype="float16"), tolerance=5e-3)
    assert laws.manifest.launches == {"Sigmoid": 1, "sige.Conv": 1}
    laws.nothing_changes()
    laws.everything_is_dense()


def test_half_precision_is_as_near_as_two_layers_are() -> None:
    """Layers 128 and 32 wide, weights as of a trained network: the error against exact arithmetic."""
    rng = np.random.default_rng(0)
    weights = {
        "u": rng.normal(size=(32, 128)) / 32**0.5, "w": rng.normal(size=(128, 32)) / 128**0.5,
        "b": rng.normal(size=32) / 4, "v": rng.normal(size=(32, 32)) / 32**0.5, "c": rng.normal(size=32) / 4,
    }  # fmt: skip
    body = """l = MatMul(x, u) h = Sigmoid(l) p = MatMul(h, w) q = Add(p, b) a = Add(q, x)
        o = MatMul(a, v) y = Add(o, c)"""
    x = rng.normal(size=(1, 200, 32))
    exact = (1 / (1 + np.exp(-x @ weights["u"])) @ weights["w"] + weights["b"] + x) @ weights["v"]
    exact += weights["c"]
    halves = {n: a.astype(np.float16) for n, a in weights.items()}
    two = onnx.shape_inference.infer_shapes(network(body, "float16[1,200,32] x", "float16 y", halves))
    one = ir.from_proto(two)
    merge_over_residuals(one, ["x"])
    assert [n.op_type for n in one.graph].count("MatMul") == 2
    errors = [_error(model, x, exact) for model in (two, ir.to_proto(one))]
    assert errors[1] < 1.1 * errors[0] < 1.1e-3


def _error(model: onnx.ModelProto, x: np.ndarray, exact: np.ndarray) -> float:
    """Root of the mean square error against that of the values."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {"x": x.astype(np.float16)})
    return float(np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2)))
