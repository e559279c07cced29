from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network

SLICES = {
    "channels": ((1,), (3,), (1,), (1,)),
    "channels by two": ((0,), (4,), (1,), (2,)),
    "channels backwards": ((-1,), (-5,), (1,), (-1,)),
    "one channel": ((2,), (3,), (1,), (1,)),
    "crop": ((1, 2), (9, -1), (2, 3), (1, 1)),
    "crop of one axis": ((1,), (2**63 - 1,), (3,), (1,)),
    "stride": ((0, 1), (12, 10), (2, 3), (2, 2)),
    "stride and crop": ((1, 2), (11, 9), (2, 3), (3, 2)),
    "nothing": ((0, 0), (12, 100), (2, 3), (1, 1)),
    "one pixel": ((5, 4), (6, 5), (2, 3), (1, 1)),
    "one row": ((5,), (6,), (2,), (1,)),
}


@pytest.mark.parametrize("name", SLICES)
@pytest.mark.parametrize("batch", [1, 2])
def test_slices(name: str, batch: int) -> None:
    starts, ends, axes, steps = SLICES[name]
    weights = {"a": ints(*starts), "b": ints(*ends), "c": ints(*axes), "d": ints(*steps)}
    check(network("y = Slice(x, a, b, c, d)", f"float[{batch},4,12,10] x", weights=weights))


def test_slice_without_axes() -> None:
    check(network("y = Slice(x, a, b)", weights={"a": ints(0, 1, 2, 0), "b": ints(1, 3, 12, 9)}))


def test_slice_of_packed_channels() -> None:
    body = "s = Reshape(x, shape) y = Slice(s, a, b, c) z = Slice(s, d, e, f)"
    weights = {
        "shape": ints(0, 2, 3, 6, 5), "a": ints(1), "b": ints(3), "c": ints(2),
        "d": ints(1, 0), "e": ints(2, 2), "f": ints(1, 2),
    }  # fmt: skip
    check(network(body, "float[2,6,6,5] x", "float y, float z", weights))


def test_sliced_channels_and_grid_at_once() -> None:
    weights = {"a": ints(1, 1), "b": ints(3, 9), "c": ints(1, 2)}
    check(network("y = Slice(x, a, b, c)", weights=weights))


def test_one_image_of_the_batch_is_refused() -> None:
    weights = {"a": ints(1), "b": ints(2), "c": ints(0)}
    check(
        network("y = Slice(x, a, b, c)", "float[2,4,6,5] x", weights=weights), islands=["Slice"], mixed=False
    )


def test_flip_moves_pixels() -> None:
    """A flip stays whole, and right everywhere, until it meets rows."""
    body = "f = Slice(x, a, b, c, d) g = Relu(f) y = Add(g, x)"
    weights = {"a": ints(-1), "b": ints(-(2**31)), "c": ints(3), "d": ints(-1)}
    laws = check(network(body, outputs="float g, float y", weights=weights), islands=["Slice"], mixed=False)
    assert laws.manifest.islands[0].reason == "it flips the pixel grid"
    edit = laws.session.edit(**laws.edited, mask=laws.mask)
    np.testing.assert_allclose(edit["g"], laws.run(laws.mixed())["g"], atol=1e-5)


def test_slice_of_tokens_is_refused() -> None:
    body = "t = Reshape(x, shape) y = Slice(t, a, b, c)"
    weights = {"shape": ints(0, 4, 120), "a": ints(0), "b": ints(60), "c": ints(2)}
    check(network(body, weights=weights), islands=["Slice"], mixed=False)


def test_slice_of_a_transposed_grid_is_refused() -> None:
    body = "t = Transpose<perm=[0,2,3,1]>(x) y = Slice(t, a, b, c)"
    weights = {"a": ints(1), "b": ints(5), "c": ints(1)}
    check(network(body, weights=weights), islands=["Slice"], mixed=False)
