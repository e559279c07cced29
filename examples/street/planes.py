"""Fixed patterns that textures are made of: the same in every scene, and part of the network's input.

They come from integer hashes, not from a random generator: the same on every machine and version.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from .labels import HEIGHT, WIDTH

PLANES = ("height", "grain", "leaves", "bricks", "tiles", "patches", "blades")


def _hash(x: NDArray[np.int64], y: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that look random, from integer positions."""
    mixed = (
        x.astype(np.uint64) * 0x9E3779B1 + y.astype(np.uint64) * 0x85EBCA77 + seed * 0xC2B2AE3D
    ) & 0xFFFFFFFF
    for shift, factor in ((15, 0x2C1B3C6D), (12, 0x297A2D39)):
        mixed ^= mixed >> np.uint64(shift)
        mixed = (mixed * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    mixed ^= mixed >> np.uint64(15)
    return mixed.astype(np.float64) / 2**32


def _smooth(sx: float, sy: float, seed: int) -> NDArray[np.float64]:
    """Value noise in [-1, 1] with cells of sx by sy pixels."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    u, v = x / sx, y / sy
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    s, t = (w * w * (3 - 2 * w) for w in (u - i, v - j))
    top = _hash(i, j, seed) * (1 - s) + _hash(i + 1, j, seed) * s
    low = _hash(i, j + 1, seed) * (1 - s) + _hash(i + 1, j + 1, seed) * s
    return 2 * (top * (1 - t) + low * t) - 1


def _leaves(cell: float, seed: int) -> NDArray[np.float64]:
    """Clumps lit from the upper left: cells around jittered points, in [-1, 1]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    u, v = x / cell, y / cell
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    nearest = np.full(x.shape, 9.0)
    lit = np.zeros(x.shape)
    for a in (-1, 0, 1):
        for b in (-1, 0, 1):
            dx = u - (i + a + 0.15 + 0.7 * _hash(i + a, j + b, seed))
            dy = v - (j + b + 0.15 + 0.7 * _hash(i + a, j + b, seed + 1))
            distance = np.hypot(dx, dy)
            own = 0.5 * _hash(i + a, j + b, seed + 2) - 0.25
            value = 0.75 - 1.25 * distance - 0.75 * (dx + 1.2 * dy) + own
            lit = np.where(distance < nearest, value, lit)
            nearest = np.minimum(nearest, distance)
    return np.clip(lit, -1, 1)


def _courses(width: int, height: int, joint: float, seed: int) -> NDArray[np.float64]:
    """Rows of blocks, every second row offset by half a block; `joint`: value between blocks."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    row = y // height
    x = x + (row % 2) * (width // 2)
    blocks = 1.3 * _hash(x // width, row, seed) - 0.5
    blocks[(x % width == 0) | (y % height == 0)] = joint
    return blocks


@lru_cache(maxsize=1)
def planes() -> NDArray[np.float32]:
    """The fixed patterns, float32 [len(PLANES), HEIGHT, WIDTH], values in [-1, 1]."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    tiles = _courses(6, 5, -0.9, 40) - 0.35 * (y % 5 == 4)
    grain = 0.6 * (2 * _hash(x, y, 7) - 1) + 0.4 * _smooth(2.5, 2.5, 8)
    fields = {
        "height": np.broadcast_to(2 * y / (HEIGHT - 1) - 1, x.shape),
        "grain": grain,
        "leaves": 0.6 * _leaves(8.0, 10) + 0.55 * _leaves(4.0, 20),
        "bricks": _courses(8, 4, -0.8, 30),
        "tiles": tiles,
        "patches": 0.6 * _smooth(46, 30, 50) + 0.4 * _smooth(17, 13, 51),
        "blades": 0.6 * _smooth(2.0, 6.0, 60) + 0.4 * (2 * _hash(x, y // 2, 61) - 1),
    }
    return np.clip(np.stack([fields[name] for name in PLANES]), -1, 1).astype(np.float32)
