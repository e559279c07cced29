"""Queries, keys and values of one activation: one product, which Attention reads in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import sige_deploy as sige

from .helpers import Laws, check, ints, network, weight

IMAGE = "float[2,4,6,5] x"
TOKENS = "t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)"
WEIGHTS = {
    "flat": ints(0, 4, 30), "split": ints(0, 30, 2, 3), "join": ints(0, 30, 6),
    "three": ints(0, 30, 3, 2, 3), "inner": ints(0, 30, 2, 3, 3), "wide": weight(4, 18, seed=9),
    **{f"w{n}": weight(4, 6, seed=i) for i, n in enumerate("qkv")},
    **{f"b{n}": weight(6, seed=10 + i) for i, n in enumerate("qkv")},
}  # fmt: skip
PROJECT = "q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wv)"
ATTEND = "Attention<q_num_heads=2, kv_num_heads=2>"
HEADS = " ".join(
    f"{n}s = Reshape({n}, split) {n}h = Transpose<perm=[0,2,1,3]>({n}s)" for n in "qkv"
) + " a = Attention(qh, kh, vh) b = Transpose<perm=[0,2,1,3]>(a) y = Reshape(b, join)"  # fmt: skip


def model_of(body: str, inputs: str = IMAGE, outputs: str = "float y") -> onnx.ModelProto:
    names = body.replace("(", " ").replace(")", " ").replace(",", " ").split()
    return network(body, inputs, outputs, {k: v for k, v in WEIGHTS.items() if k in names})


def export(model: onnx.ModelProto, folder: Path) -> tuple[sige.bundle.Bundle, list[onnx.NodeProto]]:
    """The bundle, and the nodes of its edit graph without the copies of inputs that commit writes."""
    onnx.save(model, folder / "net.onnx")
    example = {"x": np.zeros((2, 4, 6, 5), np.float32)}
    bundle = sige.export(folder / "net.onnx", example, folder / "bundle", ["x"])
    nodes = onnx.load(bundle.path("edit.onnx"), load_external_data=False).graph.node
    return bundle, [n for n in nodes if n.op_type not in ("Identity", "Reshape")]


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {a.name: a.i for a in node.attribute if a.name not in ("heads", "scale")}


ONE = {"dk": 3, "dv": 3, "k_offset": 6, "v_offset": 12}
JOINED = {
    "three axes": (f"{TOKENS} {PROJECT} y = {ATTEND}(q, k, v)", ONE),
    "four axes": (f"{TOKENS} {PROJECT} {HEADS}", ONE),
    "biased": (
        f"{TOKENS} "
        + " ".join(f"{n}m = MatMul(n, w{n}) {n} = Add({n}m, b{n})" for n in "qkv")
        + f" y = {ATTEND}(q, k, v)",
        ONE,
    ),
    "one biased": (
        f"{TOKENS} q = MatMul(n, wq) km = MatMul(n, wk) k = Add(bk, km) v = MatMul(n, wv) "
        f"y = {ATTEND}(q, k, v)",
        ONE,
    ),
    "joined already": (
        f"{TOKENS} m = MatMul(n, wide) q, k, v = Split<axis=2, num_outputs=3>(m) y = {ATTEND}(q, k, v)",
        ONE,
    ),
    "as transformers do": (
        f"{TOKENS} m = MatMul(n, wide) r = Reshape(m, three) p = Transpose<perm=[2,0,3,1,4]>(r) "
        "q, k, v = Split<axis=0, num_outputs=3>(p) "
        + " ".join(f"{n}h = Squeeze({n}, zero)" for n in "qkv")
        + " a = Attention(qh, kh, vh) b = Transpose<perm=[0,2,1,3]>(a) y = Reshape(b, join)",
        ONE,
    ),
    "by heads": (
        f"{TOKENS} m = MatMul(n, wide) r = Reshape(m, inner) p = Transpose<perm=[3,0,2,1,4]>(r) "
        "q, k, v = Split<axis=0, num_outputs=3>(p) "
        + " ".join(f"{n}h = Squeeze({n}, zero)" for n in "qkv")
        + " a = Attention(qh, kh, vh) b = Transpose<perm=[0,2,1,3]>(a) y = Reshape(b, join)",
        ONE,
    ),
}


@pytest.mark.parametrize("case", JOINED)
def test_one_product_is_read_in_parts(case: str, tmp_path: Path) -> None:
    body, offsets = JOINED[case]
    model = model_of(body)
    if " zero" in body:
        model.graph.initializer.append(onnx.numpy_helper.from_array(ints(0), "zero"))
    bundle, nodes = export(model, tmp_path)
    conv, attention = sorted(nodes, key=lambda n: n.op_type, reverse=True)
    assert (conv.op_type, attention.op_type) == ("Conv", "Attention")
    assert attributes(attention) == offsets
    assert list(attention.input[:3]) == [conv.output[0]] * 3
    bases = [c for c in bundle.manifest.caches if c.kind == "base" and c.shape[2] == 6]
    assert [(c.rows, c.rows_channels, c.rows_offset) for c in bases] == [
        (conv.output[0], 18, 6), (conv.output[0], 18, 12)
    ]  # fmt: skip
    check(model)


def test_keys_and_values_beside_other_queries(tmp_path: Path) -> None:
    body = f"{TOKENS} r = Relu(n) q = MatMul(r, wq) k = MatMul(n, wk) v = MatMul(n, wv) y = {ATTEND}(q, k, v)"
    _, nodes = export(model_of(body), tmp_path)
    assert sorted(n.op_type for n in nodes) == ["Attention", "Conv", "Conv"]
    assert attributes(next(n for n in nodes if n.op_type == "Attention")) == {"dk": 3, "dv": 3, "v_offset": 6}
    check(model_of(body))


APART = {
    "read elsewhere": f"{TOKENS} {PROJECT} a = {ATTEND}(q, k, v) y = Add(a, v)",
    "changed in between": f"{TOKENS} {PROJECT} k2 = Mul(k, k) v2 = Mul(v, v) y = {ATTEND}(q, k2, v2)",
    "one weight": f"{TOKENS} q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wk) y = {ATTEND}(q, k, v)",
    "products": (
        f"{TOKENS} {PROJECT} kt = Transpose<perm=[0,2,1]>(k) o = MatMul(q, kt) p = Softmax<axis=-1>(o) "
        "y = MatMul(p, v)"
    ),
}


@pytest.mark.parametrize("case", APART)
def test_what_is_no_projection_of_its_own_stays(case: str, tmp_path: Path) -> None:
    _, nodes = export(model_of(APART[case]), tmp_path)
    assert not [n for n in nodes if n.op_type == "Split" or attributes(n).get("v_offset")]
    check(model_of(APART[case]), islands=None)


def test_keys_and_values_of_a_text_are_read_in_parts(tmp_path: Path) -> None:
    """Two layers' projections of a free text: one product, no split."""
    body = f"""{TOKENS} q = MatMul(n, wq) k1 = MatMul(text, v4) v1 = MatMul(text, v5) a = {ATTEND}(q, k1, v1)
        k2 = MatMul(text, v6) b = {ATTEND}(a, k2, v1) y = Identity(b)"""
    weights = {
        "flat": WEIGHTS["flat"], "wq": WEIGHTS["wq"], "v4": weight(3, 6, seed=4),
        "v5": weight(3, 4, seed=5), "v6": weight(3, 4, seed=6),
    }  # fmt: skip
    model = network(body, f"{IMAGE}, float[2,7,3] text", weights=weights)
    text = np.random.default_rng(3).normal(size=(2, 7, 3)).astype(np.float32)
    laws = check(model, free={"text": text})
    assert laws.input("text").role == "free"
    assert laws.manifest.launches == {"sige.Attention": 2, "MatMul": 1, "sige.Conv": 1}


