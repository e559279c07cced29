from __future__ import annotations

import pytest

from ..helpers import check, ints, network, weight


@pytest.mark.parametrize("channels", [1, 3])
def test_same_shape(channels: int) -> None:
    sizes = ints(2, channels, 6, 5)
    check(network("y = Expand(x, s)", f"float[2,{channels},6,5] x", weights={"s": sizes}))


def test_channels_are_repeated() -> None:
    body = "e = Expand(x, s) y = Conv<pads=[1,1,1,1]>(e, w)"
    check(network(body, "float[2,1,12,10] x", weights={"s": ints(2, 4, 12, 10), "w": weight(3, 4, 3, 3)}))


def test_a_norm_over_channels() -> None:
    """The way torch's F.normalize exports: the norm, expanded back to all channels."""
    body = "n = ReduceL2<keepdims=1>(x, axes) e = Expand(n, s) y = Div(x, e)"
    check(network(body, "float[2,4,6,5] x", weights={"axes": ints(1), "s": ints(2, 4, 6, 5)}))


def test_an_axis_between_others() -> None:
    """Heads share a key: [N, 1, C, H, W] -> [N, 3, C, H, W]."""
    body = "u = Unsqueeze(x, axes) e = Expand(u, s) y = Reshape(e, t)"
    weights = {"axes": ints(1), "s": ints(2, 3, 4, 6, 5), "t": ints(2, 12, 6, 5)}
    check(network(body, "float[2,4,6,5] x", weights=weights))


def test_more_axes() -> None:
    body = "e = Expand(x, s) y = Reshape(e, t)"
    weights = {"s": ints(3, 2, 4, 6, 5), "t": ints(3, 2, 4, 30)}
    check(network(body, "float[2,4,6,5] x", weights=weights))
