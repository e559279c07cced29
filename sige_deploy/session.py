"""A session: record an image once, then edit it at a cost in proportion to what changed."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from sige_deploy import caches, planner
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.devices.base import Call, Device, Findings, Parcel
from sige_deploy.errors import InputError, StateError
from sige_deploy.inputs import checked, checked_mask
from sige_deploy.rows import size
from sige_deploy.runtimes.base import Runtime, create

Way = Literal["record", "sparse", "dense", "reuse"]


@dataclass(frozen=True)
class Report:
    """How a call ran.

    path: "record"; "sparse": active rows only; "dense": the planner judged the edit too large; "reuse":
    nothing changed, the recorded outputs.
    active_fraction: share of the dense multiply-adds that the edit touches, 0 to 1.
    rows: active pixels by level id.
    milliseconds: wall time of the call; `stages` splits it into "load" (the engine's, in the first edit),
        "check", "index", "run" and "write".
    runtime: engine and device.
    cache_bytes: memory that the recorded caches take on the device.
    captured: whether a captured CUDA graph ran.
    graphs: captured CUDA graphs that the session keeps.
    """

    path: Way
    active_fraction: float
    rows: dict[str, int]
    milliseconds: float
    stages: dict[str, float]
    runtime: str
    cache_bytes: int
    captured: bool = False
    graphs: int = 0


def open(
    path: str | os.PathLike[str],
    device: str = "cpu",
    runtime: str | None = None,
    threads: int | None = None,
) -> Session:
    """Open a bundle for editing.

    path: the folder that `sige_deploy.export` wrote; all of it is checked before anything is loaded.
    device: "cpu", or "cuda:0", "cuda:1", ...
    runtime: "onnxruntime" (also None), or "tensorrt" with the engines in the bundle.
    threads: CPU threads that a run may use; None for all cores.

    Raises BundleError for a damaged or foreign bundle, InputError for an unknown device or runtime,
    RuntimeFailure when the engine for it is missing.
    """
    bundle = open_bundle(path)
    return Session(bundle, create(runtime, bundle, device, threads))


class Session:
    """A bundle on an engine, with one recorded state. Calls from several threads run one after the other;
    several sessions may use one bundle at once. A call that raises leaves the session as it was before; where
    the engine itself fails in an edit on a GPU, an earlier edit can no longer be committed."""

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self.bundle = bundle
        self._manifest = bundle.manifest
        self._device: Device | None = runtime.device()
        self._spatial = bundle.manifest.spatial()[0]
        self._pinned = [spec for spec in bundle.manifest.inputs if spec.role == "pinned"]
        self._work = planner.Work(bundle.manifest.levels)
        self._edited = False  # whether there is an edit to commit
        self._report: Report | None = None
        self._lock = threading.RLock()

    @property
    def report(self) -> Report:
        """How the last record or edit ran; raises StateError before the first."""
        if self._report is None:
            raise StateError("nothing has run yet; call record first.")
        return self._report

    def record(self, **inputs: Any) -> dict[str, Any]:
        """Run the whole network on `inputs` and keep what edits need.

        inputs: by name, numpy arrays or torch tensors of the exported shapes and dtypes. Returns the
        outputs by name, torch if an input was. Raises InputError or RuntimeFailure; then an earlier record
        stays in force.
        """
        with self._lock, self._opened().current():
            device = self._opened()
            watch = _Stopwatch()
            call = device.take_in(checked(self._manifest.inputs, inputs), _refuse_not_finite)
            watch.lap("check")
            call.record()
            watch.lap("run")
            outputs = call.finish()
            self._edited = False
            watch.lap("write")
            counts = {level.id: level.height * level.width for level in self._manifest.levels}
            self._finish("record", 1.0, counts, watch)
            return outputs

    def edit(self, *, mask: Any = None, **inputs: Any) -> dict[str, Any]:
        """Outputs for edited inputs, recomputing only what changed against the record.

        inputs: as for record. Pinned inputs must be as recorded.
        mask: which pixels were edited, bool [H, W] at the first spatial input's size; changes outside it
        are ignored. None: the pixels that differ from the recorded inputs.

        Returns the outputs by name, new arrays, torch if an input was; `report` says how they were made.
        Raises StateError before a record, InputError, RuntimeFailure; the recorded state never changes.
        """
        with self._lock, self._opened().current():
            device = self._opened()
            self._check_recorded(device)
            watch = _Stopwatch()
            given = checked(self._manifest.inputs, inputs)
            if mask is not None:
                mask = checked_mask(mask, *size(self._spatial))
            watch.lap("check")
            device.load()
            watch.lap("load")
            call = device.take_in(given, self._refuse, mask)
            counts = call.counts()
            watch.lap("check")
            path, fraction = self._judge(call, counts, masked=mask is not None)
            captured = False
            if path == "sparse":
                call.index()
                watch.lap("index")
                captured = call.run()
            elif path == "dense":
                captured = call.dense()
            else:
                call.reuse()
            watch.lap("run")
            outputs = call.finish()
            self._edited = True
            watch.lap("write")
            if path == "dense" and not any(counts.values()):
                counts = {level.id: level.height * level.width for level in self._manifest.levels}
            self._finish(path, fraction, counts, watch, captured)
            return outputs

    def dense(self, **inputs: Any) -> dict[str, Any]:
        """Outputs of the original network, whatever is recorded: the record stays, and an edit before cannot
        be committed any more. inputs, errors: as for record."""
        with self._lock, self._opened().current():
            device = self._opened()
            watch = _Stopwatch()
            given = checked(self._manifest.inputs, inputs)
            device.load()
            watch.lap("load")
            call = device.take_in(given, _refuse_not_finite)
            watch.lap("check")
            self._edited = False
            captured = call.dense()
            watch.lap("run")
            outputs = call.finish()
            watch.lap("write")
            counts = {level.id: level.height * level.width for level in self._manifest.levels}
            self._finish("dense", 1.0, counts, watch, captured)
            return outputs

    def commit(self) -> None:
        """Make the last edit part of the recorded state: later edits start from it.

        After a sparse edit its rows are written into the caches; after a dense one its inputs are recorded.
        Raises StateError when there is no edit since the last record, load or commit.
        """
        with self._lock, self._opened().current():
            device = self._opened()
            self._check_recorded(device)
            if not self._edited:
                raise StateError("there is no edit to commit; call edit first.")
            device.commit()
            self._edited = False

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the recorded state to a safetensors file, crash-safely. Raises StateError before a record,
        CacheError when the file cannot be written."""
        with self._lock, self._opened().current():
            device = self._opened()
            self._check_recorded(device)
            caches.save(file, self._manifest, device.arrays())

    def load(self, file: str | os.PathLike[str]) -> None:
        """Take up the state that `save` wrote, on this device or another, as if it had been recorded here.
        Raises CacheError for a damaged file or one of another bundle; then an earlier record stays in
        force."""
        with self._lock, self._opened().current():
            device = self._opened()
            device.restore(caches.load(file, self._manifest))
            self._edited = False

    @contextlib.contextmanager
    def held(self) -> Iterator[Device]:
        """The session's device, for what keeps recorded states of its own (`sige_deploy.runs`); calls from
        other threads wait until the block ends."""
        with self._lock, self._opened().current():
            yield self._opened()

    def put(self, parcel: Parcel | None) -> None:
        """Put the recorded state of a loaded parcel of `held`'s device in force; None: no state, so that the
        next record need not keep one."""
        with self.held() as device:
            self._edited = False
            if parcel is None:
                device.forget()
            else:
                parcel.put()

    def close(self) -> None:
        """Give back the engine's and the caches' memory; the session cannot be used afterwards."""
        with self._lock:
            if self._device is not None:
                with self._device.current():
                    self._device.close()
            self._device = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Device:
        if self._device is None:
            raise StateError("the session is closed; open the bundle again.")
        return self._device

    def _check_recorded(self, device: Device) -> None:
        if not device.recorded:
            raise StateError("there is no recorded image to edit; call record or load first.")

    def _refuse(self, found: Findings) -> None:
        """Raises InputError for inputs that are not those of an edit."""
        _refuse_not_finite(found)
        for spec in self._pinned:
            if found.changed(spec.name):
                raise InputError(
                    f"input '{spec.name}' must be as recorded in an edit "
                    f"({spec.reason or 'the caches hold its effect'});"
                    " pass the recorded value, or record anew."
                )

    def _judge(self, call: Call, counts: dict[str, int], masked: bool) -> tuple[Way, float]:
        """(path, active fraction) of an edit with these active pixels."""
        if any(counts.values()):
            fraction = self._work.active_fraction(counts)
            assert self._device is not None
            dense = planner.runs_dense(self.bundle.manifest.planner, fraction, self._device.gpu)
            return ("dense" if dense else "sparse"), fraction
        free = (spec.name for spec in self._manifest.inputs if spec.role == "free")
        if not masked and any(call.changed(name) for name in free):
            return "dense", 1.0
        return "reuse", 0.0

    def _finish(
        self, path: Way, fraction: float, counts: dict[str, int], watch: _Stopwatch, captured: bool = False
    ) -> None:
        device = self._device
        assert device is not None
        self._report = Report(
            path=path,
            active_fraction=fraction,
            rows=dict(counts),
            milliseconds=sum(watch.stages.values()),
            stages=watch.stages,
            runtime=device.name,
            cache_bytes=device.cache_bytes,
            captured=captured,
            graphs=device.graphs,
        )


def _refuse_not_finite(found: Findings) -> None:
    name = found.not_finite()
    if name is not None:
        raise InputError(f"input '{name}' holds NaN or infinity; every value must be finite.")


class _Stopwatch:
    """Milliseconds between laps, by name."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.stages[name] = self.stages.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now
