from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight

COORDINATES = ["half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric"]


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("size", [(24, 20), (6, 5), (17, 7)], ids=str)
def test_sizes(coordinates: str, mode: str, size: tuple[int, int]) -> None:
    body = f'y = Resize<mode="{mode}", coordinate_transformation_mode="{coordinates}">(x, , , size)'
    check(network(body, "float[2,3,12,10] x", weights={"size": ints(2, 3, *size)}))


@pytest.mark.parametrize("scales", [(2, 2), (0.5, 0.5), (1.5, 1), (1, 3), (0.7, 1.25)], ids=str)
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_scales(scales: tuple[float, float], mode: str) -> None:
    body = f'y = Resize<mode="{mode}">(x, , scales)'
    check(network(body, weights={"scales": np.float32([1, 1, *scales])}))


@pytest.mark.parametrize("rounding", ["floor", "ceil", "round_prefer_floor", "round_prefer_ceil"])
def test_nearest_modes(rounding: str) -> None:
    body = (
        f'y = Resize<mode="nearest", nearest_mode="{rounding}", '
        f'coordinate_transformation_mode="asymmetric">(x, , , s)'
    )
    check(network(body, weights={"s": ints(1, 4, 18, 7)}))


@pytest.mark.parametrize("attributes", ["antialias=1", "exclude_outside=1", "cubic_coeff_a=-0.5"])
def test_cubic_settings(attributes: str) -> None:
    body = f'y = Resize<mode="cubic", {attributes}>(x, , , s)'
    check(network(body, weights={"s": ints(1, 4, 7, 6)}))


def test_antialias_linear() -> None:
    check(network('y = Resize<mode="linear", antialias=1>(x, , , s)', weights={"s": ints(1, 4, 5, 4)}))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_named_axes(mode: str) -> None:
    check(network(f'y = Resize<mode="{mode}", axes=[2,3]>(x, , , s)', weights={"s": ints(24, 15)}))
    check(network(f'y = Resize<mode="{mode}", axes=[3,2]>(x, , s)', weights={"s": np.float32([1.5, 2])}))


def test_channels_are_refused() -> None:
    check(
        network('y = Resize<mode="linear">(x, , , s)', weights={"s": ints(1, 8, 12, 10)}),
        islands=["Resize"],
        mixed=False,
        commit=False,
    )


def test_region_is_refused() -> None:
    body = 'y = Resize<mode="linear", coordinate_transformation_mode="tf_crop_and_resize">(x, roi, , s)'
    weights = {"s": ints(1, 4, 12, 10), "roi": np.float32([0, 0, 0.1, 0.1, 1, 1, 0.8, 0.8])}
    laws = check(network(body, weights=weights), islands=["Resize"], mixed=False, commit=False)
    assert laws.manifest.islands[0].reason == "it crops by a region"


def test_aspect_ratio() -> None:
    body = 'y = Resize<mode="linear", keep_aspect_ratio_policy="not_larger", axes=[2,3]>(x, , , s)'
    laws = check(network(body, weights={"s": ints(6, 6)}), islands=["Resize"], mixed=False, commit=False)
    assert laws.manifest.islands[0].reason == "it keeps the aspect ratio"


def test_enlarged_twice_and_convolved() -> None:
    up = 'Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">'
    body = f"a = {up}(x, , s) b = {up}(a, , s) y = Conv<pads=[1,1,1,1]>(b, w)"
    check(network(body, "float[1,4,6,5] x", weights={"s": np.float32([1, 1, 2, 2]), "w": weight(3, 4, 3, 3)}))


def test_linear_of_a_pad() -> None:
    body = 'p = Pad<mode="reflect">(x, pads) y = Resize<mode="linear">(p, , , s)'
    check(network(body, weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "s": ints(1, 4, 28, 24)}))


def test_nearest_of_a_zero_pad_and_pointwise() -> None:
    """The padded image is read by an op that is not linear in it."""
    body = 'p = Pad(x, pads) u = Resize<mode="nearest">(p, , , s) y = Exp(u)'
    check(network(body, weights={"pads": ints(0, 0, 1, 1, 0, 0, 1, 1), "s": ints(1, 4, 28, 24)}))


def test_same_size_is_the_identity() -> None:
    check(network('y = Resize<mode="linear">(x, , , s)', weights={"s": ints(1, 4, 12, 10)}))


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample_of_opset_9(mode: str) -> None:
    check(network(f'y = Upsample<mode="{mode}">(x, s)', weights={"s": np.float32([1, 1, 2, 2])}, opset=9))
