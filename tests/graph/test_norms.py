"""LayerNormalization in front of linear layers: what is folded into weights, and what remains of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import sige_deploy as sige
from sige_deploy.graph.norms import fold_norms

from .helpers import Laws, check, ints, network, weight

IMAGE = "float[2,4,6,5] x"
TOKENS = "t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)"
NORM = "l = LayerNormalization(n, g, h)"
WEIGHTS = {
    "flat": ints(0, 4, 30), "rows": ints(-1, 4), "image": ints(0, 6, 5, 4),
    "g": weight(4) + 1, "h": weight(4, seed=1), "w": weight(4, 6, seed=2), "v": weight(4, 6, seed=3),
    "b": weight(6, seed=4), "u": weight(6, 4, seed=5), "k": weight(6, 4, 1, 1, seed=6),
    "c": weight(6, 4, 3, 3, seed=7), "z": weight(4, 4, seed=8),
}  # fmt: skip


def model_of(body: str, outputs: str = "float y") -> onnx.ModelProto:
    names = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return network(body, IMAGE, outputs, {k: v for k, v in WEIGHTS.items() if k in names})


FOLDED = {
    "matmul": (f"{TOKENS} {NORM} y = MatMul(l, w)", ["rows.norm.bias"]),
    "without a bias": (f"{TOKENS} l = LayerNormalization(n, g) y = MatMul(l, w)", ["rows.norm"]),
    "with a bias": (f"{TOKENS} {NORM} m = MatMul(l, w) y = Add(b, m)", ["rows.norm.bias"]),
    "and an activation": (f"{TOKENS} {NORM} m = MatMul(l, w) a = Add(m, b) y = Relu(a)",
                          ["rows.norm.bias.out_relu"]),
    "gemm": (f"{TOKENS} {NORM} f = Reshape(l, rows) y = Gemm(f, w, b)", ["rows.norm.bias"]),
    "transposed": (f"{TOKENS} {NORM} f = Reshape(l, rows) y = Gemm<transB=1>(f, u)", ["rows.norm.bias"]),
    "1x1 conv": (
        "n = Transpose<perm=[0,2,3,1]>(x) " + NORM + " i = Transpose<perm=[0,3,1,2]>(l) y = Conv(i, k)",
        ["rows.norm.bias"],
    ),
    "two layers": (f"{TOKENS} {NORM} p = MatMul(l, w) q = MatMul(l, v) r = Relu(q) y = Add(p, r)",
                   ["rows.norm.bias.out_relu", "rows.norm.bias.residual"]),
    "gated": (f"{TOKENS} {NORM} p = MatMul(l, w) q = MatMul(l, v) r = Relu(q) y = Mul(p, r)",
              ["rows.norm.bias.gate_relu"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_linear_layers_divide_by_the_deviation(case: str) -> None:
    body, overloads = FOLDED[case]
    laws = check(model_of(body))
    assert laws.manifest.launches == {"sige.Conv": len(overloads)}
    assert sorted(overloads_of(body)) == overloads


def overloads_of(body: str) -> list[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        onnx.save(model_of(body), path / "net.onnx")
        sige.export(path / "net.onnx", {"x": np.zeros((2, 4, 6, 5), np.float32)}, path / "bundle", ["x"])
        nodes = onnx.load(path / "bundle" / "edit.onnx", load_external_data=False).graph.node
        return [n.overload for n in nodes if n.op_type == "Conv"]


STAYS = {
    "read by others": f"{TOKENS} {NORM} m = MatMul(l, z) y = Add(m, l)",
    "shared weight": f"{TOKENS} {NORM} p = MatMul(l, z) q = MatMul(n, z) y = Add(p, q)",
    "rms": f"{TOKENS} l = RMSNormalization(n, g) y = MatMul(l, w)",
    "over tokens": f"{TOKENS} {NORM} i = Transpose<perm=[0,2,1]>(l) y = MatMul(z, i)",
}  # fmt: skip


@pytest.mark.parametrize("case", STAYS)
def test_what_others_read_stays_a_norm(case: str) -> None:
    laws = check(model_of(STAYS[case]))
    kind = "RMSNormalization" if case == "rms" else "LayerNormalization"
    assert laws.manifest.launches[kind] == 1


def test_a_conv_of_neighbours_reads_the_norm_that_stays() -> None:
    """Only layers without a table divide; the norm keeps its scale and bias."""
    body = (
        "n = Transpose<perm=[0,2,3,1]>(x) "
        + NORM
        + (" i = Transpose<perm=[0,3,1,2]>(l) p = Conv(i, k) q = Conv<pads=[1,1,1,1]>(i, c) y = Add(p, q)")
    )
    laws = check(model_of(body), mixed=False)
    assert laws.manifest.launches["LayerNormalization"] == 1


def folded(body: str) -> dict[str, np.ndarray]:
    model = ir.from_proto(onnx.shape_inference.infer_shapes(model_of(body)))
    fold_norms(model)
    return {n: v.const_value.numpy() for n, v in model.graph.initializers.items()}  # type: ignore[union-attr]


def test_weights_are_scaled_and_centred_and_the_bias_goes_on() -> None:
    """In exact arithmetic, rounded once."""
    g, h, w, b = (WEIGHTS[n].astype(np.float64) for n in "ghwb")
    got = folded(f"{TOKENS} {NORM} m = MatMul(l, w) y = Add(m, b)")
    scaled = g[:, None] * w
    np.testing.assert_array_equal(got["m.normed.weight"], (scaled - scaled.mean(0)).astype(np.float32))
    np.testing.assert_array_equal(got["m.normed.bias"], (h @ w + b).astype(np.float32))
    np.testing.assert_array_equal(got["l.scale"], np.ones(4, np.float32))
    assert not {"g", "h", "w", "b"} & set(got)


def test_float16_weights_that_would_overflow_stay() -> None:
    weights = {
        "flat": ints(0, 4, 30), "g": np.full(4, 300, np.float16), "h": np.zeros(4, np.float16),
        "w": np.array([[300.0], [-300.0], [0.0], [0.0]], np.float16),
    }  # fmt: skip
    model = network(f"{TOKENS} {NORM} y = MatMul(l, w)", "float16[1,4,6,5] x", "float16 y", weights)
    inferred = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    fold_norms(inferred)
    assert set(inferred.graph.initializers) == set(weights)


def test_half_precision() -> None:
    """The rounding of centred weights keeps them centred but for that."""
    weights = {n: WEIGHTS[n].astype(np.float16) for n in "ghwb"} | {"flat": WEIGHTS["flat"]}
    body = f"{TOKENS} {NORM} m = MatMul(l, w) y = Add(m, b)"
    laws = Laws(network(body, "float16[2,4,6,5] x", "float16 y", weights), tolerance=5e-3)
    assert laws.manifest.launches == {"sige.Conv": 1}
    laws.everything_is_dense()