def test_a_split_text_is_read_in_parts() -> None:
    """As pipelines give it: keys and values of all layers side by side."""
    body = f"""{TOKENS} q = MatMul(n, wq) k, v = Split<axis=-1>(text, sizes) ks = Reshape(k, heads)
        kh = Transpose<perm=[0,2,1,3]>(ks) vs = Reshape(v, deep) vh = Transpose<perm=[0,2,1,3]>(vs)
        qs = Reshape(q, split) qh = Transpose<perm=[0,2,1,3]>(qs) a = Attention(qh, kh, vh)
        b = Transpose<perm=[0,2,1,3]>(a) y = Reshape(b, last)"""
    weights = {name: WEIGHTS[name] for name in ("flat", "wq", "split")} | {
        "sizes": ints(6, 4), "heads": ints(0, 7, 2, 3), "deep": ints(0, 7, 2, 2), "last": ints(0, 30, 4),
    }  # fmt: skip
    model = network(body, f"{IMAGE}, float[2,7,10] text", weights=weights)
    text = np.random.default_rng(3).normal(size=(2, 7, 10)).astype(np.float32)
    laws = check(model, free={"text": text})
    assert laws.manifest.launches == {"sige.Attention": 1, "sige.Conv": 1}


def test_bases_stay_apart(tmp_path: Path) -> None:
    """Keys and values are recorded each by itself, queries not at all."""
    bundle, _ = export(model_of(JOINED["three axes"][0]), tmp_path)
    assert sorted(c.shape[2] for c in bundle.manifest.caches) == [6, 6]


def test_half_precision() -> None:
    body = JOINED["four axes"][0]
    model = model_of(body, "float16[2,4,6,5] x", "float16 y")
    for tensor in [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]:
        half = onnx.numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(onnx.numpy_helper.from_array(half, tensor.name))
    laws = Laws(model, tolerance=5e-3)
    assert laws.manifest.launches == {"sige.Attention": 1, "sige.Conv": 1}
    laws.everything_is_dense()
