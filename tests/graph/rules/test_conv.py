from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight

WINDOWS = {
    "same": "pads=[1,1,1,1]",
    "valid": "",
    "auto valid": 'auto_pad="VALID"',
    "same upper": 'auto_pad="SAME_UPPER", strides=[2,3]',
    "same lower": 'auto_pad="SAME_LOWER", strides=[2,3]',
    "same upper, stride 1": 'auto_pad="SAME_UPPER"',
    "asymmetric pads": "pads=[0,1,2,0]",
    "pads wider than the kernel": "pads=[4,3,4,5]",
    "stride 2": "pads=[1,1,1,1], strides=[2,2]",
    "uneven strides": "pads=[1,1,1,1], strides=[3,2]",
    "dilation": "pads=[2,3,2,3], dilations=[2,3]",
    "dilation and stride": "pads=[2,2,2,2], dilations=[2,2], strides=[2,2]",
}


@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("batch", [1, 2])
def test_windows(name: str, batch: int) -> None:
    body = f"y = Conv<{WINDOWS[name]}>(x, w, b)" if WINDOWS[name] else "y = Conv(x, w, b)"
    check(network(body, f"float[{batch},4,12,10] x", weights={"w": weight(5, 4, 3, 3), "b": weight(5)}))


@pytest.mark.parametrize("kernel", [(1, 1), (1, 3), (5, 1), (2, 2), (4, 4), (7, 7), (12, 10)])
def test_kernels(kernel: tuple[int, int]) -> None:
    check(network("y = Conv(x, w)", weights={"w": weight(3, 4, *kernel)}))


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("group", "outputs"), [(2, 6), (4, 4), (4, 8)])
def test_groups(kernel: int, group: int, outputs: int) -> None:
    p = kernel // 2
    body = f"y = Conv<group={group}, pads=[{p},{p},{p},{p}]>(x, w, b)"
    weights = {"w": weight(outputs, 4 // group, kernel, kernel), "b": weight(outputs)}
    check(network(body, "float[2,4,6,5] x", weights=weights))


def test_one_by_one_with_pads_and_strides() -> None:
    weights = {"w": weight(3, 4, 1, 1), "b": weight(3)}
    check(network("y = Conv<pads=[1,1,1,1]>(x, w, b)", weights=weights))
    check(network("y = Conv<strides=[2,2]>(x, w, b)", weights=weights))


def test_behind_a_pointwise_op_padding_is_zero() -> None:
    body = "a = Exp(x) y = Conv<pads=[1,1,1,1]>(a, w)"
    check(network(body, weights={"w": weight(5, 4, 3, 3)}))


@pytest.mark.parametrize(
    ("mode", "fill"), [("reflect", ""), ("edge", ""), ("wrap", ""), ("constant", ""), ("constant", ", fill")]
)
def test_reads_through_a_pad(mode: str, fill: str) -> None:
    """Only a fill of zero can be read through; another one makes the padded image a level of its own."""
    body = f'p = Pad<mode="{mode}">(x, pads{fill}) y = Conv(p, w, b)'
    weights = {
        "pads": ints(0, 0, 2, 1, 0, 0, 1, 2), "fill": np.float32(0.7), "w": weight(3, 4, 3, 3),
        "b": weight(3),
    }  # fmt: skip
    laws = check(network(body, weights=weights), mixed=not fill)
    assert ("15x13" in {level.id for level in laws.levels}) == bool(fill)


def test_reads_through_a_pad_and_pads_itself() -> None:
    """The conv's own zeros lie outside the reflected border."""
    body = 'p = Pad<mode="reflect">(x, pads) y = Conv<pads=[1,1,1,1]>(p, w)'
    check(network(body, weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "w": weight(3, 4, 3, 3)}))


def test_padding_of_a_fill_and_own_padding_of_zero() -> None:
    body = "p = Pad(x, pads, fill) y = Conv<pads=[1,1,1,1]>(p, w)"
    weights = {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "fill": np.float32(2), "w": weight(3, 4, 3, 3)}
    check(network(body, weights=weights), mixed=False)


def test_reads_through_nearest_enlargement() -> None:
    body = (
        'u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
        'nearest_mode="floor">(x, , s) '
    )
    body += "y = Conv<pads=[1,1,1,1]>(u, w)"
    check(network(body, weights={"s": np.float32([1, 1, 2, 2]), "w": weight(3, 4, 3, 3)}))


def test_reads_through_crop_of_enlargement_of_pad() -> None:
    body = """
        p = Pad<mode="edge">(x, pads)
        u = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(p, , s)
        c = Slice(u, from, to, axes)
        y = Conv<pads=[1,1,1,1]>(c, w)
    """
    weights = {
        "pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "s": np.float32([1, 1, 2, 2]), "w": weight(3, 4, 3, 3),
        "from": ints(1, 2), "to": ints(24, -2), "axes": ints(2, 3),
    }  # fmt: skip
    check(network(body, weights=weights))


def test_on_tokens() -> None:
    body = "t = Reshape(x, shape) y = Conv(t, w, b)"
    weights = {"shape": ints(0, 4, 120), "w": weight(6, 4, 1), "b": weight(6)}
    check(network(body, "float[2,4,12,10] x", weights=weights))


def test_on_tokens_that_mix() -> None:
    body = "t = Reshape(x, shape) y = Conv<pads=[1,1]>(t, w)"
    laws = check(
        network(body, weights={"shape": ints(0, 4, 120), "w": weight(4, 4, 3)}), islands=["Conv"], mixed=False
    )
    assert laws.manifest.islands[0].reason == "it mixes tokens along the flattened grid"


def test_on_channels_as_tokens() -> None:
    """A 1-D convolution over [N, H*W, C] reads the grid as channels."""
    body = "t = Reshape(x, shape) s = Transpose<perm=[0,2,1]>(t) y = Conv(s, w)"
    weights = {"shape": ints(0, 4, 120), "w": weight(3, 120, 1)}
    check(network(body, weights=weights), islands=["Conv"], mixed=False)


def test_one_channel_axis_of_two_factors() -> None:
    """[N, h, d, H, W] swapped and flattened: rows are reordered before the conv."""
    body = (
        "s = Reshape(x, split) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(t, join) y = "
        "Conv<pads=[1,1,1,1]>(u, w)"
    )
    weights = {"split": ints(0, 2, 3, 6, 5), "join": ints(0, 6, 6, 5), "w": weight(4, 6, 3, 3)}
    check(network(body, "float[2,6,6,5] x", weights=weights))


def test_two_orders_of_one_value_are_read() -> None:
    """The same value's base in two channel orders, and its own."""
    body = """
        s = Reshape(x, split)
        t = Transpose<perm=[0,2,1,3,4]>(s)
        u = Reshape(t, join)
        a = Conv<pads=[1,1,1,1]>(u, w)
        b = Conv<pads=[1,1,1,1]>(x, w)
        y = Add(a, b)
    """
    weights = {"split": ints(0, 2, 3, 6, 5), "join": ints(0, 6, 6, 5), "w": weight(4, 6, 3, 3)}
    check(network(body, "float[2,6,6,5] x", weights=weights))


def test_shared_weights() -> None:
    """One weight as a plain conv's, as a grouped one's, a dilated one's and as an operand of its own."""
    body = """
        a = Conv<pads=[1,1,1,1]>(x, w)
        b = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w)
        s = ReduceSum<keepdims=0>(w, axes)
        t = Reshape(s, per)
        c = Add(a, b)
        y = Mul(c, t)
    """
    check(network(body, weights={"w": weight(4, 4, 3, 3), "axes": ints(1, 2, 3), "per": ints(4, 1, 1)}))


def test_weight_is_shared_with_a_transposed_conv() -> None:
    body = "a = Conv<pads=[1,1,1,1]>(x, w) b = ConvTranspose<pads=[1,1,1,1]>(x, w) y = Sub(a, b)"
    check(network(body, weights={"w": weight(4, 4, 3, 3)}))


def test_weights_computed_from_a_pinned_input() -> None:
    body = "s = Reshape(c, per) v = Mul(w, s) y = Conv<pads=[1,1,1,1]>(x, v, b)"
    weights = {"w": weight(5, 4, 3, 3), "b": weight(5), "per": ints(1, 4, 1, 1)}
    laws = check(network(body, "float[1,4,12,10] x, float[4] c", weights=weights))
    assert laws.input("c").role == "pinned"


def test_bias_computed_from_a_pinned_input() -> None:
    body = "b = Exp(c) y = Conv<pads=[1,1,1,1]>(x, w, b)"
    laws = check(network(body, "float[1,4,12,10] x, float[5] c", weights={"w": weight(5, 4, 3, 3)}))
    assert laws.input("c").role == "pinned"


def test_weights_computed_from_the_picture() -> None:
    """The mean decides the weights: recorded with it, like any statistic."""
    body = "m = ReduceMean<keepdims=1>(x, axes) v = Mul(w, m) y = Conv<pads=[1,1,1,1]>(x, v)"
    check(network(body, weights={"w": weight(5, 4, 3, 3), "axes": ints(0, 2, 3)}), mixed=False, full=False)


def test_weights_that_are_the_picture() -> None:
    body = "k = Conv<pads=[1,1,1,1]>(x, w) y = Conv(x, k)"
    weights = {"w": weight(1, 1, 3, 3)}
    laws = check(network(body, "float[1,1,6,5] x", weights=weights), islands=["Conv"], mixed=False)
    assert laws.manifest.islands[0].reason == "its weights follow from the edited pixels"


def test_three_dimensional_refused() -> None:
    body = "v = Unsqueeze(x, axes) y = Conv<pads=[0,1,1,0,1,1]>(v, w)"
    laws = check(
        network(body, weights={"w": weight(3, 4, 1, 3, 3), "axes": ints(2)}), islands=["Conv"], mixed=False
    )
    assert laws.manifest.islands[0].reason == "its input is not an image [N, C, H, W]"


@pytest.mark.parametrize("size", ["6,5", "5,5"])
def test_transposed_grid_is_refused(size: str) -> None:
    """[N, C, W, H] is not the image that the levels know."""
    body = "t = Transpose<perm=[0,1,3,2]>(x) y = Conv<pads=[1,1,1,1]>(t, w)"
    check(
        network(body, f"float[1,4,{size}] x", weights={"w": weight(3, 4, 3, 3)}),
        islands=["Conv"],
        mixed=False,
    )


def test_channels_along_the_batch_are_refused() -> None:
    body = "m = Mul(x, c) y = Conv<pads=[1,1,1,1]>(m, w)"
    weights = {"c": weight(2, 1, 1, 1), "w": weight(3, 4, 3, 3)}
    check(network(body, "float[1,4,6,5] x", weights=weights), islands=["Conv"], mixed=False)


@pytest.mark.parametrize("shape", ["1,4,1,10", "1,4,12,1", "1,1,1,1", "2,1,1,3", "2,4,1,1"])
@pytest.mark.parametrize("stride", [1, 2])
def test_axes_of_size_one(shape: str, stride: int) -> None:
    body = f"y = Conv<pads=[1,1,1,1], strides=[{stride},{stride}]>(x, w)"
    channels = shape.split(",")[-3]
    check(network(body, f"float[{shape}] x", weights={"w": weight(1, int(channels), 3, 3)}))


def test_macs_are_counted() -> None:
    laws = check(network("y = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w)", weights={"w": weight(5, 4, 3, 3)}))
    assert {level.id: level.macs for level in laws.manifest.levels} == {"12x10": 0, "6x5": 6 * 5 * 5 * 4 * 9}
