"""The memory of an NVIDIA GPU, through the package `cuda-bindings`, imported only when it is asked for."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy.devices.memory import Buffer, Shape, host_array, out_of_memory
from sige_deploy.errors import InputError, RuntimeFailure

STAGING = 32 << 20  # bytes of pinned host memory, through which arrays of up to half of it travel
_SLOT = 256  # bytes to which staged arrays are aligned


def device_index(device: str) -> int:
    """N of "cuda:N" (0 for "cuda"); raises InputError for any other text."""
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise InputError(f"there is no device {device!r}; use 'cpu' or 'cuda:0'.")
    return int(match[1] or 0)


class CudaMemory:
    """One GPU's memory with a stream of its own. Raises RuntimeFailure where the package, the driver or the
    device is missing."""

    backend = 1

    def __init__(self, device: str) -> None:
        index = device_index(device)
        self.device = f"cuda:{index}"
        self.index = index
        self.api = api = _bindings(self.device)
        self._check_device()
        self._h2d = api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._d2h = api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._d2d = api.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._landings: set[int] = set()
        with self.current():
            self.handle = self.call(api.cudaStreamCreateWithFlags, api.cudaStreamNonBlocking)
            self.stream = int(self.handle)
            _release_with(self, api.cudaStreamDestroy, self.handle)
            self._event, self._mark = (
                self.call(api.cudaEventCreateWithFlags, api.cudaEventDisableTiming) for _ in range(2)
            )
            for event in (self._event, self._mark):
                _release_with(self, api.cudaEventDestroy, event)
            self._staging = _Staging(self)

    def current(self) -> contextlib.AbstractContextManager[None]:
        return _Current(self)

    def empty(self, shape: Shape, dtype: Any) -> Buffer:
        nbytes = math.prod(shape) * np.dtype(dtype).itemsize
        error, pointer = self.api.cudaMalloc(max(nbytes, 1))
        if error != 0:
            self.api.cudaGetLastError()  # or the next call would report it again
            if error == self.api.cudaError_t.cudaErrorMemoryAllocation:
                raise RuntimeFailure(out_of_memory(self.device, nbytes, self.free_bytes()))
            raise self._failure(error)
        return Buffer(pointer, shape, dtype, _Owner(self.api, pointer))

    def upload(self, array: np.ndarray, into: Buffer | None = None) -> Buffer:
        if into is None:
            into = self.empty(array.shape, array.dtype)
        if 0 < array.nbytes <= STAGING // 2:
            address = self._staging.put(array)
        else:
            address = array.ctypes.data
        if array.nbytes:
            self._copy(into.pointer, address, array.nbytes, self._h2d)
        return into

    def staged(self, array: np.ndarray) -> int:
        return self._staging.put(array)

    def download(self, buffer: Buffer) -> np.ndarray:
        if 0 < buffer.nbytes <= STAGING // 2:
            place = buffer.at(self._staging.room(buffer.nbytes))
            self._copy(place.pointer, buffer.pointer, buffer.nbytes, self._d2h)
            self.synchronize()
            return host_array(place).copy()
        array = np.empty(buffer.shape, buffer.dtype)
        if buffer.nbytes:
            self._copy(array.ctypes.data, buffer.pointer, buffer.nbytes, self._d2h)
        self.synchronize()
        return array

    def copy(self, source: Buffer, target: Buffer) -> None:
        if source.nbytes:
            self._copy(target.pointer, source.pointer, source.nbytes, self._d2d)

    def landing(self, buffer: Buffer) -> Buffer:
        pointer = self.call(self.api.cudaHostAlloc, max(buffer.nbytes, 1), self.api.cudaHostAllocDefault)
        self._landings.add(pointer)
        return buffer.at(pointer, _Landing(self.api, pointer, self._landings))

    def fetch(self, source: Buffer, landing: Buffer) -> None:
        self._copy(landing.pointer, source.pointer, source.nbytes, self._d2h)

    def lands(self, pointer: int) -> bool:
        """Whether a buffer that `landing` made begins there."""
        return pointer in self._landings

    def fill(self, buffer: Buffer, byte: int) -> None:
        self.call(self.api.cudaMemsetAsync, buffer.pointer, byte, buffer.nbytes, self.handle)

    def mark(self) -> None:
        self.call(self.api.cudaEventRecord, self._mark, self.handle)

    def reach(self) -> None:
        self.call(self.api.cudaEventSynchronize, self._mark)

    def synchronize(self) -> None:
        self.call(self.api.cudaStreamSynchronize, self.handle)
        self._staging.restart()

    def free_bytes(self) -> int:
        return self.call(self.api.cudaMemGetInfo)[0]

    def courier(self) -> CudaCourier:
        return CudaCourier(self)

    def wait_for(self, stream: int) -> None:
        """Let this memory's later work wait for what is now queued on another stream of the device."""
        self.call(self.api.cudaEventRecord, self._event, stream)
        self.call(self.api.cudaStreamWaitEvent, self.handle, self._event, 0)

    def _copy(self, target: int, source: int, nbytes: int, kind: Any) -> None:
        error = self.api.cudaMemcpyAsync(target, source, nbytes, kind, self.handle)[0]
        if error != 0:
            raise self._failure(error)

    def call(self, function: Any, *arguments: Any) -> Any:
        """A function of the runtime; returns its result, a tuple unless it is one."""
        error, *results = function(*arguments)
        if error != 0:
            raise self._failure(error)
        return results[0] if len(results) == 1 else results

    def _failure(self, error: Any) -> RuntimeFailure:
        _, name = self.api.cudaGetErrorString(error)
        text = name.decode() if isinstance(name, bytes) else str(name)
        return RuntimeFailure(f"{self.device} failed with '{text}'; open the bundle again.")

    def forget_failures(self) -> None:
        """Have no CUDA runtime of the process report a failed call again.

        Each holds what failed last until it is asked, and an engine that launches a kernel and then asks
        takes an old failure, as of a capture that was given up, for that of its kernel. The bindings have a
        runtime of their own, an engine the one that it has loaded.
        """
        self.api.cudaGetLastError()
        for path in _loaded("libcudart.so"):
            with contextlib.suppress(OSError):
                ctypes.CDLL(path, mode=os.RTLD_NOLOAD).cudaGetLastError()

    def _check_device(self) -> None:
        error, count = self.api.cudaGetDeviceCount()
        if error == self.api.cudaError_t.cudaErrorNoDevice:
            count = 0
        elif error != 0:
            raise RuntimeFailure(
                f"device '{self.device}' needs an NVIDIA driver for CUDA {self.api.CUDART_VERSION // 1000}"
                " or later, and this machine has none; install it, or open the bundle with device='cpu'."
            )
        if self.index >= count:
            raise RuntimeFailure(
                f"there is no device '{self.device}': this machine has {count} CUDA "
                f"device{'' if count == 1 else 's'}; choose another, or open the bundle with device='cpu'."
            )


