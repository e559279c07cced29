"""ONNX Runtime on buffers at fixed addresses: on a GPU, or on the host to test what a GPU does."""

from __future__ import annotations

import contextlib
import io
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy import native
from sige_deploy.bundle import Bundle
from sige_deploy.devices.cuda import CudaMemory, device_index
from sige_deploy.devices.dlpack import Lent
from sige_deploy.devices.graphs import CudaGraphs, Direct, Graphs
from sige_deploy.devices.memory import Buffer, Memory, laid_out
from sige_deploy.devices.native import NativeDevice
from sige_deploy.errors import RuntimeFailure
from sige_deploy.inputs import as_numpy
from sige_deploy.kernels import Kernels
from sige_deploy.runtimes.base import Arrays, check_threads
from sige_deploy.runtimes.onnxruntime_session import create, edit_graph, translated

WEIGHTS = "weights.safetensors"
_NO_END = "disable_synchronize_execution_providers"  # of a run
_KEPT: list[Any] = []


def open_cuda(bundle: Bundle, device: str, threads: int | None) -> OnnxRuntimeOnBuffers:
    """The runtime for "cuda:0", "cuda:1", ...

    Raises InputError for another device, RuntimeFailure with one sentence where onnxruntime-gpu, a driver,
    the device or the native CUDA kernels are missing, or the kernels cannot run the bundle.
    """
    index = device_index(device)
    check_threads(threads)
    _load_cuda(device)
    library, kernels = native.cuda(bundle.manifest, device)
    memory = CudaMemory(device)
    kernels.check_device(index)
    return OnnxRuntimeOnBuffers(bundle, memory, kernels, library, threads)


