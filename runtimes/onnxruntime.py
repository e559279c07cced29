"""ONNX Runtime on the CPU, the default engine: record fills the caches in place, edit reads them there."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy import native
from sige_deploy.bundle import Bundle
from sige_deploy.devices.host import HostDevice
from sige_deploy.errors import InputError
from sige_deploy.runtimes.base import Arrays, check_threads
from sige_deploy.runtimes.onnxruntime_session import create, edit_graph, translated


class OnnxRuntime:
    """A bundle's graphs as ONNX Runtime sessions on the CPU, each made at its first use.

    The edit graph runs with the native kernels where their library is found and they support the bundle;
    elsewhere, and with `kernels=False`, with the ops' function bodies.
    """

    def __init__(self, bundle: Bundle, device: str, threads: int | None, kernels: bool = True) -> None:
        if device != "cpu":
            raise InputError(f"there is no device {device!r}; use 'cpu' or 'cuda:0'.")
        check_threads(threads)
        self._bundle = bundle
        self._threads = threads
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._library = kernels_for(bundle) if kernels else None
        self.name = f"onnxruntime {device}" + (", native kernels" if self._library else "")

    def record(self, inputs: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
        import onnxruntime

        manifest = self._bundle.manifest
        session = self._session("record.onnx")
        with translated("the dense pass"):
            outputs = {o.name: np.empty(o.shape, o.dtype) for o in manifest.outputs}
            caches = {c.name: np.empty(c.shape, c.dtype) for c in manifest.caches}
            binding = session.io_binding()
            for node in session.get_inputs():
                binding.bind_cpu_input(node.name, inputs[node.name])
            for name, array in {**outputs, **caches}.items():
                binding.bind_output(name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
            options = onnxruntime.RunOptions()
            # Activations of a dense pass are large and a record is rare: give the memory back.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            session.run_with_iobinding(binding, options)
        return outputs, caches

    def dense(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        session = self._session("dense.onnx")
        with translated("the dense pass"):
            names = [o.name for o in self._bundle.manifest.outputs]
            feeds = {node.name: inputs[node.name] for node in session.get_inputs()}
            return dict(zip(names, session.run(names, feeds)))

    def edit_inputs(self) -> frozenset[str]:
        return frozenset(node.name for node in self._session(edit_graph()).get_inputs())

    def edit(
        self, feeds: Mapping[str, np.ndarray], caches: Mapping[str, np.ndarray], outputs: list[str]
    ) -> Mapping[str, np.ndarray]:
        session = self._session(edit_graph())
        with translated("the edit"):
            binding = session.io_binding()
            for node in session.get_inputs():
                name = node.name
                binding.bind_cpu_input(name, feeds[name] if name in feeds else caches[name])
            for name in outputs:
                binding.bind_output(name)
            session.run_with_iobinding(binding)
            return _Fetched(dict(zip(outputs, binding.get_outputs())))

    def device(self) -> HostDevice:
        return HostDevice(self._bundle, self)

    def close(self) -> None:
        self._sessions.clear()

    def _session(self, file: str) -> Any:
        with self._lock:
            if file not in self._sessions:
                self._sessions[file] = self._create(file)
            return self._sessions[file]

    def _create(self, file: str) -> Any:
        editing = file == edit_graph()
        library = self._library if editing else None
        path = self._bundle.path(file)
        return create(path, ["CPUExecutionProvider"], self._threads, library=library, rows_vary=editing)


def kernels_for(bundle: Bundle) -> Path | None:
    """The library of native kernels that the CPU runs a bundle's edits with; None: the ops' function bodies.
    Raises RuntimeFailure where a library is named or found that cannot be used."""
    return native.library() if edit_graph() == "edit.onnx" and native.supports(bundle.manifest) else None


class _Fetched(Mapping[str, np.ndarray]):
    """Outputs that stay in the engine's memory until looked up; a look-up copies."""

    def __init__(self, values: dict[str, Any]) -> None:
        self._values = values

    def __getitem__(self, name: str) -> np.ndarray:
        return self._values[name].numpy()

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)
