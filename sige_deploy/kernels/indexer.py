"""From the edited pixels to the index feeds of an edit graph, on the host or on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.devices.memory import host_array
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.geometry import AxisTaps, Geometry, Level
from sige_deploy.indices import bucket, check_fit
from sige_deploy.kernels.copies import Copies
from sige_deploy.kernels.library import Axis, IndexGeometry, IndexInput, IndexLevel, Indices, Kernels
from sige_deploy.masks import MaskPolicy

if TYPE_CHECKING:
    from sige_deploy.devices.memory import Buffer, Memory

_KEPT = 64  # sets of padded counts whose views are kept
_ALIGNMENT = 256  # bytes
_LIMITS = 128, 512, 16  # SIGE_MAX_LEVELS, _GEOMETRIES, _INPUTS

Feeds = dict[str, "Buffer"]


class NativeIndexer:
    """`Indexer` in native code: the same feeds for the same padded counts, but in buffers at fixed addresses,
    and a halo always as long as its source level. One call per step; on a GPU only `block` comes back.

    inputs: (height, width) of each spatial input.
    only: names of the feeds wanted, as in `Indexer.build`; None makes all.
    words: int32 words of room for status beside the counts, see `status`.

    block: int32 [levels + words], the counts by level, then the status words.
    status: int32 [words], the block's end; nothing here writes it (`Comparison` does).

    Raises BundleError when geometries and levels do not fit together, RuntimeFailure when they are more than
    the kernels take.
    """

    def __init__(
        self,
        kernels: Kernels,
        memory: Memory,
        levels: Sequence[Level],
        geometries: Sequence[Geometry],
        policy: MaskPolicy,
        inputs: Sequence[tuple[int, int]],
        only: Set[str] | None = None,
        words: int = 0,
    ) -> None:
        check_fit({level.id: level for level in levels}, {g.id: g for g in geometries})
        found = len(levels), len(geometries), len(inputs)
        if any(n > most for n, most in zip(found, _LIMITS)):
            raise RuntimeFailure(
                "the native kernels take at most {} levels, {} geometries and {} spatial inputs, not {}, {} "
                "and {}.".format(*_LIMITS, *found)
            )
        self._kernels, self._memory = kernels, memory
        self._levels, self._sizes = [level.id for level in levels], list(inputs)
        self._capacity = [bucket(level.pixels) for level in levels]
        self._buffers = _outputs(memory, levels, geometries, only)
        self._geometries, self._only = list(geometries), only
        self.block: Buffer = memory.upload(np.zeros(len(levels) + words, np.int32))
        self.status: Buffer = self.block.view([words], offset=4 * len(levels))
        self._landing = memory.landing(self.block)
        self._landings = [(self.block, self._landing)]
        self._copies = Copies(kernels, memory, 1)
        self._landed = host_array(self._landing)
        self._counts: list[int] | None = None
        self._feeds: dict[tuple[int, ...], Feeds] = {}
        self._keep: list[Any] = []
        indices = self._describe(levels, policy)
        execution = kernels.execution(memory)
        self._keep += [indices, execution]
        self._masks = (ctypes.c_void_p * len(inputs))()
        self._rows = (ctypes.c_int32 * len(levels))()
        where, run = ctypes.addressof(indices), ctypes.addressof(execution)
        self._begin_args = (where, ctypes.addressof(self._masks), run)
        self._list_args = (where, run)
        self._finish_args = (where, ctypes.addressof(self._rows), run)
        library = kernels.library
        self._begin, self._finish = library.sige_indices_begin, library.sige_indices_finish
        self._list = library.sige_indices_list

    def begin(self, masks: Sequence[Buffer]) -> None:
        """Make the levels' masks and counts, and send `block` to the host; stream-ordered.

        masks: uint8 [h, w], nonzero where a spatial input was edited (before dilation), in the order and of
        the sizes of `inputs`. Raises InputError for other shapes.
        """
        if [mask.shape for mask in masks] != self._sizes:
            shapes = [list(mask.shape) for mask in masks]
            raise InputError(f"the masks have shapes {shapes}; expected {[list(s) for s in self._sizes]}.")
        self._masks[:] = [mask.pointer for mask in masks]
        self._counts = None
        self._kernels.check(self._begin(*self._begin_args))
        self.send()

    def send(self) -> None:
        """Send `block` to the host, as `begin` does; stream-ordered."""
        self._copies.copy(self._landings)

    def list_active(self) -> None:
        """List the active pixels and halos of the edit that `begin` was last called for; stream-ordered, not
        to be captured. Feeds of the last `finish` stay as they are, except for halos."""
        self._memory.mark()
        self._kernels.check(self._list(*self._list_args))

    def counts_and_status(self) -> tuple[dict[str, int], list[int]]:
        """Waits for the memory's last mark, as `list_active` makes one behind `begin`; returns the active
        pixels of each level, and the status words as of then."""
        self._memory.reach()
        return self.sent()

    def sent(self) -> tuple[dict[str, int], list[int]]:
        """As `counts_and_status`, of the `block` that has arrived."""
        block = self._landed.tolist()
        self._counts = block[: len(self._levels)]
        return dict(zip(self._levels, block)), block[len(self._levels) :]

    def finish(self, rows: Mapping[str, int]) -> Feeds:
        """Make the feeds of the edit that `list_active` was last called for, again if called again;
        stream-ordered.

        rows: padded count P of each level, at least its count, at most bucket(pixels), and 0 where the count
        is 0. The feeds are views of buffers that the next `finish` overwrites: "active.<level>" int32 [P];
        "halo.<geometry>" int32 [source pixels], zeros after its last entry; "table.<geometry>" int32 [R, K],
        whose halo entries start at the source level's P; "weights.<geometry>" float32 [R, K]. Raises
        InputError where a P does not fit.
        """
        padded = tuple([rows[level] for level in self._levels])
        feeds = self._feeds.get(padded)
        if feeds is None:
            feeds = self._views(padded)
        if self._counts is not None:
            for p, count in zip(padded, self._counts):
                if p < count or (p and not count):
                    self._refuse(padded)
        self._rows[:] = [*padded]
        self._kernels.check(self._finish(*self._finish_args))
        return feeds

    def _views(self, padded: tuple[int, ...]) -> Feeds:
        """The feeds' views for some padded counts."""
        if any(not 0 <= p <= most for p, most in zip(padded, self._capacity)):
            self._refuse(padded)
        rows = dict(zip(self._levels, padded))
        names = {f"active.{level}": [p] for level, p in rows.items()}
        for g in self._geometries:
            names[f"halo.{g.id}"] = [g.source_shape[0] * g.source_shape[1]]
            names[f"table.{g.id}"] = names[f"weights.{g.id}"] = [rows[g.target], g.taps]
        if len(self._feeds) >= _KEPT:
            self._feeds.clear()
        self._feeds[padded] = {
            name: self._buffers[name].view(shape)
            for name, shape in names.items()
            if name in self._buffers and (self._only is None or name in self._only)
        }
        return self._feeds[padded]

    def _refuse(self, padded: Sequence[int]) -> None:
        raise InputError(
            f"the padded counts {list(padded)} of levels {self._levels} do not fit: each must be at least "
            f"the level's count ({self._counts}), 0 where that is 0, and at most {self._capacity}."
        )

    def _describe(self, levels: Sequence[Level], policy: MaskPolicy) -> ctypes.Structure:
        """sige_indices with its plan made and its memory in place."""
        number = {id_: i for i, id_ in enumerate(self._levels)}
        index = {g.id: i for i, g in enumerate(self._geometries)}
        sizes = (IndexInput * len(self._sizes))(*(IndexInput(*size) for size in self._sizes))
        structures = (IndexLevel * len(levels))(*(
            IndexLevel(
                level.height, level.width, -1 if level.geometry is None else index[level.geometry],
                policy.dilation_of(level.id), policy.granularity_of(level.id),
                self._buffers[f"active.{level.id}"].pointer,
            )
            for level in levels
        ))  # fmt: skip
        places = (IndexGeometry * max(len(self._geometries), 1))(*(
            IndexGeometry(
                number[g.source], number[g.target], self._axis(g.y), self._axis(g.x),
                *(self._pointer(f"{kind}.{g.id}") for kind in ("halo", "table", "weights")),
            )
            for g in self._geometries
        ))  # fmt: skip
        indices = Indices(
            input=sizes, level=structures, geometry=places, inputs=len(sizes), levels=len(levels),
            geometries=len(self._geometries), dilate=policy.dilate, threshold=policy.threshold,
            counts=self.block.pointer,
        )  # fmt: skip
        library, kernels, where = self._kernels.library, self._kernels, ctypes.addressof(indices)
        plan_bytes, state_bytes = ctypes.c_size_t(), ctypes.c_size_t()
        kernels.check(
            library.sige_indices_sizes(where, ctypes.addressof(plan_bytes), ctypes.addressof(state_bytes))
        )
        state = self._memory.empty([state_bytes.value], np.uint8)
        self._memory.fill(state, 0)
        block = np.zeros(plan_bytes.value + _ALIGNMENT, np.uint8)
        plan = block[-block.ctypes.data % _ALIGNMENT :][: plan_bytes.value]
        indices.state, indices.state_bytes = state.pointer, state.nbytes
        indices.plan, indices.plan_bytes = plan.ctypes.data, plan.size
        kernels.check(library.sige_indices_plan(where))
        copy = self._memory.upload(plan)
        indices.plan_copy = copy.pointer
        self._keep += [sizes, structures, places, state, plan, copy]
        return indices

    def _axis(self, taps: AxisTaps) -> ctypes.Structure:
        arrays = [
            None if a is None else self._memory.upload(a) for a in (taps.index, taps.weight, taps.phase)
        ]
        self._keep += arrays
        pointers = (None if array is None else array.pointer for array in arrays)
        return Axis(*pointers, taps.n_out, taps.k, taps.source_size, taps.n_phases)

    def _pointer(self, name: str) -> int | None:
        return self._buffers[name].pointer if name in self._buffers else None


def _outputs(
    memory: Memory, levels: Sequence[Level], geometries: Sequence[Geometry], only: Set[str] | None
) -> Feeds:
    """Memory for all feeds that are made, by name: every level's active pixels, and what is wanted of the
    geometries; a table is made with its halo."""

    def wanted(name: str) -> bool:
        return only is None or name in only

    pixels = {level.id: bucket(level.pixels) for level in levels}
    made = {f"active.{level.id}": memory.empty([pixels[level.id]], np.int32) for level in levels}
    for g in geometries:
        entries = [pixels[g.target], g.taps]
        if wanted(f"table.{g.id}") or wanted(f"halo.{g.id}"):
            made[f"halo.{g.id}"] = memory.empty([g.source_shape[0] * g.source_shape[1]], np.int32)
            memory.fill(made[f"halo.{g.id}"], 0)
        if wanted(f"table.{g.id}"):
            made[f"table.{g.id}"] = memory.empty(entries, np.int32)
        if g.weighted and wanted(f"weights.{g.id}"):
            made[f"weights.{g.id}"] = memory.empty(entries, np.float32)
    return made
