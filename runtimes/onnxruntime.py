"""ONNX Runtime, the default engine: record writes straight into the caches, edit reads them in place."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy import native
from sige_deploy.bundle import Bundle
from sige_deploy.devices.host import HostDevice
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.runtimes.base import Arrays

OVERLOADS_SINCE = (1, 27)
_MEMORY = re.compile(r"failed to allocate|bad_alloc|out of memory|bad allocation|unable to allocate", re.I)


class OnnxRuntime:
    """A bundle's graphs as ONNX Runtime sessions, each made at its first use.

    Caches are numpy arrays in host memory: no copy on the CPU; on a CUDA device ONNX Runtime copies what an
    edit reads at every edit. On the CPU the edit graph runs with the native kernels where their library is
    found and they support the bundle; elsewhere, and with `kernels=False`, with the ops' function bodies.
    """

    def __init__(self, bundle: Bundle, device: str, threads: int | None, kernels: bool = True) -> None:
        if threads is not None and threads < 1:
            raise InputError(f"threads is a count of CPU threads, 1 or more, or None for all; not {threads}.")
        self._bundle = bundle
        self._threads = threads
        self._providers = _providers(device)
        self._sessions: dict[str, Any] = {}
        self._lock = threading.Lock()
        self._library: Path | None = None
        if kernels and device == "cpu" and _edit_graph() == "edit.onnx" and native.supports(bundle.manifest):
            self._library = native.library()
        self.name = f"onnxruntime {device}" + (", native kernels" if self._library else "")

    def record(self, inputs: Mapping[str, np.ndarray]) -> tuple[Arrays, Arrays]:
        import onnxruntime

        manifest = self._bundle.manifest
        session = self._session("record.onnx")
        with _translated("the dense pass"):
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
        with _translated("the dense pass"):
            names = [o.name for o in self._bundle.manifest.outputs]
            feeds = {node.name: inputs[node.name] for node in session.get_inputs()}
            return dict(zip(names, session.run(names, feeds)))

    def edit_inputs(self) -> frozenset[str]:
        return frozenset(node.name for node in self._session(_edit_graph()).get_inputs())

    def edit(
        self, feeds: Mapping[str, np.ndarray], caches: Mapping[str, np.ndarray], outputs: list[str]
    ) -> Mapping[str, np.ndarray]:
        session = self._session(_edit_graph())
        with _translated("the edit"):
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
        import onnxruntime

        path = self._bundle.path(file)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # failures come as exceptions, in one sentence
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        if file == _edit_graph():
            options.enable_mem_pattern = False  # row counts change from edit to edit
            if self._library is not None:
                with _translated(f"loading '{self._library}'"):
                    options.register_custom_ops_library(str(self._library))
        with _translated(f"loading '{path}'"):
            # PadFusion makes a MaxPool ignore the zeros that it takes over from a Pad: wrong below zero.
            session = onnxruntime.InferenceSession(
                path, options, providers=self._providers, disabled_optimizers=["PadFusion"]
            )
            session.disable_fallback()
            wanted = self._providers[0] if isinstance(self._providers[0], str) else self._providers[0][0]
            if session.get_providers()[0] != wanted:
                raise RuntimeFailure(
                    f"ONNX Runtime cannot use its {wanted} on this machine; check the driver and "
                    "libraries, or open the bundle with device='cpu'."
                )
            return session


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


def _edit_graph() -> str:
    """Before 1.27 ONNX Runtime takes one body for every overload of a function: it gets the graph
    without functions."""
    import onnxruntime

    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    return "edit.onnx" if (major, minor) >= OVERLOADS_SINCE else "edit_inlined.onnx"


def _providers(device: str) -> list[Any]:
    import onnxruntime

    if device == "cpu":
        return ["CPUExecutionProvider"]
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if not match:
        raise InputError(f"there is no device {device!r}; use 'cpu' or 'cuda:0'.")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeFailure(
            f"device {device!r} needs ONNX Runtime with CUDA, and this one has none; install "
            "onnxruntime-gpu, or "
            "open the bundle with device='cpu'."
        )
    return [("CUDAExecutionProvider", {"device_id": match[1] or "0"}), "CPUExecutionProvider"]


@contextlib.contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Engine exceptions, of many types and lines, as one RuntimeFailure with one sentence."""
    try:
        yield
    except RuntimeFailure:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        if isinstance(error, MemoryError) or _MEMORY.search(text):
            raise RuntimeFailure(
                f"{doing} ran out of memory; free some, or export the network at a smaller size."
            ) from error
        raise RuntimeFailure(f"{doing} failed in ONNX Runtime: {_first_sentence(text)}") from error


def _first_sentence(text: str, limit: int = 300) -> str:
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    return text if len(text) <= limit else text[: limit - 3] + "..."
