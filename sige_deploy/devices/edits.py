"""An edit of fixed row counts, prepared once: where its rows lie, and the work that runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.devices.base import Fresh, edit_outputs
from sige_deploy.devices.memory import Buffer, Memory, Shape, offsets, views
from sige_deploy.errors import RuntimeFailure
from sige_deploy.kernels import Layout

if TYPE_CHECKING:
    from sige_deploy.devices.native import NativeDevice


class Room:
    """Memory for the rows of one edit at a time: all edits lie in the same block, each from its beginning.
    When one needs more, a new block is made for it and those to come; the old one lives on with its edits."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._block: Buffer | None = None

    def place(self, arrays: Mapping[str, tuple[Shape, Any]]) -> dict[str, Buffer]:
        """Views for arrays given as (shape, dtype), each at an aligned address."""
        begins, total = offsets(arrays)
        if self._block is None or self._block.nbytes < total:
            self._block = self._grown(total)
        return views(self._block, arrays, begins)

    def _grown(self, total: int) -> Buffer:
        """A block of at least `total` bytes, twice the last one's if there is memory for it."""
        generous = 0 if self._block is None else 2 * self._block.nbytes
        if generous > total:
            try:
                return self._memory.empty([generous], np.uint8)
            except RuntimeFailure:
                pass
        return self._memory.empty([total], np.uint8)


class Edit:
    """Edits with these padded rows of each level: everything that they do beside looking at the inputs."""

    def __init__(self, device: NativeDevice, rows: Mapping[str, int], room: Room) -> None:
        manifest = device.manifest
        self.rows, self.key = dict(rows), tuple(rows.values())
        arrays: dict[str, tuple[Shape, Any]] = {}
        for spec in device.spatial:
            n, c, _, _ = Layout.of(spec.shape, spec.dtype, spec.axes).size
            arrays[f"rows.{spec.name}"] = (n, rows[spec.level or ""], c), spec.dtype
        for output in manifest.outputs:
            if output.level is not None:
                shape = output.pixels("N"), rows[output.level], output.pixels("C")
                arrays[output.rows] = shape, output.dtype
        for cache in manifest.caches:
            if cache.rows is not None:
                shape = cache.shape[0], rows[cache.level or ""], cache.rows_channels or cache.shape[2]
                arrays[cache.rows] = shape, cache.dtype
        self._fresh = room.place(arrays)
        self._feeds: Mapping[str, Buffer] = {}
        self._queue: Callable[[], None] | None = None

    def run(self, device: NativeDevice) -> None:
        """Tables, rows of the inputs, the edit graph, outputs; stream-ordered, on fixed addresses. After the
        indexer's `list_active`."""
        base, fresh = device.storage, self._fresh
        self._feeds = feeds = device.indexer.finish(self.rows)
        spatial = device.spatial
        device.take.take(
            [device.given[spec.name].pointer for spec in spatial],
            [fresh[f"rows.{spec.name}"].pointer for spec in spatial],
            [feeds[f"active.{spec.level}"] for spec in spatial],
        )
        outputs = [output for output in device.manifest.outputs if output.level is not None]
        device.copies.copy([(base[f"output.{x.name}"], device.results[x.name]) for x in outputs])
        if self._queue is None:
            self._queue = self._bind(device)
        self._queue()
        device.put.put(
            [device.results[output.name].pointer for output in outputs],
            [fresh[output.rows].pointer for output in outputs],
            [feeds[f"active.{output.level}"] for output in outputs],
        )

    def fresh(self, device: NativeDevice) -> Fresh:
        """What the last run of this edit computed, on the host."""
        memory, counts = device.memory, device.indexer.counts_and_status()[0]
        active = {
            level: memory.download(self._feeds[f"active.{level}"])[:count] for level, count in counts.items()
        }
        caches = [cache for cache in device.manifest.caches if cache.rows is not None]
        made = {cache.rows or "": memory.download(self._fresh[cache.rows or ""]) for cache in caches}
        rows = {
            f"cache.{cache.name}": made[cache.rows or ""][
                :, : counts[cache.level or ""], cache.rows_offset : cache.rows_offset + cache.shape[2]
            ]
            for cache in caches
        }
        return Fresh(rows, active)

    def commit(self, device: NativeDevice) -> None:
        """Write what the last run of this edit made into the recorded state; stream-ordered."""
        base, feeds, manifest = device.storage, self._feeds, device.manifest
        caches = [cache for cache in manifest.caches if cache.rows is not None]
        names = [f"input.{spec.name}" for spec in device.spatial] + [
            f"cache.{cache.name}" for cache in caches
        ]
        rows = [f"rows.{spec.name}" for spec in device.spatial] + [cache.rows or "" for cache in caches]
        levels = [spec.level for spec in device.spatial] + [cache.level for cache in caches]
        device.commits.put(
            [base[name].pointer for name in names],
            [self._fresh[name].pointer for name in rows],
            [feeds[f"active.{level}"] for level in levels],
        )
        kept = device.kept()
        for name in device.free:
            device.memory.copy(kept[name], base[f"input.{name}"])
        for name, buffer in device.results.items():
            device.memory.copy(buffer, base[f"output.{name}"])

    def _bind(self, device: NativeDevice) -> Callable[[], None]:
        manifest, fresh = device.manifest, self._fresh
        caches = {cache.name: device.storage[f"cache.{cache.name}"] for cache in manifest.caches}
        taken = {f"rows.{spec.name}": fresh[f"rows.{spec.name}"] for spec in device.spatial}
        made = {name: fresh.get(name) or device.results[name] for name in edit_outputs(manifest)}
        free = {name: device.given[name] for name in device.free}
        return device.runtime.bind_edit({**caches, **self._feeds, **free, **taken}, made)
