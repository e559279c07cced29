"""Memory that native kernels and engines share: buffers at fixed addresses, on the host or on a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

ALIGNMENT = 256  # bytes; the kernels' SIGE_WORKSPACE_ALIGNMENT
STAGED = 128 << 10  # bytes up to which a GPU's kernel reads host memory about as fast as a copy is launched

Shape = Sequence[int]


class Buffer:
    """A dense row-major array at a fixed address of some memory; the memory lives as long as the buffer or a
    view of it.

    pointer: address of the first byte. owner: what keeps the memory alive, or None.
    """

    __slots__ = ("dtype", "nbytes", "owner", "pointer", "shape")

    def __init__(self, pointer: int, shape: Shape, dtype: Any, owner: Any = None) -> None:
        self.pointer = pointer
        self.shape = tuple(int(size) for size in shape)
        self.dtype = np.dtype(dtype)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize
        self.owner = owner

    def view(self, shape: Shape, dtype: Any = None, offset: int = 0) -> Buffer:
        """The same memory, from byte `offset` on, as an array of another shape and dtype (None: of this one).
        Raises ValueError where it reaches beyond the buffer."""
        part = Buffer(self.pointer + offset, shape, self.dtype if dtype is None else dtype, self.owner)
        if offset < 0 or offset + part.nbytes > self.nbytes:
            raise ValueError(f"a view of {part.nbytes} bytes from {offset} leaves a buffer of {self.nbytes}")
        return part

    def at(self, pointer: int, owner: Any = None) -> Buffer:
        """An array of this shape and dtype at another address."""
        other = Buffer.__new__(Buffer)
        other.pointer, other.owner = pointer, owner
        other.shape, other.dtype, other.nbytes = self.shape, self.dtype, self.nbytes
        return other

    def __repr__(self) -> str:
        return f"Buffer({self.pointer:#x}, {list(self.shape)}, {self.dtype})"


class Courier(Protocol):
    """Copies into a memory, or captured graphs, beside its own work. All methods raise RuntimeFailure; on a
    GPU they are called inside `current()` of the memory."""

    def stream(self) -> Any:
        """cudaStream_t to launch on; None on the host."""

    def send(self, source: Buffer, target: Buffer) -> None:
        """Copy from host memory that `landing` made, which stays as it is until `wait`."""

    def arrive(self) -> None:
        """Let the memory's later work wait for what was sent or launched."""

    def follow(self) -> None:
        """Let what is sent or launched later wait for the memory's work before."""

    def wait(self) -> None:
        """Wait for what was sent or launched."""


class Memory(Protocol):
    """One kind of memory with one stream of work; everything below is ordered on that stream. All methods
    raise RuntimeFailure with one sentence; on a GPU they are called inside `current()`."""

    backend: int  #: sige_backend of kernels.h: 0 host, 1 CUDA
    stream: int  #: cudaStream_t; 0 on the host
    device: str  #: "cpu", "cuda:0", ...

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make this memory's device the calling thread's, and give back the former one at the end."""

    def empty(self, shape: Shape, dtype: Any) -> Buffer:
        """A new buffer, aligned to ALIGNMENT, of any contents."""

    def upload(self, array: np.ndarray, into: Buffer | None = None) -> Buffer:
        """Copy a C-contiguous array into a buffer of its size (None: a new one). The array may change as soon
        as this returns."""

    def staged(self, array: np.ndarray) -> int:
        """Where kernels that are called at once can read a C-contiguous array of up to STAGED bytes, which
        must live until then."""

    def download(self, buffer: Buffer) -> np.ndarray:
        """A new array with the buffer's contents after all work before; waits for it."""

    def copy(self, source: Buffer, target: Buffer) -> None:
        """Copy a buffer onto another one of its size."""

    def landing(self, buffer: Buffer) -> Buffer:
        """A new buffer of host memory, of the shape and dtype of this one, for `fetch`; kernels can write to
        it as well."""

    def fetch(self, source: Buffer, landing: Buffer) -> None:
        """Copy a buffer into one of host memory that `landing` made; it is there after `synchronize`,
        or `reach` of a later mark."""

    def lands(self, pointer: int) -> bool:
        """Whether a buffer that `landing` made begins there."""

    def courier(self) -> Courier:
        """A stream beside the memory's own, for copies to come."""

    def fill(self, buffer: Buffer, byte: int) -> None:
        """Set every byte."""

    def mark(self) -> None:
        """Note how far the work has been queued, for `reach`."""

    def reach(self) -> None:
        """Wait for the work before the last `mark`, not for what came after."""

    def synchronize(self) -> None:
        """Wait for all work before."""

    def free_bytes(self) -> int:
        """Bytes that could be allocated now, about."""


