"""A device whose data stays where the native kernels work: on a GPU, or on the host to test what a GPU does.

Everything lies at fixed addresses, so that what an edit repeats is prepared once, and on a GPU captured: a
step that looks at the inputs, after which the counts of active pixels come back, and one step per bucket of
row counts that makes the tables, runs the edit graph and writes the outputs. An edit with the mask of the one
before, as each step of a denoising run has, knows its counts: it runs while its inputs are looked at.
"""

from __future__ import annotations

import contextlib
import math
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sige_deploy import caches
from sige_deploy.buckets import Buckets
from sige_deploy.bundle import Bundle
from sige_deploy.devices.base import Fresh, Refuse
from sige_deploy.devices.edits import Edit, Room
from sige_deploy.devices.exchange import Exchange
from sige_deploy.devices.graphs import Graphs
from sige_deploy.devices.kept import KeptBuffers
from sige_deploy.devices.memory import Buffer, Memory, host_array, laid_out, offsets, views
from sige_deploy.devices.parcels import BufferParcel
from sige_deploy.errors import InputError, StateError
from sige_deploy.inputs import Placed, as_numpy
from sige_deploy.kernels import Comparison, Copies, Kernels, Layout, NativeIndexer, Offsets, RowMoves
from sige_deploy.manifest import CacheSpec
from sige_deploy.rows import size
from sige_deploy.runtimes.base import BufferRuntime

Buffers = dict[str, Buffer]
Pending = Edit | Literal["dense", "reuse"] | None  # what can be committed
KEPT = 64  # edits of different row counts that stay prepared


