from __future__ import annotations

import numpy as np
import pytest

from .helpers import check, ints, network, weight

SPLIT = {"split": ints(0, 2, 3, 6, 5), "other": ints(0, 3, 2, 6, 5)}
IMAGES = "float[2,6,6,5] x"
PACKED = "s = Reshape(x, split) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(x, other)"


@pytest.mark.parametrize(
    "shape", [(6, 1), (1, 5), (2, 3, 2, 6, 1), (3, 1, 6, 5), (2, 1, 1, 1, 5), (2, 1, 1)], ids=str
)
def test_constants_meet_channels_in_several_factors(shape: tuple[int, ...]) -> None:
    """What is missing along the grid is repeated, along channels and batch broadcast."""
    check(network(f"{PACKED} y = Sum(t, c, u)", IMAGES, weights={**SPLIT, "c": weight(*shape)}))


def test_grid_constants_of_tokens() -> None:
    body = "t = Reshape(x, flat) y = Mul(t, c) z = Add(t, d)"
    weights = {"flat": ints(0, 6, 30), "c": weight(30), "d": weight(2, 1, 30)}
    check(network(body, IMAGES, "float y, float z", weights))


def test_factors_are_refined() -> None:
    """(2, 6) channels and (4, 3) channels have the factors (2, 2, 3) in common."""
    body = """
        a = Reshape(x, one) b = Reshape(a, back) c = Reshape(x, two) d = Reshape(c, back) y = Add(b, d)
        z = Mul(d, k)
    """
    weights = {
        "one": ints(0, 2, 6, 6, 5), "two": ints(0, 4, 3, 6, 5), "back": ints(0, 12, 6, 5),
        "k": weight(12, 1, 1),
    }  # fmt: skip
    check(network(body, "float[2,12,6,5] x", "float y, float z", weights))


def test_factors_that_do_not_refine_are_refused() -> None:
    """(2, 3) against (3, 2)."""
    body = (
        "a = Reshape(x, split) b = Reshape(a, back) c = Reshape(x, other) d = Reshape(c, back) y = Add(b, d)"
    )
    check(network(body, IMAGES, weights={**SPLIT, "back": ints(0, 6, 6, 5)}), islands=None)


def test_scalars_that_follow_from_the_picture() -> None:
    """Bounds of a Clip that are fresh statistics."""
    import sige_deploy as sige

    body = "lo = ReduceMin<keepdims=0>(x, axes) h = Mul(lo, half) y = Clip(x, h)"
    model = network(body, "float[1,4,6,5] x", weights={"axes": ints(0, 1, 2, 3), "half": np.float32(0.5)})
    check(model, mixed=False, full=False)
    check(model, config=sige.SparseConfig(dense_above=1.0, statistics="fresh"), commit=False)


def test_statistics_of_each_image_and_channel() -> None:
    """Recorded values [N, C, 1, 1] against packed channels."""
    body = f"{PACKED} m = ReduceMean<keepdims=1>(t, axes) d = Sub(t, m) y = Mul(d, u)"
    check(network(body, IMAGES, weights={**SPLIT, "axes": ints(3, 4)}), mixed=False, full=False)


def test_levels_are_told_apart() -> None:
    body = "p = MaxPool<kernel_shape=[6,5]>(x) y = Add(x, p)"
    laws = check(network(body, IMAGES), islands=["Add"], mixed=False)
    assert laws.manifest.islands[0].reason == "it combines levels 1x1, 6x5"
