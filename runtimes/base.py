"""What every engine offers to a session, and which engines there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sige_deploy.bundle import Bundle
from sige_deploy.errors import InputError

if TYPE_CHECKING:
    from sige_deploy.devices.base import Device
    from sige_deploy.devices.memory import Buffer

Arrays = dict[str, np.ndarray]


class Runtime(Protocol):
    """The graphs of a bundle on one engine and device."""

    #: e.g. "onnxruntime cpu", for reports.
    name: str

    def dense(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the original network on C-contiguous arrays by input name; returns its outputs. Raises
        RuntimeFailure with one sentence when the engine fails."""

    def device(self) -> Device:
        """A device for one session on this runtime."""


class HostRuntime(Runtime, Protocol):
    """An engine that takes and gives numpy arrays, C-contiguous, by graph input or output name; all methods
    raise RuntimeFailure with one sentence when the engine fails."""

    def record(self, inputs: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
        """Run the record graph; returns (model outputs, caches) in new arrays that the caller owns."""

    def edit_inputs(self) -> frozenset[str]:
        """Names of the inputs that the edit graph really has."""

    def edit(
        self, feeds: Mapping[str, np.ndarray], caches: Mapping[str, np.ndarray], outputs: list[str]
    ) -> Mapping[str, np.ndarray]:
        """Run the edit graph on feeds and caches (those that it lacks are skipped); the mapping returned
        holds `outputs` and may fetch an array only when it is looked up."""

    def close(self) -> None:
        """Give back the engine's memory."""


class BufferRuntime(Runtime, Protocol):
    """An engine that reads and writes buffers of one memory, on its stream. Each `bind_` puts a graph on
    fixed buffers by graph input or output name; what it returns queues one run. All of them raise
    RuntimeFailure with one sentence when the engine fails."""

    def bind_record(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The record graph; outputs: of the model, and caches."""

    def bind_dense(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The original network."""

    def bind_edit(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The edit graph; of `inputs`, those that it lacks are skipped."""

    def edit_inputs(self) -> frozenset[str]:
        """Names of the inputs that the edit graph really has."""

    def close(self) -> None:
        """Give back the engine's memory."""


def check_threads(threads: int | None) -> None:
    """Raises InputError unless `threads` is a count of CPU threads, or None for all."""
    if threads is not None and threads < 1:
        raise InputError(f"threads is a count of CPU threads, 1 or more, or None for all; not {threads}.")


def create(name: str | None, bundle: Bundle, device: str, threads: int | None) -> Runtime:
    """The runtime called `name` ("onnxruntime", also None, or "tensorrt") for a bundle on a device ("cpu",
    "cuda:0", ...).

    threads: CPU threads that one run may use, None for all cores. Nothing is loaded before it is needed.
    Raises InputError for an unknown name or device, RuntimeFailure when the engine is missing.
    """
    if name is None or name == "onnxruntime":
        if device.startswith("cuda"):
            from sige_deploy.runtimes.onnxruntime_buffers import open_cuda

            return open_cuda(bundle, device, threads)
        from sige_deploy.runtimes.onnxruntime import OnnxRuntime

        return OnnxRuntime(bundle, device, threads)
    if name == "tensorrt":
        from sige_deploy.runtimes.tensorrt import open_cuda as open_tensorrt

        return open_tensorrt(bundle, device, threads)
    raise InputError(f"there is no runtime {name!r}; use 'onnxruntime', 'tensorrt', or leave runtime out.")
