from __future__ import annotations

import numpy as np
import pytest

import sige_deploy as sige
from sige_deploy.graph.rules.reduce import REDUCTIONS

from ..helpers import check, ints, network, weight

FRESH = sige.SparseConfig(dense_above=1.0, statistics="fresh")


@pytest.mark.parametrize("op", REDUCTIONS)
@pytest.mark.parametrize("keep", [0, 1])
def test_over_channels(op: str, keep: int) -> None:
    body = (
        f"y = {op}<keepdims={keep}>(x, axes) t = Transpose<perm=[0,2,3,1]>(x) z = "
        f"{op}<keepdims={keep}>(t, last)"
    )
    weights = {"axes": ints(1), "last": ints(-1)}
    check(network(body, "float[2,4,6,5] x", "float y, float z", weights), positive=True)


@pytest.mark.parametrize("op", REDUCTIONS)
def test_over_the_grid(op: str) -> None:
    body = f"s = {op}<keepdims=1>(x, axes) y = Sub(x, s)"
    model = network(body, "float[2,4,6,5] x", weights={"axes": ints(2, 3)})
    check(model, positive=True, mixed=False, full=False)
    laws = check(model, positive=True, config=FRESH, commit=False)
    assert laws.output("y").level == "6x5"


def test_recorded_statistics_are_the_recorded_ones() -> None:
    model = network("s = ReduceMean<keepdims=1>(x, axes) y = Sub(x, s)", weights={"axes": ints(1, 2, 3)})
    laws = check(model, mixed=False, full=False)
    edit = laws.session.edit(**laws.edited, mask=np.ones_like(laws.mask))
    expected = laws.edited["x"] - laws.recorded["x"].mean((1, 2, 3), keepdims=True)
    np.testing.assert_allclose(edit["y"], expected, atol=1e-5)


@pytest.mark.parametrize("axes", [(0, 2, 3), (1, 2, 3), (0, 1, 2, 3), (-1, -2)])
@pytest.mark.parametrize("keep", [0, 1])
def test_axes_of_statistics(axes: tuple[int, ...], keep: int) -> None:
    body = f"s = ReduceMax<keepdims={keep}>(x, axes) t = ReduceMin<keepdims=1>(x, axes) y = Add(x, t)"
    model = network(body, "float[2,4,6,5] x", "float s, float y", {"axes": ints(*axes)})
    check(model, config=FRESH, commit=False)


def test_all_axes_by_default() -> None:
    check(network("s = ReduceSum(x) y = Add(x, s)"), config=FRESH, commit=False)
    check(network("y = ReduceSum<noop_with_empty_axes=1>(x)"))


def test_split_channels() -> None:
    body = (
        "s = Reshape(x, shape) y = ReduceSum<keepdims=0>(s, one) z = ReduceMean<keepdims=1>(s, "
        "two) w = ReduceL2(s, both)"
    )
    weights = {"shape": ints(0, 2, 3, 6, 5), "one": ints(1), "two": ints(2), "both": ints(1, 2)}
    check(network(body, "float[2,6,6,5] x", "float y, float z, float w", weights))


@pytest.mark.parametrize("axis", [2, 3])
def test_part_of_the_grid_is_refused(axis: int) -> None:
    laws = check(
        network("y = ReduceMean(x, axes)", weights={"axes": ints(axis)}), islands=["ReduceMean"], mixed=False
    )
    assert laws.manifest.islands[0].reason == "it reduces part of the pixel grid"


def test_batch_alone_is_refused() -> None:
    body = "m = ReduceMean<keepdims=1>(x, axes) y = Sub(x, m)"
    laws = check(network(body, "float[2,4,6,5] x", weights={"axes": ints(0)}), islands=["ReduceMean"])
    assert laws.manifest.islands[0].reason == "it reduces part of the pixel grid"


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(op: str) -> None:
    model = network(f"s = {op}(x) g = Sigmoid(s) y = Mul(x, g)", "float[2,4,6,5] x", "float y, float g")
    check(model, mixed=False, full=False)
    check(model, config=FRESH, commit=False)


def test_class_score_follows_the_edit() -> None:
    """A non-spatial output is right under an edit, even with recorded statistics."""
    body = (
        "c = Conv<pads=[1,1,1,1]>(x, w) m = GlobalAveragePool(c) f = Flatten(m) score = "
        "MatMul(f, v) y = Add(c, m)"
    )
    weights = {"w": weight(4, 4, 3, 3), "v": weight(4, 3)}
    laws = check(network(body, outputs="float y, float score", weights=weights), mixed=False, full=False)
    everywhere = laws.session.edit(**laws.edited, mask=np.ones_like(laws.mask))
    np.testing.assert_allclose(everywhere["score"], laws.run(laws.edited)["score"], atol=1e-5)
    some = laws.session.edit(**laws.edited, mask=laws.mask)
    assert np.abs(some["score"] - laws.record["score"]).max() > 1e-3
    assert laws.output("score").level is None


def test_score_of_the_picture_itself() -> None:
    model = network(
        "m = ReduceMean<keepdims=0>(x, axes) score = Exp(m)",
        outputs="float score",
        weights={"axes": ints(2, 3)},
    )
    check(model)
    check(model, config=FRESH)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("keep", [0, 1])
def test_arg_reduce(op: str, keep: int) -> None:
    body = f"y = {op}<axis=1, keepdims={keep}>(x)"
    check(network(body, "float[2,4,6,5] x", "int64 y"))
    body = f"s = Reshape(x, shape) y = {op}<axis=2, keepdims={keep}, select_last_index=1>(s)"
    check(network(body, "float[2,6,6,5] x", "int64 y", {"shape": ints(0, 2, 3, 6, 5)}))


def test_arg_reduce_over_the_grid_is_refused() -> None:
    laws = check(network("y = ArgMax<axis=2>(x)", outputs="int64 y"), islands=["ArgMax"], mixed=False)
    assert laws.manifest.islands[0].reason == "it works along the pixel grid or the batch"


def test_statistics_of_statistics() -> None:
    """Variance by hand, then a network of non-spatial values, as in squeeze and excitation."""
    body = """
        m = ReduceMean<keepdims=1>(x, axes) d = Sub(x, m) q = Mul(d, d) v = ReduceMean<keepdims=1>(q, axes)
        e = Add(v, eps) s = Sqrt(e) n = Div(d, s)
        p = GlobalAveragePool(n) a = Conv(p, w) r = Relu(a) b = Conv(r, u) g = Sigmoid(b) y = Mul(n, g)
    """
    weights = {"axes": ints(2, 3), "eps": np.float32(1e-5), "w": weight(2, 4, 1, 1), "u": weight(4, 2, 1, 1)}
    model = network(body, "float[2,4,6,5] x", weights=weights)
    check(model, mixed=False, full=False)
    check(model, config=FRESH, mixed=False, commit=False)
