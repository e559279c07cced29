from __future__ import annotations

import pytest

from ..helpers import check, ints, network, weight

WINDOWS = {
    "k2 s2": (2, "strides=[2,2]"),
    "k4 s2 p1": (4, "strides=[2,2], pads=[1,1,1,1]"),
    "k3 s2 p1 op1": (3, "strides=[2,2], pads=[1,1,1,1], output_padding=[1,1]"),
    "k3 s1": (3, ""),
    "k3 s1 p1": (3, "pads=[1,1,1,1]"),
    "k3 s2": (3, "strides=[2,2]"),
    "uneven": (3, "strides=[3,2], pads=[0,1,1,0], output_padding=[2,0]"),
    "dilation": (3, "strides=[2,2], dilations=[2,2], pads=[2,2,2,2]"),
    "kernel below stride": (2, "strides=[3,3]"),
    "auto valid": (3, 'auto_pad="VALID", strides=[2,2]'),
    "1x1": (1, ""),
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize(("group", "outputs"), [(1, 3), (2, 4), (4, 4)])
def test_windows(name: str, group: int, outputs: int) -> None:
    kernel, attributes = WINDOWS[name]
    attributes = ", ".join(filter(None, [f"group={group}", attributes]))
    weights = {"w": weight(4, outputs // group, kernel, kernel), "b": weight(outputs)}
    check(network(f"y = ConvTranspose<{attributes}>(x, w, b)", "float[2,4,6,5] x", weights=weights))


def test_without_bias() -> None:
    check(network("y = ConvTranspose<strides=[2,2]>(x, w)", weights={"w": weight(4, 3, 2, 2)}))


def test_reads_through_a_pad() -> None:
    body = 'p = Pad<mode="reflect">(x, pads) y = ConvTranspose<strides=[2,2], pads=[1,1,1,1]>(p, w)'
    check(network(body, weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "w": weight(4, 3, 4, 4)}))


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [("strides=[2,2], output_shape=[24,20]", "it fixes output_shape"),
     ('strides=[2,2], auto_pad="SAME_UPPER"', "it pads automatically")],
)  # fmt: skip
def test_refusals(attributes: str, reason: str) -> None:
    laws = check(
        network(f"y = ConvTranspose<{attributes}>(x, w)", weights={"w": weight(4, 3, 3, 3)}),
        islands=["ConvTranspose"], mixed=False,
    )  # fmt: skip
    assert laws.manifest.islands[0].reason == reason


def test_one_dimensional_is_refused() -> None:
    body = "t = Reshape(x, shape) y = ConvTranspose(t, w)"
    check(
        network(body, weights={"shape": ints(0, 4, 120), "w": weight(4, 3, 1)}),
        islands=["ConvTranspose"], mixed=False,
    )  # fmt: skip
