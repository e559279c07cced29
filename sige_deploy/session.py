"""A session: record an image once, then edit it at a cost in proportion to what changed."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

import numpy as np

from sige_deploy import caches, masks, planner, rows
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.errors import InputError, RuntimeFailure, StateError
from sige_deploy.indices import EditIndices, Indexer
from sige_deploy.inputs import as_given, checked, checked_mask, same_bits
from sige_deploy.manifest import CacheSpec
from sige_deploy.runtimes.base import Runtime, create

Arrays = dict[str, np.ndarray]
Way = Literal["record", "sparse", "dense", "reuse"]


@dataclass(frozen=True)
class Report:
    """How a call ran.

    path: "record"; "sparse": active rows only; "dense": the planner judged the edit too large; "reuse":
    nothing changed, the recorded outputs.
    active_fraction: share of the dense multiply-adds that the edit touches, 0 to 1.
    rows: active pixels by level id.
    milliseconds: wall time of the call; `stages` splits it into "check", "load" (the engine's, in the first
        edit), "index", "run" and "write".
    runtime: engine and device.
    cache_bytes: memory that the recorded caches take.
    """

    path: Way
    active_fraction: float
    rows: dict[str, int]
    milliseconds: float
    stages: dict[str, float]
    runtime: str
    cache_bytes: int


@dataclass
class _Base:
    """The recorded state; the session's own arrays, never handed out."""

    inputs: Arrays
    outputs: Arrays
    caches: Arrays


@dataclass
class _Pending:
    """The last edit, until it is committed or replaced."""

    path: Way
    inputs: Arrays  # sparse: the free inputs, and rows of the spatial ones; dense: all, whole
    results: Mapping[str, np.ndarray] = field(default_factory=dict)
    indices: EditIndices | None = None


def open(
    path: str | os.PathLike[str],
    device: str = "cpu",
    runtime: str | None = None,
    threads: int | None = None,
) -> Session:
    """Open a bundle for editing.

    path: the folder that `sige_deploy.export` wrote; all of it is checked before anything is loaded.
    device: "cpu", or "cuda:0", "cuda:1", ...
    runtime: "onnxruntime" (also None).
    threads: CPU threads that a run may use; None for all cores.

    Raises BundleError for a damaged or foreign bundle, InputError for an unknown device or runtime,
    RuntimeFailure when the engine for it is missing.
    """
    bundle = open_bundle(path)
    return Session(bundle, create(runtime, bundle, device, threads))


