"""The Metal kernels, compiled for the CPU, with the arguments of the numpy definitions in sige_deploy.ops."""

from __future__ import annotations

import ctypes
import math
import os
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


Rows = _struct("Rows", "p data i slices i height i width")
Buffers = _struct("Buffers", "p base p base_2 p halo p table p scale p shift p live")
Source = _struct(
    "Source",
    "i fresh i pixels i targets i taps i channels i channels_2 i has_table i scale_batch i shift_batch "
    "i activation f alpha",
)
Gather = _struct("Gather", "source source i phases i padding", source=Source)
Conv = _struct(
    "Conv",
    "source source i outputs i group i has_bias i embedding_batch i has_multiplier i has_residual "
    "i activation f alpha",
    source=Source,
)
Scatter = _struct("Scatter", "i pixels i fresh i channels i width")
Attention = _struct("Attention", "i fresh i pixels i heads i dk i dv i overlaid f scale")

Array = np.ndarray | None


class MetalKernels:
    """plugins/kernels/metal on the CPU: float16 arrays in and out, shaped as in docs/ops.md.

    images: rows travel as the textures that Core ML hands to `encode`, with channels past the last one set to
    NaN; otherwise as buffers. plain: Conv without simdgroup matrices. Both run the same bodies.

    Every op takes what its numpy definition takes, and `live`: rows from there on are padding of the bucket,
    which are not computed and come back as zeros. None: all rows are live.
    """

    def __init__(self, path: Path | None = None, *, images: bool = True, plain: bool = False) -> None:
        named = os.environ.get("SIGE_METAL_LIBRARY")
        self._library = ctypes.CDLL(str(path or named or build()))
        self._images, self._plain = images, plain

    def with_plain_products(self) -> MetalKernels:
        """The same, with Conv as for GPUs that have no simdgroup matrices."""
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
        call = _Call(self._images)
        source = _source(rows, base, table, scale, shift, rows_2, activation, alpha)
        padding = int(np.float16(pad_value).view(np.uint16))
        parameters = Gather(source, phases, padding)
        width = source.taps * (source.channels // phases)
        out = call.output(rows.shape[0], source.targets, width)
        buffers = call.buffers(
            base, base_2, halo, table, scale, shift, source.targets if live is None else live
        )
        arrays = call.rows(rows, rows_2)
        self._library.sige_gather(
            self._images, rows.shape[0], *arrays, out, ctypes.byref(buffers), ctypes.byref(parameters)
        )
        return call.result(width)

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
        early: int = 0,
        live: int | None = None,
    ) -> np.ndarray:
        """[B, R, Cout]."""
        call = _Call(self._images)
        source = _source(rows, base, table, scale, shift, rows_2, activation_in, alpha_in)
        outputs = weight.shape[2]
        parameters = Conv(
            source, outputs, group, bias is not None, 0 if embedding is None else embedding.shape[0],
            multiplier is not None, residual is not None, ACTIVATIONS.index(activation_out), alpha_out,
        )  # fmt: skip
        out = call.output(rows.shape[0], source.targets, outputs)
        buffers = call.buffers(
            base, base_2, halo, table, scale, shift, source.targets if live is None else live
        )
        arrays = call.rows(rows, rows_2, embedding, multiplier, residual)
        self._library.sige_conv(
            self._images, self._plain, rows.shape[0], *arrays, out, call.buffer(weight), call.buffer(bias),
            ctypes.byref(buffers), ctypes.byref(parameters),
        )  # fmt: skip
        return call.result(outputs)

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
        call = _Call(self._images)
        batch, pixels, channels = base.shape
        parameters = Scatter(pixels, rows.shape[1], channels, width or pixels)
        out = call.output(batch, pixels, channels, width or pixels)
        self._library.sige_scatter(
            self._images, batch, *call.rows(rows), out, call.buffer(base), call.buffer(active),
            call.live(rows.shape[1] if live is None else live), ctypes.byref(parameters),
        )  # fmt: skip
        return call.result(channels)

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
        live: int | None = None,
    ) -> np.ndarray:
        """[B, P, heads * dv]."""
        call = _Call(self._images)
        (batch, fresh, channels), outputs = q.shape, v_base.shape[2]
        dk, dv = channels // heads, outputs // heads
        parameters = Attention(
            fresh, k_base.shape[1], heads, dk, dv, active is not None, scale or 1 / math.sqrt(dk)
        )
        out = call.output(batch, fresh, outputs)
        self._library.sige_attention(
            self._images, batch, *call.rows(q, k, v), out, call.buffer(k_base), call.buffer(v_base),
            call.buffer(active), call.live(fresh if live is None else live), ctypes.byref(parameters),
        )  # fmt: skip
        return call.result(outputs)


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
    """The arrays of one call, kept until it is over."""

    def __init__(self, images: bool) -> None:
        self._images = images
        self._kept: list[Any] = []

    def rows(self, *arrays: Array) -> list[Any]:
        """Rows as textures or buffers. One that the call lacks is the first again, never read there."""
        given = [None if array is None else self._rows(array) for array in arrays]
        return [given[0] if rows is None else rows for rows in given]

    def _rows(self, array: np.ndarray) -> Any:
        assert array.dtype == np.float16 and array.ndim == 3
        if not self._images:
            return self._hand_over(np.ascontiguousarray(array), 0, 0, 0)
        batch, count, channels = array.shape
        slices = -(-channels // 4)
        texels = np.full((batch, max(count, 1), slices * 4), np.nan, np.float16)
        texels[:, :count, :channels] = array
        texels = texels.reshape(batch, -1, slices, 4).transpose(0, 2, 1, 3)
        return self._hand_over(np.ascontiguousarray(texels), batch * slices, 1, max(count, 1))

    def output(self, batch: int, count: int, channels: int, width: int | None = None) -> Any:
        """Where the result is written: NaN, until it is."""
        self._shape = batch, count, channels
        width = max(width or count, 1)
        if not self._images:
            self._out = np.full(self._shape, np.nan, np.float16)
            return self._hand_over(self._out, 0, 0, 0)
        slices, height = -(-channels // 4), -(-max(count, 1) // width)
        self._out = np.full((batch * slices, height, width, 4), np.nan, np.float16)
        return self._hand_over(self._out, batch * slices, height, width)

    def result(self, channels: int) -> np.ndarray:
        """The result [B, count, channels]."""
        if not self._images:
            return self._out
        batch, count, _ = self._shape
        slices = -(-channels // 4)
        pixels = self._out.reshape(batch, slices, -1, 4).transpose(0, 2, 1, 3).reshape(batch, -1, slices * 4)
        return np.ascontiguousarray(pixels[:, :count, :channels])

    def buffer(self, array: Array) -> Any:
        """Address of an array, or of nothing that may be read."""
        if array is None:
            return _POINTER(None)
        kept = np.ascontiguousarray(array)
        self._kept.append(kept)
        return _POINTER(kept.ctypes.data)

    def live(self, count: int) -> Any:
        """Address of the number of live rows."""
        return self.buffer(np.array([count], np.int32))

    def buffers(
        self, base: Array, base_2: Array, halo: Array, table: Array, scale: Array, shift: Array, live: int
    ) -> ctypes.Structure:
        """What does not travel as rows."""
        arrays = (base, base_2, halo, table, scale, shift)
        return Buffers(*(self.buffer(array) for array in arrays), self.live(live))

    def _hand_over(self, array: np.ndarray, slices: int, height: int, width: int) -> Any:
        rows = Rows(array.ctypes.data, slices, height, width)
        self._kept += [array, rows]
        return ctypes.byref(rows)
