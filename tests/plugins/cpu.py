"""Runs an op of the CPU backend on numpy arrays named as in docs/ops.md."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

import numpy as np

from . import library
from .library import ALIGNMENT, CPU, Execution, Kernels

POISON = 0xFF  # every float of these bytes is NaN


def allocate(size: int) -> np.ndarray:
    """Aligned, poisoned bytes."""
    memory = np.full(size + ALIGNMENT, POISON, np.uint8)
    return memory[-memory.ctypes.data % ALIGNMENT :][:size]


def poisoned(dtype: np.dtype, *shape: int) -> np.ndarray:
    """An array of NaN."""
    return np.full(shape, np.nan, dtype)


def execution(
    kernels: Kernels, workspace: np.ndarray | None = None, threads: ctypes.c_int32 | None = None
) -> ctypes.Structure:
    """Where a CPU call runs: on the calling thread, or on `threads` threads of the default parallel loop."""
    result = Execution(backend=CPU)
    if workspace is not None:
        result.workspace, result.workspace_bytes = workspace.ctypes.data, workspace.size
    if threads is not None:
        result.parallel_for = ctypes.cast(kernels.library.sige_parallel_threads, ctypes.c_void_p).value
        result.parallel_context = ctypes.addressof(threads)
    return result


def gather(kernels: Kernels, inputs: Mapping[str, Any], threads: int = 1, **attributes: Any) -> np.ndarray:
    """Gather."""
    batch, fresh, _ = inputs["rows"].shape
    table = inputs.get("table")
    targets, taps = (fresh, 1) if table is None else table.shape
    width = taps * library.source_channels(inputs) // attributes.get("phases", 1)
    out = poisoned(inputs["rows"].dtype, batch, targets, width)
    return _run(kernels, "gather", library.gather_args(inputs, attributes, out), out, threads)


def conv(kernels: Kernels, inputs: Mapping[str, Any], threads: int = 1, **attributes: Any) -> np.ndarray:
    """Conv, with the weight packed first."""
    batch, fresh, _ = inputs["rows"].shape
    table = inputs.get("table")
    targets = fresh if table is None else table.shape[0]
    shape = batch, targets, library.conv_outputs(inputs, attributes)
    out = poisoned(inputs["rows"].dtype, *shape)
    packed = kernels.pack(library.conv_args(inputs, attributes, out), allocate)
    return _run(kernels, "conv", library.conv_args(inputs, attributes, out, packed), out, threads)


def scatter(kernels: Kernels, inputs: Mapping[str, Any], in_place: bool = False) -> np.ndarray:
    """Scatter; in place, it overwrites the base."""
    out = inputs["base"] if in_place else poisoned(inputs["base"].dtype, *inputs["base"].shape)
    kernels.run("scatter", library.scatter_args(inputs, out), execution(kernels))
    return out


def attention(kernels: Kernels, inputs: Mapping[str, Any], threads: int = 1, **attributes: Any) -> np.ndarray:
    """Attention."""
    out = poisoned(inputs["q"].dtype, *inputs["q"].shape[:2], library.attention_outputs(inputs, attributes))
    return _run(kernels, "attention", library.attention_args(inputs, attributes, out), out, threads)


def _run(kernels: Kernels, op: str, args: ctypes.Structure, out: np.ndarray, threads: int) -> np.ndarray:
    workspace = allocate(kernels.size(f"sige_{op}_workspace_size", args, CPU))
    count = ctypes.c_int32(threads)
    kernels.run(op, args, execution(kernels, workspace, count if threads > 1 else None))
    return out
