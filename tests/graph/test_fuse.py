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
    "one": np.float32(1),
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
    "constants": (f"c = {CONV}(x, w) d = Add(one, c) e = Sub(d, t) y = Add(t, e)", "bias"),
    "embedding": (f"m = GlobalAveragePool(x) c = {CONV}(x, w) y = Add(m, c)", "embedding"),
    "multiplier": (f"c = {CONV}(x, w) y = Mul(x, c)", "multiplier"),
    "spade": (
        f"c = {CONV}(x, w) d = Add(c, one) m = Mul(x, d) a = Add(m, x) y = LeakyRelu(a)",
        "bias.multiplier.residual.out_leaky_relu",
    ),
    "constant behind the residual": (f"c = {CONV}(x, w) r = Add(c, x) y = Add(r, t)", "bias.residual"),
    "residual": (f"c = {CONV}(x, w) y = Add(c, x)", "residual"),
    "all behind": (
        f"m = GlobalAveragePool(x) c = {CONV}(x, w) d = Add(c, t) e = Add(d, m) r = Add(x, e) y = Tanh(r)",
        "bias.embedding.residual.out_tanh",
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
    exact = "Pool" not in body  # statistics are the recorded ones
    check(model, mixed=exact, full=exact)


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


def kinds(nodes: list[onnx.NodeProto]) -> list[tuple[str, str]]:
    return sorted((n.op_type, n.overload) for n in nodes)


def test_convs_that_read_one_affine_map_apply_it_each(tmp_path: Path) -> None:
    body = f"m = Mul(x, s) r = Relu(m) a = {CONV}(r, w) b = Conv(r, k) y = Add(a, b)"
    model = network(
        body, "float[2,4,12,10] x", weights={**{k: WEIGHTS[k] for k in "ws"}, "k": weight(4, 4, 1, 1)}
    )
    nodes = edit_nodes(model, tmp_path)
    assert kinds(nodes) == [("Conv", "rows.scale_relu"), ("Conv", "scale_relu.residual")]
    check(model)


CHAINS = {
    "affine": ("m = Mul(x, s) y = Add(m, t)", "rows.affine"),
    "affine backwards": ("m = Sub(x, t) y = Div(m, s)", "rows.affine"),
    "scalars": ("m = Mul(x, two) y = Add(one, m)", "rows.affine"),
    "silu": ("g = Sigmoid(x) y = Mul(x, g)", "rows.silu"),
    "three constants": ("a = Add(x, t) m = Mul(a, s) n = Mul(m, s) y = Relu(n)", "rows.affine_relu"),
    "prelu": ("a = Add(x, t) y = PRelu(a, slope)", "rows.shift_leaky_relu"),
    "recorded": ("m = GlobalAveragePool(x) a = Mul(x, m) y = Add(a, m)", "rows.affine"),
}


@pytest.mark.parametrize("case", CHAINS)
def test_what_no_conv_takes_is_one_gather(case: str, tmp_path: Path) -> None:
    body, overload = CHAINS[case]
    constants = {**WEIGHTS, "two": np.float32(2), "slope": np.full((4, 1, 1), 0.2, np.float32)}
    weights = {k: v for k, v in constants.items() if f"{k})" in body or f"({k}" in body}
    model = network(body, "float[2,4,12,10] x", weights=weights)
    (node,) = edit_nodes(model, tmp_path)
    assert (node.domain, node.op_type, node.overload) == ("sige", "Gather", overload)
    check(model, mixed=case != "recorded", full=case != "recorded")


def test_recorded_scales_do_not_combine(tmp_path: Path) -> None:
    """(x + m) * m: its shift would be a product of recorded values."""
    body = "m = GlobalAveragePool(x) a = Add(x, m) b = Mul(a, m) y = Add(b, t)"
    model = network(body, "float[2,4,12,10] x", weights={"t": WEIGHTS["t"]})
    assert kinds(edit_nodes(model, tmp_path)) == [("Add", ""), ("Gather", "rows.affine")]
    check(model, mixed=False, full=False)


def test_an_affine_map_between_other_ops(tmp_path: Path) -> None:
    """Its conv and its concat read one Gather."""
    body = f"m = Mul(x, s) a = Add(m, t) c = {CONV}(a, w) y = Concat<axis=1>(a, c)"
    model = network(body, "float[2,4,12,10] x", weights={k: WEIGHTS[k] for k in "wst"})
    assert kinds(edit_nodes(model, tmp_path)) == [("Concat", ""), ("Conv", ""), ("Gather", "rows.affine")]
    check(model)


LINEAR = {
    "1x1 conv": ("l = Conv(x, k, b) r = Relu(l) y = Add(r, x)", "rows.bias.out_relu"),
    "matmul": (
        "n = Transpose<perm=[0,2,3,1]>(x) r = Relu(n) l = MatMul(r, m) a = Add(l, b) s = Add(a, n) "
        "y = Transpose<perm=[0,3,1,2]>(s)",
        "rows.relu.bias.residual",
    ),
    "gemm": (
        "n = Transpose<perm=[0,2,3,1]>(x) f = Reshape(n, flat) l = Gemm<transB=1, beta=0.5>(f, m, b) "
        "g = Reshape(l, grid) y = Transpose<perm=[0,3,1,2]>(g)",
        "rows.bias",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LINEAR)
def test_linear_layers_are_convs_without_a_table(case: str, tmp_path: Path) -> None:
    body, overload = LINEAR[case]
    constants = {
        "k": weight(4, 4, 1, 1), "q": weight(4, 4, 1, 1, seed=3), "b": weight(4), "m": weight(4, 4),
        "flat": np.array([-1, 4]), "grid": np.array([2, 12, 10, 4]),
    }  # fmt: skip
    weights = {k: v for k, v in constants.items() if f" {k})" in body or f" {k}," in body}
    model = network(body, "float[2,4,12,10] x", weights=weights)
    nodes = [n for n in edit_nodes(model, tmp_path) if n.op_type == "Conv"]
    assert overload in [n.overload for n in nodes] and {n.domain for n in nodes} == {"sige"}
    stored = onnx.load(tmp_path / "bundle" / "edit.onnx", load_external_data=False).graph.initializer
    assert {tuple(t.dims) for t in stored} <= {(1, 4, 4), (4,)}
    check(model, full=True)


HALVES = "p, q = Split<axis=1, num_outputs=2>(c) g = Gelu(q) y = Add(p, g)"
COLUMNS = {
    "halves": (f"c = {CONV}(x, v, e) {HALVES}", ["bias.out_gelu", "bias.residual"]),
    "halves of linear": (f"c = Conv(x, k, e) {HALVES}", ["rows.bias.out_gelu", "rows.bias.residual"]),
    "permuted": (f"c = {CONV}(x, v, e) y = Gather<axis=1>(c, order)", ["bias"]),
    "two slices": (
        f"c = {CONV}(x, v) p = Slice(c, zero, three, one) q = Slice(c, three, eight, one) y = Relu(p) "
        "z = Tanh(q)",
        ["out_relu", "out_tanh"],
    ),
    "phases": ('c = Conv(x, k, e) y = DepthToSpace<blocksize=2, mode="CRD">(c)', ["rows.bias"]),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_moved_channels_are_columns(case: str, tmp_path: Path) -> None:
    body, overloads = COLUMNS[case]
    constants = {
        "v": weight(8, 4, 3, 3), "k": weight(8, 4, 1, 1), "e": weight(8),
        "order": np.array([3, 1, 0, 2, 7, 6, 5, 4]),
        "zero": np.array([0]), "one": np.array([1]), "three": np.array([3]), "eight": np.array([8]),
    }  # fmt: skip
    weights = {k: v for k, v in constants.items() if f" {k})" in body or f" {k}," in body}
    outputs = "float y, float z" if "z = " in body else "float y"
    model = network(body, "float[2,4,12,10] x", outputs, weights=weights)
    nodes = edit_nodes(model, tmp_path)
    assert sorted(n.overload for n in nodes if n.op_type == "Conv") == overloads
    assert {n.op_type for n in nodes} <= {"Conv", "Gather", "Reshape"} and {n.domain for n in nodes} <= {
        "sige",
        "",
    }
    files = [
        onnx.load(tmp_path / "bundle" / f"{n}.onnx", load_external_data=False) for n in ("dense", "edit")
    ]
    sizes = [sum(np.prod(t.dims) for t in f.graph.initializer if t.data_type == 1) for f in files]
    assert sizes[0] == sizes[1]
    check(model)


UNMOVED = {
    "overlapping": "p = Slice(c, zero, six, one) q = Slice(c, two, eight, one) y = Add(p, q)",
    "more launches": "p, q, r, s = Split<axis=1, num_outputs=4>(c) a = Add(p, q) b = Sub(r, s) y = Mul(a, b)",
    "read whole too": "p, q = Split<axis=1, num_outputs=2>(c) a = Add(p, q) y = Concat<axis=1>(a, c)",
}


@pytest.mark.parametrize("case", UNMOVED)
def test_channels_that_are_better_moved(case: str, tmp_path: Path) -> None:
    body = f"c = {CONV}(x, v) {UNMOVED[case]}"
    constants = {"zero": 0, "one": 1, "two": 2, "six": 6, "eight": 8}
    weights = {k: np.array([v]) for k, v in constants.items() if f"{k}," in body or f"{k})" in body}
    model = network(body, "float[2,4,12,10] x", weights={**weights, "v": weight(8, 4, 3, 3)})
    assert sum(n.domain == "sige" for n in edit_nodes(model, tmp_path)) == 1
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
