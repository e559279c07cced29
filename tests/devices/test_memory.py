"""Buffers: addresses, views, lifetimes; the host's memory behaves as the protocol says."""

from __future__ import annotations

import gc
from itertools import pairwise

import numpy as np
import pytest

from sige_deploy.devices.memory import ALIGNMENT, Buffer, HostMemory, host_array, laid_out, out_of_memory


def test_buffers_are_aligned_and_know_their_bytes() -> None:
    memory = HostMemory()
    for shape in ([3, 5], [], [0, 4], [1000]):
        buffer = memory.empty(shape, np.float16)
        assert buffer.pointer % ALIGNMENT == 0
        assert buffer.nbytes == 2 * int(np.prod(shape)) and buffer.shape == tuple(shape)


def test_up_and_down_again() -> None:
    memory = HostMemory()
    array = np.arange(12, dtype=np.int32).reshape(3, 4)
    buffer = memory.upload(array)
    array[:] = 0  # the buffer has its own
    got = memory.download(buffer)
    np.testing.assert_array_equal(got, np.arange(12).reshape(3, 4))
    other = memory.empty([12], np.int32)
    memory.copy(buffer, other)
    memory.fill(buffer, 0)
    np.testing.assert_array_equal(memory.download(other), np.arange(12))
    assert not memory.download(buffer).any() and got.any()
    assert memory.upload(np.float32(3).reshape(())).shape == ()


def test_views_share_memory_and_keep_it_alive() -> None:
    memory = HostMemory()
    view = memory.upload(np.arange(8, dtype=np.int32)).view([2, 2], np.float32, offset=16)
    gc.collect()
    np.testing.assert_array_equal(host_array(view).view(np.int32), [[4, 5], [6, 7]])
    array = host_array(view)
    del view
    gc.collect()
    np.testing.assert_array_equal(array.view(np.int32), [[4, 5], [6, 7]])
    with pytest.raises(ValueError, match="leaves a buffer"):
        memory.empty([4], np.uint8).view([5])
    with pytest.raises(ValueError, match="leaves a buffer"):
        memory.empty([4], np.uint8).view([1], offset=-1)


def test_one_allocation_for_many_arrays() -> None:
    memory = HostMemory()
    arrays = {"a": ([3], np.float32), "b": ([0, 7], np.float16), "c": ([2, 2], np.int64)}
    buffers = laid_out(memory, arrays)
    spans = sorted((b.pointer, b.pointer + b.nbytes) for b in buffers.values())
    assert all(start % ALIGNMENT == 0 for start, _ in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))
    assert buffers["c"].shape == (2, 2) and buffers["c"].dtype == np.int64
    assert laid_out(memory, {}) == {}


def test_the_sentence_about_memory() -> None:
    message = out_of_memory("cuda:1", 3_000_000_000, 250_000_000)
    assert "cuda:1" in message and "3.0 GB" in message and "0.2 GB" in message
    assert "needed" not in out_of_memory("cuda:0", None, 5_000_000) and "\n" not in message
    assert repr(Buffer(4096, [2], np.int8)) == "Buffer(0x1000, [2], int8)"
