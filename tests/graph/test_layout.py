from __future__ import annotations

import pytest

from sige_deploy.graph.layout import Atom, Layout, Refusal, common_factors, image_layout, rows_atoms


def kinds(layout: Layout) -> str:
    return str(layout.dims)


def test_image() -> None:
    layout = image_layout((2, 3, 4, 5))
    assert kinds(layout) == "((N2,), (C3,), (Y4,), (X5,))"
    assert layout.shape == (2, 3, 4, 5)
    assert (layout.channels, layout.grid, layout.is_image) == (3, (4, 5), True)


def test_axes_of_size_one_have_no_atom() -> None:
    layout = image_layout((1, 1, 1, 5))
    assert kinds(layout) == "((), (), (), (X5,))"
    assert (layout.channels, layout.grid, layout.is_image) == (1, (1, 5), True)
    assert image_layout((3, 4, 5)).shape == (3, 4, 5)


def test_reshape_regroups_and_splits_channels() -> None:
    layout = image_layout((2, 6, 4, 5)).reshape((2, 3, 2, 20))
    assert kinds(layout) == "((N2,), (C3,), (C2,), (Y4, X5))"
    assert [a.size for a in layout.order] == [3, 2]
    assert kinds(layout.reshape((2, 6, 4, 5))) == "((N2,), (C3, C2), (Y4,), (X5,))"
    assert kinds(layout.reshape((2, 1, 6, 20, 1))) == "((N2,), (), (C3, C2), (Y4, X5), ())"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [((2, 6, 2, 10), "pixel grid"), ((1, 2, 6, 4, 4), "pixel grid"), ((2, 4, 30), "channels"),
     ((2, 6, 4), "number of elements"), ((2, 6, 4, 5, 2), "number of elements")],
)  # fmt: skip
def test_reshape_refusals(shape: tuple[int, ...], reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        image_layout((2, 6, 4, 5)).reshape(shape)


def test_batch_is_not_cut() -> None:
    with pytest.raises(Refusal, match="the batch"):
        image_layout((4, 6, 4, 5)).reshape((2, 12, 4, 5))


def test_cuts_of_the_grid_are_reported() -> None:
    cuts: dict[Atom, tuple[Atom, Atom]] = {}
    layout = image_layout((1, 3, 4, 6)).reshape((1, 3, 2, 2, 3, 2), cuts)
    assert kinds(layout) == "((), (C3,), (Y2,), (C2,), (X3,), (C2,))"
    assert [(old.kind, coarse.size, block.size) for old, (coarse, block) in cuts.items()] == [
        ("Y", 2, 2),
        ("X", 3, 2),
    ]


def test_transposed_axes_are_no_image() -> None:
    layout = image_layout((2, 3, 5, 5))
    assert not layout.transpose([0, 1, 3, 2]).is_image
    assert not layout.transpose([0, 2, 3, 1]).is_image
    assert not layout.transpose([1, 0, 2, 3]).is_image
    assert not layout.reshape((2, 3, 25)).is_image


def test_rows_of_a_merged_batch_are_no_image() -> None:
    """[N*H, 1, W, C] has an X and no Y where Y should be."""
    layout = image_layout((2, 3, 4, 5)).transpose([0, 2, 1, 3]).reshape((8, 3, 1, 5))
    assert not layout.is_image


def test_joined_channels() -> None:
    layout = image_layout((2, 6, 4, 5)).reshape((2, 2, 3, 4, 5)).joined()
    assert kinds(layout) == "((N2, C6, Y4, X5),)"
    assert kinds(layout.reshape((2, 3, 2, 20))) == "((N2,), (C3,), (C2,), (Y4, X5))"


def test_refine() -> None:
    layout = image_layout((2, 12, 4, 5)).refine(1, [2, 6])
    assert kinds(layout) == "((N2,), (C2, C6), (Y4,), (X5,))"
    assert [a.size for a in layout.order] == [2, 6]


def test_order_of_the_rows() -> None:
    layout = image_layout((2, 6, 4, 5)).reshape((2, 2, 3, 4, 5)).transpose([0, 2, 1, 3, 4])
    assert [a.size for a in layout.order] == [2, 3]
    assert [a.size for a in layout.reading_order()] == [3, 2]
    assert str(rows_atoms(layout)) == "(N2, Y4, X5, C2, C3)"


def atoms(*sizes: int, kind: str = "C") -> tuple[Atom, ...]:
    return tuple(Atom(kind, n) for n in sizes)


@pytest.mark.parametrize(
    ("chains", "expected"),
    [(((12,), (3, 4)), [3, 4]), (((8,), (8,)), [8]), (((2, 2, 2), (8,)), [2, 2, 2]),
     (((2, 6), (4, 3)), [2, 2, 3])],
)  # fmt: skip
def test_common_factors(chains: tuple[tuple[int, ...], ...], expected: list[int]) -> None:
    assert common_factors([atoms(*c) for c in chains]) == [("C", n) for n in expected]


@pytest.mark.parametrize(
    ("left", "right", "reason"),
    [(atoms(2, 3), atoms(3, 2), "incompatible"), (atoms(6), atoms(6, kind="Y"), "pixel grid with channels"),
     (atoms(6, kind="X"), atoms(6, kind="Y"), "unlike axes"), (atoms(6), (), "unlike axes"),
     (atoms(6, kind="Y"), atoms(3, kind="Y"), "incompatible")],
)  # fmt: skip
def test_unlike_factors(left: tuple[Atom, ...], right: tuple[Atom, ...], reason: str) -> None:
    with pytest.raises(Refusal, match=reason):
        common_factors([left, right])
