from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("pads", [(1, 2, 3, 0), (-1, 0, 0, -2), (2, -1, -1, 3), (0, 0, 0, 0)], ids=str)
def test_modes(mode: str, pads: tuple[int, ...]) -> None:
    top, left, bottom, right = pads
    amounts = ints(0, 0, top, left, 0, 0, bottom, right)
    check(network(f'y = Pad<mode="{mode}">(x, p)', "float[2,4,12,10] x", weights={"p": amounts}))


def test_fill() -> None:
    check(network("y = Pad(x, p, f)", weights={"p": ints(0, 0, 1, 2, 0, 0, 2, 1), "f": np.float32(-3)}))


def test_named_axes() -> None:
    check(network("y = Pad(x, p, , axes)", weights={"p": ints(1, 2, 3, 0), "axes": ints(-1, 2)}))


def test_pads_in_a_row() -> None:
    weights = {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "f": np.float32(5)}
    check(network('a = Pad<mode="reflect">(x, p) y = Pad<mode="edge">(a, p)', weights=weights))
    check(network("a = Pad(x, p) y = Pad(a, p)", weights=weights))
    check(network("a = Pad(x, p, f) y = Pad(a, p)", weights=weights), mixed=False)
    check(network('a = Pad(x, p, f) y = Pad<mode="reflect">(a, p)', weights=weights), mixed=False)


def test_reflection_wider_than_the_image() -> None:
    check(
        network(
            'y = Pad<mode="reflect">(x, p)', "float[1,2,4,3] x", weights={"p": ints(0, 0, 3, 2, 0, 0, 3, 2)}
        )
    )


def test_padded_image_meets_itself_cropped() -> None:
    body = "a = Pad(x, p) b = Pad(a, n) y = Add(b, x)"
    check(
        network(body, weights={"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "n": ints(0, 0, -1, -1, 0, 0, -1, -1)}),
        mixed=False,
    )


def test_channels_are_refused() -> None:
    laws = check(
        network("y = Pad(x, p)", weights={"p": ints(0, 1, 0, 0, 0, 1, 0, 0)}), islands=["Pad"], mixed=False
    )
    assert laws.manifest.islands[0].reason == "it pads the batch or the channels"


def test_fill_of_a_pinned_input_is_refused() -> None:
    body = "y = Pad(x, p, f)"
    laws = check(
        network(body, "float[1,4,12,10] x, float f", weights={"p": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
        islands=["Pad"], mixed=False,
    )  # fmt: skip
    assert laws.manifest.islands[0].reason == "its pad value is computed at run time"
    assert laws.input("f").role == "pinned"


def test_one_padded_image_has_two_readers() -> None:
    body = (
        'a = Pad<mode="edge">(x, p) b = Conv(a, w) c = Conv<strides=[2,2]>(a, w) d = Relu(a) y '
        "= Slice(d, f, t, axes) z = Add(y, b)"
    )
    weights = {
        "p": ints(0, 0, 1, 1, 0, 0, 1, 1),
        "w": weight(4, 4, 3, 3),
        "f": ints(1, 1),
        "t": ints(-1, -1),
        "axes": ints(2, 3),
    }
    check(network(body, outputs="float z, float c", weights=weights), mixed=False)
