"""Work that repeats on fixed buffers: run as it is, or captured once as a CUDA graph and then launched."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from sige_deploy.devices.cuda import CudaMemory, quietly
from sige_deploy.devices.memory import Courier
from sige_deploy.errors import RuntimeFailure

BUDGET = 256 << 20  # bytes of device memory for the captured graphs of one session
NODE_BYTES = 16 << 10  # what a node is taken to cost at least; the driver allocates in larger pieces


class Graphs(Protocol):
    """Runs work by key: the same key always means the same work on the same addresses."""

    def run(self, key: Hashable, work: Callable[[], None], beside: Courier | None = None) -> bool:
        """Have the work done, stream-ordered; returns whether a captured graph did it. beside: whose stream a
        captured graph is launched on instead of the memory's."""

    def forget(self, key: Hashable) -> None:
        """The addresses of this key's work are no longer valid."""

    def __len__(self) -> int:
        """Captured graphs that are kept."""


class Direct:
    """Work without graphs, for memory that has none."""

    def run(self, key: Hashable, work: Callable[[], None], beside: Courier | None = None) -> bool:
        work()
        return False

    def forget(self, key: Hashable) -> None:
        pass

    def __len__(self) -> int:
        return 0


@dataclass
class _Captured:
    launchable: Any  # cudaGraphExec_t
    nbytes: int


class _Refused(Exception):
    """Why some work cannot be captured."""


class CudaGraphs:
    """Work of a CUDA stream: the first time a key comes it runs as it is, when it comes again it is captured.

    Captured graphs stay within `budget` bytes: the least recently used go. Work that cannot be captured (it
    waits for the device, or copies from host memory that it gives back) goes on running as it is; `refused`
    says why, by key.
    """

    def __init__(self, memory: CudaMemory, budget: int = BUDGET) -> None:
        self._memory, self._budget = memory, budget
        self._api = memory.api
        self._captured: OrderedDict[Hashable, _Captured] = OrderedDict()
        self._seen: set[Hashable] = set()
        self.refused: dict[Hashable, str] = {}

    def run(self, key: Hashable, work: Callable[[], None], beside: Courier | None = None) -> bool:
        captured = self._captured.get(key)
        if captured is None and key in self._seen and key not in self.refused:
            captured = self._capture(key, work)
        if captured is None:
            work()
            self._seen.add(key)
            return False
        self._captured.move_to_end(key)
        stream = self._memory.handle if beside is None else beside.stream()
        self._memory.call(self._api.cudaGraphLaunch, captured.launchable, stream)
        return True

    def forget(self, key: Hashable) -> None:
        self._seen.discard(key)
        self.refused.pop(key, None)
        if key in self._captured:
            self._release(key)

    def __len__(self) -> int:
        return len(self._captured)

    def _capture(self, key: Hashable, work: Callable[[], None]) -> _Captured | None:
        """The captured work, kept under its key; None where it cannot be captured."""
        before = self._memory.free_bytes()
        try:
            graph = self._record(work)
            with self._owned(graph):
                nodes = self._nodes(graph)
                self._make_repeatable(graph, nodes)
                launchable = self._memory.call(self._api.cudaGraphInstantiate, graph, 0)
        except (_Refused, RuntimeFailure) as error:
            self._memory.forget_failures()
            self.refused[key] = str(error)
            return None
        nbytes = max(before - self._memory.free_bytes(), len(nodes) * NODE_BYTES)
        captured = self._captured[key] = _Captured(launchable, nbytes)
        while len(self._captured) > 1 and sum(x.nbytes for x in self._captured.values()) > self._budget:
            self._release(next(iter(self._captured)))
        return captured

    def _record(self, work: Callable[[], None]) -> Any:
        """The work as a cudaGraph_t, nothing executed. Raises RuntimeFailure where it fails under capture."""
        api, stream = self._api, self._memory.handle
        self._memory.synchronize()
        # Relaxed: engines may allocate on the way, which other threads' work does not disturb.
        relaxed = api.cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed
        self._memory.call(api.cudaStreamBeginCapture, stream, relaxed)
        try:
            work()
        except BaseException:
            _, graph = api.cudaStreamEndCapture(stream)
            quietly(api.cudaGraphDestroy, graph)
            raise
        return self._memory.call(api.cudaStreamEndCapture, stream)

    @contextlib.contextmanager
    def _owned(self, graph: Any) -> Iterator[None]:
        try:
            yield
        finally:
            quietly(self._api.cudaGraphDestroy, graph)

    def _nodes(self, graph: Any) -> list[Any]:
        api = self._api
        _, count = self._memory.call(api.cudaGraphGetNodes, graph)
        return list(self._memory.call(api.cudaGraphGetNodes, graph, count)[0] or [])

    def _make_repeatable(self, graph: Any, nodes: list[Any]) -> None:
        """See to it that launching the graph again does the same again, or raise _Refused.

        ONNX Runtime hands some kernels parameters through pinned host memory, which a host function at the
        end of a run gives back. That function is taken out of the graph: so the memory stays as it is until
        the engine goes. Any other copy from or to the host is not repeatable.
        """
        api, call = self._api, self._memory.call
        kinds = api.cudaGraphNodeType
        for node in nodes:
            kind = call(api.cudaGraphNodeGetType, node)
            if kind == kinds.cudaGraphNodeTypeMemcpy and not self._stays(node):
                raise _Refused("it copies from or to host memory that it gives back")
            if kind == kinds.cudaGraphNodeTypeHost:
                self._bypass(graph, node)

    def _stays(self, node: Any) -> bool:
        """Whether a copy reads device memory or pinned host memory, and writes device memory."""
        api = self._api
        copy = self._memory.call(api.cudaGraphMemcpyNodeGetParams, node)
        memory = api.cudaMemoryType
        device = (memory.cudaMemoryTypeDevice, memory.cudaMemoryTypeManaged)

        def kind(pointer: Any) -> Any:
            error, attributes = api.cudaPointerGetAttributes(pointer)
            return attributes.type if error == 0 else memory.cudaMemoryTypeUnregistered

        source, target = copy.srcPtr.ptr, copy.dstPtr.ptr
        return kind(source) in (*device, memory.cudaMemoryTypeHost) and kind(target) in device

    def _bypass(self, graph: Any, node: Any) -> None:
        """Take a node out: what came after it comes after what came before it."""
        api, call = self._api, self._memory.call
        # Before version 13 the calls with edge data have a suffix.
        before_of = getattr(api, "cudaGraphNodeGetDependencies_v2", api.cudaGraphNodeGetDependencies)
        after_of = getattr(api, "cudaGraphNodeGetDependentNodes_v2", api.cudaGraphNodeGetDependentNodes)
        connect = getattr(api, "cudaGraphAddDependencies_v2", api.cudaGraphAddDependencies)
        before = call(before_of, node, call(before_of, node)[-1])[0] or []
        after = call(after_of, node, call(after_of, node)[-1])[0] or []
        call(api.cudaGraphDestroyNode, node)
        pairs = [(a, b) for a in before for b in after]
        if pairs:
            plain = [api.cudaGraphEdgeData() for _ in pairs]
            call(connect, graph, [a for a, _ in pairs], [b for _, b in pairs], plain, len(pairs))

    def _release(self, key: Hashable) -> None:
        self._memory.synchronize()
        quietly(self._api.cudaGraphExecDestroy, self._captured.pop(key).launchable)

    def __del__(self) -> None:
        for captured in self._captured.values():
            quietly(self._api.cudaGraphExecDestroy, captured.launchable)
