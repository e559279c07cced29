"""Recorded states brought to buffers: edits give the bits that they gave where the state was recorded, and
only what they read is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tiny

from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.devices import cuda, parcels
from sige_deploy.devices.base import Needs
from sige_deploy.devices.kept import KeptBuffers
from sige_deploy.devices.memory import Buffer
from sige_deploy.errors import CacheError, RuntimeFailure, StateError
from sige_deploy.runs.reading import Reader
from sige_deploy.runs.state import Layout, State
from sige_deploy.runs.tiers import Budget, Rooms
from sige_deploy.runs.track import Track
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers
from sige_deploy.session import Session

from .fake_cuda import Error, Runtime, cudaMemoryType
from .fake_gpu import FakeGpu

MASK = np.zeros((tiny.H, tiny.W), bool)
MASK[3:6, 4:9] = True
Make = Callable[[Bundle], OnnxRuntimeOnBuffers]


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    fake = Runtime()
    monkeypatch.setattr(cuda, "_bindings", lambda device: fake)
    return fake


@pytest.fixture(params=["host memory", "stand-in"])
def session(
    request: pytest.FixtureRequest, tiny_path: Path, library: Path, on_buffers: Make, driver: Runtime
) -> Iterator[Session]:
    bundle = open_bundle(tiny_path)
    gpu = request.param == "stand-in"
    with Session(bundle, FakeGpu(bundle, library, driver) if gpu else on_buffers(bundle)) as opened:
        yield opened


def kept(session: Session, storage: str = "exact") -> State:
    """The recorded state, in the memory that the device copies from fast."""
    layout = Layout(session.bundle.manifest, storage)  # type: ignore[arg-type]
    with session.held() as device:
        state = State(layout, device.block(layout.nbytes))
        state.fill(device.arrays())
    return state


def edited(session: Session, step: int) -> dict[str, bytes]:
    changed = tiny.edited(tiny.inputs(step), slice(3, 6), slice(4, 9), 1.0 + step)
    return {name: value.tobytes() for name, value in session.edit(mask=MASK, **changed).items()}


def test_two_parcels_in_turn(session: Session) -> None:
    wanted, states, on_device = [], [], []
    for step in range(4):
        session.record(**tiny.inputs(step))
        states.append(kept(session))
        with session.held() as device:
            on_device.append(device.keep())
        wanted.append(edited(session, step))
    with session.held() as device:
        needs = Reader(session.bundle, device.gpu).read(MASK).needs
        parcels = [device.parcel(), device.parcel()]
        for sources, what in ((states, needs), (states, Needs()), (on_device, needs), (states, needs)):
            for step in (0, 1, 2, 3, 1):
                source = sources[step]
                assert source is not None
                parcels[step % 2].load(source, what)
                session.put(parcels[step % 2])
                assert edited(session, step) == wanted[step]
        session.put(None)
    with pytest.raises(StateError, match="call record or load first"):
        edited(session, 0)


class Sends:
    """What couriers send from now on: (address, bytes) of each copy."""

    def __init__(self, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent: list[tuple[int, int]] = []
        with session.held() as device:
            kind = type(device.memory.courier())  # type: ignore[attr-defined]
        send = kind.send

        def noted(courier: object, source: Buffer, target: Buffer) -> None:
            self.sent.append((source.pointer, source.nbytes))
            send(courier, source, target)

        monkeypatch.setattr(kind, "send", noted)


def test_pinned_memory_is_sent_from_where_it_is(
    session: Session, driver: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What edits read whole goes by one copy, from where it is; of the rest, the rows alone are packed."""
    session.record(**tiny.inputs(0))
    state, sends = kept(session), Sends(session, monkeypatch)
    with session.held() as device:
        needs = Reader(session.bundle, device.gpu).read(MASK).needs
        parcel = device.parcel()
        parcel.load(state, needs)
        front = state.layout.begins["cache.base.h"]
        rows = (needs.rows or {})["cache.base.h"].size * tiny.B * tiny.C * 4
        whole = state.front()
        assert whole is not None
        host = parcel._host  # type: ignore[attr-defined]
        assert sends.sent == [(whole.ctypes.data, front), (host.pointer, rows)]
        assert rows <= host.nbytes < 1.25 * rows + 512
        if driver.blocks:
            pinned = [
                size for _, size, kind in driver.blocks.values() if kind == cudaMemoryType.cudaMemoryTypeHost
            ]
            assert state.nbytes in pinned


