"""From a scene to its picture and to the map of what each pixel shows. Needs numpy and pillow only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .landscape import front_hill, horizon, paint_place, paint_sky, paint_weather
from .objects import HALF_WIDTH, Thing, paint_thing
from .pen import LABEL_SIZE, SIZE, Pen
from .spec import Content, Scene

__all__ = ["LABEL_SIZE", "SIZE", "draw", "things"]

_RANGES = {"": (0.26, 0.74), "left": (0.21, 0.35), "right": (0.65, 0.79)}
_SIZES = {"": 1.0, "small": 0.68, "big": 1.32}
_SECOND_SIZE = {"tree": 1.0, "car": 0.72, "boat": 0.72, "balloon": 0.8}


def draw(scene: Scene) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture, uint8 [SIZE, SIZE, 3], and its labels (see pen.py), uint8 [LABEL_SIZE, LABEL_SIZE]."""
    pen = Pen()
    paint_sky(pen, scene)
    paint_place(pen, scene)
    for thing in sorted(things(scene), key=lambda thing: thing.base):
        paint_thing(pen, thing)
    paint_weather(pen, scene)
    return pen.picture(), pen.label_map()


def things(scene: Scene) -> list[Thing]:
    """The scene's objects in place, the first one first. Where it stands does not depend on any colour."""
    content, layout = scene.content, scene.layout
    low, high = _RANGES[content.side]
    x = low + (high - low) * layout.x
    size = _SIZES[content.size] * (0.9 + 0.2 * layout.scale)
    first = _place(content, scene, content.kind, content.colour, x, size, layout.depth)
    if not content.second:
        return [first]
    scale = _SECOND_SIZE[content.second] * (0.9 + 0.2 * layout.gap)
    reach = HALF_WIDTH[content.kind] * size + HALF_WIDTH[content.second] * scale + 0.01 + 0.05 * layout.gap
    to_the_right = content.side == "left" or (content.side == "" and layout.x < 0.5)
    x = x + reach if to_the_right else x - reach
    x = min(0.92, max(0.08, x))
    depth = (layout.depth + 0.35) % 1.0
    return [first, _place(content, scene, content.second, content.second_colour, x, scale, depth)]


def _place(
    content: Content, scene: Scene, kind: str, colour: str, x: float, size: float, depth: float
) -> Thing:
    if kind == "balloon":
        base = 0.36 + 0.07 * (depth - 0.5)
        base = max(base, 0.3 * size + 0.01)
    elif kind == "boat":
        middle = 0.86 if content.place == "lake" else horizon(scene) + 0.16
        base = middle + 0.05 * (depth - 0.5)
    elif content.place == "lake":
        base = 0.665 + 0.06 * (depth - 0.5)
    elif content.place == "hills":
        base = front_hill(scene, x) + 0.045 + 0.03 * depth
    else:
        base = 0.78 + 0.1 * (depth - 0.5)
    return Thing(kind, colour, x, base, size, scene.layout.variant, content.weather)
