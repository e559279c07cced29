"""Draws training scenes with all CPU cores while the GPU already works on the first ones."""

from __future__ import annotations

import mmap
import multiprocessing
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .captions import plain_caption, random_caption
from .drawing import LABEL_SIZE, SIZE, draw
from .spec import PLACES, WEATHERS, random_scene
from .tokens import LENGTH, Words

CAPTIONS = 4  # per scene; the first is the plain one
HELD_OUT = 10_000_000  # seeds from here on are never trained on
_CHUNK = 64
_drawn: Drawn  # what the drawing processes inherit


class Drawn:
    """The scenes of seeds 0 to count - 1, in memory that all processes share.

    pictures uint8 [count, 256, 256, 3]; labels uint8 [count, 64, 64] (pen.py); tokens int16
    [count, CAPTIONS, LENGTH]; x float32 [count], the layout's horizontal number; place and weather
    int64 [count], indices into spec.py's lists.
    """

    def __init__(self, count: int, tokenizer: Path) -> None:
        self.count = count
        self.words = Words(tokenizer)
        self.pictures = _shared((count, SIZE, SIZE, 3), np.uint8)
        self.labels = _shared((count, LABEL_SIZE, LABEL_SIZE), np.uint8)
        self.tokens = _shared((count, CAPTIONS, LENGTH), np.int16)
        self.x = _shared((count,), np.float32)
        self.place = _shared((count,), np.int64)
        self.weather = _shared((count,), np.int64)
        self.ready = 0
        self._done: Iterator[int] = iter(())

    def start(self, processes: int) -> None:
        """Begins to draw. To be called before CUDA is touched, since the processes are forked."""
        global _drawn
        _drawn = self
        pool = multiprocessing.get_context("fork").Pool(processes, os.nice, (5,))
        self._done = pool.imap(_draw_chunk, range(0, self.count, _CHUNK))
        pool.close()
        self._pool = pool  # lives as long as what it draws

    def wait(self, count: int) -> None:
        """Returns when the first `count` scenes are there."""
        while self.ready < min(count, self.count):
            self.ready = next(self._done)


def _shared(shape: tuple[int, ...], dtype: type) -> NDArray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, size), dtype, int(np.prod(shape))).reshape(shape)


def _draw_chunk(start: int) -> int:
    stop = min(start + _CHUNK, _drawn.count)
    for seed in range(start, stop):
        scene = random_scene(seed)
        generator = np.random.default_rng((seed, 1))
        texts = [plain_caption(scene.content)]
        texts += [random_caption(scene.content, generator) for _ in range(CAPTIONS - 1)]
        _drawn.pictures[seed], _drawn.labels[seed] = draw(scene)
        _drawn.tokens[seed] = _drawn.words.encode(texts)
        _drawn.x[seed] = scene.layout.x
        _drawn.place[seed] = PLACES.index(scene.content.place)
        _drawn.weather[seed] = WEATHERS.index(scene.content.weather)
    return stop
