"""A copy of a recorded state in the memory of the device that made it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from sige_deploy import caches
from sige_deploy.devices.memory import Buffer, offsets, views

if TYPE_CHECKING:
    from sige_deploy.devices.native import NativeDevice


class KeptBuffers:
    """A `Kept` of one block, laid out as the state in force. Used inside `current()` of its memory."""

    resident = True

    def __init__(self, device: NativeDevice) -> None:
        self._device = device
        entries = caches.ordered(device.manifest)
        begins, total = offsets(entries)
        self.block: Buffer = device.memory.empty([total], np.uint8)
        self._buffers = views(self.block, entries, begins)
        device.memory.copy(device.storage_block, self.block)
        device.holds(self)

    @property
    def nbytes(self) -> int:
        return self.block.nbytes

    def array(self, name: str) -> np.ndarray:
        return self._device.memory.download(self._buffers[name])

    def rows(self, name: str, pixels: np.ndarray) -> np.ndarray:
        memory, base = self._device.memory, self._buffers[name]
        rows = memory.empty([base.shape[0], pixels.size, base.shape[2]], base.dtype)
        listed = memory.upload(pixels)
        self._device.row_moves([name]).take([base.pointer], [rows.pointer], [listed])
        return memory.download(rows)

    def front(self) -> None:
        return None

    def write(self, name: str, pixels: np.ndarray, values: np.ndarray) -> None:
        self._device.changes(self)
        memory = self._device.memory
        listed, rows = memory.upload(pixels), memory.upload(np.ascontiguousarray(values))
        self._device.row_moves([name]).put([self._buffers[name].pointer], [rows.pointer], [listed])
        memory.synchronize()  # the lists live until here

    def replace(self, name: str, value: np.ndarray) -> None:
        self._device.changes(self)
        self._device.memory.upload(np.ascontiguousarray(value), self._buffers[name])

    def raw(self, name: str, pixels: np.ndarray) -> list[np.ndarray]:
        return [self.rows(name, pixels)]

    def put_raw(self, name: str, pixels: np.ndarray, kept: list[np.ndarray]) -> None:
        self.write(name, pixels, kept[0])

    def put(self) -> None:
        """Copy all of it to where the state in force is, unless it is there."""
        if not self._device.has(self):
            self._device.memory.copy(self.block, self._device.storage_block)
            self._device.holds(self)
