"""Native comparison of inputs against masks.difference_mask."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sige_deploy.devices.memory import HostMemory, host_array
from sige_deploy.errors import RuntimeFailure
from sige_deploy.kernels import Comparison, Kernels, Layout
from sige_deploy.masks import difference_mask

FAST = settings(max_examples=60, derandomize=True, deadline=None, database=None)
DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64".split()
SIZES = {"N": 2, "C": 3, "Y": 5, "X": 7}


@FAST
@given(
    axes=st.permutations("NCYX"), drop=st.sampled_from(["", "N", "C", "NC"]), dtype=st.sampled_from(DTYPES),
    eps=st.sampled_from([0.0, 0.1, 1.0, 2.5]), share=st.sampled_from([0.0, 0.05]), seed=st.integers(0, 99),
)  # fmt: skip
def test_masks_and_status(
    edit_kernels: Kernels, axes: list[str], drop: str, dtype: str, eps: float, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    axes = [kind for kind in axes if kind not in drop]
    shape = [SIZES[kind] for kind in axes]
    recorded = (rng.standard_normal(shape) * 3).astype(dtype)
    fresh = (rng.standard_normal(shape) * 3).astype(dtype)
    given = np.where(rng.random(shape) < share, fresh, recorded)
    order = [axes.index(kind) for kind in "NCYX" if kind in axes]
    expected = difference_mask(given.transpose(order), recorded.transpose(order), eps)

    mask, status = compare(edit_kernels, given, recorded, Layout.of(shape, dtype, axes, eps))

    np.testing.assert_array_equal(mask, expected)
    assert status.tolist() == [0, given.tobytes() != recorded.tobytes()]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite(edit_kernels: Kernels, dtype: str, value: float) -> None:
    given = np.zeros((1, 3, 4, 6), dtype)
    layout = Layout.of(given.shape, dtype, "NCYX")
    assert compare(edit_kernels, given, given, layout)[1].tolist() == [0, 0]
    assert compare(edit_kernels, np.full_like(given, np.finfo(dtype).max), given, layout)[1].tolist() == [
        0,
        1,
    ]
    given[0, 1, 2, 3] = value
    assert compare(edit_kernels, given, given, layout)[1].tolist() == [1, 0]
    assert compare(edit_kernels, given, None, Layout.of(given.shape, dtype))[1].tolist() == [1, 0]


def test_equal_values_of_other_bits(edit_kernels: Kernels) -> None:
    zeros = np.zeros((2, 2), np.float16)
    mask, status = compare(edit_kernels, -zeros, zeros, Layout.of((2, 2), "float16", "YX"))
    assert not mask.any() and status.tolist() == [0, 1]


def test_several_inputs_by_one_call(edit_kernels: Kernels) -> None:
    memory = HostMemory()
    arrays = [np.zeros((2, 3), np.int64), np.zeros((), np.float32), np.zeros((4, 0), np.float16)]
    given = [memory.upload(array) for array in arrays]
    recorded = [memory.upload(array) for array in arrays]
    host_array(given[1])[...] = 1
    status = memory.empty([3, 2], np.int32)
    layouts = [Layout.of(a.shape, str(a.dtype)) for a in arrays]
    comparison = Comparison(edit_kernels, memory, layouts, status)
    for _ in range(2):
        comparison.launch([b.pointer for b in given], [b.pointer for b in recorded], [0, 0, 0])
        assert memory.download(status).tolist() == [[0, 0], [0, 1], [0, 0]]


def test_unknown_dtypes_are_refused(edit_kernels: Kernels) -> None:
    memory = HostMemory()
    with pytest.raises(RuntimeFailure, match="cannot compare inputs of dtype complex64"):
        Comparison(edit_kernels, memory, [Layout.of([2], "complex64")], memory.empty([1, 2], np.int32))


def compare(
    kernels: Kernels, given: np.ndarray, recorded: np.ndarray | None, layout: Layout
) -> tuple[np.ndarray, np.ndarray]:
    """Mask, bool [y, x], and status."""
    memory = HostMemory()
    status, mask = memory.empty([1, 2], np.int32), memory.empty(layout.size[2:], np.uint8)
    memory.fill(status, 0xFF)
    memory.fill(mask, 0xFF)
    a = memory.upload(given)
    b = None if recorded is None else memory.upload(recorded)
    comparison = Comparison(kernels, memory, [layout], status)
    comparison.launch([a.pointer], [b.pointer if b else 0], [mask.pointer if b else 0])
    return memory.download(mask).view(bool), memory.download(status)[0]
