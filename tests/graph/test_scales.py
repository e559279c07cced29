from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sige_deploy.graph.scales import fold_scales

from .helpers import check, ints, network, weight

CONV = "Conv<pads=[1,1,1,1]>"
UP = "ConvTranspose<strides=[2,2]>"
TOKENS = "t = Transpose<perm=[0,2,3,1]>(x)"
WEIGHTS = {
    "w": weight(4, 4, 3, 3), "b": weight(4, seed=2), "u": weight(4, 3, 2, 2), "m": weight(4, 4, seed=3),
    "tenth": np.float32(0.1), "each": weight(4, 1, 1, seed=4), "last": weight(4, seed=5),
    "three": weight(3, 1, 1, seed=6), "grid": weight(1, 1, 12, 10), "flat": ints(-1, 4),
    "form": ints(2, 12, 10, 4),
}  # fmt: skip
FOLDED = {
    "number": f"c = {CONV}(x, w, b) s = Mul(c, tenth) y = Add(s, x)",
    "twice": f"c = {CONV}(x, w) s = Mul(tenth, c) y = Mul(s, each)",
    "channels": f"c = {CONV}(x, w, b) y = Mul(each, c)",
    "behind an addend": f"c = {CONV}(x, w) a = Add(c, each) y = Mul(a, each)",
    "transposed conv": f"c = {UP}(x, u) y = Mul(c, three)",
    "matmul": f"{TOKENS} l = MatMul(t, m) a = Add(l, b) y = Mul(a, last)",
    "gemm": (
        f"{TOKENS} f = Reshape(t, flat) l = Gemm<transB=1>(f, m, b) s = Mul(l, last) y = Reshape(s, form)"
    ),
}
KEPT = {
    "read elsewhere": f"c = {CONV}(x, w) s = Mul(c, tenth) y = Add(s, c)",
    "over the grid": f"c = {CONV}(x, w) y = Mul(c, grid)",
    "no weights": "y = Mul(x, tenth)",
    "two spatial addends": f"c = {CONV}(x, w) a = Add(c, x) y = Mul(a, tenth)",
}


def model_of(body: str) -> onnx.ModelProto:
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return network(body, "float[2,4,12,10] x", weights={k: v for k, v in WEIGHTS.items() if k in words})


def products(model: onnx.ModelProto) -> int:
    found = ir.from_proto(onnx.shape_inference.infer_shapes(model))
    fold_scales(found)
    return sum(n.op_type == "Mul" for n in found.graph)


@pytest.mark.parametrize("case", FOLDED)
def test_the_factor_is_in_the_weights(case: str) -> None:
    model = model_of(FOLDED[case])
    assert products(model) == 0
    check(model)


@pytest.mark.parametrize("case", KEPT)
def test_the_factor_stays(case: str) -> None:
    model = model_of(KEPT[case])
    assert products(model) == 1
    check(model)
