"""Sessions of TensorRT on the stand-ins for its bindings and for the driver: opened by name, captured."""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import tensorrt_stand_in as stand_in
import tiny
from devices import fake_gpu
from devices.fake_cuda import Node, Runtime, cudaGraphNodeType
from fake_tensorrt import World
from tensorrt_stand_in import bundle, library, tiny_with_engines

import sige_deploy as sige
from sige_deploy import native
from sige_deploy.bundle import Bundle
from sige_deploy.devices import cuda
from sige_deploy.runtimes import tensorrt
from sige_deploy.session import Session

__all__ = ["bundle", "library", "tiny_with_engines"]
BOX = slice(2, 6), slice(3, 9)


class cudaDeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 8
    cudaDevAttrComputeCapabilityMinor = 9


class cudaStreamCaptureStatus(IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1


class Driver(Runtime):
    """A GPU of compute capability 8.9."""

    cudaDeviceAttr, cudaStreamCaptureStatus = cudaDeviceAttr, cudaStreamCaptureStatus

    def cudaDeviceGetAttribute(self, kind: cudaDeviceAttr, index: int) -> tuple[int, int]:
        return 0, int(kind)

    def cudaStreamIsCapturing(self, stream: int) -> tuple[int, cudaStreamCaptureStatus]:
        return 0, cudaStreamCaptureStatus(self.capturing is not None)


@pytest.fixture
def driver(bundle: Bundle, library: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    """A driver, and native libraries that work on what it calls device memory."""
    made = Driver()
    monkeypatch.setattr(cuda, "_bindings", lambda device: made)
    monkeypatch.setattr(tensorrt, "CudaMemory", fake_gpu.Memory)
    kernels = fake_gpu.FakeGpu(bundle, library, made)._kernels
    monkeypatch.setattr(kernels, "check_device", lambda index: None)
    monkeypatch.setattr(native, "tensorrt", lambda manifest: (library, kernels))
    return made


def queued(world: World, driver: Driver) -> World:
    """Have runs go where the driver's stream takes them."""
    world.queue = lambda work: driver.add(Node(cudaGraphNodeType.cudaGraphNodeTypeKernel, work))
    world.alignment = 1  # the driver's is malloc's
    return world


@pytest.fixture(params=["tensorrt", "tensorrt_lean", "tensorrt_rtx"])
def opened(
    request: pytest.FixtureRequest,
    bundle: Bundle,
    library: Path,
    driver: Driver,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[tuple[Session, World]]:
    _, world = stand_in.install(request.param, library, monkeypatch)
    with sige.open(bundle.root, device="cuda:0", runtime="tensorrt") as session:
        yield session, queued(world, driver)


def test_captured_edits_equal_the_hosts(opened: tuple[Session, World], library: Path) -> None:
    """Two edits alternate, whose contexts share the memory for activations; each is captured when it comes
    again, and launched from then on, without TensorRT."""
    session, world = opened
    inputs = tiny.inputs()
    boxes = [BOX, (slice(0, 9), slice(0, 12))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(native.VARIABLE, str(library))
        plain = sige.open(session.bundle.root, threads=1)
    with plain:
        for each in (session, plain):
            each.record(**inputs)
        captured = []
        for turn in range(10):
            changed = tiny.edited(inputs, *boxes[turn % 2], by=1 + turn)
            wanted, got = plain.edit(**changed), session.edit(**changed)
            for name, value in wanted.items():
                assert got[name].tobytes() == value.tobytes(), (turn, name)
            captured.append(session.report.captured)
            if turn == 6:
                session.commit()
                plain.commit()
    assert captured == [False] * 2 + [True] * 8
    assert world.runs == 1 + 2 * 2  # the record; each edit as it is and under capture
    assert session.report.runtime.endswith(" cuda:0, native kernels")


def test_what_cannot_be_captured_runs_as_it_is(
    bundle: Bundle, library: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, world = stand_in.install("tensorrt_rtx", library, monkeypatch)
    queued(world, driver).capturable = False
    with sige.open(bundle.root, device="cuda:0", runtime="tensorrt") as session:
        session.record(**tiny.inputs())
        for turn in range(4):
            changed = tiny.edited(tiny.inputs(), *BOX, by=1 + turn)
            got = session.edit(**changed)["y"]
            assert not session.report.captured
        active = tiny.changed(tiny.inputs(), changed)
        wanted = tiny.sparse(tiny.inputs(), changed, active)
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=2e-5)
    assert driver.launches > 0  # looking at the inputs needs no TensorRT


def test_out_of_memory_says_so_and_the_session_goes_on(
    bundle: Bundle, library: Path, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, world = stand_in.install("tensorrt", library, monkeypatch)
    queued(world, driver)
    small, large = (tiny.edited(tiny.inputs(), *box) for box in (BOX, (slice(0, 9), slice(0, 12))))
    with sige.open(bundle.root, device="cuda:0", runtime="tensorrt") as session:
        world.refuse["deserialize_cuda_engine"] = (
            "deserializeCudaEngine: Error Code 2: OutOfMemory (Requested size was 2000000000 bytes.)"
        )
        with pytest.raises(sige.RuntimeFailure, match=r"out of memory: 2\.0 GB were needed and \d"):
            session.record(**tiny.inputs())
        session.record(**tiny.inputs())
        wanted = session.edit(**small)["y"]
        free = driver.memory
        driver.memory = 0  # for what follows
        with pytest.raises(sige.RuntimeFailure, match="cuda:0 is out of memory"):
            session.edit(**large)
        np.testing.assert_array_equal(session.edit(**small)["y"], wanted)
        driver.memory = free
        session.edit(**large)