class NativeDevice:
    """A `Device` of buffers in one memory, with the kernels' index feeds and an engine on those buffers."""

    def __init__(
        self, bundle: Bundle, memory: Memory, kernels: Kernels, runtime: BufferRuntime, captured: Graphs
    ) -> None:
        self.manifest = manifest = bundle.manifest
        self.memory, self.kernels, self.runtime, self.captured = memory, kernels, runtime, captured
        self.spatial = manifest.spatial()
        self.buckets = Buckets(manifest)
        self._bundle = bundle
        self.recorded = False
        self.pending: Pending = None
        self._edits: OrderedDict[tuple[int, ...], Edit] = OrderedDict()
        self._last: tuple[Mapping[str, int], Edit] | None = None  # the last edit's counts
        # What the indexer has listed if that is a mask's: its bytes, and counts. An Edit to commit is of it.
        self._listed: tuple[bytes, dict[str, int]] | None = None
        with memory.current():
            inputs = {spec.name: (spec.shape, spec.dtype) for spec in manifest.inputs}
            self.given = laid_out(memory, inputs)
            self.free = [spec.name for spec in manifest.inputs if spec.role == "free"]
            # Inputs of the edit to commit and of the one that runs, while `given` may hold a refused one's.
            kept = {spec.name: inputs[spec.name] for spec in manifest.inputs if spec.role != "pinned"}
            self._slots = laid_out(memory, kept), laid_out(memory, kept)
            self._kept: Buffers = {}  # where those of the edit to commit lie: in the first slot, or placed
            self._keeping: Buffers = {}
            self.results = laid_out(memory, {o.name: (o.shape, o.dtype) for o in manifest.outputs})
            self.masks = [memory.empty(size(spec), np.uint8) for spec in self.spatial]
            self.copies = Copies(kernels, memory, max(len(manifest.inputs) + 1, len(manifest.outputs)))
            self.exchange = Exchange(memory, self.copies)
            self.beside = memory.courier()
            axes = [spec.axes if spec.role == "spatial" else None for spec in manifest.inputs]
            self._layouts = [
                Layout.of(spec.shape, spec.dtype, kinds, manifest.policy.eps if kinds else 0.0)
                for spec, kinds in zip(manifest.inputs, axes)
            ]
            self._status = memory.empty([2 * len(manifest.inputs)], np.int32)
            self._check = Comparison(kernels, memory, self._layouts, self._status)
            self.take = RowMoves(kernels, memory, [Offsets.of_input(spec) for spec in self.spatial])
            self.put = RowMoves(kernels, memory, [Offsets.of_output(o) for o in manifest.outputs if o.level])
            self.commits = RowMoves(kernels, memory, self._commit_offsets())
        self._cache_bytes = sum(math.prod(x.shape) * np.dtype(x.dtype).itemsize for x in manifest.caches)
        self._indexer: NativeIndexer | None = None
        self._comparison: Comparison | None = None
        self._room = Room(memory)
        self._storage: tuple[Buffer, Buffers] | None = None
        self._held: weakref.ref[KeptBuffers] | None = None  # what `storage` is a copy of
        self._dense: Callable[[], None] | None = None

    @property
    def name(self) -> str:
        return self.runtime.name

    @property
    def gpu(self) -> bool:
        return self.memory.backend == 1

    @property
    def storage(self) -> Buffers:
        """Where the recorded state is, as `caches.expected` names it."""
        return self._stored()[1]

    @property
    def storage_block(self) -> Buffer:
        """All of `storage` as one array of bytes, as `caches.ordered` lays it out."""
        return self._stored()[0]

    @property
    def indexer(self) -> NativeIndexer:
        assert self._indexer is not None
        return self._indexer

    @property
    def cache_bytes(self) -> int:
        return self._cache_bytes if self.recorded else 0

    @property
    def graphs(self) -> int:
        return len(self.captured)

    def current(self) -> contextlib.AbstractContextManager[None]:
        return self.memory.current()

    def load(self) -> None:
        if self._comparison is None:
            self._indexer = self._make_indexer()
            self._comparison = Comparison(self.kernels, self.memory, self._layouts, self._indexer.status)

    def take_in(self, given: Mapping[str, Any], refuse: Refuse, mask: Any = None) -> NativeCall:
        return NativeCall(self, given, refuse, mask)

    def placed(self, array: np.ndarray) -> Placed:
        return Placed(array, self.memory, self.memory.upload(array))

    def commit(self) -> None:
        pending = self.pending
        self.holds(None)
        if pending is None:
            raise StateError("the edit to commit was lost when a later one failed; call edit again.")
        if pending == "dense":
            self.record(self.kept())
        elif isinstance(pending, Edit):
            pending.commit(self)
        self.memory.synchronize()
        self.pending = None

    def arrays(self) -> Mapping[str, np.ndarray]:
        return _Downloads(self.memory, self.storage)

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        storage = self.storage
        self.recorded, self.pending = False, None  # until all of it is there
        self.holds(None)
        for name, array in arrays.items():
            self.memory.upload(array, storage[name])
        self.memory.synchronize()
        self.recorded = True

    def parcel(self) -> BufferParcel:
        return BufferParcel(self)

    def keep(self) -> KeptBuffers:
        return KeptBuffers(self)

    def block(self, nbytes: int) -> np.ndarray:
        return host_array(self.memory.landing(Buffer(0, [nbytes], np.uint8)))

    def fill(self, block: np.ndarray) -> bool:
        if not self.memory.lands(block.ctypes.data):
            return False
        self.memory.fetch(self.storage_block, Buffer(block.ctypes.data, [block.size], np.uint8, block))
        self.memory.synchronize()
        return True

    def forget(self) -> None:
        self.recorded, self.pending = False, None

    def put_in_force(self) -> None:
        """What lies in `storage` is a recorded state now."""
        self.recorded, self.pending = True, None

    def holds(self, kept: KeptBuffers | None) -> None:
        """`storage` is a copy of this state now; None: of none."""
        self._held = None if kept is None else weakref.ref(kept)

    def has(self, kept: KeptBuffers) -> bool:
        """Whether `storage` is a copy of this state."""
        return self._held is not None and self._held() is kept

    def changes(self, kept: KeptBuffers) -> None:
        """This state is written to: `storage` is no copy of it any more."""
        if self.has(kept):
            self.holds(None)

    def fresh(self) -> Fresh:
        assert isinstance(self.pending, Edit)
        return self.pending.fresh(self)

    def row_moves(self, names: Sequence[str]) -> RowMoves:
        """Moves of rows of these bases ("cache.<name>"), each to or from rows of its own channels."""
        specs = {f"cache.{spec.name}": spec for spec in self.manifest.caches}
        return RowMoves(self.kernels, self.memory, [self._cache_offsets(specs[name]) for name in names])

    def close(self) -> None:
        self.memory.synchronize()
        for key in (*self._edits, "dense"):
            self.captured.forget(key)
        self._edits.clear()
        self._last = self._listed = None
        self.holds(None)
        self._storage = self._dense = self.pending = None
        self.runtime.close()

    def look(self, masked: bool) -> None:
        """Look at the inputs given; stream-ordered. masked: `masks` holds what was edited."""
        self._listed = None
        if self._comparison is None or not self.recorded:
            none = [0] * len(self.given)
            self._check.launch([buffer.pointer for buffer in self.given.values()], none, none)
            return

        def compare() -> None:
            self._compare({} if masked else dict(zip([s.name for s in self.spatial], self.masks)))
            self.indexer.begin(self.masks)

        self.captured.run(("look", masked), compare)
        self.indexer.list_active()

    def look_again(self) -> None:
        """Look at the inputs given, where the mask is the one `listed`; beside what was queued since `beside`
        followed, later work waits for it."""

        def compare() -> None:
            self._compare({})
            self.indexer.send()

        self.captured.run("look again", compare, self.beside)
        self.beside.arrive()

    def _compare(self, masks: Buffers) -> None:
        """Compare the inputs given with the recorded ones. masks: of inputs, to write what differs to."""
        assert self._comparison is not None
        given = [buffer.pointer for buffer in self.given.values()]
        recorded = [self.storage[f"input.{name}"].pointer for name in self.given]
        self._comparison.launch(
            given, recorded, [masks[name].pointer if name in masks else 0 for name in self.given]
        )

    def listed(self, mask: np.ndarray) -> dict[str, int] | None:
        """Active pixels by level of an edit with this mask, bool [h, w], if what was listed last is its."""
        listed = self._listed
        return listed[1] if listed is not None and self.recorded and mask.tobytes() == listed[0] else None

    def found(self) -> tuple[dict[str, int], list[int]]:
        """Waits for what `look` found: (active pixels by level, status words: "not finite" and "changed" of
        each input in turn). Before there is something to edit, only "not finite" is of meaning."""
        if self._comparison is None or not self.recorded:
            return {}, self.memory.download(self._status).tolist()
        return self.indexer.counts_and_status()

    def record(self, inputs: Buffers) -> None:
        """Run the dense pass on `inputs` and take up what it makes. The first time it is written where it
        stays; later into fresh memory, from where it is copied once all of it is there: edits know the
        storage's addresses."""
        self.holds(None)
        block, target = self._new_storage() if self.recorded else self._stored()
        outputs = {key.split(".", 1)[1]: x for key, x in target.items() if not key.startswith("input.")}
        self.runtime.bind_record(inputs, outputs)()
        for name, buffer in inputs.items():
            self.memory.copy(buffer, target[f"input.{name}"])
        self.memory.synchronize()
        if self.recorded:
            self.memory.copy(block, self.storage_block)
            self.memory.synchronize()
        self.recorded = True

    def dense(self) -> bool:
        """Run the original network on the inputs given; returns whether a captured graph ran."""
        if self._dense is None:
            self._dense = self.runtime.bind_dense(self.given, self.results)
        return self.captured.run("dense", self._dense)

    def keep_inputs(self) -> None:
        """Keep the inputs given for a commit, if `settle` follows; stream-ordered."""
        slot = self._slots[1]
        self._keeping = {name: self.exchange.placed(self.given[name]) or slot[name] for name in slot}
        moves = [(self.given[name], slot[name]) for name in slot if self._keeping[name] is slot[name]]
        if moves:
            self.copies.copy(moves)

    def kept(self) -> Buffers:
        """All inputs of the edit to commit; pinned ones are as recorded."""
        return {name: self._kept.get(name) or self.storage[f"input.{name}"] for name in self.given}

    def settle(self, pending: Pending, mask: np.ndarray | None, counts: dict[str, int]) -> None:
        """A call is done. pending: what a commit takes up; mask: what it was made with and is listed, if that
        is in host memory; counts: its active pixels."""
        if pending == "dense" or isinstance(pending, Edit):
            self._kept, self._slots = self._keeping, self._slots[::-1]
        self.pending = pending
        if mask is not None and self._listed is None:
            self._listed = mask.tobytes(), counts

    def take_back(self, pending: Pending) -> None:
        """An edit that ran is refused: make what could be committed before it as it was."""
        self.pending = None  # until it is
        if isinstance(pending, Edit):
            self.exchange.put_back([(buffer, self.given[name]) for name, buffer in self._kept.items()])
            self.run(pending)
        self.pending = pending

    def run(self, edit: Edit) -> bool:
        """Run an edit on the inputs given; returns whether a captured graph ran."""
        return self.captured.run(edit.key, lambda: edit.run(self))

    def edit(self, counts: Mapping[str, int]) -> Edit:
        """The prepared edit for these counts of active pixels."""
        if self._last is not None and self._last[0] == counts:
            return self._last[1]
        rows = self.buckets.fit(counts)
        key = tuple(rows.values())
        edit = self._edits.get(key)
        if edit is None:
            edit = self._edits[key] = Edit(self, rows, self._room)
            while len(self._edits) > KEPT:
                old, _ = self._edits.popitem(last=False)
                self.captured.forget(old)
        self._edits.move_to_end(key)
        self._last = counts, edit
        return edit

    def _stored(self) -> tuple[Buffer, Buffers]:
        if self._storage is None:
            self._storage = self._new_storage()
        return self._storage

    def _new_storage(self) -> tuple[Buffer, Buffers]:
        entries = caches.ordered(self.manifest)
        begins, total = offsets(entries)
        block = self.memory.empty([total], np.uint8)
        return block, views(block, entries, begins)

    def _make_indexer(self) -> NativeIndexer:
        manifest, bundle = self.manifest, self._bundle
        actives = {f"active.{level.id}" for level in manifest.levels}
        return NativeIndexer(
            self.kernels, self.memory, bundle.levels(), bundle.geometries(), bundle.policy(),
            [size(spec) for spec in self.spatial], self.runtime.edit_inputs() | actives,
            words=2 * len(manifest.inputs),
        )  # fmt: skip

    def _commit_offsets(self) -> list[Offsets]:
        """Of what a commit writes rows into: spatial inputs, then caches."""
        inputs = [Offsets.of_input(spec) for spec in self.spatial]
        return inputs + [self._cache_offsets(spec, fresh=True) for spec in self.manifest.caches if spec.rows]

    def _cache_offsets(self, spec: CacheSpec, fresh: bool = False) -> Offsets:
        """Of a base, with rows of its own channels, or with the edit graph's `fresh` ones, that may hold
        those of several bases."""
        level = next(level for level in self.manifest.levels if level.id == spec.level)
        batch, pixels, channels = spec.shape
        mine = np.arange(channels)
        if fresh and spec.rows_channels:
            mine = np.full(spec.rows_channels, -1)
            mine[spec.rows_offset : spec.rows_offset + channels] = np.arange(channels)
        return Offsets(
            np.arange(batch) * pixels * channels,
            np.arange(level.height) * level.width * channels,
            np.arange(level.width) * channels,
            mine,
            np.dtype(spec.dtype).itemsize,
        )