class OnnxRuntimeOnBuffers:
    """A bundle's graphs as ONNX Runtime sessions that read and write buffers of one memory, on its stream.

    Each session is made at its first use. They share the weights, which lie in the memory once: the record
    graph turns them into the layout of its operators anew at every run; only the dense graph, made for edits
    that are too large, keeps copies in its own layout, so that it is as fast as it can be.
    """

    def __init__(
        self, bundle: Bundle, memory: Memory, kernels: Kernels, library: Path, threads: int | None
    ) -> None:
        self.memory = memory
        self.name = f"onnxruntime {memory.device}, native kernels"
        self._bundle, self._kernels, self._library, self._threads = bundle, kernels, library, threads
        self._sessions: dict[str, Any] = {}
        self._repeated: dict[str, Mapping[str, Buffer]] = {}  # by graph: inputs of runs that may be captured
        self._weights: dict[str, Any] | None = None
        # Not __del__: when all of this is in a cycle, or at the interpreter's end, memory would go before it.
        weakref.finalize(self, _end_quietly, memory, self._sessions, self._repeated)

    def device(self) -> NativeDevice:
        graphs: Graphs = CudaGraphs(self.memory) if isinstance(self.memory, CudaMemory) else Direct()
        return NativeDevice(self._bundle, self.memory, self._kernels, self, graphs)

    def bind_record(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The record graph on fixed buffers: a call queues one run. Both raise RuntimeFailure."""
        return self._bound("record.onnx", "the dense pass", inputs, outputs, repeated=False)

    def bind_dense(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The original network, likewise."""
        return self._bound("dense.onnx", "the dense pass", inputs, outputs)

    def bind_edit(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The edit graph, likewise; of `inputs`, those that it lacks are skipped."""
        return self._bound(edit_graph(), "the edit", inputs, outputs)

    def edit_inputs(self) -> frozenset[str]:
        """Names of the inputs that the edit graph really has."""
        return frozenset(node.name for node in self._session(edit_graph()).get_inputs())

    def dense(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the original network on host arrays; returns its outputs."""
        memory, outputs = self.memory, self._bundle.manifest.outputs
        with memory.current():
            given = {name: memory.upload(as_numpy(name, array)) for name, array in inputs.items()}
            made = laid_out(memory, {o.name: (o.shape, o.dtype) for o in outputs})
            self.bind_dense(given, made)()
            return {name: memory.download(buffer) for name, buffer in made.items()}

    def close(self) -> None:
        """Give back the engine's memory."""
        _end(self.memory, self._sessions, self._repeated)
        self._weights = None

    def _bound(
        self,
        file: str,
        doing: str,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        repeated: bool = True,
    ) -> Callable[[], None]:
        import onnxruntime

        session = self._session(file)
        place = _place(self.memory)
        with translated(doing, self.memory):
            binding = session.io_binding()
            for node in session.get_inputs():
                buffer = inputs[node.name]
                binding.bind_input(node.name, *place, buffer.dtype, buffer.shape, buffer.pointer)
            for name, buffer in outputs.items():
                binding.bind_output(name, *place, buffer.dtype, buffer.shape, buffer.pointer)
            options = onnxruntime.RunOptions()
            if repeated:
                # What follows is ordered on the same stream, and a capture cannot wait.
                options.add_run_config_entry(_NO_END, "1")
                self._repeated[file] = dict(inputs)
            else:
                # Activations of a dense pass are large and a record is rare: give the memory back.
                arena = f"gpu:{place[1]}" if self.memory.backend else "cpu:0"
                options.add_run_config_entry("memory.enable_memory_arena_shrinkage", arena)
        kept = (dict(inputs), dict(outputs))

        def run() -> None:
            assert kept  # the binding knows addresses only
            with translated(doing, self.memory):
                session.run_with_iobinding(binding, options)

        return run

    def _session(self, file: str) -> Any:
        if file not in self._sessions:
            editing = file == edit_graph()
            path = self._bundle.path(file)
            self._sessions[file] = create(
                path,
                self._providers(search=file == "dense.onnx"),
                self._threads,
                library=self._library if editing else None,
                shared=self._shared(),
                rows_vary=editing,
                fold=file != "record.onnx",
                memory=self.memory,
            )
        return self._sessions[file]

    def _providers(self, search: bool) -> list[Any]:
        if not self.memory.backend:
            return ["CPUExecutionProvider"]
        options = {
            "device_id": str(_place(self.memory)[1]),
            "user_compute_stream": str(self.memory.stream),
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "EXHAUSTIVE" if search else "HEURISTIC",
            "use_tf32": "0",  # float32 means float32
        }
        return [("CUDAExecutionProvider", options), "CPUExecutionProvider"]

    def _shared(self) -> dict[str, Any]:
        """The weights in the memory, as OrtValues by the name that they have in all graphs."""
        import onnxruntime
        from safetensors.numpy import load_file

        if self._weights is None:
            path = self._bundle.path(WEIGHTS)
            with translated(f"loading '{path}'", self.memory):
                arrays = load_file(path)
                buffers = laid_out(self.memory, {name: (x.shape, x.dtype) for name, x in arrays.items()})
                index = _place(self.memory)[1]
                # Only values whose memory is not its own does ONNX Runtime share among sessions.
                self._weights = {
                    name: onnxruntime.OrtValue.from_dlpack(
                        Lent(self.memory, self.memory.upload(array, buffers[name]), index)
                    )
                    for name, array in arrays.items()
                }
                self.memory.synchronize()
        return self._weights


def _end(memory: Memory, sessions: dict[str, Any], repeated: dict[str, Mapping[str, Buffer]]) -> None:
    """Have all sessions go."""
    for file, inputs in repeated.items():
        with memory.current():
            _settle(sessions[file], memory, inputs)
    repeated.clear()
    sessions.clear()


def _end_quietly(*of: Any) -> None:
    with contextlib.suppress(Exception):  # nobody is there to take it
        _end(*of)


def _settle(session: Any, memory: Memory, inputs: Mapping[str, Buffer]) -> None:
    """Have a session give back what its runs without an end have kept, before it goes.

    ONNX Runtime hands some kernels parameters through pinned host memory. The end of a run has a function on
    the stream give it back; a session that goes does so too, but then that function is the last to hold the
    allocator, and taking that down there aborts the process. So one more run is made, with an end and without
    rows. A session that fails even so is kept for ever.
    """
    try:
        with translated("closing", memory):
            binding = session.io_binding()
            place = _place(memory)
            for node in session.get_inputs():
                buffer = inputs[node.name]
                shape = [size if isinstance(size, int) else 0 for size in node.shape]
                binding.bind_input(node.name, *place, buffer.dtype, shape, buffer.pointer)
            for node in session.get_outputs():
                binding.bind_output(node.name, *place)
            session.run_with_iobinding(binding)
        memory.synchronize()
    except RuntimeFailure:
        _KEPT.append(session)


def _place(memory: Memory) -> tuple[str, int]:
    """ONNX Runtime's words for the memory's device."""
    return ("cuda", device_index(memory.device)) if memory.backend else ("cpu", 0)


def _load_cuda(device: str) -> None:
    """Have ONNX Runtime's CUDA provider find its libraries."""
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise RuntimeFailure(
            f"device {device!r} needs ONNX Runtime with CUDA, and this one has none; install "
            "onnxruntime-gpu, or open the bundle with device='cpu'."
        )
    if edit_graph() != "edit.onnx":
        raise RuntimeFailure(
            f"device {device!r} needs ONNX Runtime 1.27 or later, and this is {onnxruntime.__version__}; "
            "upgrade onnxruntime-gpu, or open the bundle with device='cpu'."
        )
    # Failures come as exceptions. What else it writes to stderr (plugin devices that it does not find,
    # plans of cuDNN's that it goes on without) passes by the level of each session.
    onnxruntime.set_default_logger_severity(4)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
        onnxruntime.preload_dlls()