class CudaCourier:
    """A stream beside that of a memory: for copies from pinned memory, or captured graphs."""

    def __init__(self, memory: CudaMemory) -> None:
        self._memory, api = memory, memory.api
        self._stream = memory.call(api.cudaStreamCreateWithFlags, api.cudaStreamNonBlocking)
        _release_with(self, api.cudaStreamDestroy, self._stream)
        self._sent, self._before = (
            memory.call(api.cudaEventCreateWithFlags, api.cudaEventDisableTiming) for _ in range(2)
        )
        for event in (self._sent, self._before):
            _release_with(self, api.cudaEventDestroy, event)
        self._behind = False  # the stream does not wait yet for the event `before`

    def send(self, source: Buffer, target: Buffer) -> None:
        memory = self._memory
        if source.nbytes:
            kind = memory.api.cudaMemcpyKind.cudaMemcpyHostToDevice
            memory.call(
                memory.api.cudaMemcpyAsync, target.pointer, source.pointer, source.nbytes, kind, self.stream()
            )

    def arrive(self) -> None:
        memory = self._memory
        memory.call(memory.api.cudaEventRecord, self._sent, self.stream())
        memory.call(memory.api.cudaStreamWaitEvent, memory.handle, self._sent, 0)

    def follow(self) -> None:
        self._memory.call(self._memory.api.cudaEventRecord, self._before, self._memory.handle)
        self._behind = True

    def stream(self) -> Any:
        if self._behind:
            self._memory.call(self._memory.api.cudaStreamWaitEvent, self._stream, self._before, 0)
            self._behind = False
        return self._stream

    def wait(self) -> None:
        self._memory.call(self._memory.api.cudaStreamSynchronize, self._stream)


