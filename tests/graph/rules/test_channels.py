from __future__ import annotations

from ..helpers import check, ints, network


def test_split_by_sizes() -> None:
    laws = check(
        network("y, z = Split<axis=1>(x, s)", "float[2,4,6,5] x", "float y, float z", {"s": ints(1, 3)})
    )
    assert [o.level for o in laws.manifest.outputs] == ["6x5", "6x5"]


def test_split_evenly_with_a_remainder() -> None:
    check(
        network("a, b, c = Split<axis=-3, num_outputs=3>(x)", "float[1,5,6,5] x", "float a, float b, float c")
    )


def test_split_heads_and_packed_channels() -> None:
    body = """
        s = Reshape(x, shape) a, b = Split<axis=1, num_outputs=2>(s)
        c, d = Split<axis=2>(s, sizes) y = Mul(a, b)
    """
    weights = {"shape": ints(0, 2, 3, 6, 5), "sizes": ints(1, 2)}
    check(network(body, "float[2,6,6,5] x", "float y, float c, float d", weights))


def test_split_of_the_grid_is_refused() -> None:
    laws = check(
        network("y, z = Split<axis=2, num_outputs=2>(x)", outputs="float y, float z"),
        islands=["Split"],
        mixed=False,
    )
    assert laws.manifest.islands[0].reason == "it works along the pixel grid or the batch"


def test_split_of_the_batch_is_refused() -> None:
    model = network("y, z = Split<axis=0, num_outputs=2>(x)", "float[2,4,6,5] x", "float y, float z")
    check(model, islands=["Split"], mixed=False)
