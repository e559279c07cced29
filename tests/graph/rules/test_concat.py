from __future__ import annotations

import numpy as np

from ..helpers import check, ints, network, weight


def test_concat_of_channels() -> None:
    body = "r = Relu(x) m = ReduceMean(x, axes) y = Concat<axis=1>(x, r, m, x)"
    check(network(body, "float[2,4,6,5] x", weights={"axes": ints(1)}))


def test_concat_with_constants() -> None:
    weights = {"c": weight(2, 3, 6, 5)}
    check(
        network(
            "y = Concat<axis=1>(x, c) z = Concat<axis=1>(c, x)",
            "float[2,4,6,5] x",
            "float y, float z",
            weights,
        )
    )


def test_concat_with_a_pinned_input() -> None:
    laws = check(network("y = Concat<axis=1>(x, c)", "float[2,4,6,5] x, float[2,1,6,5] c"))
    assert laws.input("c").role == "pinned"


def test_concat_of_packed_channels() -> None:
    body = """
        s = Reshape(x, shape) r = Neg(s)
        y = Concat<axis=1>(s, r) z = Concat<axis=2>(s, r, s)
    """
    check(network(body, "float[2,6,6,5] x", "float y, float z", {"shape": ints(0, 2, 3, 6, 5)}))


def test_concat_of_unlike_orders() -> None:
    """[N, h, d, ...] from channels ordered d slowest beside one ordered h slowest."""
    body = """
        s = Reshape(x, other) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(x, shape)
        y = Concat<axis=1>(t, u) z = Concat<axis=2>(u, t)
    """
    weights = {"other": ints(0, 3, 2, 6, 5), "shape": ints(0, 2, 3, 6, 5)}
    check(network(body, "float[2,6,6,5] x", "float y, float z", weights))


def test_concat_of_equal_sizes_in_unlike_orders() -> None:
    body = (
        "s = Reshape(x, shape) t = Transpose<perm=[0,2,1,3,4,5]>(s) y = Concat<axis=3>(s, t) z "
        "= Concat<axis=1>(t, s)"
    )
    check(network(body, "float[2,8,6,5] x", "float y, float z", {"shape": ints(0, 2, 2, 2, 6, 5)}))


def test_concat_of_an_axis_of_size_one() -> None:
    """The operand without atoms on the axis stands at the right place."""
    body = (
        "s = Reshape(x, shape) a = ReduceSum<keepdims=1>(s, axes) y = Concat<axis=2>(s, a) z = "
        "Concat<axis=2>(a, s, a) w = Concat<axis=2>(a, a)"
    )
    weights = {"shape": ints(0, 2, 2, 2, 6, 5), "axes": ints(2)}
    check(network(body, "float[2,8,6,5] x", "float y, float z, float w", weights))


def test_concat_of_finer_factors() -> None:
    """One operand's channels are one atom, the other's two."""
    body = """
        a = Reshape(x, shape) b = Reshape(a, back) c = Reshape(b, four) d = Reshape(x, four2)
        y = Concat<axis=1>(c, d)
    """
    weights = {
        "shape": ints(0, 2, 4, 6, 5), "back": ints(0, 8, 6, 5), "four": ints(0, 1, 8, 6, 5),
        "four2": ints(0, 1, 8, 6, 5),
    }  # fmt: skip
    check(network(body, "float[2,8,6,5] x", weights=weights))


def test_concat_of_tokens() -> None:
    body = "t = Reshape(x, shape) n = Transpose<perm=[0,2,1]>(t) r = Sin(n) y = Concat<axis=-1>(n, r, p)"
    check(network(body, "float[2,4,6,5] x", weights={"shape": ints(0, 4, 30), "p": weight(2, 30, 2)}))


def test_concat_over_the_grid_is_refused() -> None:
    laws = check(network("y = Concat<axis=2>(x, x)"), islands=["Concat"], mixed=False, commit=False)
    assert laws.manifest.islands[0].reason == "it joins along the pixel grid or the batch"
    edit = laws.session.edit(**laws.edited, mask=laws.mask)
    np.testing.assert_allclose(edit["y"], laws.run(laws.mixed())["y"], atol=1e-5)


def test_concat_of_the_batch_is_refused() -> None:
    check(network("y = Concat<axis=0>(x, x)", "float[2,3,6,5] x"), islands=["Concat"], mixed=False)


def test_roll() -> None:
    """Slice, Slice, Concat over the grid: the picture moves, and stays right."""
    body = "a = Slice(x, f, l, ax) b = Slice(x, z, f, ax) r = Concat<axis=3>(a, b) y = Add(r, x)"
    weights = {"f": ints(3), "l": ints(10), "z": ints(0), "ax": ints(3)}
    check(network(body, weights=weights), islands=["Concat"], mixed=False)


def test_class_token_is_an_island() -> None:
    """A token beside the pixels: no grid has it."""
    body = (
        "t = Reshape(x, shape) n = Transpose<perm=[0,2,1]>(t) c = Concat<axis=1>(token, n) y = MatMul(c, w)"
    )
    weights = {"shape": ints(0, 4, 30), "token": weight(1, 1, 4), "w": weight(4, 4)}
    check(network(body, "float[1,4,6,5] x", weights=weights), islands=["Concat"], mixed=False)
