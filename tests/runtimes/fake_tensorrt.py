"""A stand-in for TensorRT's Python bindings on a machine that cannot run them.

An engine of it is a JSON file that names a graph of a bundle; a run executes that graph with ONNX Runtime on
the given addresses of host memory. What TensorRT asks of its callers is enforced, as far as it is documented:
plugins before deserialisation, profiles and their ranges, every address, memory for activations of the size
for the shapes (which a run overwrites), one stream for each context. test_tensorrt_bindings.py compares every
public name and parameter here with the real packages.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Callable
from enum import IntEnum
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime

MAGIC = "an engine of the stand-in"


class DataType(IntEnum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    BOOL = 4
    UINT8 = 5
    INT64 = 8


class TensorIOMode(IntEnum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class TensorLocation(IntEnum):
    DEVICE = 0
    HOST = 1


class ExecutionContextAllocationStrategy(IntEnum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class DynamicShapesKernelSpecializationStrategy(IntEnum):
    LAZY = 0
    EAGER = 1
    NONE = 2


_NUMPY = {
    DataType.FLOAT: np.float32, DataType.HALF: np.float16, DataType.INT32: np.int32,
    DataType.INT64: np.int64, DataType.BOOL: np.bool_, DataType.UINT8: np.uint8,
}  # fmt: skip
_ONNX = {
    "tensor(float)": DataType.FLOAT, "tensor(float16)": DataType.HALF, "tensor(int32)": DataType.INT32,
    "tensor(int64)": DataType.INT64, "tensor(bool)": DataType.BOOL, "tensor(uint8)": DataType.UINT8,
}  # fmt: skip


class World:
    """What the classes of one stand-in share.

    library: of custom ops for ONNX Runtime, or None. queue: where a run goes; by itself it happens at once.
    refuse: a message of the log with which the next call of that name fails. contexts, engines, runs: how
    many there were.
    """

    def __init__(self, version: str, library: Path | None) -> None:
        self.version, self.library = version, library
        self.alignment = 256  # of memory for activations
        self.rtx = False
        self.capturable = True
        self.queue: Callable[[Callable[[], None]], object] = lambda work: work()
        self.refuse: dict[str, str] = {}
        self.plugins: list[str] = []
        self.engines = self.contexts = self.runs = 0
        self.log: Any = None

    def error(self, message: str) -> None:
        self.log.log(ILogger.ERROR, f"[fake.cpp::call::7] {message} In call at /src/fake.cpp:7")

    def refuses(self, call: str) -> bool:
        message = self.refuse.pop(call, None)
        if message is not None:
            self.error(message)
        return message is not None


class ILogger:
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self) -> None:
        pass

    def log(self, severity: int, msg: str) -> None:
        raise NotImplementedError


class IPluginRegistry:
    def __init__(self, world: World) -> None:
        self._world = world

    def load_library(self, plugin_path: str) -> object:
        if self._world.refuses("load_library") or not Path(plugin_path).is_file():
            return None
        self._world.plugins.append(plugin_path)
        return object()


class Runtime:
    _world: World

    def __init__(self, logger: ILogger) -> None:
        self._world.log = logger
        self._world.refuses("Runtime")

    def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
        world = self._world
        if world.refuses("deserialize_cuda_engine"):
            return None
        try:
            told = json.loads(bytes(serialized_engine))
            assert told["magic"] == MAGIC
        except (ValueError, AssertionError):
            return world.error("Serialization (Serialization assertion magicTag failed.")  # type: ignore[func-returns-value]
        if told["version"] != world.version:
            return world.error(f"Version tag does not match: {told['version']}")  # type: ignore[func-returns-value]
        if told["plugins"] and not world.plugins:
            return world.error("Cannot deserialize plugin since creator not found.")  # type: ignore[func-returns-value]
        world.engines += 1
        return ICudaEngine(world, told)


class IRuntimeConfig:
    def __init__(self) -> None:
        self._strategy = ExecutionContextAllocationStrategy.STATIC
        self._cache: object = None
        self.dynamic_shapes_kernel_specialization_strategy = DynamicShapesKernelSpecializationStrategy.LAZY

    def set_execution_context_allocation_strategy(self, strategy: ExecutionContextAllocationStrategy) -> None:
        self._strategy = strategy

    def create_runtime_cache(self) -> object:
        return object()

    def set_runtime_cache(self, cache: object) -> bool:
        self._cache = cache
        return True


class ICudaEngine:
    def __init__(self, world: World, told: dict[str, Any]) -> None:
        self._world = world
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        if world.library is not None and told["plugins"]:
            options.register_custom_ops_library(str(world.library))
        self._session = onnxruntime.InferenceSession(
            told["graph"], options, providers=["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"]
        )
        self._inputs = {node.name: node for node in self._session.get_inputs()}
        self._outputs = {node.name: node for node in self._session.get_outputs()}
        self._nodes = {**self._inputs, **self._outputs}
        self._profiles: list[dict[str, list[list[int]]]] = told["profiles"]
        self._names = list(self._nodes)

    @property
    def num_io_tensors(self) -> int:
        return len(self._names)

    @property
    def num_optimization_profiles(self) -> int:
        return max(len(self._profiles), 1)

    @property
    def device_memory_size_v2(self) -> int:
        return max(map(self.get_device_memory_size_for_profile_v2, range(len(self._profiles))), default=4096)

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        shapes = {name: ranges[-1] for name, ranges in self._profiles[profile_index].items()}
        return self._scratch(shapes)

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation.DEVICE

    def get_tensor_dtype(self, name: str) -> DataType:
        return _ONNX[self._nodes[name].type]

    def get_tensor_shape(self, name: str) -> list[int]:
        return [n if isinstance(n, int) else -1 for n in self._nodes[name].shape]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return self._profiles[profile_index][name]

    def create_runtime_config(self) -> IRuntimeConfig:
        assert self._world.rtx
        return IRuntimeConfig()

    def create_execution_context(
        self,
        strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC,
        runtime_config: IRuntimeConfig | None = None,
    ) -> IExecutionContext | None:
        if self._world.refuses("create_execution_context"):
            return None
        if runtime_config is not None:
            assert self._world.rtx
            kernels = runtime_config.dynamic_shapes_kernel_specialization_strategy
            assert kernels == DynamicShapesKernelSpecializationStrategy.NONE and runtime_config._cache
            strategy = runtime_config._strategy
        assert strategy == ExecutionContextAllocationStrategy.USER_MANAGED
        self._world.contexts += 1
        kind = CapturableContext if self._world.rtx else IExecutionContext
        return kind(self._world, self)

    def _scratch(self, shapes: dict[str, list[int]]) -> int:
        """Memory for activations at these shapes of the inputs whose size varies."""
        return 1024 + 64 * sum(math.prod(shape) for shape in shapes.values())


class IExecutionContext:
    def __init__(self, world: World, engine: ICudaEngine) -> None:
        self._world, self._engine = world, engine
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._memory = (0, 0)
        self._stream: int | None = None

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        if not 0 <= profile_index < self._engine.num_optimization_profiles:
            return self._fail("profileIndex is out of range")
        self._profile, self._shapes = profile_index, {}
        return self._on(stream_handle)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        if self._world.refuses("set_input_shape"):
            return False
        if name not in self._engine._inputs:
            return self._fail(f"given invalid tensor name: {name}")
        least, _, most = self._engine._profiles[self._profile][name]
        if len(shape) != len(least) or not all(a <= n <= b for a, n, b in zip(least, shape, most)):
            return self._fail(f"Static dimension mismatch or out of profile: {name} {shape}")
        self._shapes[name] = tuple(shape)
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if name not in self._engine._nodes:
            return self._fail(f"given invalid tensor name: {name}")
        self._addresses[name] = memory
        return True

    def infer_shapes(self) -> list[str]:
        return [name for name in self._varying() if name not in self._shapes]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        node = self._engine._nodes[name]
        sizes = {}
        for given, shape in self._shapes.items():
            sizes |= dict(zip(self._engine._inputs[given].shape, shape))
        return tuple(n if isinstance(n, int) else sizes.get(n, -1) for n in node.shape)

    def update_device_memory_size_for_shapes(self) -> int:
        return 0 if self.infer_shapes() else self._needed()

    def set_device_memory(self, memory: int, size: int) -> None:
        if memory % self._world.alignment or size < self._needed():
            self._fail(f"The provided memory {memory:#x} of {size} bytes does not do")
        self._memory = memory, size

    def execute_async_v3(self, stream_handle: int) -> bool:
        if self._world.refuses("execute_async_v3"):
            return False
        if self.infer_shapes():
            return self._fail(f"Not all shapes are specified: {self.infer_shapes()}")
        unset = [name for name in self._engine._nodes if not self._addresses.get(name)]
        if unset:
            return self._fail(f"Neither address or allocator is set for tensor {unset[0]}")
        if not self._memory[0] or self._memory[1] < self._needed():
            return self._fail("The device memory is not set or too small")
        if not self._on(stream_handle):
            return False
        self._world.runs += 1
        self._world.queue(self._work())
        return True

    def _work(self) -> Callable[[], None]:
        """One run with the shapes, addresses and memory of now."""
        session, memory = self._engine._session, self._memory[0]
        shapes = {name: self.get_tensor_shape(name) for name in self._engine._nodes}
        addresses, needed = dict(self._addresses), self._needed()

        def array(name: str) -> np.ndarray:
            dtype = np.dtype(_NUMPY[self._engine.get_tensor_dtype(name)])
            size = math.prod(shapes[name]) * dtype.itemsize
            raw = (ctypes.c_uint8 * size).from_address(addresses[name])
            return np.frombuffer(raw, dtype).reshape(shapes[name])

        def work() -> None:
            feeds = {name: array(name).copy() for name in self._engine._inputs}
            ctypes.memset(memory, 0xA5, needed)
            for name, made in zip(self._engine._outputs, session.run(None, feeds)):
                assert made.shape == shapes[name], name
                array(name)[...] = made

        return work

    def _varying(self) -> list[str]:
        return [name for name in self._engine._inputs if -1 in self._engine.get_tensor_shape(name)]

    def _needed(self) -> int:
        return self._engine._scratch({name: list(shape) for name, shape in self._shapes.items()})

    def _on(self, stream: int) -> bool:
        if self._stream not in (None, stream):
            return self._fail("the context is used on two streams")
        self._stream = stream
        return True

    def _fail(self, message: str) -> bool:
        self._world.error(
            f"IExecutionContext: Error Code 3: API Usage Error (Parameter check failed, {message}."
        )
        return False


class CapturableContext(IExecutionContext):
    """As TensorRT for RTX has it."""

    def is_stream_capturable(self, stream: int) -> bool:
        return self._world.capturable


def make(name: str, version: str, library: Path | None = None) -> tuple[ModuleType, World]:
    """A module of that name, as it stands in `sys.modules`, and what its classes share."""
    world = World(version, library)
    world.rtx = name == "tensorrt_rtx"
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, origin="the stand-in")
    module.__version__ = version
    registry = IPluginRegistry(world)
    module.get_plugin_registry = lambda: registry
    module.Runtime = type("Runtime", (Runtime,), {"_world": world})
    for kind in (ILogger, DataType, TensorIOMode, TensorLocation, ExecutionContextAllocationStrategy):
        setattr(module, kind.__name__, kind)
    if world.rtx:
        module.DynamicShapesKernelSpecializationStrategy = DynamicShapesKernelSpecializationStrategy
    return module, world


def engine_file(graph: Path, version: str, profiles: list[dict[str, Any]], plugins: bool) -> bytes:
    """An engine of the stand-in for a graph of a bundle; profiles: (least, best, most) shapes by name."""
    told = {"magic": MAGIC, "version": version, "graph": str(graph), "profiles": profiles, "plugins": plugins}
    return json.dumps(told).encode()
