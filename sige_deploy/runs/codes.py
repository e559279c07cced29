"""How a cache is kept: as it was recorded, in half precision, or in 8 bits.

A code turns rows [B, R, C] into one or more arrays [B, R, *] and back, every row by itself, so that any rows
can be read or written without the others.
"""

from __future__ import annotations

from typing import Literal, Protocol

import numpy as np

Storage = Literal["exact", "float16", "int8"]
BLOCK = 64  # channels that share a scale in 8 bits
_LARGEST = float(np.finfo(np.float16).max)

Spec = tuple[tuple[int, ...], np.dtype]


class Code(Protocol):
    """One way to keep an array."""

    def parts(self, spec: Spec) -> list[Spec]:
        """(shape, dtype) of each array that one of (shape, dtype) is kept in."""

    def encode(self, values: np.ndarray) -> list[np.ndarray]:
        """What to keep of these values."""

    def decode(self, parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
        """The values, of the dtype that they had."""


class Exact:
    """As it is; any array, of which `decode` gives a view."""

    def parts(self, spec: Spec) -> list[Spec]:
        return [spec]

    def encode(self, values: np.ndarray) -> list[np.ndarray]:
        return [values]

    def decode(self, parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
        return parts[0]


class Half:
    """float32 as float16; what is too large becomes the largest one."""

    def parts(self, spec: Spec) -> list[Spec]:
        return [(spec[0], np.dtype(np.float16))]

    def encode(self, values: np.ndarray) -> list[np.ndarray]:
        return [np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)]

    def decode(self, parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
        return parts[0].astype(dtype)


class Blocks8:
    """int8 with one float32 scale per BLOCK channels of a row: value = scale * code, scale = largest / 127.

    So an element takes 8.5 bits, and is off by at most 1/254 of the largest one of its block.
    """

    def parts(self, spec: Spec) -> list[Spec]:
        *leading, channels = spec[0]
        blocks = -(-channels // BLOCK)
        return [(spec[0], np.dtype(np.int8)), ((*leading, blocks), np.dtype(np.float32))]

    def encode(self, values: np.ndarray) -> list[np.ndarray]:
        *leading, channels = values.shape
        blocks = -(-channels // BLOCK)
        padded = np.zeros((*leading, blocks * BLOCK), np.float32)
        padded[..., :channels] = values
        split = padded.reshape(*leading, blocks, BLOCK)
        scale = np.maximum(split.max(axis=-1), -split.min(axis=-1)) / np.float32(127)
        # Where all is zero any divisor will do; where the scale is tiny its inverse would overflow.
        codes = np.rint(split / np.where(scale > 0, scale, 1)[..., None])
        whole = np.clip(codes, -127, 127).astype(np.int8).reshape(padded.shape)
        return [np.ascontiguousarray(whole[..., :channels]), scale]

    def decode(self, parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
        codes, scale = parts
        return (codes * scale.repeat(BLOCK, axis=-1)[..., : codes.shape[-1]]).astype(dtype)


def code_of(storage: Storage, dtype: np.dtype, base: bool, by_rows: bool) -> Code:
    """The code of an array. base: [B, H*W, C]; all others are small, and stay exact. by_rows: edits read rows
    of it; what they read whole is decoded whole for every edit, so it never takes 8 bits."""
    if storage == "exact" or not base or dtype.kind != "f":
        return Exact()
    if storage == "int8" and by_rows:
        return Blocks8()
    return Half() if dtype.itemsize > 2 else Exact()