class NativeCall:
    """A `Call` on buffers: the inputs are looked at in one step, whose findings come back in one download; at
    once, or with the outputs where the mask is known."""

    def __init__(self, device: NativeDevice, given: Mapping[str, Any], refuse: Refuse, mask: Any) -> None:
        self._device, self._given, self._refuse = device, given, refuse
        self._before = device.pending
        self._edit: Edit | None = None
        self._path: Literal["record", "sparse", "dense", "reuse"] = "record"
        self._status: list[int] = []
        self._mask: np.ndarray | None = None  # in host memory
        if mask is not None and not device.exchange.here(mask):
            self._mask = mask = as_numpy("mask", mask)
        listed = None if self._mask is None else device.listed(self._mask)
        self._ahead = listed is not None
        moves = [(name, value, device.given[name]) for name, value in given.items()]
        if mask is not None and not self._ahead:
            moves.append(("mask", mask, device.masks[0]))
        device.exchange.take(moves)
        if listed is not None:
            device.beside.follow()
            self._counts = listed
            return
        if mask is not None:  # of the first spatial input's size
            device.exchange.resample(mask, device.masks[1:], device.manifest.policy.threshold)
        device.look(masked=mask is not None)
        self._counts, self._status = device.found()
        refuse(self)

    def not_finite(self) -> str | None:
        for name, found in zip(self._given, self._status[::2]):
            if found:
                return name
        return None

    def changed(self, name: str) -> bool:
        return bool(self._status[2 * list(self._given).index(name) + 1])

    def counts(self) -> dict[str, int]:
        return self._counts

    def record(self) -> None:
        self._device.record(self._device.given)

    def index(self) -> None:
        self._device.pending = None  # what follows overwrites it
        self._edit = self._device.edit(self._counts)

    def run(self) -> bool:
        assert self._edit is not None
        self._path = "sparse"
        return self._device.run(self._edit)

    def dense(self) -> bool:
        self._device.pending = None  # what follows overwrites it
        self._path = "dense"
        return self._device.dense()

    def reuse(self) -> None:
        self._path = "reuse"

    def finish(self) -> dict[str, Any]:
        device, path = self._device, self._path
        if path in ("record", "reuse"):
            results = {name: device.storage[f"output.{name}"] for name in device.results}
        else:
            results = device.results
        later = device.keep_inputs if path in ("sparse", "dense") else _nothing
        if self._ahead:
            device.look_again()
        outputs = device.exchange.give(results, self._given, later)
        if self._ahead:
            self._status = device.indexer.sent()[1]
            try:
                self._refuse(self)
            except InputError:
                device.take_back(self._before)
                raise
        pending = self._edit if path == "sparse" else None if path == "record" else path
        device.settle(pending, self._mask, self._counts)
        return outputs


def _nothing() -> None:
    pass


class _Downloads(Mapping[str, np.ndarray]):
    """Buffers as arrays, each fetched when it is looked up."""

    def __init__(self, memory: Memory, buffers: Buffers) -> None:
        self._memory, self._buffers = memory, buffers

    def __getitem__(self, name: str) -> np.ndarray:
        return self._memory.download(self._buffers[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._buffers)

    def __len__(self) -> int:
        return len(self._buffers)
