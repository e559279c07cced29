"""The recorded states of one session, one for each step of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sige_deploy import rows
from sige_deploy.devices.base import Device, Fresh, Kept, Needs, Parcel
from sige_deploy.devices.memory import HostMemory, host_array
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.inputs import as_numpy
from sige_deploy.runs.drift import Drift, Worst
from sige_deploy.runs.reading import Reader, Reading
from sige_deploy.runs.state import Layout, State
from sige_deploy.runs.tiers import Costs, Rooms, Tier, spill
from sige_deploy.session import Session

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Slot:
    """Where the state of a step is. writable: it is the track's own, not a saved run's. edited: commits were
    written into it, so that recording its inputs anew would give another state. nbytes: of its budget."""

    tier: Tier
    kept: Kept
    writable: bool = True
    edited: bool = False
    nbytes: int = 0


@dataclass(frozen=True)
class Before:
    """What a commit overwrote of one step: the slot, which another one replaced or else whose rows and arrays
    were written over."""

    step: int
    slot: Slot
    replaced: bool
    rows: Mapping[str, tuple[np.ndarray, list[np.ndarray]]]
    whole: Mapping[str, np.ndarray]


class Track:
    """States of `steps` calls of one session, within the room that several tracks share.

    A session that serves a track has no state in force but during `walk`. Nothing here is for several threads
    at once.
    """

    def __init__(self, session: Session, steps: int, rooms: Rooms) -> None:
        self.session, self.rooms = session, rooms
        self.manifest = session.bundle.manifest
        self.costs = Costs()
        self._exact = Layout(self.manifest)
        self._coded = Layout(self.manifest, rooms.budget.storage)
        self._light = Layout(self.manifest, with_caches=False)
        self._plan: list[Tier] = rooms.plan(steps, self._exact.nbytes, self._coded.nbytes)
        self._planned = [True] * steps  # whether the room is taken for the plan, not for a slot
        self.slots: list[Slot | None] = [None] * steps
        self._reader: Reader | None = None
        self._parcels: list[Parcel] = []
        self._brought: dict[tuple[int, Tier], int] = {}  # by parcel, the most bytes that it brought
        self._pool: ThreadPoolExecutor | None = None

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def tiers(self) -> list[Tier]:
        """Where each recorded step's state is."""
        return [slot.tier for slot in self.slots if slot is not None]

    @property
    def pageable(self) -> int:
        """Bytes of states on the host that the system would not pin for the GPU: each load copies what it
        reads of them into pinned memory first. 0 where the device is the host."""
        kept = [slot.kept for slot in self.slots if slot is not None]
        return sum(state.nbytes for state in kept if isinstance(state, State) and state.pageable)

    def record(self, step: int, **inputs: Any) -> Arrays:
        """Run the whole network for a step and keep its state; returns its outputs. An earlier state of the
        step stays if this raises."""
        with self.session.held() as device:
            outputs = self._recorded(inputs)
            self._drop(step)
            self._begin(step)
            self.slots[step] = self._keep(device, self._plan[step])
            self.session.put(None)
        return outputs

    def adopt(self, step: int, kept: State, edited: bool) -> None:
        """Take up a saved state; it is read where it is. edited: whether commits were written into it."""
        self._drop(step)
        self._begin(step)
        tier: Tier = "disk" if kept.layout.with_caches else "none"
        self.slots[step] = Slot(tier, kept, writable=False, edited=edited)

    def inputs(self, step: int) -> Arrays:
        """The inputs of a step's state, new arrays by name."""
        return self._arrays(step, "input")

    def outputs(self, step: int) -> Arrays:
        """Likewise its outputs."""
        return self._arrays(step, "output")

    def slot(self, step: int) -> Slot:
        """Where a step's state is. Raises InputError where none is recorded."""
        slot = self.slots[step] if -len(self.slots) <= step < len(self.slots) else None
        if slot is None:
            raise InputError(f"step {step} of this run is not recorded; record it first.")
        return slot

    def block(self, step: int) -> tuple[Layout, np.ndarray]:
        """A step's state as one block of bytes and its layout."""
        kept = self.slot(step).kept
        if isinstance(kept, State):
            return kept.layout, kept.checked_block()
        with self.session.held():
            state = State(self._exact, np.zeros(self._exact.nbytes, np.uint8))
            for name in self._exact.entries:
                state.replace(name, kept.array(name))
        return self._exact, state.block

    def read(self, mask: np.ndarray) -> Reading:
        """What edits with this mask read: bool [H, W] at the first spatial input's size."""
        if self._reader is None:
            with self.session.held() as device:
                self._reader = Reader(self.session.bundle, device.gpu)
        return self._reader.read(mask)

    def walk(self, steps: Sequence[int], mask: np.ndarray | None = None) -> Generator[int, None, None]:
        """Put the states of these steps in force one after the other, for edits with `mask` (None: any edit)
        on the session, and yield each step; meanwhile the next state is brought. States that are kept
        nowhere, or that recording is expected to give sooner, are recorded anew. The session is held until
        the walk is at its end or closed: `with contextlib.closing(track.walk(...)) as steps: ...`."""
        steps = list(steps)
        tiers = {self.slot(step).tier for step in steps}
        needs = Needs() if mask is None or tiers <= {"device"} else self.read(mask).needs
        with self.session.held() as device:
            nbytes = self._read_bytes(needs)
            jobs: dict[int, Future[None] | None] = {}

            def begin(n: int) -> None:
                if n < len(steps):
                    slot = self.slot(steps[n])
                    jobs[n] = None if self._recompute(slot, needs, nbytes) else self._bring(
                        device, n, slot, needs, nbytes
                    )  # fmt: skip

            try:
                begin(0)
                for n, step in enumerate(steps):
                    begin(n + 1)
                    job = jobs.pop(n)
                    if job is None:
                        self._recorded(self.inputs(step))
                    else:
                        job.result()
                        self.session.put(self._parcels[n % 2])
                    started = time.perf_counter()
                    yield step
                    self.costs.edited(time.perf_counter() - started)
            finally:
                for job in jobs.values():
                    if job is not None and not job.cancel():
                        job.exception()
                self.session.put(None)  # it may hold only what these edits read

    def commit(self, edits: Mapping[int, Mapping[str, Any]], mask: np.ndarray) -> list[Before]:
        """Run edits, inputs by step, and make what they compute part of the states; returns what `undo` takes
        to have the states as they were, bit for bit. If it raises, they are."""
        done: list[Before] = []
        try:
            with contextlib.closing(self.walk(sorted(edits), mask)) as steps:
                for step in steps:
                    inputs = edits[step]
                    outputs = self.session.edit(mask=mask, **inputs)
                    with self.session.held() as device:
                        path = self.session.report.path
                        if path == "sparse":
                            done.append(self._write(device, step, device.fresh(), inputs, outputs))
                        elif path == "dense":
                            done.append(self._replace(device, step, inputs))
        except BaseException:
            self.undo(done)
            raise
        return done

    def undo(self, befores: Sequence[Before]) -> None:
        """Have everything as it was before a commit; of several commits the last one first."""
        with self.session.held():
            for before in reversed(befores):
                if before.replaced:
                    self._drop(before.step)
                self.slots[before.step] = before.slot
                for name, (pixels, raw) in before.rows.items():
                    before.slot.kept.put_raw(name, pixels, raw)
                for name, value in before.whole.items():
                    before.slot.kept.replace(name, value)

    def forget(self, befores: Sequence[Before]) -> None:
        """A commit will not be undone any more: give back what only its undoing needs."""
        for before in befores:
            if before.replaced:
                self.rooms.give(before.slot.tier, before.slot.nbytes)

    def drift(self) -> Drift:
        """How far the states are from what recording their inputs anew gives; records every step."""
        outputs, bases = Worst(), Worst()
        with self.session.held() as device:
            for step in range(len(self)):
                kept = self.slot(step).kept
                self._recorded(self.inputs(step))
                for name, fresh in device.arrays().items():
                    if name.startswith("output."):
                        outputs.add(kept.array(name), fresh)
                    elif name.startswith("cache.") and self.slot(step).tier != "none":
                        bases.add(kept.array(name), fresh)
            self.session.put(None)
        return Drift(outputs.psnr, bases.psnr)

    def close(self) -> None:
        """Give back all states; the session stays open."""
        if self._pool is not None:
            self._pool.shutdown()
        for step in range(len(self.slots)):
            self._drop(step)
            self._begin(step)
        self._pool, self._parcels, self._brought = None, [], {}

    # ---- bringing

    def _bring(self, device: Device, n: int, slot: Slot, needs: Needs, nbytes: int) -> Future[None]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="sige-run")
            self._parcels = [device.parcel(), device.parcel()]
        parcel = self._parcels[n % 2]
        if slot.tier == "device":  # nothing is brought before its turn
            parcel.load(slot.kept, needs)
            there: Future[None] = Future()
            there.set_result(None)
            return there

        def load() -> None:
            if isinstance(slot.kept, State):
                slot.kept.checked_block()  # a saved one is hashed once, which is no load
            started = time.perf_counter()
            with device.current():
                parcel.load(slot.kept, needs)
            # A parcel that brings more than ever before gets memory first, and to pin that takes far longer
            # than a load: such a time says nothing of the next one.
            before = self._brought.get((n % 2, slot.tier), -1)
            if nbytes <= before:
                self.costs.loaded(slot.tier, nbytes, time.perf_counter() - started)
            self._brought[n % 2, slot.tier] = max(before, nbytes)

        return self._pool.submit(load)

    def _recompute(self, slot: Slot, needs: Needs, nbytes: int) -> bool:
        """Whether to record a step anew. That must not change a bit, so not what has commits written into it
        or is kept in fewer bits."""
        if slot.tier == "device":
            return False
        if slot.tier == "none":
            return needs.caches
        lossy = isinstance(slot.kept, State) and slot.kept.layout.storage != "exact"
        if not needs.caches or slot.edited or lossy:
            return False
        return self.costs.recompute(slot.tier, nbytes)

    def _recorded(self, inputs: Mapping[str, Any]) -> Arrays:
        self.session.put(None)
        started = time.perf_counter()
        outputs = self.session.record(**inputs)
        self.costs.recorded(time.perf_counter() - started)
        return outputs

    def _read_bytes(self, needs: Needs) -> int:
        if self._reader is None:
            return self._exact.nbytes
        return self._reader.nbytes(needs)

    # ---- keeping

    def _keep(self, device: Device, tier: Tier) -> Slot:
        """Keep the state in force in a tier, or the next slower one that has room."""
        order: list[Tier] = ["device", "host", "disk", "none"]
        for choice in order[order.index(tier) :]:
            nbytes = self._size(choice)
            if not self.rooms.take(choice, nbytes):
                continue
            layout = {"device": self._exact, "none": self._light}.get(choice, self._coded)
            try:
                kept = device.keep() if choice == "device" else None
                if kept is None:
                    kept = self._new_state(device, choice, layout)
                    whole = layout.front == self._exact.nbytes and kept.in_memory
                    if not (whole and device.fill(kept.block)):
                        kept.fill(device.arrays())
            except BaseException:
                self.rooms.give(choice, nbytes)
                raise
            return Slot(choice, kept, nbytes=nbytes)
        raise AssertionError("'none' has room for all")

    def _new_state(self, device: Device, tier: Tier, layout: Layout) -> State:
        if tier == "disk":
            return State(layout, spill(layout.nbytes, self.rooms.budget.folder), in_memory=False)
        if tier == "none":
            return State(layout, np.empty(layout.nbytes, np.uint8))
        try:
            return State(layout, device.block(layout.nbytes))
        except RuntimeFailure:  # the system pins no more
            return State(layout, host_array(HostMemory().empty([layout.nbytes], np.uint8)), pageable=True)

    def _size(self, tier: Tier) -> int:
        return 0 if tier == "none" else (self._exact if tier == "device" else self._coded).nbytes

    def _begin(self, step: int) -> None:
        """The plan's room for a step is free for its slot."""
        if self._planned[step]:
            self.rooms.give(self._plan[step], self._size(self._plan[step]))
            self._planned[step] = False

    def _drop(self, step: int) -> None:
        slot = self.slots[step]
        if slot is not None:
            self.rooms.give(slot.tier, slot.nbytes)
            self.slots[step] = None

    def _write(
        self, device: Device, step: int, fresh: Fresh, given: Mapping[str, Any], outputs: Mapping[str, Any]
    ) -> Before:
        """Write an edit into a step's state."""
        slot = self.slot(step)
        base = self.inputs(step)
        whole: Arrays = {f"output.{name}": as_numpy(name, value) for name, value in outputs.items()}
        for spec in self.manifest.inputs:
            value = as_numpy(spec.name, given[spec.name])
            if spec.role == "free":
                whole[f"input.{spec.name}"] = value
            elif spec.role == "spatial":
                active = fresh.active[spec.level or ""]
                taken = rows.take(spec, value, active)
                rows.put_input(spec, base[spec.name], taken, active)
                whole[f"input.{spec.name}"] = base[spec.name]
        overwritten: dict[str, tuple[np.ndarray, list[np.ndarray]]] = {}
        replaced: Arrays = {}
        target = slot
        if not slot.writable:
            target = self._copied(device, slot)
        else:
            replaced = {name: np.array(slot.kept.array(name)) for name in whole}
        before = Before(step, slot, not slot.writable, overwritten, replaced)
        self.slots[step] = replace(target, edited=True)
        try:
            for name, value in whole.items():
                target.kept.replace(name, value)
            if target.tier != "none":
                levels = {f"cache.{c.name}": c.level or "" for c in self.manifest.caches}
                for name, values in fresh.rows.items():
                    pixels = fresh.active[levels[name]]
                    if pixels.size:
                        if slot.writable:
                            overwritten[name] = pixels, target.kept.raw(name, pixels)
                        target.kept.write(name, pixels, values)
        except BaseException:
            self.undo([before])
            raise
        return before

    def _replace(self, device: Device, step: int, inputs: Mapping[str, Any]) -> Before:
        """Record a step anew with other inputs, after a dense edit."""
        slot = self.slot(step)
        self._recorded(inputs)
        self.slots[step] = self._keep(device, slot.tier if slot.writable else "host")
        return Before(step, slot, True, {}, {})

    def _copied(self, device: Device, slot: Slot) -> Slot:
        """A writable copy of a saved state, where there is room."""
        saved = slot.kept
        assert isinstance(saved, State)
        for tier in ("host", "disk"):
            if saved.layout.with_caches and self.rooms.take(tier, saved.nbytes):
                state = self._new_state(device, tier, saved.layout)
                np.copyto(state.block, saved.checked_block())
                return Slot(tier, state, nbytes=saved.nbytes)
        state = self._new_state(device, "none", self._light)
        state.fill({name: saved.array(name) for name in self._light.entries})
        return Slot("none", state)

    def _arrays(self, step: int, kind: str) -> Arrays:
        kept = self.slot(step).kept
        with self.session.held():
            specs = self.manifest.inputs if kind == "input" else self.manifest.outputs
            return {spec.name: np.array(kept.array(f"{kind}.{spec.name}")) for spec in specs}