class HostMemory:
    """Host memory, where everything happens at once: the native code's CPU backend runs on it."""

    backend = 0
    stream = 0
    device = "cpu"

    def current(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def empty(self, shape: Shape, dtype: Any) -> Buffer:
        dtype = np.dtype(dtype)
        block = np.empty(math.prod(shape) * dtype.itemsize + ALIGNMENT, np.uint8)
        return Buffer(-(-block.ctypes.data // ALIGNMENT) * ALIGNMENT, shape, dtype, block)

    def upload(self, array: np.ndarray, into: Buffer | None = None) -> Buffer:
        if into is None:
            into = self.empty(array.shape, array.dtype)
        host_array(into).reshape(-1).view(np.uint8)[:] = array.reshape(-1).view(np.uint8)
        return into

    def staged(self, array: np.ndarray) -> int:
        return array.ctypes.data

    def download(self, buffer: Buffer) -> np.ndarray:
        return host_array(buffer).copy()

    def copy(self, source: Buffer, target: Buffer) -> None:
        ctypes.memmove(target.pointer, source.pointer, source.nbytes)

    def landing(self, buffer: Buffer) -> Buffer:
        return self.empty(buffer.shape, buffer.dtype)

    def fetch(self, source: Buffer, landing: Buffer) -> None:
        self.copy(source, landing)

    def lands(self, pointer: int) -> bool:
        return True

    def courier(self) -> Courier:
        return _SameThread()

    def fill(self, buffer: Buffer, byte: int) -> None:
        ctypes.memset(buffer.pointer, byte, buffer.nbytes)

    def mark(self) -> None:
        pass

    def reach(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def free_bytes(self) -> int:
        return 1 << 62  # the system's to judge


class _SameThread:
    """Copies on the host, done when they are asked for."""

    def stream(self) -> None:
        return None

    def send(self, source: Buffer, target: Buffer) -> None:
        ctypes.memmove(target.pointer, source.pointer, source.nbytes)

    def arrive(self) -> None:
        pass

    def follow(self) -> None:
        pass

    def wait(self) -> None:
        pass


def host_array(buffer: Buffer) -> np.ndarray:
    """A host buffer as a numpy array of the same memory, which the array keeps alive."""
    return np.asarray(_Exposed(buffer))


def offsets(arrays: Mapping[str, tuple[Shape, Any]]) -> tuple[dict[str, int], int]:
    """(where each of these arrays, given as (shape, dtype), begins in one block, its size), in bytes."""
    begins: dict[str, int] = {}
    total = 0
    for name, (shape, dtype) in arrays.items():
        begins[name] = total
        total += -(-math.prod(shape) * np.dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT
    return begins, total


def laid_out(memory: Memory, arrays: Mapping[str, tuple[Shape, Any]]) -> dict[str, Buffer]:
    """One allocation for all arrays, given as (shape, dtype): each gets a view at an aligned address."""
    begins, total = offsets(arrays)
    return views(memory.empty([total], np.uint8), arrays, begins)


def views(
    block: Buffer, arrays: Mapping[str, tuple[Shape, Any]], begins: Mapping[str, int]
) -> dict[str, Buffer]:
    """The arrays of one block."""
    return {name: block.view(*arrays[name], offset=begin) for name, begin in begins.items()}


def out_of_memory(device: str, wanted: int | None, free: int) -> str:
    """The one sentence about it, for RuntimeFailure. wanted, free: bytes; wanted None: not known."""
    needed = "" if wanted is None else f"{_size(wanted)} were needed and "
    return (
        f"{device} is out of memory: {needed}{_size(free)} are free; close other sessions or programs on it, "
        "or export the network at a smaller size."
    )


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 1e8 else f"{nbytes / 1e6:.1f} MB"


class _Exposed:
    """A host buffer in the words of numpy's array interface."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self.__array_interface__ = {
            "data": (buffer.pointer, False),
            "shape": buffer.shape,
            "typestr": buffer.dtype.str,
            "version": 3,
        }
