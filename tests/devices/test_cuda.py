"""GPU memory and captured graphs on a stand-in for the driver: what it is asked, what its errors become."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from sige_deploy.devices import cuda
from sige_deploy.devices.cuda import CudaMemory, device_index
from sige_deploy.devices.graphs import CudaGraphs
from sige_deploy.devices.memory import Buffer, host_array
from sige_deploy.errors import InputError, RuntimeFailure

from .fake_cuda import Error, Node, Runtime, cudaGraphNodeType


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    fake = Runtime()
    monkeypatch.setattr(cuda, "_bindings", lambda device: fake)
    return fake


@pytest.fixture
def memory(runtime: Runtime) -> Iterator[CudaMemory]:
    memory = CudaMemory("cuda")
    with memory.current():
        yield memory


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(RuntimeFailure) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 300
    return message


# Memory


def test_up_and_down_again(memory: CudaMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "STAGING", 1 << 12)
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 255, size, np.uint8) for size in (1, 700, 2048, 2049, 9000, 0, 300, 1900, 1900)]
    buffers = [memory.upload(array) for array in arrays]
    for array, buffer in zip(arrays, buffers):
        np.testing.assert_array_equal(memory.download(buffer), array)
    words = memory.upload(np.arange(6, dtype=np.int32).reshape(2, 3))
    np.testing.assert_array_equal(memory.download(words), [[0, 1, 2], [3, 4, 5]])
    copied = memory.empty([3, 2], np.int32)
    memory.copy(words, copied)
    memory.fill(words, 255)
    np.testing.assert_array_equal(memory.download(copied).reshape(-1), np.arange(6))
    assert (memory.download(words) == -1).all()


def test_memory_goes_back_when_nothing_refers_to_it(memory: CudaMemory, runtime: Runtime) -> None:
    free = memory.free_bytes()
    buffer = memory.empty([1000], np.float32)
    view = buffer.view([10])
    del buffer
    gc.collect()
    assert memory.free_bytes() == free - 4000
    del view
    gc.collect()
    assert memory.free_bytes() == free


def test_the_threads_own_device_comes_back(runtime: Runtime) -> None:
    runtime.devices = 3
    memory = CudaMemory("cuda:2")
    assert runtime.current == 0
    with memory.current(), memory.current():
        assert runtime.current == 2
    assert runtime.current == 0
    with pytest.raises(ValueError), memory.current():
        raise ValueError
    assert runtime.current == 0


def test_what_cannot_be_used_is_one_sentence(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "there is no device 'cuda:1': this machine has 1 CUDA device;" in refused(
        lambda: CudaMemory("cuda:1")
    )
    runtime.devices = 0
    assert "has 0 CUDA devices" in refused(lambda: CudaMemory("cuda:0"))
    monkeypatch.setattr(runtime, "cudaGetDeviceCount", lambda: (Error.cudaErrorInsufficientDriver, 0))
    assert "needs an NVIDIA driver for CUDA 13 or later" in refused(lambda: CudaMemory("cuda:0"))
    for wrong in ("gpu", "cuda:", "cuda:x", "cuda0", "cuda:0:0"):
        with pytest.raises(InputError, match="there is no device"):
            device_index(wrong)
    assert device_index("cuda:12") == 12 and device_index("cuda") == 0


def test_the_package_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    assert "cuda-bindings" in refused(lambda: CudaMemory("cuda:0"))


def test_out_of_memory_says_how_much(memory: CudaMemory, runtime: Runtime) -> None:
    message = refused(lambda: memory.empty([3 << 30], np.uint8))
    assert "cuda:0 is out of memory: 3.2 GB were needed and 1.1 GB are free" in message
    memory.empty([1 << 20], np.uint8)


def test_a_failing_device_says_so(memory: CudaMemory, runtime: Runtime) -> None:
    runtime.failing = Error.cudaErrorIllegalAddress
    assert "cuda:0 failed with 'cudaErrorIllegalAddress'" in refused(memory.synchronize)


def test_other_streams_are_waited_for(memory: CudaMemory, runtime: Runtime) -> None:
    memory.wait_for(17)
    assert runtime.waits == 1


# Graphs


class Work:
    """Copies one buffer to another, and counts how often it is asked to."""

    def __init__(self, memory: CudaMemory, also: Callable[[], Any] = lambda: None) -> None:
        self.memory, self.also, self.calls = memory, also, 0
        self.source, self.target = (memory.upload(np.zeros(4, np.int32)) for _ in range(2))

    def __call__(self) -> None:
        self.calls += 1
        self.memory.copy(self.source, self.target)
        self.also()

    def does(self, value: int) -> bool:
        """Whether what was queued last, or is launched now, copies this value."""
        return bool((self.memory.download(self.target) == value).all())

    def sets(self, value: int) -> None:
        self.memory.upload(np.full(4, value, np.int32), self.source)


def test_work_is_captured_when_it_comes_again(memory: CudaMemory, runtime: Runtime) -> None:
    graphs, work = CudaGraphs(memory), Work(memory)
    for value, captured, calls in [(1, False, 1), (2, True, 2), (3, True, 2), (4, True, 2)]:
        work.sets(value)
        assert graphs.run("a", work) is captured
        assert work.calls == calls and work.does(value)
    assert len(graphs) == 1 and runtime.launches == 3
    graphs.forget("a")
    assert len(graphs) == 0
    work.sets(5)
    assert not graphs.run("a", work) and work.does(5)


def test_the_least_recently_used_go(memory: CudaMemory) -> None:
    graphs = CudaGraphs(memory, budget=40 << 10)  # two graphs of one node
    works = {key: Work(memory) for key in "abc"}
    for key in "aabbcc":
        graphs.run(key, works[key])
    assert len(graphs) == 2
    assert graphs.run("b", works["b"]) and graphs.run("c", works["c"])
    assert works["b"].calls == works["c"].calls == 2
    graphs.run("a", works["a"])  # captured anew, in place of b
    assert works["a"].calls == 3 and len(graphs) == 2
    works["c"].sets(9)
    assert graphs.run("c", works["c"]) and works["c"].calls == 2 and works["c"].does(9)


def waits(memory: CudaMemory) -> Callable[[], None]:
    return memory.synchronize


def reads_the_host(memory: CudaMemory) -> Callable[[], None]:
    array = np.zeros(8, np.int32)
    buffer = memory.empty([8], np.int32)
    return lambda: memory.copy(Buffer(array.ctypes.data, [8], np.int32, array), buffer)


def writes_the_host(memory: CudaMemory) -> Callable[[], None]:
    """Pinned, but not where it is to be read."""
    source = memory.empty([8], np.int32)
    pinned = memory.call(memory.api.cudaHostAlloc, source.nbytes, 0)
    return lambda: memory.copy(source, source.at(pinned))


@pytest.mark.parametrize("make", [waits, reads_the_host, writes_the_host])
def test_what_cannot_be_repeated_stays_as_it_is(
    memory: CudaMemory, make: Callable[[CudaMemory], Callable[[], None]]
) -> None:
    graphs, work = CudaGraphs(memory), Work(memory, make(memory))
    for value in range(1, 5):
        work.sets(value)
        assert not graphs.run("a", work)
        assert work.does(value)
    assert len(graphs) == 0 and graphs.refused["a"]
    assert work.calls == 5  # captured once, in vain


def test_a_failing_work_fails_as_without_a_graph(memory: CudaMemory) -> None:
    def fail() -> None:
        raise RuntimeFailure("the engine failed.")

    graphs, work = CudaGraphs(memory), Work(memory)
    graphs.run("a", work)
    work.also = fail
    assert "the engine failed" in refused(lambda: graphs.run("a", work))
    work.also = lambda: None
    assert not graphs.run("a", work)


def test_what_is_fetched_lands_where_it_is_to_be_read(memory: CudaMemory, runtime: Runtime) -> None:
    source = memory.upload(np.arange(4, dtype=np.int32))
    landing = memory.landing(source)
    pointer, landed = landing.pointer, host_array(landing)
    memory.fetch(source, landing)
    memory.mark()
    memory.reach()
    np.testing.assert_array_equal(landed, np.arange(4))
    assert memory.lands(pointer) and pointer in runtime.blocks
    del landing, landed
    gc.collect()
    assert not memory.lands(pointer) and pointer not in runtime.blocks


def test_host_functions_are_taken_out(
    memory: CudaMemory, runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pinned memory that a host function would give back stays; what follows still comes after what was
    before."""
    given_back = []
    pinned = runtime.cudaHostAlloc(16, 0)[1]
    Buffer(pinned, [4], np.int32)
    parameters = memory.empty([4], np.int32)

    def engine() -> None:
        memory.copy(Buffer(pinned, [4], np.int32), parameters)
        runtime.add(Node(cudaGraphNodeType.cudaGraphNodeTypeHost, lambda: given_back.append(1)))
        memory.fill(parameters, 0)

    graphs, work = CudaGraphs(memory), Work(memory, engine)
    kept: list[Node] = []

    def instantiate(graph: list[Node], flags: int) -> tuple[Error, list[Node]]:
        kept.extend(graph)
        return Error.cudaSuccess, graph

    monkeypatch.setattr(runtime, "cudaGraphInstantiate", instantiate)
    for captured in (False, True, True):
        assert graphs.run("a", work) is captured
    assert given_back == [1]  # of the plain run
    _, copy, _, last = kept
    assert last.before == [copy] and copy.after == [last]