@pytest.mark.parametrize("storage", ["exact", "float16", "int8"])
def test_threads_pack_what_one_would(session: Session, monkeypatch: pytest.MonkeyPatch, storage: str) -> None:
    """Of a state that is not pinned, or is coded: in many pieces, each sent once."""
    session.record(**tiny.inputs(0))
    layout = Layout(session.bundle.manifest, storage)  # type: ignore[arg-type]
    state = State(layout, np.zeros(layout.nbytes, np.uint8))
    with session.held() as device:
        state.fill(device.arrays())
        needs = Reader(session.bundle, device.gpu).read(MASK).needs
        monkeypatch.setattr(device.memory, "lands", lambda pointer: False)  # type: ignore[attr-defined]
        found = []
        for piece in (1 << 30, 64):
            monkeypatch.setattr(parcels, "PIECE", piece)
            sends = Sends(session, monkeypatch)
            parcel = device.parcel()
            parcel.load(state, needs)
            if piece == 64:
                assert len(sends.sent) > 3
                starts = sorted(sends.sent)
                assert all(a + size <= b for (a, size), (b, _) in pairwise(starts))
            else:
                assert len(sends.sent) == 1
            session.put(parcel)
            found.append(edited(session, 0))
        assert found[0] == found[1]


def test_a_state_that_cannot_be_read_leaves_no_thread_at_work(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.record(**tiny.inputs(0))
    state, wanted = kept(session, "float16"), edited(session, 0)
    monkeypatch.setattr(parcels, "PIECE", 64)
    with session.held() as device:
        needs = Reader(session.bundle, device.gpu).read(MASK).needs
        parcel = device.parcel()

        def refuse(name: str, pixels: np.ndarray) -> np.ndarray:
            raise CacheError("the file is damaged.")

        with monkeypatch.context() as patch:
            patch.setattr(state, "rows", refuse)
            with pytest.raises(CacheError, match="the file is damaged"):
                parcel.load(state, needs)
        parcel.load(state, needs)
        session.put(parcel)
        assert edited(session, 0).keys() == wanted.keys()


def test_every_tier_gives_the_same_bits(session: Session) -> None:
    wanted = []
    for step in range(3):
        session.record(**tiny.inputs(step))
        wanted.append(edited(session, step))
    room = 1 << 30
    for tier, budget in {
        "device": Budget(device=room, host=0),
        "host": Budget(device=0, host=room),
        "disk": Budget(device=0, host=0, disk=room),
        "none": Budget(device=0, host=0),
    }.items():
        track = Track(session, 3, Rooms(budget))
        for step in range(3):
            track.record(step, **tiny.inputs(step))
        assert track.tiers == [tier] * 3 and track.pageable == 0
        for _ in range(2):
            assert [edited(session, step) for step in track.walk(range(3), MASK)] == wanted, tier
        track.close()


def test_what_the_system_does_not_pin_is_kept_and_told(
    session: Session, driver: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget = Budget(device=0, host=1 << 30)
    wanted = []
    for step in range(3):
        session.record(**tiny.inputs(step))
        wanted.append(edited(session, step))
    with session.held() as device:
        if device.memory.backend == 0 and not driver.blocks:  # type: ignore[attr-defined]
            pytest.skip("host memory is not pinned")
    track = Track(session, 3, Rooms(budget))
    track.record(0, **tiny.inputs(0))
    assert track.pageable == 0
    monkeypatch.setattr(driver, "cudaHostAlloc", lambda *_: (Error.cudaErrorMemoryAllocation, 0))
    for step in (1, 2):
        track.record(step, **tiny.inputs(step))
    assert track.tiers == ["host"] * 3
    assert track.pageable == 2 * Layout(session.bundle.manifest).nbytes
    for _ in range(2):
        assert [edited(session, step) for step in track.walk(range(3), MASK)] == wanted
    track.close()
    assert track.pageable == 0


def test_coded_states_are_packed_as_they_were_recorded(session: Session) -> None:
    session.record(**tiny.inputs(0))
    wanted = edited(session, 0)
    state = kept(session, "float16")
    with session.held() as device:
        parcel = device.parcel()
        parcel.load(state, Reader(session.bundle, device.gpu).read(MASK).needs)
        session.put(parcel)
        got = edited(session, 0)
        assert got.keys() == wanted.keys() and got != wanted
        one, other = (np.frombuffer(x["y"], np.float32) for x in (got, wanted))
        np.testing.assert_allclose(one, other, atol=0.02)


def test_rows_of_a_state_on_the_device(session: Session) -> None:
    session.record(**tiny.inputs(0))
    with session.held() as device:
        copy = device.keep()
        assert copy is not None and copy.nbytes == Layout(session.bundle.manifest).nbytes
        pixels = np.array([3, 17, 200], np.int32)
        before = copy.array("cache.base.h")
        np.testing.assert_array_equal(copy.rows("cache.base.h", pixels), before[:, pixels])
        raw = copy.raw("cache.base.h", pixels)
        copy.write("cache.base.h", pixels, np.ones((tiny.B, 3, tiny.C), np.float32))
        assert (copy.array("cache.base.h")[:, pixels] == 1).all()
        copy.put_raw("cache.base.h", pixels, raw)
        np.testing.assert_array_equal(copy.array("cache.base.h"), before)
        copy.replace("input.gain", np.full(1, 3, np.float32))
        assert copy.array("input.gain") == 3


def test_a_state_that_is_there_already_is_not_copied(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.record(**tiny.inputs(0))
    wanted = edited(session, 0)
    with session.held() as device:
        first, parcel, copied = device.keep(), device.parcel(), []
        copy = device.memory.copy  # type: ignore[attr-defined]

        def counting(source: Buffer, target: Buffer) -> None:
            if target is device.storage_block:  # type: ignore[attr-defined]
                copied.append(source)
            copy(source, target)

        monkeypatch.setattr(device.memory, "copy", counting)  # type: ignore[attr-defined]

        def again(source: KeptBuffers | None) -> tuple[dict[str, bytes], int]:
            """(what an edit of this state gives, how many copies bringing it took)."""
            assert source is not None
            copied.clear()
            parcel.load(source, Needs())
            session.put(parcel)
            return edited(session, 0), len(copied)

        for _ in range(2):
            assert again(first) == (wanted, 0)
            session.put(None)
        session.record(**tiny.inputs(1))
        assert again(first) == (wanted, 1)
        second = device.keep()
        assert again(second) == (wanted, 0)
        assert again(first) == (wanted, 1) and again(first) == (wanted, 0)
        session.edit(mask=MASK, **tiny.edited(tiny.inputs(0), slice(3, 6), slice(4, 9), 2.0))
        session.commit()
        assert again(first) == (wanted, 1)
        first.replace("cache.base.h", np.zeros_like(first.array("cache.base.h")))
        other, copies = again(first)
        assert other != wanted and copies == 1
        assert again(second) == (wanted, 1)


def test_no_room_for_a_copy_says_so(session: Session, driver: Runtime) -> None:
    session.record(**tiny.inputs(0))
    if not driver.blocks:
        pytest.skip("host memory has no budget of its own")
    driver.memory = 0
    with session.held() as device, pytest.raises(RuntimeFailure, match="is out of memory"):
        device.keep()
