from __future__ import annotations

import numpy as np
import pytest

import sige_deploy as sige

from ..helpers import check, ints, network, weight

FRESH = sige.SparseConfig(dense_above=1.0, statistics="fresh")
TOKENS = {"flat": ints(0, 4, 30), "heads": ints(0, 2, 2, 30), "split": ints(0, 30, 2, 2)}
IMAGES = "float[2,4,6,5] x"


def test_rows_by_matrix() -> None:
    body = "t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t) y = MatMul(n, w)"
    check(network(body, IMAGES, weights={**TOKENS, "w": weight(4, 3)}))


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 4, 3), (2, 1, 4, 3)])
def test_rows_by_batches_of_matrices(shape: tuple[int, ...]) -> None:
    body = "t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t) y = MatMul(n, w)"
    inputs = IMAGES if len(shape) == 3 else "float[2,4,6,5] x"
    check(network(body, inputs, weights={**TOKENS, "w": weight(*shape)}), islands=None)


def test_nhwc_by_matrix() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(t, w)"
    check(network(body, IMAGES, weights={"w": weight(4, 7)}))


def test_nhwc_by_one_output() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(t, w)"
    check(network(body, IMAGES, weights={"w": weight(4, 1)}))


def test_heads_by_one_matrix() -> None:
    body = "t = Reshape(x, heads) n = Transpose<perm=[0,1,3,2]>(t) y = MatMul(n, w)"
    check(network(body, IMAGES, weights={**TOKENS, "w": weight(2, 3)}))


def test_heads_by_a_matrix_each() -> None:
    body = "t = Reshape(x, heads) n = Transpose<perm=[0,1,3,2]>(t) y = MatMul(n, w)"
    check(network(body, IMAGES, weights={**TOKENS, "w": weight(2, 2, 3)}))


def test_matrix_by_tokens() -> None:
    body = "t = Reshape(x, flat) y = MatMul(w, t)"
    check(network(body, IMAGES, weights={**TOKENS, "w": weight(3, 4)}))


def test_matrices_by_head_tokens() -> None:
    body = "t = Reshape(x, heads) y = MatMul(w, t)"
    check(network(body, IMAGES, weights={**TOKENS, "w": weight(2, 3, 2)}))


def test_row_axis_before_the_grid() -> None:
    """[N, C, H, W] x [W, d] mixes the pixels of a line."""
    laws = check(network("y = MatMul(x, w)", weights={"w": weight(10, 10)}), islands=["MatMul"], mixed=False)
    assert laws.manifest.islands[0].reason == "it sums over the pixel grid against a matrix"


def test_vector_operand() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(t, v)"
    check(network(body, IMAGES, weights={"v": weight(4)}), islands=None)


ATTENTION = """
    t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t)
    q = MatMul(n, wq) k = MatMul(n, wk) v = MatMul(n, wv)
"""
PROJECTIONS = {n: weight(4, 4, seed=i) for i, n in enumerate(["wq", "wk", "wv"])}


def attention(heads: bool, scale: float = 0.5) -> str:
    if not heads:
        return ATTENTION + """
            kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt) c = Mul(s, scale) p = Softmax<axis=-1>(c) y =
            MatMul(p, v)
        """  # fmt: skip
    return ATTENTION + """
        qs = Reshape(q, split) ks = Reshape(k, split) vs = Reshape(v, split)
        qh = Transpose<perm=[0,2,1,3]>(qs) kt = Transpose<perm=[0,2,3,1]>(ks) vh =
        Transpose<perm=[0,2,1,3]>(vs)
        s = MatMul(qh, kt) c = Mul(s, scale) p = Softmax<axis=-1>(c) o = MatMul(p, vh)
        ot = Transpose<perm=[0,2,1,3]>(o) y = Reshape(ot, join)
    """  # fmt: skip


def constants() -> dict[str, np.ndarray]:
    return {**TOKENS, **PROJECTIONS, "scale": np.float32(0.5), "join": ints(0, 30, 4)}


@pytest.mark.parametrize("heads", [False, True])
def test_self_attention_by_products(heads: bool) -> None:
    check(network(attention(heads), IMAGES, weights=constants()), mixed=True)


def test_mirrored_attention() -> None:
    """Channels before tokens, as in DDPM: values x scores^T."""
    body = """
        t = Reshape(x, flat) q = MatMul(wq, t) k = MatMul(wk, t) v = MatMul(wv, t)
        qt = Transpose<perm=[0,2,1]>(q) s = MatMul(qt, k) p = Softmax<axis=-1>(s)
        pt = Transpose<perm=[0,2,1]>(p) y = MatMul(v, pt)
    """
    check(network(body, IMAGES, weights=constants()))


def test_scores_as_keys_by_queries() -> None:
    """[S', S]: keys are rows, queries columns, softmax over the second last axis."""
    body = ATTENTION + """
        qt = Transpose<perm=[0,2,1]>(q) s = MatMul(k, qt) p = Softmax<axis=-2>(s)
        vt = Transpose<perm=[0,2,1]>(v) y = MatMul(vt, p)
    """  # fmt: skip
    check(network(body, IMAGES, weights=constants()), islands=None, mixed=False)


