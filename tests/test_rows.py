"""Dense arrays to rows and back, in every layout that a manifest can name."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sige_deploy import rows
from sige_deploy.manifest import InputSpec, OutputSpec

H, W = 6, 4
ACTIVE = np.array([1, 5, 6, 23], np.int32)


@pytest.mark.parametrize("axes", ["NCYX", "CYX", "NYXC", "YXC", "YX", "XY", "CXYN"])
def test_input_rows_are_the_pixels_at_the_active_indices(axes: str) -> None:
    sizes = {"N": 2, "C": 3, "Y": H, "X": W}
    shape = [sizes[a] for a in axes]
    spec = InputSpec(name="x", shape=shape, dtype="float32", role="spatial", level="l", axes=list(axes))
    dense = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    taken = rows.take(spec, dense, ACTIVE)
    assert taken.shape == (2 if "N" in axes else 1, 4, 3 if "C" in axes else 1) and taken.flags.c_contiguous
    for (n, c), (row, pixel) in itertools.product(np.ndindex(*taken.shape[::2]), enumerate(ACTIVE)):
        at = {"N": n, "C": c, "Y": pixel // W, "X": pixel % W}
        assert taken[n, row, c] == dense[tuple(at[a] for a in axes)]

    other = np.zeros_like(dense)
    rows.put_input(spec, other, taken, ACTIVE)
    np.testing.assert_array_equal(rows.take(spec, other, ACTIVE), taken)
    assert np.count_nonzero(other) == taken.size


LAYOUTS = {
    "NCHW": ([[("N", 2)], [("C", 6)], [("Y", H)], [("X", W)]], [0]),
    "batch of one": ([[], [("C", 6)], [("Y", H)], [("X", W)]], [0]),
    "NHWC": ([[("N", 2)], [("Y", H)], [("X", W)], [("C", 6)]], [0]),
    "tokens": ([[("N", 2)], [("Y", H), ("X", W)], [("C", 6)]], [0]),
    "channels split": ([[("N", 2)], [("C", 3)], [("C", 2)], [("Y", H)], [("X", W)]], [1, 0]),
    "patches": ([[("N", 2)], [("C", 6)], [("Y", 3)], [("X", 2)], [("Y", 2)], [("X", 2)]], [0]),
    "no channels": ([[("N", 2)], [("Y", H)], [("X", W)]], []),
    "only pixels": ([[("Y", H), ("X", W)]], []),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_output_rows_land_at_their_pixels(name: str) -> None:
    layout, order = LAYOUTS[name]
    shape = [int(np.prod([size for _, size in axis])) for axis in layout]
    spec = OutputSpec(name="y", shape=shape, dtype="float32", level="l", layout=layout, order=order)
    atoms = [atom for axis in layout for atom in axis]
    channel_atoms = [i for i, (kind, _) in enumerate(atoms) if kind == "C"]
    batch = int(np.prod([size for kind, size in atoms if kind == "N"]))
    channels = int(np.prod([size for kind, size in atoms if kind == "C"]))
    fresh = 1 + np.arange(batch * 4 * channels, dtype=np.float32).reshape(batch, 4, channels)
    dense = np.zeros(shape, np.float32)
    rows.put_output(spec, dense, fresh, ACTIVE)

    expected = np.zeros_like(dense)
    split = expected.reshape([size for _, size in atoms])
    for at in np.ndindex(*split.shape):
        digits = {kind: [(at[i], s) for i, (k, s) in enumerate(atoms) if k == kind] for kind in "NYX"}
        digits["C"] = [(at[channel_atoms[i]], atoms[channel_atoms[i]][1]) for i in order]
        index = {kind: 0 for kind in "NYXC"}
        for kind, parts in digits.items():
            for digit, size in parts:
                index[kind] = index[kind] * size + digit
        (row,) = np.nonzero(index["Y"] * W + index["X"] == ACTIVE)
        if row.size:
            split[at] = fresh[index["N"], row[0], index["C"]]
    np.testing.assert_array_equal(dense, expected)
