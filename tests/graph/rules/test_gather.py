from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight


@pytest.mark.parametrize("index", [[2, 0, 3, 1], [1], [3, 3, 0], [-1, 0]])
def test_gathers_channels(index: list[int]) -> None:
    check(network("y = Gather<axis=1>(x, i)", "float[2,4,6,5] x", weights={"i": ints(*index)}))


@pytest.mark.parametrize("axis", [1, 2])
def test_gathers_one_of_packed_channels(axis: int) -> None:
    """qkv[0] of [N, 3, c, H, W]."""
    body = f"s = Reshape(x, shape) y = Gather<axis={axis}>(s, i) z = Gather<axis={axis}>(s, j)"
    weights = {"shape": ints(0, 3, 2, 6, 5), "i": np.int64(1), "j": np.int64(-1)}
    check(network(body, "float[2,6,6,5] x", "float y, float z", weights))


def test_gathers_qkv_of_tokens() -> None:
    """[N, S, 3*h*d] -> [3, N, h, S, d] and its parts."""
    body = """
        t = Reshape(x, tokens) n = Transpose<perm=[0,2,1]>(t) q = MatMul(n, w) s = Reshape(q, split)
        p = Transpose<perm=[2,0,3,1,4]>(s)
        a = Gather<axis=0>(p, zero) b = Gather<axis=0>(p, one) y = Mul(a, b)
    """
    weights = {
        "tokens": ints(0, 4, 30), "w": weight(4, 24), "split": ints(0, 30, 3, 2, 4),
        "zero": np.int64(0), "one": np.int64(1),
    }  # fmt: skip
    check(network(body, "float[2,4,6,5] x", weights=weights))


@pytest.mark.parametrize(
    ("axis", "index", "reason"),
    [(2, ints(1, 0), "it works along the pixel grid or the batch"),
     (1, np.int64([[0, 1], [2, 3]]), "its indices have more than one axis")],
)  # fmt: skip
def test_gather_refusals(axis: int, index: np.ndarray, reason: str) -> None:
    laws = check(
        network(f"y = Gather<axis={axis}>(x, i)", weights={"i": index}), islands=["Gather"], mixed=False
    )
    assert laws.manifest.islands[0].reason == reason


@pytest.mark.parametrize("shape", ["2,6,5", "2,1,6,5"])
@pytest.mark.parametrize("width", [3, 1])
def test_embedding_of_a_label_map(shape: str, width: int) -> None:
    spatial = f"int64[{shape}] x"
    body = "y = Gather(table, x) z = Transpose<perm=[0,3,1,2]>(y)"
    if shape.count(",") == 3:
        body = "s = Squeeze(x, axes) y = Gather(table, s) z = Transpose<perm=[0,3,1,2]>(y)"
    weights = {"table": weight(5, width), "axes": ints(1)}
    check(network(body, spatial, "float y, float z", weights))


def test_embedding_of_many_axes() -> None:
    check(network("y = Gather(table, x)", "int64[1,1,6,5] x", weights={"table": weight(5, 2, 3)}))


def test_embedding_of_several_indices() -> None:
    laws = check(network("y = Gather(table, x)", "int64[1,2,6,5] x", weights={"table": weight(5, 3)}))
    assert laws.output("y").level == "6x5"


def test_embedding_by_a_pinned_table() -> None:
    body = "y = Gather(table, x)"
    laws = check(network(body, "int64[1,1,6,5] x, float[5,3] table"))
    assert laws.input("table").role == "pinned"
