"""The Metal kernels, compiled for the CPU, with the arguments of the numpy definitions in sige_deploy.ops."""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy.ops import ACTIVATIONS

from .build import build

_INT, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


def _struct(name: str, fields: str, **nested: type) -> type[ctypes.Structure]:
    """A structure from "type name" words: i int, f float, p pointer, or a nested structure."""
    types: dict[str, Any] = {"i": _INT, "f": _FLOAT, "p": _POINTER, **nested}
    words = fields.split()
    layout = [(field, types[kind]) for kind, field in zip(words[::2], words[1::2])]
    return type(name, (ctypes.Structure,), {"_fields_": layout})


Texture = _struct("Texture", "p texels i slices i height i width")
Source = _struct(
    "Source",
    "i fresh i pixels i targets i taps i channels i channels_2 i has_table i scale_batch i shift_batch "
    "i activation f alpha",
)
Gather = _struct("Gather", "source source i phases i padding", source=Source)
Conv = _struct(
    "Conv",
    "source source i outputs i group i has_bias i embedding_batch i has_multiplier i has_residual "
    "i activation f alpha f norm_epsilon i gated i gate",
    source=Source,
)
Scatter = _struct("Scatter", "i pixels i fresh i channels i width")
Part = _struct("Part", "i channels i offset")
Attention = _struct(
    "Attention",
    "i fresh i pixels i heads i dk i dv i overlaid f scale part q part k part v part k_base part v_base",
    part=Part,
)

Array = np.ndarray | None

# As in plugins/kernels/metal.
TILE, CONV_THREADS, CONV_BYTES = 32, 128, 2 * 32 * 40 * 2
QUERIES, ATTENTION_THREADS, CHUNK = 16, 128, 32
EACH = (8, 8, 1)  # threads of a threadgroup of a kernel without threadgroup memory


