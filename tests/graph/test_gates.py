"""Gated layers as one Conv: the launches, what is stored, and the values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from .helpers import check, network, weight
from .test_fuse import CONV, edit_nodes

SPLIT = "p, q = Split<axis=1, num_outputs=2>(c)"
WEIGHTS = {
    "v": weight(8, 4, 3, 3), "k": weight(8, 4, 1, 1), "e": weight(8), "b": weight(4, seed=4),
    "m": weight(4, 4, 1, 1, seed=5), "n": weight(4, 4, 1, 1, seed=6), "s": weight(1, 4, 1, 1, seed=2),
    "d": weight(4, 1, 1, 1, seed=3), "w": weight(4, 4, 3, 3, seed=1),
}  # fmt: skip
GATED = {
    "of a conv": (f"c = {CONV}(x, v, e) {SPLIT} g = Gelu(q) y = Mul(p, g)", "bias.gate_gelu"),
    "of one layer": (f"c = Conv(x, k, e) {SPLIT} g = Gelu(q) y = Mul(p, g)", "rows.bias.gate_gelu"),
    "gate first": (f"c = Conv(x, k, e) {SPLIT} g = Sigmoid(p) y = Mul(g, q)", "rows.bias.gate_sigmoid"),
    "two layers": (
        "p = Conv(x, m, b) q = Conv(x, n) t = Sigmoid(q) g = Mul(q, t) y = Mul(g, p)",
        "rows.bias.gate_silu",
    ),
    "product": (f"c = Conv(x, k) {SPLIT} y = Mul(p, q)", "rows.gate_identity"),
    "behind an affine map": (
        f"a = Mul(x, s) r = Relu(a) c = Conv(r, k) {SPLIT} g = Tanh(q) y = Mul(p, g)",
        "rows.scale_relu.gate_tanh",
    ),
    "before a residual": (
        "p = Conv(x, m) q = Conv(x, n) g = Relu(q) o = Mul(p, g) t = Add(o, x) y = Sigmoid(t)",
        "rows.gate_relu.residual.out_sigmoid",
    ),
}  # fmt: skip


def named(body: str) -> dict[str, np.ndarray]:
    return {k: v for k, v in WEIGHTS.items() if f" {k})" in body or f" {k}," in body}


def floats(folder: Path, stem: str) -> int:
    """Numbers that a graph of the bundle keeps."""
    model = onnx.load(folder / "bundle" / f"{stem}.onnx", load_external_data=False)
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type == 1)


@pytest.mark.parametrize("case", GATED)
def test_a_gated_layer_is_one_conv(case: str, tmp_path: Path) -> None:
    body, overload = GATED[case]
    model = network(body, "float[2,4,12,10] x", weights=named(body))
    (conv,) = edit_nodes(model, tmp_path)
    assert (conv.op_type, conv.overload) == ("Conv", overload)
    weights = sum(a.size for name, a in named(body).items() if a.ndim == 4 and name != "s")
    for stem in ("dense", "edit"):  # no weight twice
        assert weights <= floats(tmp_path, stem) <= weights + 16
    check(model)


def test_a_matrix_in_order_is_stored_as_it_was(tmp_path: Path) -> None:
    body = GATED["of one layer"][0]
    edit_nodes(network(body, "float[2,4,12,10] x", weights=named(body)), tmp_path)
    stored = onnx.load(tmp_path / "bundle" / "edit.onnx", load_external_data=False).graph.initializer
    assert "k.taps" in {t.name for t in stored}
    dense = onnx.load(tmp_path / "bundle" / "dense.onnx", load_external_data=False).graph.node
    assert not {"Concat", "Gather", "Slice"} & {n.op_type for n in dense}


UNGATED = {
    "another source": (
        "h = Conv(x, w2) p = Conv(h, m) q = Conv(x, n) g = Relu(q) y = Mul(p, g)", {"w2": weight(4, 4, 1, 1)}
    ),
    "gate read twice": ("p = Conv(x, m) q = Conv(x, n) g = Relu(q) o = Mul(p, g) y = Add(o, g)", {}),
    "leaky": ("p = Conv(x, m) q = Conv(x, n) g = LeakyRelu(q) y = Mul(p, g)", {}),
    "one weight": ("p = Conv(x, m, b) q = Conv(x, m) g = Relu(q) y = Mul(p, g)", {}),
    "depthwise": ("p = Conv<group=4>(x, d) q = Conv<group=4>(x, d) g = Relu(q) y = Mul(p, g)", {}),
    "other taps": (f"p = Conv(x, m) q = {CONV}(x, w) g = Relu(q) y = Mul(p, g)", {}),
    "a gate with a residual": ("p = Conv(x, m) q = Conv(x, n) t = Add(q, x) g = Relu(t) y = Mul(p, g)", {}),
}  # fmt: skip


@pytest.mark.parametrize("case", UNGATED)
def test_what_is_no_gate_stays(case: str, tmp_path: Path) -> None:
    body, more = UNGATED[case]
    model = network(body, "float[2,4,12,10] x", weights=named(body) | more)
    assert not [n for n in edit_nodes(model, tmp_path) if "gate" in n.overload]
    check(model)