@pytest.mark.parametrize("heads", [1, 2])
def test_cross_attention_by_products_takes_another_text(heads: int) -> None:
    body = """
        f = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(f) q = MatMul(n, wq)
        k = MatMul(text, wk) v = MatMul(text, wv)
    """
    if heads == 1:
        body += "kt = Transpose<perm=[0,2,1]>(k) s = MatMul(q, kt) p = Softmax<axis=-1>(s) y = MatMul(p, v)"
    else:
        body += """
            qs = Reshape(q, split) ks = Reshape(k, words) vs = Reshape(v, words)
            qh = Transpose<perm=[0,2,1,3]>(qs) kt = Transpose<perm=[0,2,3,1]>(ks) vh =
            Transpose<perm=[0,2,1,3]>(vs)
            s = MatMul(qh, kt) c = Mul(s, scale) p = Softmax<axis=-1>(c) y = MatMul(p, vh)
        """
    weights = {**constants(), "words": ints(0, 7, 2, 2)}
    text = weight(2, 7, 4, seed=20)
    laws = check(network(body, f"{IMAGES}, float[2,7,4] text", weights=weights), free={"text": text})
    assert laws.input("text").role == "free"


def test_linear_attention() -> None:
    """softmax(k)^T v is a sum over the grid: a statistic."""
    body = ATTENTION + "kt = Transpose<perm=[0,2,1]>(k) c = MatMul(kt, v) y = MatMul(q, c)"
    model = network(body, IMAGES, weights=constants())
    check(model, mixed=False, full=False)
    check(model, config=FRESH, commit=False)


def test_gram_matrix_is_an_output() -> None:
    body = "t = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(t) y = MatMul(t, n)"
    check(network(body, IMAGES, weights=constants()), config=FRESH)
    check(network(body, IMAGES, weights=constants()))


def test_channel_attention() -> None:
    """softmax(q^T k) over channels (Restormer): [c, S] x [S, c] then [c, c] x [c, S]."""
    body = """
        q = Reshape(x, flat) k = Transpose<perm=[0,2,1]>(q) s = MatMul(q, k) p = Softmax<axis=-1>(s) y =
        MatMul(p, q)
    """
    model = network(body, IMAGES, weights=constants())
    check(model, mixed=False, full=False)
    check(model, config=FRESH, commit=False)


# ---- Gemm --------------------------------------------------------------------------------------------------

FLATTENED = "p = Transpose<perm=[0,2,3,1]>(x) f = Reshape(p, rows)"


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [(), (3,), (1, 3)])
def test_gemm(transposed: int, bias: tuple[int, ...]) -> None:
    body = f"{FLATTENED} y = Gemm<transB={transposed}>(f, w{', b' if bias else ''})"
    weights = {"rows": ints(-1, 4), "w": weight(*((3, 4) if transposed else (4, 3)))}
    check(network(body, IMAGES, weights=weights | ({"b": weight(*bias)} if bias else {})))


@pytest.mark.parametrize("attributes", ["alpha=0.5", "alpha=2.0, beta=0.25"])
def test_scaled_gemm(attributes: str) -> None:
    body = f"{FLATTENED} y = Gemm<{attributes}>(f, w, b)"
    check(network(body, IMAGES, weights={"rows": ints(-1, 4), "w": weight(4, 3), "b": weight(3)}))


def test_gemm_with_a_transposed_first_operand() -> None:
    body = "f = Reshape(x, cols) y = Gemm<transA=1>(f, w)"
    model = network(body, "float[1,4,6,5] x", weights={"cols": ints(4, 30), "w": weight(4, 3)})
    laws = check(model, islands=["Gemm"], mixed=False)
    assert laws.manifest.islands[0].reason == "it transposes its first operand"


def test_gemm_with_a_bias_per_pixel() -> None:
    body = f"{FLATTENED} y = Gemm(f, w, f)"
    check(
        network(body, IMAGES, weights={"rows": ints(-1, 4), "w": weight(4, 4)}), islands=["Gemm"], mixed=False
    )


def test_gemm_of_pooled_features() -> None:
    body = "m = GlobalAveragePool(x) f = Flatten(m) y = Gemm(f, w, b)"
    check(network(body, IMAGES, weights={"w": weight(4, 3), "b": weight(3)}))


def test_gemm_of_the_whole_picture() -> None:
    """A fully connected layer over all pixels: whole, and right."""
    body = "f = Flatten(x) y = Gemm(f, w)"
    check(network(body, IMAGES, weights={"w": weight(120, 3)}), islands=None, commit=False)


def test_weights_from_a_pinned_input() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = MatMul(t, w)"
    laws = check(network(body, f"{IMAGES}, float[4,3] w"))
    assert laws.input("w").role == "pinned"


def test_product_of_two_grids_is_refused() -> None:
    """x @ x over square images: every entry reads a row and a column of pixels."""
    check(network("y = MatMul(x, x)", "float[1,2,5,5] x"), islands=None, mixed=False)
