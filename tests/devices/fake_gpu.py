"""The runtime of a GPU on the stand-in for the driver: kernels and engine are queued as work that a stream
runs at once or, while it is captured, that a graph's launches run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sige_deploy import native
from sige_deploy.bundle import Bundle
from sige_deploy.devices.cuda import CudaMemory
from sige_deploy.devices.memory import Buffer
from sige_deploy.kernels import Kernels
from sige_deploy.kernels.library import CompareArgs, CopyArgs, Indices, MoveArgs
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers

from .fake_cuda import Node, Runtime, cudaGraphNodeType


class Memory(CudaMemory):
    """Memory of the stand-in, which the kernels' CPU backend works on."""

    backend = 0


class FakeGpu(OnnxRuntimeOnBuffers):
    """A bundle on the stand-in `driver`, which `cuda._bindings` must give."""

    def __init__(self, bundle: Bundle, library: Path, driver: Runtime) -> None:
        self._driver = driver
        kernels = Kernels(library.with_name(native.KERNELS))
        real = kernels.library
        names = "compare", "take_rows", "put_rows", "copy", "indices_begin", "indices_list", "indices_finish"
        calls = {f"sige_{name}": self._queued(getattr(real, f"sige_{name}")) for name in names}
        others = {name: getattr(real, name) for name in ("sige_indices_sizes", "sige_indices_plan")}
        kernels.library = SimpleNamespace(**calls, **others)  # type: ignore[assignment]
        super().__init__(bundle, Memory("cuda:0"), kernels, library, 1)

    def _bound(
        self,
        file: str,
        doing: str,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        repeated: bool = True,
    ) -> Callable[[], None]:
        run = super()._bound(file, doing, inputs, outputs, repeated)
        return lambda: self._add(run)

    def _queued(self, function: Any) -> Callable[..., int]:
        """A call of the kernels with its arguments as they are now, whatever the caller's arrays hold
        later."""

        def call(*arguments: Any) -> int:
            where, size = _changing(function.__name__, arguments)
            kept = ctypes.string_at(where, size)

            def work() -> None:
                now = ctypes.string_at(where, size)
                ctypes.memmove(where, kept, size)
                assert function(*arguments) == 0
                ctypes.memmove(where, now, size)

            self._add(work)
            return 0

        return call

    def _add(self, work: Callable[[], None]) -> None:
        self._driver.add(Node(cudaGraphNodeType.cudaGraphNodeTypeKernel, work))


def _changing(name: str, arguments: tuple[Any, ...]) -> tuple[int, int]:
    """(address, bytes) of the host arrays of a call that its caller changes from call to call."""
    if name == "sige_indices_list":
        return arguments[0], 0
    if name.startswith("sige_indices"):
        indices = Indices.from_address(arguments[0])
        begins = name == "sige_indices_begin"
        return arguments[1], indices.inputs * 8 if begins else indices.levels * 4  # type: ignore[attr-defined]
    args = {"sige_compare": CompareArgs, "sige_copy": CopyArgs}.get(name, MoveArgs)
    return arguments[0], arguments[1] * ctypes.sizeof(args)
