from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import sige_deploy as sige

from .helpers import check, network, weight

CONV = "Conv<pads=[1,1,1,1]>"
WEIGHTS = {
    "w": weight(4, 4, 3, 3),
    "v": weight(4, 4, 3, 3, seed=8),
    "s": weight(1, 4, 1, 1, seed=2),
    "t": weight(1, 4, 1, 1, seed=3),
}


def edit_nodes(model: onnx.ModelProto, folder: Path) -> list[onnx.NodeProto]:
    """Nodes of the edit graph, without the copies of inputs that commit writes."""
    onnx.save(model, folder / "net.onnx")
    example = {"x": np.zeros((2, 4, 12, 10), np.float32)}
    bundle = sige.export(folder / "net.onnx", example, folder / "bundle", ["x"])
    nodes = onnx.load(bundle.path("edit.onnx"), load_external_data=False).graph.node
    return [n for n in nodes if n.op_type != "Identity"]


FUSED = {
    "relu": (f"c = {CONV}(x, w) y = Relu(c)", "out_relu"),
    "leaky relu": (f"c = {CONV}(x, w) y = LeakyRelu<alpha=0.2>(c)", "out_leaky_relu"),
    "silu": (f"c = {CONV}(x, w) g = Sigmoid(c) y = Mul(g, c)", "out_silu"),
    "gelu": (f"c = {CONV}(x, w) y = Gelu(c)", "out_gelu"),
    "gelu by tanh": (f'c = {CONV}(x, w) y = Gelu<approximate="tanh">(c)', "out_gelu_tanh"),
    "embedding": (f"c = {CONV}(x, w) y = Add(t, c)", "embedding"),
    "residual": (f"c = {CONV}(x, w) y = Add(c, x)", "residual"),
    "all behind": (
        f"c = {CONV}(x, w) e = Add(c, t) r = Add(x, e) y = Tanh(r)", "embedding.residual.out_tanh"
    ),
    "affine": (f"m = Mul(x, s) a = Add(m, t) y = {CONV}(a, w)", "affine"),
    "scale": (f"m = Mul(s, x) y = {CONV}(m, w)", "scale"),
    "shift": (f"a = Add(t, x) y = {CONV}(a, w)", "shift"),
    "affine and silu": (
        f"m = Mul(x, s) a = Add(m, t) g = Sigmoid(a) h = Mul(a, g) y = {CONV}(h, w)", "affine_silu"
    ),
    "both sides": (
        f"r = Relu(x) c = {CONV}(r, w) e = Add(c, x) y = Sigmoid(e)", "relu.residual.out_sigmoid"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_one_conv_remains(case: str, tmp_path: Path) -> None:
    body, overload = FUSED[case]
    weights = {name: array for name, array in WEIGHTS.items() if name in body}
    model = network(body, "float[2,4,12,10] x", weights=weights)
    (conv,) = edit_nodes(model, tmp_path)
    assert (conv.domain, conv.op_type, conv.overload) == ("sige", "Conv", overload)
    check(model)


UNFUSED = {
    "read twice": f"c = {CONV}(x, w) r = Relu(c) y = Add(c, r)",
    "an output too": f"c = {CONV}(x, w) y = Relu(c)",
    "twice itself": f"c = {CONV}(x, w) y = Add(c, c)",
    "varies over the grid": f"c = {CONV}(x, w) y = Add(c, p)",
}


@pytest.mark.parametrize("case", UNFUSED)
def test_what_others_read_stays(case: str, tmp_path: Path) -> None:
    outputs = "float y, float c" if case == "an output too" else "float y"
    weights = {"w": WEIGHTS["w"]}
    if case == "varies over the grid":
        weights["p"] = weight(1, 1, 12, 10)
    model = network(UNFUSED[case], "float[2,4,12,10] x", outputs, weights)
    assert [n.overload for n in edit_nodes(model, tmp_path) if n.op_type == "Conv"] == [""]
    check(model)


def test_an_affine_map_that_two_convs_read_stays(tmp_path: Path) -> None:
    body = f"m = Mul(x, s) a = {CONV}(m, w) b = {CONV}(m, v) y = Add(a, b)"
    model = network(body, "float[2,4,12,10] x", weights={k: WEIGHTS[k] for k in "wvs"})
    nodes = edit_nodes(model, tmp_path)
    assert sorted(n.op_type for n in nodes) == ["Conv", "Conv", "Mul"]
    assert sorted(n.overload for n in nodes if n.op_type == "Conv") == ["", "residual"]
    check(model)


def test_a_chain_of_blocks(tmp_path: Path) -> None:
    """The fused output of one conv is the residual and the affine map's source of the next."""
    block = (
        "m{i} = Mul({x}, s) a{i} = Add(m{i}, t) r{i} = Relu(a{i}) c{i} = "
        + CONV
        + "(r{i}, w) {y} = Add({x}, c{i})"
    )
    body = block.format(i=0, x="x", y="h") + " " + block.format(i=1, x="h", y="y")
    model = network(body, "float[2,4,12,10] x", weights={k: WEIGHTS[k] for k in "wst"})
    assert [n.overload for n in edit_nodes(model, tmp_path)] == ["affine_relu.residual"] * 2
    check(model, mixed=False)
