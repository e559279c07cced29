"""Inputs of an edit against the recorded ones, where they lie: which pixels differ, and are they finite."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sige_deploy.errors import RuntimeFailure
from sige_deploy.kernels.library import CompareArgs, Kernels

if TYPE_CHECKING:
    from sige_deploy.devices.memory import Buffer, Memory

ELEMENTS = {
    "float16": 0, "float32": 1, "float64": 2, "int8": 3, "int16": 4, "int32": 5, "int64": 6,
    "uint8": 7, "uint16": 8, "uint32": 9, "uint64": 10, "bool": 7,
}  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """A C-contiguous array, seen as [n, c, y, x].

    dtype: one of ELEMENTS. size: of the four axes. stride: of the four axes, in elements.
    eps: a pixel (y, x) is edited where |given - recorded| > eps anywhere along n and c, as in
        `masks.difference_mask`.
    """

    dtype: str
    size: tuple[int, int, int, int]
    stride: tuple[int, int, int, int]
    eps: float = 0.0

    @classmethod
    def of(
        cls, shape: Sequence[int], dtype: str, axes: Sequence[str] | None = None, eps: float = 0.0
    ) -> Layout:
        """The layout of an array.

        axes: the kind of each axis, "N", "C", "Y" or "X", each at most once (`InputSpec.axes`); None where
            there are no pixels, so that no mask is wanted.
        """
        if axes is None:
            count = int(np.prod(shape, dtype=np.int64))
            return cls(str(dtype), (1, 1, 1, count), (count, count, count, 1), eps)
        strides = [int(np.prod(shape[i + 1 :], dtype=np.int64)) for i in range(len(shape))]
        at = {kind: i for i, kind in enumerate(axes)}
        size = [int(shape[at[kind]]) if kind in at else 1 for kind in "NCYX"]
        stride = [strides[at[kind]] if kind in at else 0 for kind in "NCYX"]
        return cls(
            str(dtype),
            (size[0], size[1], size[2], size[3]),
            (stride[0], stride[1], stride[2], stride[3]),
            eps,
        )


class Comparison:
    """All inputs of a bundle, compared with the recorded ones by one call (on a GPU: two launches).

    layouts: one per input. status: int32 [inputs, 2], written by `launch`: nonzero where the given input
        holds NaN or infinity, and where it differs from the recorded one in some bit.
    Raises RuntimeFailure for dtypes that the kernels do not know.
    """

    def __init__(self, kernels: Kernels, memory: Memory, layouts: Sequence[Layout], status: Buffer) -> None:
        self._kernels, self._count, self._status = kernels, len(layouts), status
        self._args = (CompareArgs * max(len(layouts), 1))()
        for args, layout in zip(self._args, layouts):
            if layout.dtype not in ELEMENTS:
                raise RuntimeFailure(f"the native kernels cannot compare inputs of dtype {layout.dtype}.")
            args.element, args.eps = ELEMENTS[layout.dtype], layout.eps
            args.size[:], args.stride[:] = layout.size, layout.stride
        execution = kernels.execution(memory)
        self._keep = execution
        self._call = kernels.library.sige_compare
        self._fixed = (ctypes.addressof(self._args), self._count, status.pointer, ctypes.addressof(execution))

    def launch(self, given: Sequence[int], recorded: Sequence[int], masks: Sequence[int]) -> None:
        """Compare; stream-ordered.

        given, recorded: addresses of the arrays, one per input; recorded 0 only looks for NaN and infinity.
        masks: addresses of uint8 [y, x] to write, 1 where a pixel is edited and 0 elsewhere; 0: none wanted.
        """
        for args, now, then, mask in zip(self._args, given, recorded, masks):
            args.given, args.recorded, args.mask = now, then, mask
        self._kernels.check(self._call(*self._fixed))
