"""A picture that shows what an edit did: labelled rows of images, drawn with Pillow and its own font."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.images import save_picture
from sige_deploy.masks import dilate

GAIN = 8  # differences to dense are shown this much amplified
ACTIVE = np.array((255, 122, 26))  # colour of recomputed pixels
OUTLINE = np.array((255, 0, 144))  # colour of the line around an edit

LINES = 80  # outlines are this part of a picture's shorter side thick
WIDTH = 320  # of a cell, in pixels
GAP, MARGIN = 12, 32
HEADING, CAPTION = 19, 17  # font sizes
INK, SOFT, PAPER, LINE = (28, 30, 34), (104, 109, 118), (255, 255, 255), (222, 225, 230)


@dataclass(frozen=True)
class Row:
    """One line of a panel. caption: text above it; its part before " | " is set dark, the rest grey. cells:
    uint8 [H, W, 3], a text (which may run on over empty places), or None for an empty place."""

    caption: str
    cells: Sequence[np.ndarray | str | None]


def write_report(
    path: str | os.PathLike[str],
    original: np.ndarray,
    edited_input: np.ndarray | None,
    result: np.ndarray,
    dense: np.ndarray,
    active: np.ndarray,
    mask: np.ndarray | None = None,
    caption: str = "edit",
) -> None:
    """Write one row: original, edited input, result, dense, recomputed pixels, difference to dense.

    Pictures are uint8 [H, W, 3]; original, result and dense of one size. active: bool [H, W] at any size.
    mask: the edited pixels, outlined on the edited input, bool of its size. Raises InputError when the file
    cannot be written.
    """
    edit = edited_input if edited_input is None or mask is None else outlined(edited_input, mask)
    row = Row(caption, [original, edit, result, dense, active_map(result, active), difference(result, dense)])
    columns = ["recorded", "edited input", "edit", "dense", "recomputed", f"difference x {GAIN}"]
    write_panel(path, columns, [row])


def write_panel(path: str | os.PathLike[str], columns: Sequence[str], rows: Sequence[Row]) -> None:
    """Write rows of pictures under column headings. Raises InputError when the file cannot be written."""
    save_picture(path, draw_panel(columns, rows))


def draw_panel(columns: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """The panel as uint8 [H, W, 3]; cells are scaled to one width."""
    from PIL import Image, ImageDraw

    scaled = [[_fit(cell) if isinstance(cell, np.ndarray) else cell for cell in row.cells] for row in rows]
    heights = [
        max((cell.height for cell in row if isinstance(cell, Image.Image)), default=80) for row in scaled
    ]
    width = 2 * MARGIN + len(columns) * WIDTH + (len(columns) - 1) * GAP
    top, above, below = MARGIN + HEADING + 14, CAPTION + 18, GAP + 10
    height = top + sum(heights) + len(rows) * (above + below) - below + MARGIN
    canvas = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    heading, text = _font(HEADING), _font(CAPTION)
    left = [MARGIN + i * (WIDTH + GAP) for i in range(len(columns))]
    for x, column in zip(left, columns):
        draw.text((x + WIDTH / 2, MARGIN - 4), column, INK, heading, anchor="ma")
    y = top
    for row, cells, row_height in zip(rows, scaled, heights):
        draw.line((MARGIN, y, width - MARGIN, y), LINE)
        name, _, details = row.caption.partition(" | ")
        draw.text((MARGIN, y + 9), name, INK, text)
        draw.text((MARGIN + draw.textlength(name, text) + 14, y + 9), details, SOFT, text)
        y += above
        for x, cell in zip(left, cells):
            if isinstance(cell, str):
                draw.multiline_text((x + 8, y + row_height / 2), cell, SOFT, text, anchor="lm", spacing=10)
            elif cell is not None:
                canvas.paste(cell, (x, y))
        y += row_height + below
    return np.asarray(canvas)


def outlined(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with a line around the masked pixels, bool [H, W] of its size."""
    _same_size(picture, mask)
    line = max(1, min(mask.shape) // LINES)
    out = picture.copy()
    if line > 1:
        out[dilate(mask, line + 2) & ~mask] = 255
    out[dilate(mask, line) & ~dilate(mask, line // 3)] = OUTLINE
    return out


def active_map(picture: np.ndarray, active: np.ndarray) -> np.ndarray:
    """The picture in pale grey, with the active pixels coloured; active bool [h, w], enlarged by nearest
    neighbour if it is of another size."""
    grey = picture.mean(axis=2, keepdims=True)
    pale = np.repeat(110 + 0.55 * grey, 3, axis=2)
    there = _resized(active, (picture.shape[0], picture.shape[1]))[..., None]
    return np.where(there, 0.72 * ACTIVE + 0.28 * grey, pale).astype(np.uint8)


def difference(a: np.ndarray, b: np.ndarray, gain: float = GAIN) -> np.ndarray:
    """|a - b| of two pictures, amplified, on black."""
    _same_size(a, b)
    return np.clip(gain * np.abs(a.astype(np.float32) - b), 0, 255).astype(np.uint8)


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    y, x = (np.arange(n) * m // n for n, m in zip(size, mask.shape))
    return mask[y][:, x]


def _fit(picture: np.ndarray) -> Any:
    """Scaled to the width of a cell: averaged when reduced, in whole pixels when enlarged."""
    from PIL import Image

    image = Image.fromarray(picture)
    size = (WIDTH, max(round(image.height * WIDTH / image.width), 1))
    reduced = image.width > WIDTH
    return image.resize(size, Image.Resampling.LANCZOS if reduced else Image.Resampling.NEAREST)


def _font(size: int) -> Any:
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


def _same_size(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape[:2] != b.shape[:2]:
        raise InputError(f"pictures of sizes {a.shape[:2]} and {b.shape[:2]} cannot be compared.")
