"""Linear layers of one text or embedding as one product."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import sige_deploy as sige

from .helpers import Laws, check, ints, network, weight

FLAT = "t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)"
ATTEND = "Attention<q_num_heads=2, kv_num_heads=2>"
INPUTS = "float[1,4,6,5] x, float[1,7,3] text"


def two_layers(first: str = "w", second: str = "v") -> onnx.ModelProto:
    """Two cross-attentions to one text, each with keys and values of its own."""
    body = f"""{FLAT}
        k = MatMul(text, {first}) v1 = MatMul(text, {second}) a = {ATTEND}(n, k, v1)
        k2 = MatMul(text, u) b = {ATTEND}(a, k2, v1) y = Identity(b)
    """
    weights = {name: weight(3, 4, seed=i) for i, name in enumerate("wvu")}
    return network(body, INPUTS, weights=weights | {"flat": ints(0, 4, 30)})


def test_projections_of_a_text_are_one_product() -> None:
    laws = check(two_layers(), mixed=False)
    assert laws.input("text").role == "free"
    assert laws.manifest.launches == {"sige.Attention": 2, "MatMul": 1}
    text = np.random.default_rng(3).normal(size=(1, 7, 3)).astype(np.float32)
    check(two_layers(), mixed=False, free={"text": text})


def test_a_product_with_pixels_in_it_stays_alone() -> None:
    """Linear layers of rows are Convs; nothing is joined there."""
    body = f"{FLAT} a = MatMul(n, w) b = MatMul(n, v) r = Relu(b) y = Add(a, r)"
    weights = {"w": weight(4, 5), "v": weight(4, 5, seed=8), "flat": ints(0, 4, 30)}
    laws = check(network(body, "float[1,4,6,5] x", weights=weights))
    assert "Split" not in laws.manifest.launches and laws.manifest.launches["sige.Conv"] == 2


@pytest.mark.parametrize("transposed", [0, 1])
def test_embeddings_of_a_free_input_are_one_gemm(transposed: int, tmp_path: Path) -> None:
    gemm = f"Gemm<transB={transposed}>"
    body = f"""
        e1 = {gemm}(e, w, b) s1 = Reshape(e1, shape) e2 = {gemm}(e, v, c) s2 = Reshape(e2, shape)
        a = Add(x, s1) r = Relu(a) y = Add(r, s2)
    """
    shape = (4, 3) if transposed else (3, 4)
    weights = {
        "w": weight(*shape), "v": weight(*shape, seed=8), "b": weight(4), "c": weight(4, seed=9),
        "shape": ints(1, 4, 1, 1),
    }  # fmt: skip
    model = network(body, "float[1,4,6,5] x, float[1,3] e", weights=weights)
    assert Laws(model).input("e").role == "pinned"  # unless the user says otherwise
    onnx.save(model, tmp_path / "net.onnx")
    rng = np.random.default_rng(0)
    inputs = {"x": rng.normal(size=(1, 4, 6, 5)).astype(np.float32)}
    inputs["e"] = rng.normal(size=(1, 3)).astype(np.float32)
    config = sige.SparseConfig(dense_above=1.0)
    bundle = sige.export(tmp_path / "net.onnx", inputs, tmp_path / "b", ["x"], config, free=["e"])
    launches = bundle.manifest.launches
    assert launches["Gemm"] == 1 and launches["Split"] == 1
    assert {i.name: i.role for i in bundle.manifest.inputs} == {"x": "spatial", "e": "free"}

    mask = np.zeros((6, 5), bool)
    mask[2, 2] = True
    edited = inputs | {"e": inputs["e"] + 1}
    with sige.open(tmp_path / "b", threads=1) as session:
        recorded = session.record(**inputs)["y"]
        got = session.edit(**edited, mask=mask)["y"]
        assert session.report.path == "sparse"
        dense = session.record(**edited)["y"]
    active = got != recorded  # the mask, grown by one
    assert active[0, 0].sum() == 5
    np.testing.assert_allclose(got, np.where(active, dense, recorded), atol=1e-6)


def test_a_free_input_has_to_be_one_besides_the_spatial_ones(tmp_path: Path) -> None:
    onnx.save(network("y = Add(x, s)", "float[1,4,6,5] x, float[1,4,1,1] s"), tmp_path / "net.onnx")
    inputs = {"x": np.zeros((1, 4, 6, 5), np.float32), "s": np.zeros((1, 4, 1, 1), np.float32)}
    for name in ("x", "z"):
        with pytest.raises(sige.ExportError, match=f"Free input '{name}' is not an input besides"):
            sige.export(tmp_path / "net.onnx", inputs, tmp_path / "b", ["x"], free=[name])


def test_a_text_is_free_behind_the_statistics_that_follow_from_it() -> None:
    """A norm after cross-attention keeps its recorded statistics; they do not pin the text."""
    body = f"""{FLAT}
        a = {ATTEND}(n, text, text) b = Transpose<perm=[0,2,1]>(a) c = Reshape(b, image)
        y = InstanceNormalization(c, one, zero)
    """
    weights = {
        "flat": ints(0, 4, 30), "image": ints(1, 4, 6, 5),
        "one": np.ones(4, np.float32), "zero": np.zeros(4, np.float32),
    }  # fmt: skip
    model = network(body, "float[1,4,6,5] x, float[1,7,4] text", weights=weights)
    text = np.random.default_rng(3).normal(size=(1, 7, 4)).astype(np.float32)
    assert check(model, mixed=False, full=False).input("text").role == "free"
    fresh = sige.SparseConfig(dense_above=1.0, statistics="fresh")
    check(model, mixed=False, free={"text": text}, config=fresh)
