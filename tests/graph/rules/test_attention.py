from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight

IMAGES = "float[2,4,6,5] x"
PROJECT = """
    t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)
    q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wv)
"""
WEIGHTS = {
    "flat": ints(0, 4, 30), "split": ints(0, 30, 2, 2), "join": ints(0, 30, 4), "words": ints(0, 7, 2, 2),
    **{n: weight(4, 4, seed=i) for i, n in enumerate(["wq", "wk", "wv"])},
}  # fmt: skip
HEADS = "qs = Reshape(q, split) ks = Reshape(k, split) vs = Reshape(v, split)" + " ".join(
    f" {n}h = Transpose<perm=[0,2,1,3]>({n}s)" for n in "qkv"
)


@pytest.mark.parametrize("scale", ["", ", scale=0.3"])
@pytest.mark.parametrize("heads", [1, 2, 4])
def test_three_axes(heads: int, scale: str) -> None:
    body = PROJECT + f"y = Attention<q_num_heads={heads}, kv_num_heads={heads}{scale}>(q, k, v)"
    check(network(body, IMAGES, weights=WEIGHTS))


@pytest.mark.parametrize("scale", ["", "<scale=0.3>"])
def test_four_axes(scale: str) -> None:
    body = (
        PROJECT
        + HEADS
        + f" a = Attention{scale}(qh, kh, vh) b = Transpose<perm=[0,2,1,3]>(a) y = Reshape(b, join)"
    )
    check(network(body, IMAGES, weights=WEIGHTS))


def test_heads_of_other_channel_order() -> None:
    """[N, d, h, S]: heads fastest."""
    heads = " ".join(f"{n}s = Reshape({n}, split) {n}h = Transpose<perm=[0,3,1,2]>({n}s)" for n in "qkv")
    check(network(PROJECT + heads + " y = Attention(qh, kh, vh)", IMAGES, weights=WEIGHTS))


@pytest.mark.parametrize("axes", [3, 4])
def test_values_of_another_depth(axes: int) -> None:
    weights = {**WEIGHTS, "wv": weight(4, 6), "values": ints(0, 30, 2, 3)}
    body = PROJECT + "y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)"
    if axes == 4:
        body = (
            PROJECT + HEADS.replace("Reshape(v, split)", "Reshape(v, values)") + " y = Attention(qh, kh, vh)"
        )
    check(network(body, IMAGES, weights=weights))


@pytest.mark.parametrize("axes", [3, 4])
def test_cross_attention_takes_another_text(axes: int) -> None:
    body = """
        t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)
        q = MatMul(n, wq) k = MatMul(text, wk) v = MatMul(text, wv)
    """
    if axes == 3:
        body += "y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)"
    else:
        body += HEADS.replace("(k, split)", "(k, words)").replace("(v, split)", "(v, words)")
        body += " y = Attention(qh, kh, vh)"
    text = weight(2, 7, 4, seed=20)
    laws = check(network(body, f"{IMAGES}, float[2,7,4] text", weights=WEIGHTS), free={"text": text})
    assert laws.input("text").role == "free"


def test_keys_of_another_level() -> None:
    """Queries of the image, keys of its halved copy (spatial reduction attention)."""
    body = """
        t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t) q = MatMul(n, wq)
        p = AveragePool<kernel_shape=[2,1], strides=[2,1]>(x) s = Reshape(p, half) m =
        Transpose<perm=[0,2,1]>(s)
        k = MatMul(m, wk) v = MatMul(m, wv) y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)
    """
    laws = check(network(body, IMAGES, weights={**WEIGHTS, "half": ints(0, 4, 15)}), mixed=False)
    assert {level.id for level in laws.levels} == {"6x5", "3x5"}


def test_keys_with_a_text_in_front() -> None:
    """Joint attention: keys are the text's and the pixels'."""
    body = PROJECT + """
        kt = MatMul(text, wk) vt = MatMul(text, wv) kj = Concat<axis=1>(kt, k) vj = Concat<axis=1>(vt, v)
        y = Attention<q_num_heads=2, kv_num_heads=2>(q, kj, vj)
    """  # fmt: skip
    check(
        network(body, f"{IMAGES}, float[2,7,4] text", weights=WEIGHTS),
        islands=["Concat", "Concat"],
        mixed=False,
    )


REFUSALS = {
    "mask": ("Attention<q_num_heads=2, kv_num_heads=2>(q, k, v, mask)", "it has a mask"),
    "causal": ("Attention<q_num_heads=2, kv_num_heads=2, is_causal=1>(q, k, v)", "it is causal or capped"),
    "capped": ("Attention<q_num_heads=2, kv_num_heads=2, softcap=2.0>(q, k, v)", "it is causal or capped"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name: str) -> None:
    call, reason = REFUSALS[name]
    weights = {**WEIGHTS, "mask": weight(30, 30)}
    laws = check(
        network(f"{PROJECT} y = {call}", IMAGES, weights=weights), islands=["Attention"], mixed=False
    )
    assert laws.manifest.islands[0].reason == reason


def test_grouped_queries_are_refused() -> None:
    weights = {**WEIGHTS, "wk": weight(4, 2), "wv": weight(4, 2)}
    body = PROJECT + "y = Attention<q_num_heads=2, kv_num_heads=1>(q, k, v)"
    laws = check(network(body, IMAGES, weights=weights), islands=["Attention"], mixed=False)
    assert laws.manifest.islands[0].reason == "its keys have fewer heads than its queries"


def test_text_that_reads_the_picture() -> None:
    """Queries of the text, keys of the pixels: the result has no pixels; it is whole, and the rest
    goes on."""
    body = """
        t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t) k = MatMul(n, wk) v = MatMul(n, wv)
        q = MatMul(text, wq) a = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)
        m = ReduceMean<keepdims=1>(a, one) y = Add(n, m)
    """
    model = network(body, f"{IMAGES}, float[2,7,4] text", "float y, float a", {**WEIGHTS, "one": ints(1)})
    laws = check(model, islands=["Attention"], mixed=False, commit=False)
    assert laws.manifest.islands[0].reason == "its queries are not pixels"


def test_axial_attention_is_not_over_the_grid() -> None:
    """[N*H, W, C]: every line attends within itself."""
    body = """
        p = Transpose<perm=[0,2,3,1]>(x) n = Reshape(p, lines)
        y = Attention<q_num_heads=2, kv_num_heads=2>(n, n, n)
    """
    check(network(body, IMAGES, weights={"lines": ints(12, 5, 4)}), islands=["Attention"], mixed=False)


def test_keys_are_values() -> None:
    body = PROJECT + "y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, k)"
    check(network(body, IMAGES, weights=WEIGHTS))


def test_attention_of_one_pixel() -> None:
    body = PROJECT + "y = Attention<q_num_heads=2, kv_num_heads=2>(q, k, v)"
    check(network(body, "float[2,4,1,1] x", weights={**WEIGHTS, "flat": ints(0, 4, 1)}))


def test_attention_of_one_channel_per_head() -> None:
    weights = {**WEIGHTS, **{n: weight(4, 1, seed=i) for i, n in enumerate(["wq", "wk", "wv"])}}
    body = PROJECT + "y = Attention<q_num_heads=1, kv_num_heads=1>(q, k, v)"
    check(network(body, IMAGES, weights=weights))
    assert np.isfinite(weights["wq"]).all()
