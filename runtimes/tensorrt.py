"""TensorRT and TensorRT for RTX on buffers at fixed addresses of a GPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from sige_deploy import native
from sige_deploy.bundle import Bundle
from sige_deploy.devices.cuda import CudaMemory, device_index
from sige_deploy.devices.graphs import CudaGraphs, Direct, Graphs
from sige_deploy.devices.memory import Buffer, Memory, laid_out
from sige_deploy.devices.native import NativeDevice
from sige_deploy.engines import EngineManifest, PluginSpec, check_engine, find_engine, read_engine
from sige_deploy.errors import InputError, RuntimeFailure, SigeError
from sige_deploy.inputs import as_numpy
from sige_deploy.kernels import Kernels
from sige_deploy.runtimes.base import Arrays, check_threads
from sige_deploy.runtimes.tensorrt_engines import Context, Engine, Scratch, shared_engine
from sige_deploy.runtimes.tensorrt_packages import PACKAGES, Package, installed


def open_cuda(bundle: Bundle, device: str, threads: int | None) -> TensorRtOnBuffers:
    """The runtime for "cuda:0", "cuda:1", ...

    Raises InputError for another device; BundleError or RuntimeFailure with one sentence where TensorRT, the
    bundle's engines for it and the device, the plugins, the native CUDA kernels, a driver or the device are
    missing or do not fit together.
    """
    if not device.startswith("cuda"):
        raise InputError(
            f"TensorRT does not run on device {device!r}; open the bundle with device='cuda:0', or with "
            "runtime='onnxruntime'."
        )
    index = device_index(device)
    check_threads(threads)
    plugins, kernels = native.tensorrt(bundle.manifest)
    memory = CudaMemory(device)
    kernels.check_device(index)
    capability = _capability(memory)
    package, folder = _fitting(bundle, capability)
    manifest = read_engine(folder)
    check_engine(
        manifest,
        flavour=package.flavour,
        version=package.version,
        capability=capability,
        plugin=PluginSpec.of(plugins, Path(kernels.path)),
        bundle=bundle,
    )
    return TensorRtOnBuffers(bundle, memory, kernels, Engines(package, manifest, folder, plugins, memory))


class Engines:
    """The engines of a checked folder for one device, each deserialised at its first use."""

    def __init__(
        self, package: Package, manifest: EngineManifest, folder: Path, plugins: Path, memory: Memory
    ) -> None:
        """manifest, folder: of the engines. plugins: the library that they call."""
        self.package = package
        self._files, self._folder, self._plugins, self._memory = manifest.files, folder, plugins, memory
        self._loaded: dict[str, Engine] = {}

    def __getitem__(self, name: str) -> Engine:
        """The engine in a file; raises RuntimeFailure with one sentence."""
        if name not in self._loaded:
            self.package.load_plugins(self._plugins)
            digest = self._files[name].sha256
            self._loaded[name] = shared_engine(self.package, self._folder / name, digest, self._memory)
        return self._loaded[name]

    def clear(self) -> None:
        """Let go of all; an engine that no other session holds gives back its memory."""
        self._loaded.clear()


class TensorRtOnBuffers:
    """A bundle's graphs as engines of TensorRT on buffers of one memory, on its stream.

    An engine is in memory once for all sessions of the process. It holds its weights by itself: so those of
    the record, the edit and the dense engine lie on the device once each, as far as they were used.

    Every bound edit has an execution context of its own, so that a captured graph of it stays valid; the
    memory for activations is one block, which the contexts of a session share.
    """

    def __init__(self, bundle: Bundle, memory: Memory, kernels: Kernels, engines: Engines) -> None:
        self.memory = memory
        self.name = f"{engines.package.title} {memory.device}, native kernels"
        self._bundle, self._kernels, self._engines = bundle, kernels, engines
        self._scratch = Scratch(memory)
        self._recording: Context | None = None

    def device(self) -> NativeDevice:
        graphs: Graphs = CudaGraphs(self.memory) if isinstance(self.memory, CudaMemory) else Direct()
        return NativeDevice(self._bundle, self.memory, self._kernels, self, graphs)

    def bind_record(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The record graph on fixed buffers: a call runs it and waits for it, so that the memory for its
        activations, which are large, is given back. Both raise RuntimeFailure."""
        if self._recording is None:
            self._recording = Context(self._engines["record.engine"], self.memory, "the dense pass")
        context = self._recording

        def run() -> None:
            context.bind(inputs, outputs, self._scratch.once)
            try:
                context.run()
                self.memory.synchronize()
            finally:
                context.release()

        return run

    def bind_dense(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The original network on fixed buffers: a call queues one run. Both raise RuntimeFailure."""
        return self._bound("dense.engine", "the dense pass", inputs, outputs)

    def bind_edit(self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]) -> Callable[[], None]:
        """The edit graph, likewise; of `inputs`, those that it lacks are skipped."""
        return self._bound("edit.engine", "the edit", inputs, outputs)

    def edit_inputs(self) -> frozenset[str]:
        """Names of the inputs that the edit graph really has."""
        return frozenset(self._engines["edit.engine"].inputs)

    def dense(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Run the original network on host arrays; returns its outputs."""
        memory, outputs = self.memory, self._bundle.manifest.outputs
        with memory.current():
            given = {name: memory.upload(as_numpy(name, array)) for name, array in inputs.items()}
            made = laid_out(memory, {o.name: (o.shape, o.dtype) for o in outputs})
            run = self.bind_dense(given, made)
            run()
            return {name: memory.download(buffer) for name, buffer in made.items()}

    def close(self) -> None:
        """Give back the engines' memory, once what is queued is done."""
        with contextlib.suppress(RuntimeFailure):
            self.memory.synchronize()
        self._recording = None
        self._scratch = Scratch(self.memory)
        self._engines.clear()

    def _bound(
        self, name: str, doing: str, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer]
    ) -> Callable[[], None]:
        engine = self._engines[name]
        context = Context(engine, self.memory, doing)
        context.bind(inputs, outputs, lambda nbytes: self._scratch.room(nbytes, engine.scratch_bytes))
        return context.run


def _fitting(bundle: Bundle, capability: str) -> tuple[Package, Path]:
    """An installed package and the folder of the bundle's engines for it and the device."""
    refused: SigeError | None = None
    for flavour in PACKAGES:
        try:
            package = installed(flavour)
            if package is not None:
                return package, find_engine(bundle, flavour, package.version, capability)
        except SigeError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    raise RuntimeFailure(
        "runtime 'tensorrt' needs TensorRT, and none is installed; pip install 'sige-deploy[tensorrt]' for "
        "TensorRT for RTX, or NVIDIA's package tensorrt, or open the bundle with runtime='onnxruntime'."
    )


def _capability(memory: CudaMemory) -> str:
    """The device's compute capability, e.g. "8.9"."""
    kinds = memory.api.cudaDeviceAttr
    wanted = kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor
    return ".".join(
        str(memory.call(memory.api.cudaDeviceGetAttribute, kind, memory.index)) for kind in wanted
    )
