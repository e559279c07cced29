"""TensorRT engines in memory: one for all sessions of a process, a context for each set of buffers."""

from __future__ import annotations

import math
import mmap
import threading
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy.devices.cuda import CudaMemory
from sige_deploy.devices.memory import ALIGNMENT, Buffer, Memory
from sige_deploy.errors import RuntimeFailure
from sige_deploy.runtimes.tensorrt_packages import Package

Shape = tuple[int, ...]
_DTYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT32": "int32", "INT64": "int64", "INT8": "int8",
    "UINT8": "uint8", "BOOL": "bool",
}  # fmt: skip
REBUILD = "build the engines again with 'sige-deploy build'"

_lock = threading.Lock()
_engines: weakref.WeakValueDictionary[tuple[str, str, str], Engine] = weakref.WeakValueDictionary()


def shared_engine(package: Package, path: Path, sha256: str, memory: Memory) -> Engine:
    """The engine of a file on a memory's device, deserialised once as long as some session holds it.

    sha256: the file's digest, by which engines are told apart. The plugins must be loaded. Raises
    RuntimeFailure with one sentence.
    """
    key = (package.title, sha256, memory.device)
    with _lock:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = Engine(package, path, memory)
        return engine


@dataclass(frozen=True)
class Tensor:
    """An input or output of an engine; -1 in `shape` stands for any size within a profile."""

    shape: Shape
    dtype: np.dtype[Any]


class Engine:
    """A deserialised engine with its own copy of the graph's weights on the device.

    Sessions share it, and each makes contexts of its own. inputs, outputs: its tensors by name. profiles:
    of each optimisation profile, (least, largest) shape by name of the inputs whose size varies.
    """

    def __init__(self, package: Package, path: Path, memory: Memory) -> None:
        self.package, self.path = package, path
        trt = package.module
        self._runtime = package.runtime()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            self._engine = package.ask(
                f"loading '{path}'", memory, lambda: self._runtime.deserialize_cuda_engine(data)
            )
        self.inputs: dict[str, Tensor] = {}
        self.outputs: dict[str, Tensor] = {}
        for i in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(i)
            given = self._engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
            (self.inputs if given else self.outputs)[name] = self._tensor(name)
        varying = [name for name, tensor in self.inputs.items() if -1 in tensor.shape]
        self.profiles: list[dict[str, tuple[Shape, Shape]]] = []
        for profile in range(self._engine.num_optimization_profiles):
            shapes = {name: self._engine.get_tensor_profile_shape(name, profile) for name in varying}
            self.profiles.append({name: (tuple(s[0]), tuple(s[-1])) for name, s in shapes.items()})
        self._config = self._runtime_config()

    @property
    def scratch_bytes(self) -> int:
        """Memory for activations that no shape of any profile exceeds."""
        return int(self._engine.device_memory_size_v2)

    def profile(self, shapes: Mapping[str, Shape]) -> int:
        """The profile of least size that covers the shapes of the inputs whose size varies. Raises
        RuntimeFailure where none does."""
        fitting = [i for i, ranges in enumerate(self.profiles) if all(map(_within(shapes), ranges.items()))]
        if not fitting:
            name, least, largest = self._beyond(shapes)
            raise RuntimeFailure(
                f"'{self.path}' takes '{name}' from {list(least)} to {list(largest)}, and this edit has "
                f"{list(shapes[name])}; {REBUILD} for these sizes."
            )
        return min(fitting, key=lambda i: sum(math.prod(most) for _, most in self.profiles[i].values()))

    def new_context(self, memory: Memory) -> Any:
        """An IExecutionContext without memory for activations."""
        managed = self.package.module.ExecutionContextAllocationStrategy.USER_MANAGED
        how = {"strategy": managed} if self._config is None else {"runtime_config": self._config}
        with _lock:
            return self.package.ask(
                f"preparing '{self.path}'", memory, lambda: self._engine.create_execution_context(**how)
            )

    def _tensor(self, name: str) -> Tensor:
        engine, trt = self._engine, self.package.module
        dtype = _DTYPES.get(engine.get_tensor_dtype(name).name)
        if dtype is None or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise RuntimeFailure(f"'{self.path}' has '{name}' in a form that no bundle has; {REBUILD}.")
        return Tensor(tuple(engine.get_tensor_shape(name)), np.dtype(dtype))

    def _runtime_config(self) -> Any:
        """How TensorRT for RTX, which compiles on the device, makes contexts; None for TensorRT.

        All contexts share what was compiled. Kernels are the ones for any size: those for one size are made
        while others run already, which a captured graph would then go on running.
        """
        trt = self.package.module
        if self.package.flavour != "tensorrt-rtx":
            return None
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        kernels = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = kernels.NONE
        config.set_runtime_cache(config.create_runtime_cache())
        return config

    def _beyond(self, shapes: Mapping[str, Shape]) -> tuple[str, Shape, Shape]:
        """An input that the largest profile does not take, and what it takes: (name, least, largest)."""
        ranges = max(self.profiles, key=lambda p: sum(math.prod(most) for _, most in p.values()))
        name = next(name for name, limits in ranges.items() if not _within(shapes)((name, limits)))
        return name, *ranges[name]


def _within(shapes: Mapping[str, Shape]) -> Any:
    """Whether the shape of an item (name, (least, largest)) lies within its range."""

    def within(item: tuple[str, tuple[Shape, Shape]]) -> bool:
        name, (least, largest) = item
        shape = shapes[name]
        return len(shape) == len(least) and all(a <= n <= b for a, n, b in zip(least, shape, largest))

    return within


