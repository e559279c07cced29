"""The host as a device: numpy arrays, index feeds made in numpy, an engine that reads them in place."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sige_deploy import masks, rows
from sige_deploy.bundle import Bundle
from sige_deploy.devices.base import Fresh, Refuse, edit_outputs
from sige_deploy.devices.memory import HostMemory, host_array
from sige_deploy.devices.parcels import HostParcel
from sige_deploy.errors import RuntimeFailure
from sige_deploy.indices import ActivePixels, EditIndices, Indexer
from sige_deploy.inputs import as_given, as_numpy, same_bits
from sige_deploy.manifest import CacheSpec
from sige_deploy.runtimes.base import HostRuntime

Arrays = dict[str, np.ndarray]


@dataclass
class _Base:
    """The recorded state; the device's own arrays, never handed out."""

    inputs: Arrays
    outputs: Arrays
    caches: Arrays


@dataclass
class _Pending:
    """The last edit, until it is committed or replaced."""

    path: Literal["sparse", "dense", "reuse"]
    inputs: Arrays  # sparse: the free inputs, and rows of the spatial ones; dense: all, whole
    results: Mapping[str, np.ndarray] = field(default_factory=dict)
    indices: EditIndices | None = None


class HostDevice:
    """A `Device` of numpy arrays on a runtime that takes such."""

    gpu = False
    graphs = 0

    def __init__(self, bundle: Bundle, runtime: HostRuntime) -> None:
        self.bundle = bundle
        self.manifest = bundle.manifest
        self.runtime = runtime
        self.base: _Base | None = None
        self.pending: _Pending | None = None
        self._indexer: Indexer | None = None

    @property
    def name(self) -> str:
        return self.runtime.name

    @property
    def recorded(self) -> bool:
        return self.base is not None

    @property
    def cache_bytes(self) -> int:
        return sum(array.nbytes for array in self.base.caches.values()) if self.base else 0

    @property
    def indexer(self) -> Indexer:
        if self._indexer is None:
            self._indexer = Indexer(self.bundle.levels(), self.bundle.geometries(), self.bundle.policy())
        return self._indexer

    def current(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def load(self) -> None:
        self.runtime.edit_inputs()

    def take_in(self, given: Mapping[str, Any], refuse: Refuse, mask: Any = None) -> HostCall:
        arrays = {name: as_numpy(name, value) for name, value in given.items()}
        call = HostCall(self, given, arrays, None if mask is None else as_numpy("mask", mask))
        refuse(call)
        return call

    def placed(self, array: np.ndarray) -> np.ndarray:
        return array

    def commit(self) -> None:
        pending = self.pending
        assert pending is not None
        if pending.path == "dense":
            self.base = self.run_record(pending.inputs)
        elif pending.path == "sparse":
            self._write_rows(pending)
        self.pending = None

    def arrays(self) -> Mapping[str, np.ndarray]:
        assert self.base is not None
        parts = {"input": self.base.inputs, "output": self.base.outputs, "cache": self.base.caches}
        return {f"{part}.{name}": a for part, group in parts.items() for name, a in group.items()}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        groups: dict[str, Arrays] = {"input": {}, "output": {}, "cache": {}}
        for key, array in arrays.items():
            part, name = key.split(".", 1)
            groups[part][name] = array
        self.base, self.pending = _Base(groups["input"], groups["output"], groups["cache"]), None

    def parcel(self) -> HostParcel:
        return HostParcel(self)

    def keep(self) -> None:
        return None

    def block(self, nbytes: int) -> np.ndarray:
        return host_array(HostMemory().empty([nbytes], np.uint8))

    def fill(self, block: np.ndarray) -> bool:
        return False

    def forget(self) -> None:
        self.base = self.pending = None

    def fresh(self) -> Fresh:
        pending = self.pending
        assert pending is not None and pending.indices is not None
        indices = pending.indices
        rows = {
            f"cache.{cache.name}": self._fresh_rows(cache, pending, indices)
            for cache in self.manifest.caches
            if cache.rows
        }
        return Fresh(rows, {level.id: indices.active(level.id) for level in self.manifest.levels})

    def close(self) -> None:
        self.runtime.close()
        self.base = self.pending = None

    def run_record(self, inputs: Arrays) -> _Base:
        outputs, kept = self.runtime.record(inputs)
        return _Base({name: array.copy() for name, array in inputs.items()}, outputs, kept)

    def _write_rows(self, pending: _Pending) -> None:
        indices, base = pending.indices, self.base
        assert indices is not None and base is not None
        # Fetch and check everything first: from there on only copies between arrays of known shapes happen.
        fresh = [
            (cache, self._fresh_rows(cache, pending, indices)) for cache in self.manifest.caches if cache.rows
        ]
        outputs = {name: array.copy() for name, array in base.outputs.items()}
        self.write_outputs(outputs, pending.results, indices)
        inputs = dict(base.inputs)
        for spec in self.manifest.inputs:
            if spec.role == "free":
                inputs[spec.name] = pending.inputs[spec.name]
            elif spec.role == "spatial":
                active = indices.active(spec.level or "")
                inputs[spec.name] = base.inputs[spec.name].copy()
                rows.put_input(spec, inputs[spec.name], pending.inputs[spec.name][:, : active.size], active)
        self.base = None  # an interrupt among the writes must not leave a half-written state in force
        for cache, values in fresh:
            base.caches[cache.name][:, indices.active(cache.level or "")] = values
        self.base = _Base(inputs, outputs, base.caches)

    def _fresh_rows(self, spec: CacheSpec, pending: _Pending, indices: EditIndices) -> np.ndarray:
        count = indices.counts[spec.level or ""]
        values = pending.results[spec.rows or ""]
        wanted = (spec.shape[0], count, spec.rows_channels or spec.shape[2])
        if values.ndim != 3 or values[:, :count].shape != wanted or values.dtype != spec.dtype:
            raise RuntimeFailure(
                f"the edit graph gave rows of shape {list(values.shape)} for cache '{spec.name}', expected "
                f"{list(wanted)}; export the bundle anew."
            )
        return values[:, :count, spec.rows_offset : spec.rows_offset + spec.shape[2]]

    def write_outputs(self, outputs: Arrays, results: Mapping[str, np.ndarray], indices: EditIndices) -> None:
        """The edit graph's results into the recorded outputs."""
        for spec in self.manifest.outputs:
            fresh = results[spec.rows]
            if spec.level is None:
                outputs[spec.name] = fresh
            else:
                active = indices.active(spec.level)
                rows.put_output(spec, outputs[spec.name], fresh[:, : active.size], active)


class HostCall:
    """A `Call` on the host; what is asked is computed when it is asked for."""

    def __init__(
        self, device: HostDevice, given: Mapping[str, Any], arrays: Arrays, mask: np.ndarray | None
    ) -> None:
        self._device, self._given, self._arrays, self._mask = device, given, arrays, mask
        self._active: ActivePixels | None = None
        self._indices: EditIndices | None = None
        self._recorded: _Base | None = None
        self._edited: _Pending | None = None

    def not_finite(self) -> str | None:
        for name, array in self._arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                return name
        return None

    def changed(self, name: str) -> bool:
        return not same_bits(self._base.inputs[name], self._arrays[name])

    def counts(self) -> dict[str, int]:
        edited = self._edited_pixels()
        if not any(mask.any() for mask in edited):
            return dict.fromkeys((level.id for level in self._device.manifest.levels), 0)
        self._active = self._device.indexer.activate(edited)
        return self._active.counts

    def record(self) -> None:
        self._recorded = self._device.run_record(self._arrays)

    def index(self) -> None:
        assert self._active is not None
        device = self._device
        wanted = device.runtime.edit_inputs() | {f"active.{s.level}" for s in device.manifest.spatial()}
        self._indices = device.indexer.feed(self._active, only=wanted)

    def run(self) -> bool:
        device, indices = self._device, self._indices
        assert indices is not None
        manifest = device.manifest
        fresh = {
            s.name: rows.take(s, self._arrays[s.name], indices.feeds[f"active.{s.level}"])
            for s in manifest.spatial()
        }
        free = {s.name: self._arrays[s.name] for s in manifest.inputs if s.role == "free"}
        feeds = {**indices.feeds, **free, **{f"rows.{name}": array for name, array in fresh.items()}}
        results = device.runtime.edit(feeds, self._base.caches, edit_outputs(manifest))
        self._edited = _Pending("sparse", {**fresh, **free}, results, indices)
        return False

    def dense(self) -> bool:
        self._edited = _Pending("dense", self._arrays, self._device.runtime.dense(self._arrays))
        return False

    def reuse(self) -> None:
        self._edited = _Pending("reuse", {}, self._base.outputs)

    def finish(self) -> dict[str, Any]:
        device, recorded, edited = self._device, self._recorded, self._edited
        if recorded is not None:
            outputs = {name: array.copy() for name, array in recorded.outputs.items()}
            device.base, device.pending = recorded, None
            return as_given(outputs, self._given)
        assert edited is not None
        if edited.indices is not None:
            outputs = {name: array.copy() for name, array in self._base.outputs.items()}
            device.write_outputs(outputs, edited.results, edited.indices)
        elif edited.path == "dense":
            outputs = dict(edited.results)
        else:
            outputs = {name: array.copy() for name, array in edited.results.items()}
        edited.inputs = {name: array.copy() for name, array in edited.inputs.items()}  # the user's may change
        if edited.path == "dense":
            edited.results = {}
        device.pending = edited
        return as_given(outputs, self._given)

    @property
    def _base(self) -> _Base:
        assert self._device.base is not None
        return self._device.base

    def _edited_pixels(self) -> list[np.ndarray]:
        """Undilated mask of each spatial input, bool [H, W] at its own size."""
        spatial = self._device.manifest.spatial()
        policy = self._device.manifest.policy
        now = [rows.planes(s, self._arrays[s.name]) for s in spatial]
        if self._mask is None:
            before = [rows.planes(s, self._base.inputs[s.name]) for s in spatial]
            return [masks.difference_mask(a, b, policy.eps) for a, b in zip(now, before)]
        return [masks.resample_mask(self._mask, view.shape[2:], policy.threshold) for view in now]
