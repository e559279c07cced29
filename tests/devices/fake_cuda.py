"""A stand-in for `cuda.bindings.runtime` on a machine without a GPU: device memory is host memory, work
happens at once, or while a stream is captured goes into a graph that a launch runs."""

from __future__ import annotations

import ctypes
import functools
import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from types import SimpleNamespace
from typing import Any


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class cudaMemoryType(IntEnum):
    cudaMemoryTypeUnregistered = 0
    cudaMemoryTypeHost = 1
    cudaMemoryTypeDevice = 2
    cudaMemoryTypeManaged = 3


class cudaGraphNodeType(IntEnum):
    cudaGraphNodeTypeKernel = 0
    cudaGraphNodeTypeMemcpy = 1
    cudaGraphNodeTypeMemset = 2
    cudaGraphNodeTypeHost = 3


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeRelaxed = 2


@dataclass(eq=False)
class Node:
    kind: cudaGraphNodeType
    run: Callable[[], object]
    source: int = 0
    target: int = 0
    before: list[Node] = field(default_factory=list)
    after: list[Node] = field(default_factory=list)


Error = cudaError_t
OK = Error.cudaSuccess


class Runtime:
    """The module's functions, with a driver of `devices` devices and `memory` bytes each.

    calls: how often each was called.
    """

    cudaError_t, cudaMemcpyKind, cudaMemoryType = cudaError_t, cudaMemcpyKind, cudaMemoryType
    cudaGraphNodeType, cudaStreamCaptureMode = cudaGraphNodeType, cudaStreamCaptureMode
    cudaStreamNonBlocking, cudaEventDisableTiming, cudaHostAllocDefault = 1, 2, 0
    CUDART_VERSION = 13000
    cudaGraphEdgeData = SimpleNamespace

    def __init__(self, devices: int = 1, memory: int = 1 << 30) -> None:
        self.devices, self.memory, self.current = devices, memory, 0
        self.blocks: dict[int, tuple[Any, int, cudaMemoryType]] = {}
        self.capturing: list[Node] | None = None
        self.launches = self.streams = self.waits = 0
        self.failing: Error | None = None  # what the next wait reports
        self.calls: Counter[str] = Counter()
        for name, function in inspect.getmembers(self, inspect.ismethod):
            if name.startswith("cuda"):
                setattr(self, name, self._counted(name, function))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Any:
            self.calls[name] += 1
            return function(*arguments)

        return call

    # devices and memory

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return (OK, self.devices) if self.devices else (Error.cudaErrorNoDevice, 0)

    def cudaGetDevice(self) -> tuple[Error, int]:
        return OK, self.current

    def cudaSetDevice(self, index: int) -> tuple[Error]:
        self.current = index
        return (OK,)

    def cudaMemGetInfo(self) -> tuple[Error, int, int]:
        used = sum(size for _, size, kind in self.blocks.values() if kind == 2)
        return OK, self.memory - used, self.memory

    def cudaMalloc(self, nbytes: int) -> tuple[Error, int]:
        if nbytes > self.cudaMemGetInfo()[1]:
            return Error.cudaErrorMemoryAllocation, 0
        return OK, self._allocate(nbytes, cudaMemoryType.cudaMemoryTypeDevice)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[Error, int]:
        return OK, self._allocate(nbytes, cudaMemoryType.cudaMemoryTypeHost)

    def _allocate(self, nbytes: int, kind: cudaMemoryType) -> int:
        block = ctypes.create_string_buffer(nbytes)
        self.blocks[ctypes.addressof(block)] = block, nbytes, kind
        return ctypes.addressof(block)

    def cudaFree(self, pointer: int) -> tuple[Error]:
        del self.blocks[pointer]
        return (OK,)

    cudaFreeHost = cudaFree

    def cudaPointerGetAttributes(self, pointer: int) -> tuple[Error, Any]:
        for start, (_, size, kind) in self.blocks.items():
            if start <= pointer < start + size:
                return OK, SimpleNamespace(type=kind)
        return OK, SimpleNamespace(type=cudaMemoryType.cudaMemoryTypeUnregistered)

    # streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        self.streams += 1
        return OK, self.streams

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:
        return (OK,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:
        return self._waited()

    def cudaEventSynchronize(self, event: int) -> tuple[Error]:
        return self._waited()

    def _waited(self) -> tuple[Error]:
        if self.capturing is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        failing, self.failing = self.failing, None
        return (failing or OK,)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Error, int]:
        return OK, 1

    def cudaEventRecord(self, event: int, stream: int) -> tuple[Error]:
        return (OK,)

    def cudaStreamWaitEvent(self, stream: int, event: int, flags: int) -> tuple[Error]:
        self.waits += 1
        return (OK,)

    def cudaEventDestroy(self, event: int) -> tuple[Error]:
        return (OK,)

    def cudaMemcpyAsync(self, target: int, source: int, nbytes: int, kind: int, stream: int) -> tuple[Error]:
        node = Node(
            cudaGraphNodeType.cudaGraphNodeTypeMemcpy,
            lambda: ctypes.memmove(target, source, nbytes),
            source,
            target,
        )
        return self.add(node)

    def cudaMemsetAsync(self, target: int, value: int, nbytes: int, stream: int) -> tuple[Error]:
        kind = cudaGraphNodeType.cudaGraphNodeTypeMemset
        return self.add(Node(kind, lambda: ctypes.memset(target, value, nbytes)))

    def add(self, node: Node) -> tuple[Error]:
        """Queue work: at once, or into the graph being captured."""
        if self.capturing is None:
            node.run()
        else:
            if self.capturing:
                node.before, self.capturing[-1].after = [self.capturing[-1]], [node]
            self.capturing.append(node)
        return (OK,)

    # errors

    def cudaGetErrorString(self, error: Error) -> tuple[Error, bytes]:
        return OK, error.name.encode()

    def cudaGetLastError(self) -> tuple[Error]:
        return (OK,)

    # graphs

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Error]:
        self.capturing = []
        return (OK,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, list[Node] | None]:
        graph, self.capturing = self.capturing, None
        return OK, graph

    def cudaGraphGetNodes(self, graph: list[Node], count: int = 0) -> tuple[Error, list[Node], int]:
        return OK, list(graph)[:count], len(graph)

    def cudaGraphNodeGetType(self, node: Node) -> tuple[Error, cudaGraphNodeType]:
        return OK, node.kind

    def cudaGraphMemcpyNodeGetParams(self, node: Node) -> tuple[Error, Any]:
        source, target = SimpleNamespace(ptr=node.source), SimpleNamespace(ptr=node.target)
        return OK, SimpleNamespace(srcPtr=source, dstPtr=target)

    def cudaGraphNodeGetDependencies(self, node: Node, count: int = 0) -> tuple[Error, list[Node], list, int]:
        return OK, node.before[:count], [], len(node.before)

    def cudaGraphNodeGetDependentNodes(
        self, node: Node, count: int = 0
    ) -> tuple[Error, list[Node], list, int]:
        return OK, node.after[:count], [], len(node.after)

    def cudaGraphDestroyNode(self, node: Node) -> tuple[Error]:
        for other in node.before:
            other.after.remove(node)
        for other in node.after:
            other.before.remove(node)
        node.run = lambda: None
        return (OK,)

    def cudaGraphAddDependencies(
        self, graph: list[Node], before: list[Node], after: list[Node], data: list, count: int
    ) -> tuple[Error]:
        assert len(before) == len(after) == len(data) == count
        for a, b in zip(before, after):
            a.after.append(b)
            b.before.append(a)
        return (OK,)

    def cudaGraphInstantiate(self, graph: list[Node], flags: int) -> tuple[Error, list[Node]]:
        return OK, list(graph)

    def cudaGraphDestroy(self, graph: list[Node]) -> tuple[Error]:
        return (OK,)

    def cudaGraphExecDestroy(self, graph: list[Node]) -> tuple[Error]:
        graph.clear()
        return (OK,)

    def cudaGraphLaunch(self, graph: list[Node], stream: int) -> tuple[Error]:
        assert graph
        self.launches += 1
        for node in graph:
            node.run()
        return (OK,)
