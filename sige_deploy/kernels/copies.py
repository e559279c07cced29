"""Whole arrays to elsewhere in the same memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sige_deploy.kernels.library import CopyArgs, Kernels

if TYPE_CHECKING:
    from sige_deploy.devices.memory import Buffer, Memory


class Copies:
    """Copies of several arrays by one call (on a GPU: one launch). most: arrays of one call."""

    def __init__(self, kernels: Kernels, memory: Memory, most: int) -> None:
        self._kernels = kernels
        self._args = (CopyArgs * max(most, 1))()
        self._execution = kernels.execution(memory)
        self._fixed = ctypes.addressof(self._args), ctypes.addressof(self._execution)
        self._call = kernels.library.sige_copy

    def copy(self, pairs: Sequence[tuple[Buffer, Buffer]]) -> None:
        """Copy the first of each pair onto the second, which has its size; stream-ordered."""
        for args, (source, target) in zip(self._args, pairs):
            args.source, args.target, args.bytes = source.pointer, target.pointer, source.nbytes
        where, execution = self._fixed
        self._kernels.check(self._call(where, len(pairs), execution))
