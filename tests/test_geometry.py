"""Taps against what torch really reads: one-hot kernels over images of their own pixel indices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy import geometry as geo
from sige_deploy.errors import BundleError
from sige_deploy.geometry import AxisTaps, Geometry

FAST = settings(max_examples=40, derandomize=True, deadline=None, database=None)
TORCH_MODES = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}


def line(n: int) -> torch.Tensor:
    """Coordinates counted from 1, so that a read of padding (0) shows; [1, 1, n]."""
    return torch.arange(1, n + 1, dtype=torch.float64)[None, None]


def one_hot(k: int) -> torch.Tensor:
    """Kernels [k, 1, k]: output channel i is what tap i reads."""
    return torch.eye(k, dtype=torch.float64)[:, None]


def reads(output: torch.Tensor) -> np.ndarray:
    """[1, k, n_out] of one-hot responses -> index [n_out, k], padding -1."""
    return output[0].numpy().astype(int).T - 1


@FAST
@given(
    n=st.integers(1, 20), k=st.integers(1, 5), stride=st.integers(1, 3), dilation=st.integers(1, 3),
    before=st.integers(0, 4), after=st.integers(0, 4),
)  # fmt: skip
def test_window_reads_as_conv(n: int, k: int, stride: int, dilation: int, before: int, after: int) -> None:
    if n + before + after < dilation * (k - 1) + 1:
        with pytest.raises(ValueError, match="does not fit"):
            geo.window(n, k, stride, dilation, (before, after))
        return
    taps = geo.window(n, k, stride, dilation, (before, after))
    expected = F.conv1d(F.pad(line(n), (before, after)), one_hot(k), stride=stride, dilation=dilation)
    np.testing.assert_array_equal(taps.index, reads(expected))
    assert (taps.n_out, taps.k, taps.source_size) == (expected.shape[-1], k, n)


@FAST
@given(
    n=st.integers(2, 12), k=st.integers(1, 4), stride=st.integers(1, 2),
    mode=st.sampled_from(sorted(TORCH_MODES)), data=st.data(),
)  # fmt: skip
def test_padding_modes_read_as_torch(n: int, k: int, stride: int, mode: str, data: st.DataObject) -> None:
    most = n - 1 if mode == "reflect" else n
    before, after = data.draw(st.integers(0, most)), data.draw(st.integers(0, most))
    padded = F.pad(line(n), (before, after), mode=TORCH_MODES[mode])
    np.testing.assert_array_equal(geo.pad(n, before, after, mode).index, reads(padded))
    if padded.shape[-1] >= k:
        taps = geo.window(n, k, stride, pad=(before, after), mode=mode)
        np.testing.assert_array_equal(taps.index, reads(F.conv1d(padded, one_hot(k), stride=stride)))


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
def test_padding_wider_than_the_source_reads_as_numpy(mode: str) -> None:
    for n in (1, 2, 3):
        expected = np.pad(np.arange(n), (7, 8), mode=mode)
        np.testing.assert_array_equal(geo.pad(n, 7, 8, mode).index[:, 0], expected)


@FAST
@given(
    n=st.integers(1, 9), k=st.integers(1, 5), stride=st.integers(1, 3), dilation=st.integers(1, 2),
    pad=st.integers(0, 3), data=st.data(),
)  # fmt: skip
def test_transposed_reads_as_conv_transpose(
    n: int, k: int, stride: int, dilation: int, pad: int, data: st.DataObject
) -> None:
    extra = data.draw(st.integers(0, max(stride, dilation) - 1))
    if (n - 1) * stride - 2 * pad + dilation * (k - 1) + extra + 1 < 1:
        return
    taps = geo.transposed(n, k, stride, dilation, (pad, pad), extra)
    weight = torch.eye(k, dtype=torch.float64)[None]  # [1, k, k]: channel i has tap i only
    expected = F.conv_transpose1d(
        line(n), weight, stride=stride, dilation=dilation, padding=pad, output_padding=extra
    )
    np.testing.assert_array_equal(taps.index, reads(expected))


def test_transposed_with_its_own_weight() -> None:
    """A Conv through the table with the unflipped weight is the transposed convolution."""
    x, weight = torch.randn(1, 1, 6, dtype=torch.float64), torch.randn(1, 1, 4, dtype=torch.float64)
    taps = geo.transposed(6, 4, 2, pad=(1, 1))
    values = np.append(x[0, 0].numpy(), 0.0)[taps.index] @ weight[0, 0].numpy()
    np.testing.assert_allclose(values, F.conv_transpose1d(x, weight, stride=2, padding=1)[0, 0].numpy())


@FAST
@given(n=st.integers(1, 8), scale=st.integers(1, 4))
def test_nearest_reads_as_interpolate(n: int, scale: int) -> None:
    expected = F.interpolate(line(n), scale_factor=scale, mode="nearest")
    np.testing.assert_array_equal(geo.nearest(n, scale).index, reads(expected))


@pytest.mark.parametrize("r", [1, 2, 3])
def test_depth_to_space_reads_as_pixel_shuffle(r: int) -> None:
    height, width, channels = 3, 4, 2
    x = torch.arange(channels * r * r * height * width, dtype=torch.float64).reshape(1, -1, height, width)
    expected = F.pixel_shuffle(x, r)[0].numpy()
    # pixel_shuffle counts channels [C, phase y, phase x]; ours count phases first.
    source = x.reshape(channels, r * r, height, width).transpose(0, 1).numpy()
    g = Geometry("g", "a", "b", geo.depth_to_space(height, r), geo.depth_to_space(width, r))
    assert g.phases == r * r
    zero_y, zero_x = np.zeros(g.y.n_out, int), np.zeros(g.x.n_out, int)
    py = g.y.phase if g.y.phase is not None else zero_y
    px = g.x.phase if g.x.phase is not None else zero_x
    phase = py[:, None] * g.x.n_phases + px[None]
    actual = source[phase, :, g.y.index, g.x.index[:, 0]]
    np.testing.assert_array_equal(actual.transpose(2, 0, 1), expected)


def test_crop_and_flip() -> None:
    np.testing.assert_array_equal(geo.crop(9, 2, 3, 2).index[:, 0], np.arange(9)[2:8:2])
    np.testing.assert_array_equal(geo.crop(4, 3, 4, -1).index[:, 0], [3, 2, 1, 0])
    with pytest.raises(ValueError, match="leaves the 4 coordinates"):
        geo.crop(4, 2, 3)


@FAST
@given(n=st.integers(2, 8), scale=st.integers(1, 3), k=st.integers(1, 4), mode=st.sampled_from(geo.MODES))
def test_compose_nearest_then_conv(n: int, scale: int, k: int, mode: str) -> None:
    inner = geo.nearest(n, scale)
    outer = geo.window(inner.n_out, k, pad=(1, k // 2), mode=mode)
    x = F.interpolate(line(n), scale_factor=scale, mode="nearest")
    x = F.pad(x, (1, k // 2), mode=TORCH_MODES.get(mode, "constant"))
    np.testing.assert_array_equal(geo.compose(outer, inner).index, reads(F.conv1d(x, one_hot(k))))


@FAST
@given(n=st.integers(4, 8), mode=st.sampled_from(geo.MODES), stride=st.integers(1, 3))
def test_compose_pad_then_conv(n: int, mode: str, stride: int) -> None:
    """Zero padding of the window stays padding although what it pads is itself padded by another mode."""
    inner = geo.pad(n, 1, 2, mode)
    outer = geo.window(inner.n_out, 3, stride, pad=(1, 1))
    x = F.pad(F.pad(line(n), (1, 2), mode=TORCH_MODES.get(mode, "constant")), (1, 1))
    np.testing.assert_array_equal(
        geo.compose(outer, inner).index, reads(F.conv1d(x, one_hot(3), stride=stride))
    )


def test_compose_keeps_weights_and_phases_of_the_outer() -> None:
    inner = geo.nearest(2, 2)
    outer = geo.resampling(np.array([[0, 1], [2, 3]]), np.array([[0.25, 0.75], [0.5, 0.5]]), 4)
    composed = geo.compose(outer, inner)
    np.testing.assert_array_equal(composed.index, [[0, 0], [1, 1]])
    np.testing.assert_array_equal(composed.weight, outer.weight)
    shuffled = geo.compose(geo.depth_to_space(4, 2), inner)
    np.testing.assert_array_equal(shuffled.phase, [0, 1] * 4)
    with pytest.raises(ValueError, match="one unweighted tap"):
        geo.compose(geo.window(2, 1), outer)
    with pytest.raises(ValueError, match="reads 5 coordinates"):
        geo.compose(geo.window(5, 1), inner)


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (lambda: AxisTaps(np.array([[3]]), 3), "read coordinates 3..3"),
        (lambda: AxisTaps(np.array([[-2]]), 3), "read coordinates"),
        (lambda: AxisTaps(np.zeros(3), 3), "shape"),
        (lambda: AxisTaps(np.zeros((2, 1)), 3, np.ones((2, 2))), "weights"),
        (lambda: AxisTaps(np.zeros((2, 1)), 3, np.full((2, 1), np.nan)), "finite"),
        (lambda: AxisTaps(np.zeros((2, 1)), 3, n_phases=2), "Phases"),
        (lambda: AxisTaps(np.zeros((2, 1)), 3, phase=np.array([0, 2]), n_phases=2), r"0\.\.1"),
        (lambda: geo.window(4, 2, mode="mirror"), "'mirror' is not one of"),
    ],
)
def test_taps_that_do_not_fit_are_refused(taps: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        taps()  # type: ignore[operator]


def test_taps_are_read_only_and_compared_by_what_they_read() -> None:
    index = np.array([[0], [1]])
    taps = AxisTaps(index, 2)
    index[0] = 1
    assert taps.index[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        taps.index[0] = 1
    assert taps == geo.pad(2, 0, 0) and hash(taps) == hash(geo.crop(2, 0, 2))
    assert taps != geo.crop(3, 0, 2) and taps != geo.depth_to_space(1, 2)


GEOMETRIES = [
    Geometry(
        "conv", "8x8", "8x8", geo.window(8, 3, pad=(1, 1)), geo.window(8, 5, pad=(2, 2), mode="reflect")
    ),
    Geometry("shuffle", "8x8", "16x8", geo.depth_to_space(8, 2), geo.pad(8, 0, 0)),
    Geometry(
        "resize", "8x8", "4x8", geo.resampling(np.zeros((4, 2)), np.full((4, 2), 0.5), 8), geo.pad(8, 0, 0)
    ),
]


def test_tensors_there_and_back() -> None:
    tensors = geo.geometries_to_tensors(GEOMETRIES)
    assert tensors["conv.y.index"].dtype == np.int32 and tensors["resize.y.weight"].dtype == np.float32
    back = geo.geometries_from_tensors(tensors, [(g.id, g.source, g.target) for g in GEOMETRIES])
    assert back == GEOMETRIES


def test_damaged_tensors_are_refused() -> None:
    tensors = geo.geometries_to_tensors(GEOMETRIES)
    specs = [(g.id, g.source, g.target) for g in GEOMETRIES]
    for damage in (
        {"conv.y.index": np.full((8, 3), 9, np.int32)},
        {"conv.y.index": np.zeros((8, 3), np.float32)},
        {"conv.y.shape": np.zeros(3, np.int32)},
        {"shuffle.y.phase": np.full(16, 7, np.int32)},
    ):
        with pytest.raises(BundleError, match="damaged"):
            geo.geometries_from_tensors({**tensors, **damage}, specs)
    del tensors["resize.x.index"]
    with pytest.raises(BundleError, match="'resize' is damaged"):
        geo.geometries_from_tensors(tensors, specs)


def test_geometry_properties() -> None:
    conv, shuffle, resize = GEOMETRIES
    assert (conv.kernel, conv.taps, conv.phases, conv.weighted) == ((3, 5), 15, 1, False)
    assert (shuffle.phases, shuffle.source_shape, shuffle.target_shape) == (2, (8, 8), (16, 8))
    assert resize.weighted
