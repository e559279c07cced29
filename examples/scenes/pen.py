"""Draws filled shapes three times as large as the picture, and beside them which object each pixel shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .light import RGB
from .spec import KINDS

SIZE = 256  # pixels of a picture's side
LABEL_SIZE = 64  # of a label map's
_FINE = 3  # the picture is drawn this much larger, then averaged

NOTHING = 0
LABELS = 1 + 2 * len(KINDS)

Point = tuple[float, float]


def body(kind: str) -> int:
    """The label of an object's painted part, which has exactly the colour of its word."""
    return 1 + 2 * KINDS.index(kind)


def other(kind: str) -> int:
    """The label of the rest of an object: roof, wheels, shaded sides."""
    return 2 + 2 * KINDS.index(kind)


class Pen:
    """All coordinates in units of the picture's side: x to the right, y down, both 0 to 1.

    `label` is what the pixels of the next shapes show; None leaves the label map alone (shadows, rain).
    """

    def __init__(self) -> None:
        self.scale = SIZE * _FINE
        self.image = Image.new("RGB", (self.scale, self.scale))
        self.labels = Image.new("L", (SIZE, SIZE))
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._mark = ImageDraw.Draw(self.labels)
        self.label: int | None = NOTHING

    def polygon(self, points: Sequence[Point], colour: RGB, alpha: int = 255) -> None:
        self._draw.polygon([(x * self.scale, y * self.scale) for x, y in points], fill=(*colour, alpha))
        if self.label is not None:
            self._mark.polygon([(x * SIZE, y * SIZE) for x, y in points], fill=self.label)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: RGB) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: RGB, alpha: int = 255) -> None:
        corners = (x - rx, y - ry, x + rx, y + ry)
        self._draw.ellipse([c * self.scale for c in corners], fill=(*colour, alpha))
        if self.label is not None:
            self._mark.ellipse([c * SIZE for c in corners], fill=self.label)

    def line(self, a: Point, b: Point, width: float, colour: RGB, alpha: int = 255) -> None:
        ends = [(x * self.scale, y * self.scale) for x, y in (a, b)]
        self._draw.line(ends, fill=(*colour, alpha), width=max(1, round(width * self.scale)))

    def gradient(
        self, points: Sequence[Point] | None, top: tuple[float, RGB], bottom: tuple[float, RGB]
    ) -> None:
        """Fills a polygon (None: everything) with colours that change from height top[0] to bottom[0]."""
        heights = (np.arange(self.scale) / self.scale - top[0]) / (bottom[0] - top[0])
        share = np.clip(heights, 0, 1)[:, None]
        column = np.array(top[1]) * (1 - share) + np.array(bottom[1]) * share
        rows = np.broadcast_to(column.round().astype(np.uint8)[:, None], (self.scale, self.scale, 3))
        fill = Image.fromarray(np.ascontiguousarray(rows))
        if points is None:
            self.image.paste(fill)
            return
        mask = Image.new("1", (self.scale, self.scale))
        ImageDraw.Draw(mask).polygon([(x * self.scale, y * self.scale) for x, y in points], fill=1)
        self.image.paste(fill, mask=mask)
        if self.label is not None:
            self._mark.polygon([(x * SIZE, y * SIZE) for x, y in points], fill=self.label)

    def picture(self) -> NDArray[np.uint8]:
        """uint8 [SIZE, SIZE, 3]."""
        return np.asarray(self.image.reduce(_FINE))

    def label_map(self) -> NDArray[np.uint8]:
        """uint8 [LABEL_SIZE, LABEL_SIZE], the label at the middle of each cell."""
        step = SIZE // LABEL_SIZE
        return np.asarray(self.labels)[step // 2 :: step, step // 2 :: step].copy()