class Session:
    """A bundle on an engine, with one recorded state. Calls from several threads run one after the other;
    several sessions may use one bundle at once. A call that raises leaves the session as it was before."""

    def __init__(self, bundle: Bundle, runtime: Runtime) -> None:
        self.bundle = bundle
        self._manifest = bundle.manifest
        self._runtime: Runtime | None = runtime
        self._runtime_name = runtime.name
        self._indexer: Indexer | None = None
        self._base: _Base | None = None
        self._pending: _Pending | None = None
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
        with self._lock:
            watch = _Stopwatch()
            arrays = checked(self._manifest.inputs, inputs)
            watch.lap("check")
            base = self._run_record(arrays)
            watch.lap("run")
            outputs = {name: array.copy() for name, array in base.outputs.items()}
            self._base, self._pending = base, None
            watch.lap("write")
            counts = {level.id: level.height * level.width for level in self._manifest.levels}
            self._finish("record", 1.0, counts, watch)
            return as_given(outputs, inputs)

    def edit(self, *, mask: Any = None, **inputs: Any) -> dict[str, Any]:
        """Outputs for edited inputs, recomputing only what changed against the record.

        inputs: as for record. Pinned inputs must be as recorded.
        mask: which pixels were edited, bool [H, W] at the first spatial input's size; changes outside it
        are ignored. None: the pixels that differ from the recorded inputs.

        Returns the outputs by name, new arrays, torch if an input was; `report` says how they were made.
        Raises StateError before a record, InputError, RuntimeFailure; the recorded state never changes.
        """
        with self._lock:
            watch = _Stopwatch()
            base = self._recorded()
            arrays = checked(self._manifest.inputs, inputs)
            self._check_pinned(base, arrays)
            edited = self._edited_pixels(base, arrays, mask)
            watch.lap("check")
            if any(m.any() for m in edited):
                outputs, pending = self._run_edit(base, arrays, edited, watch)
            elif mask is None and self._free_changed(base, arrays):
                outputs, pending = self._run_dense(arrays, None, watch)
            else:
                outputs = {name: array.copy() for name, array in base.outputs.items()}
                pending = _Pending("reuse", {})
                watch.lap("write")
                self._finish("reuse", 0.0, dict.fromkeys((x.id for x in self._manifest.levels), 0), watch)
            self._pending = pending
            return as_given(outputs, inputs)

    def commit(self) -> None:
        """Make the last edit part of the recorded state: later edits start from it.

        After a sparse edit its rows are written into the caches; after a dense one its inputs are recorded.
        Raises StateError when there is no edit since the last record, load or commit.
        """
        with self._lock:
            base, pending = self._recorded(), self._pending
            if pending is None:
                raise StateError("there is no edit to commit; call edit first.")
            if pending.path == "dense":
                self._base = self._run_record(pending.inputs)
            elif pending.path == "sparse":
                self._write_rows(base, pending)
            self._pending = None

    def save(self, file: str | os.PathLike[str]) -> None:
        """Write the recorded state to a safetensors file, crash-safely. Raises StateError before a record,
        CacheError when the file cannot be written."""
        with self._lock:
            base = self._recorded()
            parts = {"input": base.inputs, "output": base.outputs, "cache": base.caches}
            arrays = {f"{part}.{name}": a for part, group in parts.items() for name, a in group.items()}
            caches.save(file, self._manifest, arrays)

    def load(self, file: str | os.PathLike[str]) -> None:
        """Take up the state that `save` wrote, as if it had been recorded here. Raises CacheError for a
        damaged file or one of another bundle; then an earlier record stays in force."""
        with self._lock:
            self._open_runtime()
            arrays = caches.load(file, self._manifest)
            groups: dict[str, Arrays] = {"input": {}, "output": {}, "cache": {}}
            for key, array in arrays.items():
                part, name = key.split(".", 1)
                groups[part][name] = array
            self._base = _Base(groups["input"], groups["output"], groups["cache"])
            self._pending = None

    def close(self) -> None:
        """Give back the engine's and the caches' memory; the session cannot be used afterwards."""
        with self._lock:
            if self._runtime is not None:
                self._runtime.close()
            self._runtime = self._base = self._pending = None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open_runtime(self) -> Runtime:
        if self._runtime is None:
            raise StateError("the session is closed; open the bundle again.")
        return self._runtime

    def _recorded(self) -> _Base:
        self._open_runtime()
        if self._base is None:
            raise StateError("there is no recorded image to edit; call record or load first.")
        return self._base

    def _run_record(self, inputs: Arrays) -> _Base:
        outputs, kept = self._open_runtime().record(inputs)
        return _Base({name: array.copy() for name, array in inputs.items()}, outputs, kept)

    def _check_pinned(self, base: _Base, arrays: Arrays) -> None:
        for spec in self._manifest.inputs:
            if spec.role == "pinned" and not same_bits(base.inputs[spec.name], arrays[spec.name]):
                raise InputError(
                    f"input '{spec.name}' must be as recorded in an edit "
                    f"({spec.reason or 'the caches hold its effect'});"
                    " pass the recorded value, or record anew."
                )

    def _edited_pixels(self, base: _Base, arrays: Arrays, mask: Any) -> list[np.ndarray]:
        """Undilated mask of each spatial input, bool [H, W] at its own size."""
        spatial = self._manifest.spatial()
        policy = self._manifest.policy
        if mask is None:
            return [
                masks.difference_mask(
                    rows.planes(s, arrays[s.name]), rows.planes(s, base.inputs[s.name]), policy.eps
                )
                for s in spatial
            ]
        sizes = [rows.planes(s, arrays[s.name]).shape[2:] for s in spatial]
        given = checked_mask(mask, *sizes[0])
        return [masks.resample_mask(given, (h, w), policy.threshold) for h, w in sizes]

    def _free_changed(self, base: _Base, arrays: Arrays) -> bool:
        return any(
            not same_bits(base.inputs[s.name], arrays[s.name])
            for s in self._manifest.inputs
            if s.role == "free"
        )

    def _run_edit(
        self, base: _Base, arrays: Arrays, edited: list[np.ndarray], watch: _Stopwatch
    ) -> tuple[Arrays, _Pending]:
        runtime = self._open_runtime()
        if self._indexer is None:
            self._indexer = Indexer(self.bundle.levels(), self.bundle.geometries(), self.bundle.policy())
        spatial = self._manifest.spatial()
        wanted = runtime.edit_inputs() | {f"active.{s.level}" for s in spatial}
        watch.lap("load")
        indices = self._indexer.build(edited, only=wanted)
        watch.lap("index")
        fraction = planner.active_fraction(self._manifest.levels, indices.counts)
        if planner.runs_dense(self.bundle.manifest.planner, fraction):
            return self._run_dense(arrays, (fraction, indices.counts), watch)
        fresh = {s.name: rows.take(s, arrays[s.name], indices.feeds[f"active.{s.level}"]) for s in spatial}
        free = {s.name: arrays[s.name] for s in self._manifest.inputs if s.role == "free"}
        feeds = {**indices.feeds, **free, **{f"rows.{name}": array for name, array in fresh.items()}}
        names = [o.rows for o in self._manifest.outputs]
        names += [c.rows for c in self._manifest.caches if c.rows is not None and c.rows not in names]
        results = runtime.edit(feeds, base.caches, names)
        watch.lap("run")
        outputs = {name: array.copy() for name, array in base.outputs.items()}
        self._write_outputs(outputs, results, indices)
        pending = _Pending("sparse", {**fresh, **{n: a.copy() for n, a in free.items()}}, results, indices)
        watch.lap("write")
        self._finish("sparse", fraction, indices.counts, watch)
        return outputs, pending

    def _run_dense(
        self, arrays: Arrays, judged: tuple[float, dict[str, int]] | None, watch: _Stopwatch
    ) -> tuple[Arrays, _Pending]:
        """judged: the active fraction and rows that made the planner choose dense; None: all of it."""
        outputs = self._open_runtime().dense(arrays)
        watch.lap("run")
        pending = _Pending("dense", {name: array.copy() for name, array in arrays.items()})
        watch.lap("write")
        everything = {level.id: level.height * level.width for level in self._manifest.levels}
        fraction, counts = judged or (1.0, everything)
        self._finish("dense", fraction, counts, watch)
        return outputs, pending

    def _write_outputs(
        self, outputs: Arrays, results: Mapping[str, np.ndarray], indices: EditIndices
    ) -> None:
        for spec in self._manifest.outputs:
            fresh = results[spec.rows]
            if spec.level is None:
                outputs[spec.name] = fresh
            else:
                active = indices.active(spec.level)
                rows.put_output(spec, outputs[spec.name], fresh[:, : active.size], active)

    def _write_rows(self, base: _Base, pending: _Pending) -> None:
        indices = pending.indices
        assert indices is not None
        # Fetch and check everything first: from there on only copies between arrays of known shapes happen.
        fresh = [
            (spec, self._fresh_rows(spec, pending, indices)) for spec in self._manifest.caches if spec.rows
        ]
        outputs = {name: array.copy() for name, array in base.outputs.items()}
        self._write_outputs(outputs, pending.results, indices)
        inputs = dict(base.inputs)
        for spec in self._manifest.inputs:
            if spec.role == "free":
                inputs[spec.name] = pending.inputs[spec.name]
            elif spec.role == "spatial":
                active = indices.active(spec.level or "")
                inputs[spec.name] = base.inputs[spec.name].copy()
                rows.put_input(spec, inputs[spec.name], pending.inputs[spec.name][:, : active.size], active)
        self._base = None  # an interrupt among the writes must not leave a half-written state in force
        for cache, values in fresh:
            base.caches[cache.name][:, indices.active(cache.level or "")] = values
        self._base = _Base(inputs, outputs, base.caches)

    def _fresh_rows(self, spec: CacheSpec, pending: _Pending, indices: EditIndices) -> np.ndarray:
        count = indices.counts[spec.level or ""]
        values = pending.results[spec.rows or ""]
        wanted = (spec.shape[0], count, spec.shape[2])
        if values.ndim != 3 or values[:, :count].shape != wanted or values.dtype != spec.dtype:
            raise RuntimeFailure(
                f"the edit graph gave rows of shape {list(values.shape)} for cache '{spec.name}', expected "
                f"{list(wanted)}; export the bundle anew."
            )
        return values[:, :count]

    def _finish(self, path: Way, fraction: float, counts: dict[str, int], watch: _Stopwatch) -> None:
        base = self._recorded()
        self._report = Report(
            path=path,
            active_fraction=fraction,
            rows=dict(counts),
            milliseconds=sum(watch.stages.values()),
            stages=watch.stages,
            runtime=self._runtime_name,
            cache_bytes=sum(array.nbytes for array in base.caches.values()),
        )


class _Stopwatch:
    """Milliseconds between laps, by name."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.stages[name] = self.stages.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now
