"""Bringing recorded states to a device: one is made ready while another one is in force.

On the host a state that lies in memory as it was recorded is put in force where it lies; of any other one,
the rows that edits read are copied into arrays of the parcel's own. On a memory with its own stream what
edits read whole is sent from where it is, if that is pinned; all else is packed in pinned memory by several
threads. It is sent on a stream beside, and unpacked where the engine knows it.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy import caches
from sige_deploy.devices.base import Needs, Source
from sige_deploy.devices.kept import KeptBuffers
from sige_deploy.devices.memory import Buffer, HostMemory, host_array, offsets
from sige_deploy.errors import RuntimeFailure
from sige_deploy.kernels import RowMoves

if TYPE_CHECKING:
    from sige_deploy.devices.host import HostDevice
    from sige_deploy.devices.native import NativeDevice

PIECE = 2 << 20  # bytes that a thread packs before they are sent, about
PACKERS = 8  # threads that pack, at most

#: (begin, end, what writes these bytes of a parcel into a uint8 array of that size)
Copy = tuple[int, int, Callable[[np.ndarray], None]]


class HostParcel:
    """A `Parcel` of numpy arrays."""

    def __init__(self, device: HostDevice) -> None:
        self._device = device
        self._entries = caches.expected(device.manifest)
        self._own: dict[str, np.ndarray] = {}
        self._arrays: dict[str, np.ndarray] = {}

    def load(self, source: Source, needs: Needs) -> None:
        arrays = {}
        for name in self._entries:
            if name.startswith("cache.") and not needs.caches:
                continue
            pixels = None if needs.rows is None else needs.rows.get(name)
            if pixels is None or source.resident:
                arrays[name] = source.array(name)
            else:
                own = self._own.get(name)
                if own is None:
                    own = self._own[name] = np.zeros(*self._entries[name])
                own[:, pixels] = source.rows(name, pixels)
                arrays[name] = own
        self._arrays = arrays

    def put(self) -> None:
        self._device.restore(self._arrays)
        self._arrays = {}


class BufferParcel:
    """A `Parcel` for a device whose recorded state has fixed addresses: rows one after the other, then what
    is wanted whole, as it lies at the front of a recorded state."""

    def __init__(self, device: NativeDevice) -> None:
        self._device = device
        self._entries = caches.ordered(device.manifest)
        self._begins, self._total = offsets(self._entries)
        self._courier = device.memory.courier()
        self._host: Buffer | None = None  # pinned, for what is packed
        self._there: Buffer | None = None
        self._kept: KeptBuffers | None = None
        self._front = self._packed = 0  # bytes that are wanted whole, and of rows
        self._rows: dict[str, tuple[list[int], np.dtype]] = {}
        self._places: dict[str, int] = {}
        self._needs = Needs()
        self._moves: tuple[tuple[str, ...], RowMoves] | None = None
        self._lists: tuple[Mapping[str, np.ndarray] | None, dict[str, Buffer]] = (None, {})

    def load(self, source: Source, needs: Needs) -> None:
        self._needs, self._kept = needs, source if isinstance(source, KeptBuffers) else None
        if self._kept is not None:
            return
        rows = needs.rows if needs.rows is not None and needs.caches else {}
        self._rows = {
            name: (
                [self._entries[name][0][0], pixels.size, self._entries[name][0][2]],
                self._entries[name][1],
            )
            for name, pixels in rows.items()
        }
        self._places, self._packed = offsets(self._rows)
        self._front = self._front_bytes(needs)
        whole = source.front()
        copies = list(self._copies_of_rows(source, whole, rows))
        if whole is not None and whole.nbytes >= self._front and self._device.memory.lands(whole.ctypes.data):
            there = self._make_room(self._packed)
            sent = Buffer(whole.ctypes.data, [self._front], np.uint8, whole)
            self._courier.send(sent, there.view([self._front], np.uint8, self._packed))
        else:
            self._make_room(self._packed + self._front)
            copies += self._copies_of_front(source, whole)
        self._pack(copies)
        self._courier.wait()  # so that the pinned memory may change, and whoever measures has waited

    def put(self) -> None:
        device = self._device
        memory, storage = device.memory, device.storage
        if self._kept is not None:
            self._kept.put()
        else:
            assert self._there is not None
            device.holds(None)
            self._courier.arrive()
            front = [self._front], np.uint8
            memory.copy(self._there.view(*front, self._packed), device.storage_block.view(*front))
            names = tuple(self._rows)
            if names:
                packed = [self._there.pointer + self._places[name] for name in names]
                lists = self._pixels(self._needs.rows or {})
                moves = self._row_moves(names)
                moves.put([storage[name].pointer for name in names], packed, [lists[name] for name in names])
            self._courier.follow()
        device.put_in_force()

    def _front_bytes(self, needs: Needs) -> int:
        """Bytes that lie before what is not wanted, or is wanted as rows."""
        for name, begin in self._begins.items():
            if name.startswith("cache.") and not needs.caches:
                return begin
            if needs.rows is not None and name in needs.rows:
                return begin
        return self._total

    def _span(self, name: str) -> tuple[int, int]:
        """Where an array begins and ends in a recorded state, in bytes."""
        shape, dtype = self._entries[name]
        begin = self._begins[name]
        return begin, begin + math.prod(shape) * dtype.itemsize

    def _array(self, block: np.ndarray | None, name: str) -> np.ndarray | None:
        """A view of an array in a block that begins as a recorded state does; None where it ends before."""
        shape, dtype = self._entries[name]
        begin, end = self._span(name)
        return None if block is None or end > block.nbytes else block[begin:end].view(dtype).reshape(shape)

    def _copies_of_rows(
        self, source: Source, whole: np.ndarray | None, rows: Mapping[str, np.ndarray]
    ) -> Iterator[Copy]:
        for name, pixels in rows.items():
            shape, dtype = self._rows[name]
            begin = self._places[name]
            yield (
                begin,
                begin + math.prod(shape) * dtype.itemsize,
                functools.partial(_take, source, self._array(whole, name), name, pixels, shape, dtype),
            )

    def _copies_of_front(self, source: Source, whole: np.ndarray | None) -> Iterator[Copy]:
        done = 0 if whole is None else min(whole.nbytes, self._front)
        for begin in range(0, done, PIECE):
            assert whole is not None
            piece = whole[begin : min(begin + PIECE, done)]
            yield self._packed + begin, self._packed + begin + piece.nbytes, functools.partial(_copy, piece)
        for name, (_, dtype) in self._entries.items():
            begin, end = self._span(name)
            if done <= begin and end <= self._front:
                yield self._packed + begin, self._packed + end, functools.partial(_fetch, source, name, dtype)

    def _pack(self, copies: Sequence[Copy]) -> None:
        """Make these copies in pinned memory, and send each piece as soon as it is there."""
        if not copies:
            return
        host, there = self._host, self._there
        assert host is not None and there is not None
        into = host_array(host.view([host.nbytes], np.uint8))

        def fill(piece: Sequence[Copy]) -> None:
            for begin, end, copy in piece:
                copy(into[begin:end])

        pieces = _pieces(copies)
        filled = [_packers().submit(fill, piece) for piece in pieces]
        try:
            for piece, future in zip(pieces, filled):
                future.result()
                begin, end = piece[0][0], piece[-1][1]
                part = [end - begin], np.uint8, begin
                self._courier.send(host.view(*part), there.view(*part))
        finally:  # after a failure too nothing may write there any more
            wait(filled)

    def _make_room(self, packed: int) -> Buffer:
        """Memory on the device for all, which it returns, and pinned memory for what is packed."""
        memory = self._device.memory
        there, nbytes = self._there, self._packed + self._front
        spare = self._packed // 4  # masks grow as they are painted
        if there is None or there.nbytes < nbytes:
            self._there = None  # before the new one is there
            there = self._there = memory.empty([nbytes + spare], np.uint8)
        if packed and (self._host is None or self._host.nbytes < packed):
            self._host = None
            try:
                self._host = memory.landing(Buffer(0, [packed + spare], np.uint8))
            except RuntimeFailure:  # the system pins no more; the driver copies once more then
                self._host = HostMemory().empty([packed + spare], np.uint8)
        return there

    def _pixels(self, rows: Mapping[str, np.ndarray]) -> dict[str, Buffer]:
        """The lists of pixels on the device; equal ones are one, and the last ones are kept."""
        if self._lists[0] is not rows:
            uploaded: dict[int, Buffer] = {}
            for pixels in rows.values():
                if id(pixels) not in uploaded:
                    uploaded[id(pixels)] = self._device.memory.upload(pixels)
            self._lists = rows, {name: uploaded[id(pixels)] for name, pixels in rows.items()}
        return self._lists[1]

    def _row_moves(self, names: Sequence[str]) -> RowMoves:
        if self._moves is None or self._moves[0] != tuple(names):
            self._moves = tuple(names), self._device.row_moves(names)
        return self._moves[1]


@functools.cache
def _packers() -> ThreadPoolExecutor:
    """The threads that pack; they are idle but for loads, so all parcels share them."""
    threads = max(1, min(PACKERS, (os.cpu_count() or 1) - 1))
    return ThreadPoolExecutor(threads, thread_name_prefix="sige-pack")


def _pieces(copies: Sequence[Copy]) -> list[list[Copy]]:
    """Neighbours together, as many as make up a piece."""
    pieces: list[list[Copy]] = []
    for copy in copies:
        if pieces and copy[1] - pieces[-1][0][0] <= PIECE and copy[0] >= pieces[-1][-1][1]:
            pieces[-1].append(copy)
        else:
            pieces.append([copy])
    return pieces


def _take(
    source: Source,
    base: np.ndarray | None,
    name: str,
    pixels: np.ndarray,
    shape: Sequence[int],
    dtype: np.dtype,
    into: np.ndarray,
) -> None:
    """Rows of a base: out of the array itself where there is one."""
    rows = into.view(dtype).reshape(shape)
    if base is None:
        np.copyto(rows, source.rows(name, pixels))
    else:
        np.take(base, pixels, axis=1, out=rows, mode="clip")  # any other mode copies through a buffer


def _copy(piece: np.ndarray, into: np.ndarray) -> None:
    np.copyto(into, piece)


def _fetch(source: Source, name: str, dtype: np.dtype, into: np.ndarray) -> None:
    array = source.array(name)
    np.copyto(into.view(dtype).reshape(array.shape), array)
