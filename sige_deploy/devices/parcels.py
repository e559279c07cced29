"""Bringing recorded states to a device: one is made ready while another one is in force.

On the host a state that lies in memory as it was recorded is put in force where it lies; of any other one,
the rows that edits read are copied into arrays of the parcel's own. On a memory with its own stream all that
edits read is packed in pinned memory, sent on a stream beside, and unpacked where the engine knows it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy import caches
from sige_deploy.devices.base import Needs, Source
from sige_deploy.devices.kept import KeptBuffers
from sige_deploy.devices.memory import Buffer, host_array, offsets
from sige_deploy.kernels import RowMoves

if TYPE_CHECKING:
    from sige_deploy.devices.host import HostDevice
    from sige_deploy.devices.native import NativeDevice


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
    """A `Parcel` for a device whose recorded state has fixed addresses."""

    def __init__(self, device: NativeDevice) -> None:
        self._device = device
        self._entries = caches.ordered(device.manifest)
        self._begins, self._total = offsets(self._entries)
        self._courier = device.memory.courier()
        self._host: Buffer | None = None  # pinned, and what it is sent to
        self._there: Buffer | None = None
        self._kept: KeptBuffers | None = None
        self._front = 0
        self._rows: dict[str, tuple[list[int], np.dtype]] = {}
        self._places: dict[str, int] = {}
        self._needs = Needs()
        self._moves: tuple[tuple[str, ...], RowMoves] | None = None
        self._lists: tuple[Mapping[str, np.ndarray] | None, dict[str, Buffer]] = (None, {})

    def load(self, source: Source, needs: Needs) -> None:
        self._needs, self._kept = needs, source if isinstance(source, KeptBuffers) else None
        if self._kept is not None:
            return
        self._front = self._front_bytes(needs)
        rows = needs.rows if needs.rows is not None and needs.caches else {}
        self._rows = {
            name: (
                [self._entries[name][0][0], pixels.size, self._entries[name][0][2]],
                self._entries[name][1],
            )
            for name, pixels in rows.items()
        }
        self._places, packed = offsets(self._rows)
        self._make_room(self._front + packed)
        assert self._host is not None and self._there is not None
        whole = source.front()
        if whole is not None and whole.nbytes >= self._front and self._device.memory.lands(whole.ctypes.data):
            sent = Buffer(whole.ctypes.data, [self._front], np.uint8, whole)
        else:
            sent = self._host.view([self._front], np.uint8)
            self._pack_front(source, whole, host_array(sent))
        self._courier.send(sent, self._there.view([self._front], np.uint8))
        for name, pixels in rows.items():
            place = self._host.view(*self._rows[name], offset=self._front + self._places[name])
            np.copyto(host_array(place), source.rows(name, pixels))
        if packed:
            part = [packed], np.uint8, self._front
            self._courier.send(self._host.view(*part), self._there.view(*part))
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
            memory.copy(self._there.view(*front), device.storage_block.view(*front))
            names = tuple(self._rows)
            if names:
                packed = [self._there.pointer + self._front + self._places[name] for name in names]
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

    def _pack_front(self, source: Source, whole: np.ndarray | None, into: np.ndarray) -> None:
        done = 0 if whole is None else min(whole.nbytes, into.nbytes)
        if whole is not None:
            into[:done] = whole[:done]
        for name, (shape, dtype) in self._entries.items():
            begin = self._begins[name]
            end = begin + math.prod(shape) * dtype.itemsize
            if done <= begin and end <= into.nbytes:
                np.copyto(into[begin:end].view(dtype).reshape(shape), source.array(name))

    def _make_room(self, nbytes: int) -> None:
        if self._host is None or self._host.nbytes < nbytes:
            memory = self._device.memory
            self._host = self._there = None  # before the new ones are there
            self._there = memory.empty([nbytes], np.uint8)
            self._host = memory.landing(self._there)

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
