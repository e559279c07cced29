"""Rows out of dense arrays and into them, by separable tables of offsets."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.kernels.library import Kernels, MoveArgs

if TYPE_CHECKING:
    from sige_deploy.devices.memory import Buffer, Memory
    from sige_deploy.manifest import InputSpec, OutputSpec


@dataclass(frozen=True, eq=False)
class Offsets:
    """Where entry (b, pixel (y, x), c) of rows [B, P, C] lies in a dense array: at n[b] + y[y] + x[x] + c[c].

    n, y, x, c: int64, in elements; c may be -1: the array lacks that channel of the rows, `put` leaves
    it out. itemsize: bytes of an element, 1, 2, 4 or 8.
    """

    n: np.ndarray
    y: np.ndarray
    x: np.ndarray
    c: np.ndarray
    itemsize: int

    @classmethod
    def of_input(cls, spec: InputSpec) -> Offsets:
        """Of a spatial input as the user gives it."""
        atoms = [[(kind, size)] for kind, size in zip(spec.axes or [], spec.shape)]
        return cls._of(atoms, spec.dtype, None)

    @classmethod
    def of_output(cls, spec: OutputSpec) -> Offsets:
        """Of a spatial output: axes made of several atoms, and channels in the order of the rows."""
        return cls._of(spec.layout or [], spec.dtype, spec.order)

    @classmethod
    def _of(cls, layout: Sequence[Sequence[tuple[Any, int]]], dtype: str, order: list[int] | None) -> Offsets:
        atoms = [atom for axis in layout for atom in axis]
        strides = [
            int(np.prod([size for _, size in atoms[i + 1 :]], dtype=np.int64)) for i in range(len(atoms))
        ]

        def offsets(kind: str, order: list[int] | None = None) -> np.ndarray:
            parts = [(size, stride) for (k, size), stride in zip(atoms, strides) if k == kind]
            result = np.zeros(1, np.int64)
            for size, stride in parts if order is None else [parts[i] for i in order]:
                result = (result[:, None] + np.arange(size, dtype=np.int64) * stride).reshape(-1)
            return result

        return cls(offsets("N"), offsets("Y"), offsets("X"), offsets("C", order), np.dtype(dtype).itemsize)


class RowMoves:
    """Moves between dense arrays and rows, all of one direction by one call (on a GPU: one launch).

    arrays: one per dense array. The tables are uploaded once.
    """

    def __init__(self, kernels: Kernels, memory: Memory, arrays: Sequence[Offsets]) -> None:
        self._kernels = kernels
        self._args = (MoveArgs * max(len(arrays), 1))()
        self._keep: list[Any] = [kernels.execution(memory)]
        for args, a in zip(self._args, arrays):
            tables = [memory.upload(table) for table in (a.n, a.y, a.x, a.c)]
            self._keep += tables
            args.n, args.y, args.x, args.c = (table.pointer for table in tables)
            args.batch, args.width, args.channels, args.bytes = len(a.n), len(a.x), len(a.c), a.itemsize
        self._fixed = (ctypes.addressof(self._args), len(arrays), ctypes.addressof(self._keep[0]))
        self._take, self._put = kernels.library.sige_take_rows, kernels.library.sige_put_rows

    def take(self, dense: Sequence[int], rows: Sequence[int], active: Sequence[Buffer]) -> None:
        """Copy the pixels `active` (int32 [P], y * W + x) of each dense array into its rows [B, P, C]; dense
        and rows are addresses. Stream-ordered."""
        self._point(dense, rows, active)
        self._kernels.check(self._take(*self._fixed))

    def put(self, dense: Sequence[int], rows: Sequence[int], active: Sequence[Buffer]) -> None:
        """Write rows into each dense array, the inverse of `take`. Neighbours in `active` may be equal; then
        one of their rows is written. Stream-ordered."""
        self._point(dense, rows, active)
        self._kernels.check(self._put(*self._fixed))

    def _point(self, dense: Sequence[int], rows: Sequence[int], active: Sequence[Buffer]) -> None:
        for args, d, r, a in zip(self._args, dense, rows, active):
            args.dense, args.rows, args.active, args.fresh = d, r, a.pointer, a.shape[0]
