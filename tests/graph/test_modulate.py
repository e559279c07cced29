"""A batch normalisation that convolutions of another map modulate goes into their weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from sige_deploy.graph.modulate import fold_modulations

from .helpers import check, network, weight

CONV = "Conv<pads=[1,1,1,1]>"
NORM = "n = BatchNormalization(x, gamma, beta, mean, var)"
SCALE = f"g = {CONV}(f, wg, bg)"
SHIFT = f"b = {CONV}(f, wb)"
WEIGHTS = {
    "gamma": np.float32([1, 2, 0.5, -1]), "beta": weight(4), "mean": weight(4, seed=2),
    "var": np.float32([1, 0.3, 2, 0.01]), "wg": weight(4, 3, 3, 3), "wb": weight(4, 3, 3, 3, seed=3),
    "bg": weight(4, seed=4), "bb": weight(4, seed=5), "one": np.float32(1), "c": weight(4, 1, 1, seed=6),
    "two": weight(4, 3, 1, 1),
}  # fmt: skip
INPUTS = "float[2,4,12,10] x, float[2,3,12,10] f"
FOLDED = {
    "plus one": f"{NORM} {SCALE} {SHIFT} h = Add(g, one) m = Mul(n, h) y = Add(m, b)",
    "the other way round": f"{SHIFT} {SCALE} {NORM} h = Add(one, g) m = Mul(h, n) y = Add(b, m)",
    "nothing added": f"{NORM} {SCALE} {SHIFT} m = Mul(n, g) y = Add(m, b)",
    "a number per channel": f"{NORM} {SCALE} {SHIFT} h = Add(g, c) m = Mul(n, h) y = Add(m, b)",
    "two modulations": (
        f"{NORM} {SCALE} {SHIFT} m = Mul(n, g) v = Add(m, b) p = {CONV}(f, wb, bb) q = {CONV}(f, wg) "
        "o = Mul(n, p) w = Add(o, q) y = Sub(v, w)"
    ),
}
KEPT = {
    "read elsewhere": f"{NORM} {SCALE} {SHIFT} m = Mul(n, g) a = Add(m, b) y = Add(a, n)",
    "no shift": f"{NORM} {SCALE} y = Mul(n, g)",
    "scale read elsewhere": f"{NORM} {SCALE} {SHIFT} m = Mul(n, g) a = Add(m, b) y = Add(a, g)",
    "another window": f"{NORM} {SCALE} b = Conv(f, two) m = Mul(n, g) y = Add(m, b)",
    "another map": f"{NORM} {SCALE} r = Relu(f) b = {CONV}(r, wb) m = Mul(n, g) y = Add(m, b)",
    "itself": f"{NORM} {SHIFT} m = Mul(n, n) y = Add(m, b)",
}


def model_of(body: str) -> onnx.ModelProto:
    words = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return network(body, INPUTS, weights={k: v for k, v in WEIGHTS.items() if k in words})


def norms(model: onnx.ModelProto) -> int:
    found = ir.from_proto(model)
    fold_modulations(found)
    return sum(n.op_type == "BatchNormalization" for n in found.graph)


@pytest.mark.parametrize("case", FOLDED)
def test_the_norm_is_gone(case: str, tmp_path: Path) -> None:
    model = model_of(FOLDED[case])
    assert norms(model) == 0
    check(model, spatial=("x", "f"))


@pytest.mark.parametrize("case", KEPT)
def test_the_norm_stays(case: str) -> None:
    model = model_of(KEPT[case])
    assert norms(model) == 1
    check(model, spatial=("x", "f"))