class _Current:
    """Makes a memory's device the calling thread's."""

    __slots__ = ("_before", "_memory")

    def __init__(self, memory: CudaMemory) -> None:
        self._memory = memory

    def __enter__(self) -> None:
        memory = self._memory
        self._before = memory.call(memory.api.cudaGetDevice)
        if self._before != memory.index:
            memory.call(memory.api.cudaSetDevice, memory.index)

    def __exit__(self, *_: object) -> None:
        if self._before != self._memory.index:
            self._memory.api.cudaSetDevice(self._before)


class _Owner:
    """Frees a piece of device memory when nothing refers to it any more."""

    def __init__(self, api: Any, pointer: int) -> None:
        _release_with(self, api.cudaFree, pointer)


class _Landing:
    """Frees a piece of pinned host memory, likewise, and strikes it off the list of landings."""

    def __init__(self, api: Any, pointer: int, landings: set[int]) -> None:
        _release_with(self, api.cudaFreeHost, pointer)
        weakref.finalize(self, landings.discard, pointer)


class _Staging:
    """A ring of pinned host memory, made at its first use: a copy from it is asynchronous, and it is not
    written again before the stream is past it."""

    def __init__(self, memory: CudaMemory) -> None:
        # Weak: the memory owns the ring.
        self._memory = weakref.proxy(memory)
        self._address: int | None = None
        self._at = 0

    def put(self, array: np.ndarray) -> int:
        """Address of a copy of the array."""
        place = self.room(array.nbytes)
        ctypes.memmove(place, array.ctypes.data, array.nbytes)
        return place

    def room(self, nbytes: int) -> int:
        """Address of so many bytes of pinned memory that nothing in flight uses."""
        if self._address is None:
            self._address = self._allocate()
        if self._at + nbytes > STAGING:
            self._memory.synchronize()  # restarts
        place = self._address + self._at
        self._at += -(-nbytes // _SLOT) * _SLOT
        return place

    def restart(self) -> None:
        """Everything queued is done: all room is free again."""
        self._at = 0

    def _allocate(self) -> int:
        api = self._memory.api
        pointer: int = self._memory.call(api.cudaHostAlloc, STAGING, api.cudaHostAllocDefault)
        _release_with(self, api.cudaFreeHost, pointer)
        return pointer


def _loaded(name: str) -> set[str]:
    """Paths of the libraries of this process whose file names begin so."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/maps").read_text().splitlines()
        return {line[line.index("/") :] for line in lines if f"/{name}" in line}
    return set()


def _bindings(device: str) -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise RuntimeFailure(
            f"device '{device}' needs the package cuda-bindings; pip install 'sige-deploy[cuda]', or open "
            "the bundle with device='cpu'."
        ) from error
    return runtime


def _release_with(owner: object, release: Any, handle: Any) -> None:
    """Release a handle when its owner goes, but not at the interpreter's end: an engine may use it then, and
    what is left goes with the process."""
    weakref.finalize(owner, quietly, release, handle).atexit = False


def quietly(release: Any, handle: Any) -> None:
    """Release a handle at any time, the interpreter's end included."""
    with contextlib.suppress(Exception):
        release(handle)
