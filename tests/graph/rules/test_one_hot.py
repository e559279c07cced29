from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight

WEIGHTS = {"depth": np.int64(5), "values": np.float32([0, 1]), "axes": ints(2)}


@pytest.mark.parametrize("axis", [-1, 1, 0, 2])
def test_label_map(axis: int) -> None:
    check(network(f"y = OneHot<axis={axis}>(x, depth, values)", "int64[2,1,6,5] x", weights=WEIGHTS))


def test_several_labels() -> None:
    check(network("y = OneHot<axis=2>(x, depth, values)", "int64[2,3,6,5] x", weights=WEIGHTS))


def test_network_of_labels() -> None:
    """The generator's way: labels, one-hot planes, convolutions."""
    body = "h = OneHot<axis=1>(x, depth, values) i = Squeeze(h, axes) y = Conv<pads=[1,1,1,1]>(i, w)"
    check(network(body, "int64[1,1,12,10] x", weights={**WEIGHTS, "w": weight(3, 5, 3, 3)}))


def test_small_labels_by_comparison() -> None:
    body = "e = Equal(x, classes) f = Cast<to=1>(e) y = Conv<pads=[1,1,1,1]>(f, w)"
    weights = {"classes": np.arange(5).reshape(1, 5, 1, 1), "w": weight(3, 5, 3, 3)}
    check(network(body, "int64[1,1,12,10] x", weights=weights))


def test_labels_are_enlarged_and_cropped() -> None:
    body = """
        r = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, ,
        scales) u = Cast<to=7>(r) h = OneHot<axis=1>(u, depth, values)
    """
    check(network(body, "float[1,1,6,5] x", "float h", {**WEIGHTS, "scales": np.float32([1, 1, 2, 2])}))


def test_computed_values_are_refused() -> None:
    body = "y = OneHot<axis=1>(x, depth, values)"
    laws = check(
        network(body, "int64[1,1,6,5] x, float[2] values", weights={"depth": np.int64(4)}),
        islands=["OneHot"], mixed=False, commit=False,
    )  # fmt: skip
    assert laws.manifest.islands[0].reason == "its depth or values are computed at run time"
