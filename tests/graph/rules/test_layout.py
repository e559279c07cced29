from __future__ import annotations

import numpy as np
import pytest

from ..helpers import check, ints, network, weight

RESHAPES = {
    "tokens": (0, 4, 120),
    "split channels": (0, 2, 2, 12, 10),
    "infer": (0, -1, 12, 10),
    "leading one": (1, -1, 4, 12, 10),
    "trailing one": (-1, 4, 12, 10, 1),
    "flat channels and grid": (2, -1),
    "everything": (-1,),
    "batch and channels": (8, 12, 10),
    "batch into channels, split": (2, 1, 4, 120, 1),
}


@pytest.mark.parametrize("name", RESHAPES)
def test_reshapes(name: str) -> None:
    laws = check(network("y = Reshape(x, s)", "float[2,4,12,10] x", weights={"s": ints(*RESHAPES[name])}))
    assert laws.output("y").level == "12x10"


@pytest.mark.parametrize("axis", [0, 1, 2, 3, 4])
def test_flatten(axis: int) -> None:
    check(network(f"y = Flatten<axis={axis}>(x)", "float[2,4,6,5] x"))


@pytest.mark.parametrize("perm", ["0,2,3,1", "1,0,2,3", "2,3,0,1", "3,2,1,0", "0,1,3,2"])
def test_transposes(perm: str) -> None:
    body = f"y = Transpose<perm=[{perm}]>(x) r = Relu(y) z = Neg(r)"
    check(network(body, "float[2,4,6,5] x", "float y, float z"))


def test_transpose_without_perm() -> None:
    check(network("y = Transpose(x)", "float[2,4,6,5] x"))


def test_squeeze_and_unsqueeze() -> None:
    body = "a = Squeeze(x, one) b = Unsqueeze(a, two) y = Relu(b) c = Squeeze(x) z = Unsqueeze(c, zero)"
    weights = {"one": ints(1), "two": ints(0, 4), "zero": ints(0)}
    check(network(body, "float[1,1,6,5] x", "float y, float z", weights))


@pytest.mark.parametrize(
    "shape", [(24, 5, 4), (2, 4, 3, 2, 5), (2, 4, 15, 2), (4, 60), (2, 2, 60), (1, 9, 10), (7, 3, 10)]
)
def test_what_cuts_the_grid_stays_right(shape: tuple[int, ...]) -> None:
    """A coarser level where the pieces are blocks, else whole."""
    channels = int(np.prod(shape)) // 30
    model = network("y = Reshape(x, s)", f"float[1,{channels},6,5] x", weights={"s": ints(*shape)})
    check(model, islands=None, mixed=False)


def test_cut_grid_is_read_by_other_ops() -> None:
    """A cut grid that never becomes SpaceToDepth: maxima of 2x2 blocks, spelled out."""
    body = "s = Reshape(x, split) m = ReduceMax<keepdims=0>(s, axes) y = Relu(m)"
    weights = {"split": ints(1, 4, 6, 2, 5, 2), "axes": ints(3, 5)}
    laws = check(network(body, weights=weights), mixed=False)
    assert laws.output("y").level == "6x5"


def test_cut_grid_is_an_output() -> None:
    laws = check(network("y = Reshape(x, s)", weights={"s": ints(1, 4, 6, 2, 5, 2)}))
    assert laws.output("y").level == "6x5"


def test_transposed_cut_grid_is_an_output() -> None:
    body = "r = Reshape(x, s) y = Transpose<perm=[0,2,4,1,3,5]>(r) z = Relu(y)"
    check(network(body, outputs="float y, float z", weights={"s": ints(1, 4, 6, 2, 5, 2)}))


def test_squeezed_channels_of_conv() -> None:
    body = "c = Conv<pads=[1,1,1,1]>(x, w) y = Squeeze(c, axes) z = Flatten(c)"
    check(network(body, "float[2,4,6,5] x", "float y, float z", {"w": weight(1, 4, 3, 3), "axes": ints(1)}))


def test_shape_of_the_picture_is_known() -> None:
    """Shape, Size and ConstantOfShape of a spatial value are constants at export."""
    body = """
        s = Shape(x) z = Slice(s, two, four) n = ReduceProd<keepdims=1>(z)
        h = Slice(s, zero, two) t = Concat<axis=0>(h, n) y = Reshape(x, t)
    """
    check(network(body, weights={"two": ints(2), "four": ints(4), "zero": ints(0)}))


def test_expand() -> None:
    check(network("y = Expand(x, s)", "float[2,1,6,5] x", weights={"s": ints(2, 3, 6, 5)}))


def test_identity_and_tile() -> None:
    check(network("y = Tile(x, s)", weights={"s": ints(1, 3, 1, 1)}), islands=None)  # type: ignore[arg-type]
