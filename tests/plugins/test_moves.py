"""Native moves of rows against sige_deploy.rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy import rows as host
from sige_deploy.devices.memory import HostMemory
from sige_deploy.kernels import Copies, Kernels, Offsets, RowMoves
from sige_deploy.manifest import InputSpec, OutputSpec

FAST = settings(max_examples=60, derandomize=True, deadline=None, database=None)
SIZES = {"N": 2, "C": 3, "Y": 5, "X": 4}
DTYPES = st.sampled_from(["uint8", "float16", "float32", "int64"])


def active(seed: int, pixels: int) -> np.ndarray:
    """Some pixels, ascending, the last one repeated."""
    chosen = np.flatnonzero(np.random.default_rng(seed).random(pixels) < 0.4)
    return np.append(chosen, [*chosen[-1:]] * 3).astype(np.int32)


def dense(shape: list[int], dtype: str) -> np.ndarray:
    return np.arange(np.prod(shape)).reshape(shape).astype(dtype)


@FAST
@given(
    axes=st.permutations("NCYX"), drop=st.sampled_from(["", "N", "C", "NC"]), dtype=DTYPES,
    seed=st.integers(0, 99),
)  # fmt: skip
def test_inputs(edit_kernels: Kernels, axes: list[str], drop: str, dtype: str, seed: int) -> None:
    axes = [kind for kind in axes if kind not in drop]
    shape = [SIZES[kind] for kind in axes]
    spec = InputSpec(name="i", shape=shape, dtype=dtype, role="spatial", level="l", axes=axes)
    array, pixels, memory = dense(shape, dtype), active(seed, 20), HostMemory()
    expected = host.take(spec, array, pixels)

    moves = RowMoves(edit_kernels, memory, [Offsets.of_input(spec)])
    source, where = memory.upload(array), memory.upload(pixels)
    rows = memory.empty(expected.shape, dtype)
    moves.take([source.pointer], [rows.pointer], [where])
    np.testing.assert_array_equal(memory.download(rows), expected)

    back = memory.upload(np.zeros_like(array))
    moves.put([back.pointer], [rows.pointer], [where])
    wanted = np.zeros_like(array)
    host.put_input(spec, wanted, expected, pixels)
    np.testing.assert_array_equal(memory.download(back), wanted)


def test_whole_arrays(edit_kernels: Kernels) -> None:
    memory, arrays = HostMemory(), [dense([size], "uint8") for size in (0, 1, 700)]
    sources = [memory.upload(array) for array in arrays]
    targets = [memory.upload(np.zeros_like(array)) for array in arrays]
    Copies(edit_kernels, memory, 3).copy([*zip(sources, targets)])
    for array, target in zip(arrays, targets):
        np.testing.assert_array_equal(memory.download(target), array)


LAYOUTS = [
    ([[], [("C", 3)], [("Y", 4)], [("X", 6)]], [0]),
    ([[("N", 2)], [("C", 2), ("C", 3)], [("Y", 4)], [("X", 6)]], [1, 0]),
    ([[("N", 2)], [("Y", 4)], [("C", 3), ("X", 6)], [("C", 2)]], [1, 0]),
    ([[("Y", 2), ("C", 2), ("Y", 2)], [("X", 3), ("N", 2), ("X", 2), ("C", 2)]], [0, 1]),
    ([[("X", 6)], [("Y", 4)]], []),
]


def test_channels_of_wider_rows(edit_kernels: Kernels) -> None:
    """A base's rows may be channels of rows with more: entries of -1 are left out."""
    pixels, memory = active(3, 24), HostMemory()
    rows, mine = dense([2, pixels.size, 10], "float32"), np.array([-1, -1, -1, 0, 1, 2, 3, -1, -1, -1])
    base = -dense([2, 24, 4], "float32")
    offsets = Offsets(np.arange(2) * 96, np.arange(4) * 24, np.arange(6) * 4, mine, 4)
    moves = RowMoves(edit_kernels, memory, [offsets])
    target, source, where = (memory.upload(a) for a in (base, rows, pixels))
    moves.put([target.pointer], [source.pointer], [where])
    base[:, pixels] = rows[:, :, 3:7]
    np.testing.assert_array_equal(memory.download(target), base)


@pytest.mark.parametrize("layout, order", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "int64"])
def test_outputs(
    edit_kernels: Kernels, layout: list[list[tuple[str, int]]], order: list[int], dtype: str
) -> None:
    shape = [int(np.prod([size for _, size in axis])) for axis in layout]
    spec = OutputSpec(name="o", shape=shape, dtype=dtype, level="l", layout=layout, order=order)
    atoms = [atom for axis in layout for atom in axis]
    batch, channels = (int(np.prod([size for kind, size in atoms if kind == k])) for k in "NC")
    pixels, memory = active(3, 24), HostMemory()
    rows = dense([batch, pixels.size, channels], dtype)
    rows[:, -3:] = rows[:, -4:-3]  # a bucket's tail repeats the last row
    expected = -dense(shape, dtype)
    host.put_output(spec, expected, rows, pixels)

    moves = RowMoves(edit_kernels, memory, [Offsets.of_output(spec)] * 2)
    targets = [memory.upload(-dense(shape, dtype)) for _ in range(2)]
    source, where = memory.upload(rows), memory.upload(pixels)
    none = memory.empty([0], np.int32)
    moves.put([t.pointer for t in targets], [source.pointer] * 2, [where, none])
    np.testing.assert_array_equal(memory.download(targets[0]), expected)
    np.testing.assert_array_equal(memory.download(targets[1]), -dense(shape, dtype))