class Scratch:
    """Memory for the activations of all contexts of a session: their runs are ordered on one stream, so each
    may use the same block. When one needs more, a new block is made for it and those to come; the old one
    lives on with the contexts that have it, whose captured graphs know its address."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._block: Buffer | None = None

    def room(self, nbytes: int, most: int) -> Buffer:
        """The block, of `nbytes` at least. A new one has twice the last one's size, if there is memory for it
        and no context of this engine needs less: `most`."""
        former = 0 if self._block is None else self._block.nbytes
        if self._block is None or former < nbytes:
            self._block = self._grown(nbytes, min(2 * former, most))
        return self._block

    def once(self, nbytes: int) -> Buffer:
        """The block where it is large enough, or else memory that goes when its user lets go of it."""
        if self._block is not None and self._block.nbytes >= nbytes:
            return self._block
        return self._memory.empty([nbytes], np.uint8)

    def _grown(self, nbytes: int, generous: int) -> Buffer:
        if generous > nbytes:
            try:
                return self._memory.empty([generous], np.uint8)
            except RuntimeFailure:
                pass
        return self._memory.empty([nbytes], np.uint8)


class Context:
    """An engine's execution context on fixed buffers of a session's memory: `run` queues one run."""

    def __init__(self, engine: Engine, memory: Memory, doing: str) -> None:
        """doing: what a run is, e.g. "the edit", for errors."""
        self._engine, self._memory, self._doing = engine, memory, doing
        self._context = engine.new_context(memory)
        self._kept: tuple[Any, ...] = ()
        self._capturable = True

    def bind(
        self, inputs: Mapping[str, Buffer], outputs: Mapping[str, Buffer], room: Callable[[int], Buffer]
    ) -> None:
        """Put it on buffers by name, of which the engine may lack some. room: gives memory of at least so
        many bytes for its activations. Raises RuntimeFailure with one sentence where the buffers are not what
        the engine takes."""
        engine, context = self._engine, self._context
        given = {name: self._checked(name, tensor, inputs) for name, tensor in engine.inputs.items()}
        made = {name: self._checked(name, tensor, outputs) for name, tensor in engine.outputs.items()}
        varying = {name: given[name].shape for name, tensor in engine.inputs.items() if -1 in tensor.shape}
        if varying and len(engine.profiles) > 1:
            profile = engine.profile(varying)
            self._ask(lambda: context.set_optimization_profile_async(profile, self._memory.stream))
        elif varying:
            engine.profile(varying)
        for name, shape in varying.items():
            self._ask(lambda name=name, shape=shape: context.set_input_shape(name, shape))
        for name, buffer in (*given.items(), *made.items()):
            self._ask(lambda name=name, at=buffer.pointer: context.set_tensor_address(name, at))
        self._check_shapes(made)
        needed = self._tell(context.update_device_memory_size_for_shapes)
        # An engine that needs memory for other shapes asks for an address even where this one needs none.
        block = room(max(needed, ALIGNMENT))
        self._tell(lambda: context.set_device_memory(block.pointer, block.nbytes))
        self._kept = (*given.values(), *made.values(), block)
        if hasattr(context, "is_stream_capturable"):
            self._capturable = context.is_stream_capturable(self._memory.stream)

    def run(self) -> None:
        """Queue one run. Raises RuntimeFailure with one sentence."""
        if not self._capturable and _capturing(self._memory):
            raise RuntimeFailure("TensorRT for RTX says that this engine cannot be captured.")
        self._ask(lambda: self._context.execute_async_v3(self._memory.stream))

    def release(self) -> None:
        """Let go of the buffers, when no run is under way."""
        self._kept = ()

    def _checked(self, name: str, tensor: Tensor, buffers: Mapping[str, Buffer]) -> Buffer:
        buffer = buffers.get(name)
        if buffer is None:
            raise RuntimeFailure(f"'{self._engine.path}' has '{name}', which the bundle lacks; {REBUILD}.")
        fits = len(buffer.shape) == len(tensor.shape) and all(
            wanted in (-1, size) for wanted, size in zip(tensor.shape, buffer.shape)
        )
        if not fits or buffer.dtype != tensor.dtype:
            raise RuntimeFailure(
                f"'{self._engine.path}' has '{name}' as {tensor.dtype} {list(tensor.shape)}, the bundle as "
                f"{buffer.dtype} {list(buffer.shape)}; {REBUILD}."
            )
        return buffer

    def _check_shapes(self, made: Mapping[str, Buffer]) -> None:
        """Raises RuntimeFailure unless the outputs have the sizes of their buffers."""
        unknown = self._tell(self._context.infer_shapes)
        if unknown:
            raise RuntimeFailure(f"'{self._engine.path}' has '{unknown[0]}' of unknown size; {REBUILD}.")
        for name, buffer in made.items():
            shape = tuple(self._context.get_tensor_shape(name))
            if shape != buffer.shape:
                raise RuntimeFailure(
                    f"'{self._engine.path}' gives '{name}' as {list(shape)}, and the bundle has "
                    f"{list(buffer.shape)}; {REBUILD}."
                )

    def _ask(self, call: Any) -> Any:
        return self._engine.package.ask(self._doing, self._memory, call)

    def _tell(self, call: Any) -> Any:
        return self._engine.package.tell(self._doing, self._memory, call)


def _capturing(memory: Memory) -> bool:
    if not isinstance(memory, CudaMemory):
        return False
    status = memory.call(memory.api.cudaStreamIsCapturing, memory.handle)
    return status != memory.api.cudaStreamCaptureStatus.cudaStreamCaptureStatusNone
