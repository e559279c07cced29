from __future__ import annotations

import pytest

from ..helpers import check, ints, network, weight


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize(("block", "channels"), [(2, 8), (2, 4), (3, 18)])
def test_depth_to_space(mode: str, block: int, channels: int) -> None:
    check(network(f'y = DepthToSpace<blocksize={block}, mode="{mode}">(x)', f"float[2,{channels},6,5] x"))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_of_regrouped_channels(mode: str) -> None:
    """The phases are spread over factors in another order."""
    body = f"""
        s = Reshape(x, split) t = Transpose<perm=[0,2,1,3,4]>(s) u = Reshape(t, join)
        y = DepthToSpace<blocksize=2, mode="{mode}">(u)
    """
    check(
        network(body, "float[2,24,4,3] x", weights={"split": ints(0, 3, 8, 4, 3), "join": ints(0, 24, 4, 3)})
    )


@pytest.mark.parametrize("block", [2, 3])
@pytest.mark.parametrize("channels", [1, 4])
def test_space_to_depth(block: int, channels: int) -> None:
    check(network(f"y = SpaceToDepth<blocksize={block}>(x)", f"float[2,{channels},12,6] x"))


def test_there_and_back() -> None:
    body = 'a = SpaceToDepth<blocksize=2>(x) y = DepthToSpace<blocksize=2, mode="DCR">(a)'
    check(network(body), mixed=False)


def test_followed_by_a_conv() -> None:
    body = """
        a = SpaceToDepth<blocksize=2>(x) b = Conv<pads=[1,1,1,1]>(a, w) y = DepthToSpace<blocksize=2,
        mode="CRD">(b)
    """
    check(network(body, "float[1,3,12,10] x", weights={"w": weight(12, 12, 3, 3)}), mixed=False)


@pytest.mark.parametrize("dcr", [False, True])
def test_pixel_shuffle_spelled_out(dcr: bool) -> None:
    """torch: [N, C, r, r, H, W] -> (0, 1, 4, 2, 5, 3) -> [N, C, H*r, W*r]; and phases slowest."""
    shape, perm = (ints(2, 2, 2, 3, 6, 5), "0,3,4,1,5,2") if dcr else (ints(2, 3, 2, 2, 6, 5), "0,1,4,2,5,3")
    body = f"s = Reshape(x, split) t = Transpose<perm=[{perm}]>(s) y = Reshape(t, join)"
    check(network(body, "float[2,12,6,5] x", weights={"split": shape, "join": ints(2, 3, 12, 10)}))


@pytest.mark.parametrize("perm", ["0,1,3,5,2,4", "0,3,5,1,2,4"])
def test_pixel_unshuffle_spelled_out(perm: str) -> None:
    body = f"s = Reshape(x, split) t = Transpose<perm=[{perm}]>(s) y = Reshape(t, join)"
    check(
        network(
            body, "float[2,3,12,10] x", weights={"split": ints(2, 3, 6, 2, 5, 2), "join": ints(2, 12, 6, 5)}
        )
    )


def test_patches_as_tokens() -> None:
    """[N, C, H/b, b, W/b, b] -> [N, h*w, b*b*C]: the patches of a transformer."""
    body = "s = Reshape(x, split) t = Transpose<perm=[0,2,4,3,5,1]>(s) y = Reshape(t, join)"
    check(
        network(
            body, "float[2,3,12,10] x", weights={"split": ints(2, 3, 6, 2, 5, 2), "join": ints(2, 30, 12)}
        )
    )


def test_tokens_as_patches() -> None:
    """[N, h*w, b*b*C] -> [N, C, h*b, w*b]: the last layer of a diffusion transformer."""
    body = """
        f = Reshape(x, flat) n = Transpose<perm=[0,2,1]>(f)
        s = Reshape(n, split) t = Transpose<perm=[0,5,1,3,2,4]>(s) y = Reshape(t, join)
    """
    weights = {"flat": ints(2, 12, 30), "split": ints(2, 6, 5, 2, 2, 3), "join": ints(2, 3, 12, 10)}
    check(network(body, "float[2,12,6,5] x", weights=weights))


def test_uneven_enlargement() -> None:
    body = "s = Reshape(x, split) t = Transpose<perm=[0,1,4,2,5,3]>(s) y = Reshape(t, join)"
    weights = {"split": ints(1, 2, 2, 3, 6, 5), "join": ints(1, 2, 12, 15)}
    check(network(body, "float[1,12,6,5] x", weights=weights))


def test_of_one_pixel() -> None:
    check(network('y = DepthToSpace<blocksize=2, mode="CRD">(x)', "float[1,4,1,1] x"))
    check(network("y = SpaceToDepth<blocksize=2>(x)", "float[1,4,2,2] x"))


def test_windows_of_a_transformer() -> None:
    """Swin's windows: [N, H/b, b, W/b, b, C] -> [N*h*w, b*b, C] are pixels of a coarser level."""
    body = """
        n = Transpose<perm=[0,2,3,1]>(x) s = Reshape(n, split) t = Transpose<perm=[0,1,3,2,4,5]>(s)
        u = Reshape(t, windows) v = MatMul(u, w) a = Reshape(v, six) b = Transpose<perm=[0,1,3,2,4,5]>(a)
        c = Reshape(b, whole) y = Add(c, n)
    """
    weights = {
        "split": ints(1, 6, 2, 5, 2, 4), "windows": ints(30, 4, 4), "w": weight(4, 4),
        "six": ints(1, 6, 5, 2, 2, 4),
        "whole": ints(1, 12, 10, 4),
    }  # fmt: skip
    check(network(body, weights=weights), mixed=False)