class MetalKernels:
    """plugins/kernels/metal on the CPU: float16 arrays in and out, shaped as in docs/ops.md.

    images: rows travel as the textures that Core ML hands to `encode`, with channels past the last one set to
    NaN; otherwise as buffers. plain: as for GPUs without simdgroup matrices and reductions. All run the same
    bodies.

    Every op takes what its numpy definition takes, and `live`: rows from there on are padding of the bucket,
    which are not computed and come back as zeros. None: all rows are live.
    """

    def __init__(self, path: Path | None = None, *, images: bool = True, plain: bool = False) -> None:
        named = os.environ.get("SIGE_METAL_LIBRARY")
        self._library = ctypes.CDLL(str(path or named or build()))
        self._images, self._plain = images, plain

    def plain(self) -> MetalKernels:
        """The same, as for GPUs without simdgroup matrices and reductions."""
        return MetalKernels(Path(self._library._name), images=self._images, plain=True)

    def gather(
        self,
        rows: np.ndarray,
        base: Array = None,
        halo: Array = None,
        table: Array = None,
        scale: Array = None,
        shift: Array = None,
        rows_2: Array = None,
        base_2: Array = None,
        *,
        activation: str = "identity",
        alpha: float = 0.01,
        phases: int = 1,
        pad_value: float = 0.0,
        live: int | None = None,
    ) -> np.ndarray:
        """[B, R, K * (C / phases)]."""
        source = _source(rows, base, table, scale, shift, rows_2, activation, alpha)
        width = source.taps * (source.channels // phases)
        call = _Call(self._images, (rows.shape[0], source.targets, width))
        call.buffers(base, base_2, halo, table, scale, shift, _live(live, source.targets))
        call.parameters(Gather(source, phases, int(np.float16(pad_value).view(np.uint16))))
        call.rows(rows, rows_2)
        groups = (_ceil(source.targets, 8), _ceil(_ceil(width, 4), 8), rows.shape[0])
        return call.run(self._library, "gather", groups, EACH)

    def conv(
        self,
        rows: np.ndarray,
        base: Array,
        halo: Array,
        table: Array,
        weight: np.ndarray,
        bias: Array = None,
        scale: Array = None,
        shift: Array = None,
        embedding: Array = None,
        residual: Array = None,
        multiplier: Array = None,
        rows_2: Array = None,
        base_2: Array = None,
        *,
        group: int = 1,
        activation_in: str = "identity",
        alpha_in: float = 0.01,
        activation_out: str = "identity",
        alpha_out: float = 0.01,
        norm_epsilon: float = 0.0,
        gate: str = "",
        early: int = 0,
        live: int | None = None,
    ) -> np.ndarray:
        """[B, R, Cout]."""
        source = _source(rows, base, table, scale, shift, rows_2, activation_in, alpha_in)
        (batch, *_), outputs = rows.shape, weight.shape[2] // (2 if gate else 1)
        call = _Call(self._images, (batch, source.targets, outputs))
        arrays = (base, base_2, halo, table, scale, shift, weight, bias)
        call.buffers(*arrays, _live(live, source.targets))
        call.parameters(
            Conv(
                source, outputs, group, bias is not None, 0 if embedding is None else embedding.shape[0],
                multiplier is not None, residual is not None, ACTIVATIONS.index(activation_out), alpha_out,
                norm_epsilon, bool(gate), ACTIVATIONS.index(gate or "identity"),
            )
        )  # fmt: skip
        call.rows(rows, rows_2, embedding, multiplier, residual)
        if group > 1 and outputs // group % 4:
            groups = (_ceil(source.targets, 8), _ceil(_ceil(outputs, 4), 8), batch)
            return call.run(self._library, "conv_few", groups, EACH)
        groups = (_ceil(source.targets, TILE), _ceil(outputs // group, TILE), batch * group)
        name = "conv_plain" if self._plain else "conv"
        return call.run(self._library, name, groups, (CONV_THREADS, 1, 1), CONV_BYTES)

    def scatter(
        self,
        base: np.ndarray,
        rows: np.ndarray,
        active: np.ndarray,
        *,
        live: int | None = None,
        width: int | None = None,
    ) -> np.ndarray:
        """[B, N, C]. width: of the image that the pixels are written to; all in one line if None."""
        batch, pixels, channels = base.shape
        call = _Call(self._images, base.shape, width or pixels)
        call.buffers(base, active, _live(live, rows.shape[1]))
        call.parameters(Scatter(pixels, rows.shape[1], channels, width or pixels))
        call.rows(rows)
        groups = (_ceil(pixels, 8), _ceil(_ceil(channels, 4), 8), batch)
        return call.run(self._library, "scatter", groups, EACH)

    def attention(
        self,
        q: np.ndarray,
        k: Array,
        v: Array,
        k_base: np.ndarray,
        v_base: np.ndarray,
        active: Array = None,
        *,
        heads: int,
        scale: float = 0.0,
        dk: int = 0,
        dv: int = 0,
        live: int | None = None,
        **offsets: int,
    ) -> np.ndarray:
        """[B, P, heads * dv]."""
        batch, fresh, channels = q.shape
        dk, dv = dk or channels // heads, dv or v_base.shape[2] // heads
        call = _Call(self._images, (batch, fresh, heads * dv))
        call.buffers(k_base, v_base, active, _live(live, fresh))
        scale = scale or 1 / math.sqrt(dk)
        arrays = {"q": q, "k": k, "v": v, "k_base": k_base, "v_base": v_base}
        parts = [
            Part(0 if array is None else array.shape[2], offsets.pop(f"{name}_offset", 0))
            for name, array in arrays.items()
        ]
        assert not offsets
        overlaid = active is not None
        call.parameters(Attention(fresh, k_base.shape[1], heads, dk, dv, overlaid, scale, *parts))
        call.rows(q, k, v)
        kind = "attention_plain" if self._plain else "attention"
        name = next(f"{kind}_{widest}" for widest in (64, 160, 512) if dv <= widest)
        size = QUERIES * 32 * 4 + 128 * 4 + 32 * 36 * 2 + QUERIES * (_ceil(dk, CHUNK) * CHUNK + 4) * 2
        groups = (_ceil(fresh, QUERIES), heads, batch)
        return call.run(self._library, name, groups, (ATTENTION_THREADS, 1, 1), size)


def _ceil(count: int, size: int) -> int:
    return -(-count // size)


def _live(live: int | None, rows: int) -> np.ndarray:
    return np.array([rows if live is None else live], np.int32)


def _source(
    rows: np.ndarray,
    base: Array,
    table: Array,
    scale: Array,
    shift: Array,
    rows_2: Array,
    activation: str,
    alpha: float,
) -> ctypes.Structure:
    channels_2 = 0 if rows_2 is None else rows_2.shape[2]
    targets, taps = (rows.shape[1], 1) if table is None else table.shape
    return Source(
        rows.shape[1], 0 if base is None else base.shape[1], targets, taps, rows.shape[2] + channels_2,
        channels_2, table is not None, 0 if scale is None else scale.shape[0],
        0 if shift is None else shift.shape[0], ACTIVATIONS.index(activation), alpha,
    )  # fmt: skip


class _Call:
    """What is bound for one call: buffers in the order of a kernel's indices, then rows, then the result.

    shape: of the result [B, count, channels]; width: of its image, `count` if None.
    """

    def __init__(self, images: bool, shape: Sequence[int], width: int | None = None) -> None:
        self._images, self._shape = images, tuple(shape)
        self._width = max(width or shape[1], 1)
        self._kept: list[Any] = []
        self._buffers: list[int | None] = []
        self._textures: list[ctypes.Structure] = []

    def buffers(self, *arrays: Array) -> None:
        """Arrays that are no rows; None where the call lacks one."""
        self._buffers += [None if array is None else self._address(array) for array in arrays]

    def parameters(self, parameters: ctypes.Structure) -> None:
        """The kernel's sizes and choices."""
        self._kept.append(parameters)
        self._buffers.append(ctypes.addressof(parameters))

    def rows(self, *arrays: Array) -> None:
        """Rows as textures or buffers. One that the call lacks is the first again, never read there."""
        first, *_ = arrays
        for array in arrays:
            given = first if array is None else array
            assert given is not None and given.dtype == np.float16 and given.ndim == 3
            if self._images:
                self._textures.append(self._texture(_to_image(given)))
            else:
                self.buffers(given)

    def run(
        self, library: ctypes.CDLL, name: str, groups: Sequence[int], threads: Sequence[int], size: int = 0
    ) -> np.ndarray:
        """The result, NaN where the kernel wrote nothing. size: bytes of threadgroup memory."""
        batch, count, channels = self._shape
        slices, height = _ceil(channels, 4), max(_ceil(count, self._width), 1)
        if self._images:
            out = np.full((batch * slices, height, self._width, 4), np.nan, np.float16)
            self._textures.append(self._texture(out))
        else:
            out = np.full(self._shape, np.nan, np.float16)
            self.buffers(out)
        textures = (_POINTER * len(self._textures))(*map(ctypes.addressof, self._textures))
        buffers = (_POINTER * len(self._buffers))(*self._buffers)
        name = f"{name}_{'images' if self._images else 'buffers'}"
        grid, size_of_group = (_INT * 3)(*groups), (_INT * 3)(*threads)
        unknown = library.sige_dispatch(
            name.encode(), textures, buffers, grid, size_of_group, ctypes.c_size_t(size)
        )
        assert not unknown, name
        if not self._images:
            return out
        pixels = out.reshape(batch, slices, -1, 4).transpose(0, 2, 1, 3).reshape(batch, -1, slices * 4)
        return np.ascontiguousarray(pixels[:, :count, :channels])

    def _texture(self, texels: np.ndarray) -> ctypes.Structure:
        return Texture(self._address(texels), *texels.shape[:3])

    def _address(self, array: np.ndarray) -> int:
        kept = np.ascontiguousarray(array)
        self._kept.append(kept)
        return kept.ctypes.data


def _to_image(rows: np.ndarray) -> np.ndarray:
    """[B, P, C] as texels [B * slices, 1, P or 1, 4]."""
    batch, count, channels = rows.shape
    slices = _ceil(channels, 4)
    texels = np.full((batch, max(count, 1), slices * 4), np.nan, np.float16)
    texels[:, :count, :channels] = rows
    texels = texels.reshape(batch, -1, slices, 4).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(texels.reshape(batch * slices, 1, -1, 4))
