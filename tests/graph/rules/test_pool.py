from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight

WINDOWS = {
    "k2 s2": "kernel_shape=[2,2], strides=[2,2]",
    "k3 s1 p1": "kernel_shape=[3,3], pads=[1,1,1,1]",
    "k3 s2 p1": "kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]",
    "uneven": "kernel_shape=[3,2], strides=[2,3], pads=[1,0,0,1]",
    "ceil": "kernel_shape=[3,3], strides=[2,2], ceil_mode=1",
    "ceil with pads": "kernel_shape=[3,3], strides=[2,2], pads=[0,1,1,0], ceil_mode=1",
    "ceil beyond the padding": "kernel_shape=[2,2], strides=[3,3], pads=[1,1,1,1], ceil_mode=1",
    "dilation": "kernel_shape=[3,3], dilations=[2,2], pads=[1,1,1,1]",
    "same upper": 'kernel_shape=[3,3], strides=[2,2], auto_pad="SAME_UPPER"',
    "same lower": 'kernel_shape=[2,2], auto_pad="SAME_LOWER"',
    "valid": 'kernel_shape=[5,4], auto_pad="VALID"',
    "one row": "kernel_shape=[1,10]",
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "AveragePool with pad"])
def test_windows(name: str, op: str) -> None:
    extra = ", count_include_pad=1" if "with" in op else ""
    check(network(f"y = {op.split()[0]}<{WINDOWS[name]}{extra}>(x)", "float[2,3,12,10] x"))


def test_max_of_negative_values_ignores_padding() -> None:
    body = "a = Exp(x) n = Neg(a) y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(n)"
    check(network(body))


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_behind_a_pad(op: str) -> None:
    """Zeros of a Pad take part in the maximum and the mean; mirrored pixels do too."""
    pads = ints(0, 0, 1, 1, 0, 0, 1, 1)
    check(
        network(
            f"a = Exp(x) n = Neg(a) p = Pad(n, pads) y = {op}<kernel_shape=[3,3]>(p)", weights={"pads": pads}
        ),
        mixed=False,
    )
    check(
        network(
            f'p = Pad<mode="reflect">(x, pads) y = {op}<kernel_shape=[3,3], pads=[1,1,1,1]>(p)',
            weights={"pads": pads},
        )
    )


def test_pad_with_the_lowest_value_is_read_through() -> None:
    lowest = np.float32(np.finfo(np.float32).min)
    body = "p = Pad(x, pads, low) y = MaxPool<kernel_shape=[3,3]>(p)"
    laws = check(network(body, weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "low": lowest}))
    assert {level.id for level in laws.levels} == {"12x10"}


def test_pool_of_a_pad_of_minus_infinity() -> None:
    body = "p = Pad(x, pads, low) y = MaxPool<kernel_shape=[3,3]>(p)"
    check(
        network(body, weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "low": np.float32(-np.inf)}), mixed=False
    )


def test_indices_are_refused() -> None:
    laws = check(
        network("y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)", outputs="float y, int64 i"),
        islands=["MaxPool"], mixed=False,
    )  # fmt: skip
    assert laws.manifest.islands[0].reason == "its indices are used"


def test_unused_indices() -> None:
    check(network("y, i = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x)"))


def test_integer_images() -> None:
    model = network("y = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x)", "uint8[1,2,6,5] x", "uint8 y")
    laws = check(model, islands=["MaxPool"], mixed=False)
    assert laws.manifest.islands[0].reason == "its input is not of floating point"


def test_along_tokens_is_refused() -> None:
    body = "t = Reshape(x, shape) y = MaxPool<kernel_shape=[3]>(t)"
    check(network(body, weights={"shape": ints(0, 4, 120)}), islands=["MaxPool"], mixed=False)


def test_pools_in_a_row() -> None:
    body = "a = AveragePool<kernel_shape=[2,2], strides=[2,2]>(x) y = Conv<pads=[1,1,1,1]>(a, w)"
    check(network(body, weights={"w": weight(3, 4, 3, 3)}), mixed=False)


def test_lp_pool_has_no_rule() -> None:
    check(network("y = LpPool<kernel_shape=[2,2], strides=[2,2]>(x)"), islands=["LpPool"], mixed=False)
