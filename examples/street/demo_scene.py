"""The scene of the demo: a street, and three edits of it that grow in size. Needs numpy and pillow only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from .drawing import draw_labels
from .labels import CLASSES, HEIGHT, SHADE, WIDTH, Label, palette
from .planes import PLANES, planes
from .scenes import Car, Hedge, House, Lamp, Scene, Tree

__all__ = ["CHANNELS", "demo_scene", "one_hot", "palette"]

CHANNELS = CLASSES + 1 + len(PLANES)

_CROWN = (
    (0.0, 0.05, 0.74), (0.6, 0.1, 0.4), (0.4, 0.5, 0.42), (-0.1, 0.62, 0.4), (-0.5, 0.4, 0.44),
    (-0.62, -0.1, 0.4), (-0.3, -0.42, 0.42), (0.35, -0.4, 0.44),
)  # fmt: skip
_TREE = Tree(-13.4, 25.5, 3.9, 1.35, Label.CROWN, _CROWN)
_HEDGE = Hedge(4.3, 30.0, 0.9, 7.0, 1.1)
_LAMP = Lamp(-3.6, 20.0, 1)
_STREET = Scene(
    horizon=104.0,
    vanishing_x=250.0,
    road_x=-0.4,
    curve=2.2,
    road_half=2.5,
    pavement=1.3,
    dash_phase=2.0,
    hills=((10.0, 330.0, 1.0), (5.0, 120.0, 2.5), (2.0, 45.0, 0.3)),
    clouds=(
        (88.0, 34.0, 17.0),
        (112.0, 28.0, 20.0),
        (138.0, 34.0, 15.0),
        (64.0, 38.0, 11.0),
        (330.0, 20.0, 13.0),
        (352.0, 16.0, 16.0),
        (374.0, 21.0, 11.0),
        (452.0, 46.0, 10.0),
        (468.0, 43.0, 12.0),
    ),
    things=(
        House(-16.5, 31.0, 9.0, 8.0, 5.6, 2.6, Label.OCHRE, Label.TILES, "side", 3, 2, 1, 0.75),
        House(-13.0, 52.0, 8.0, 8.0, 5.4, 2.8, Label.BRICK, Label.SLATE, "front", 3, 2, 0, None),
        House(6.6, 46.0, 9.0, 8.0, 5.6, 3.0, Label.PLASTER, Label.SLATE, "hip", 3, 2, 2, 0.25),
        House(8.0, 68.0, 8.0, 8.0, 5.6, 2.6, Label.OCHRE, Label.TILES, "front", 3, 2, 1, None),
        House(-12.0, 76.0, 8.0, 8.0, 5.4, 2.6, Label.PLASTER, Label.TILES, "side", 3, 2, 1, 0.5),
        Tree(-7.6, 44.0, 8.5, 2.0, Label.CONIFER, ()),
        Tree(18.8, 38.0, 5.6, 2.4, Label.CROWN, _CROWN),
        Tree(8.2, 60.0, 5.2, 2.2, Label.CROWN, _CROWN),
        Tree(28.5, 44.0, 9.5, 2.3, Label.CONIFER, ()),
        Lamp(4.4, 42.0, -1),
        Car(1.0, 26.0, Label.CAR_RED),
        Car(-1.6, 38.0, Label.CAR_BLUE),
        _TREE,
        _HEDGE,
        _LAMP,
    ),
)
_HOUSE = House(8.2, 24.5, 7.6, 7.0, 3.2, 2.4, Label.BRICK, Label.TILES, "front", 3, 1, 1, None)


def demo_scene() -> tuple[NDArray[np.uint8], list[tuple[str, NDArray[np.uint8]]]]:
    """The base label map, and (name, label map) of three edits of it: about 2, 6 and 20 % of the pixels.

    All label maps are uint8 [256, 512]; see labels.py for the classes and `palette` to look at them.
    """
    without_tree = _STREET.without(_STREET.things.index(_TREE))
    wide = replace(_STREET, road_half=5.2, things=_STREET.things[:-2])
    wide = wide.with_thing(replace(_HEDGE, x=7.0)).with_thing(replace(_LAMP, x=-6.3))
    return draw_labels(_STREET), [
        ("tree moved", draw_labels(without_tree.with_thing(replace(_TREE, x=7.0, z=21.0)))),
        ("house added", draw_labels(_STREET.with_thing(_HOUSE))),
        ("road widened", draw_labels(wide)),
    ]


def one_hot(label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The network's input for a label map uint8 [256, 512]: float32 [1, CHANNELS, 256, 512].

    One channel per class, one that is 1 in the shade, then the texture planes, the same for every map.
    """
    encoded = np.zeros((1, CHANNELS, HEIGHT, WIDTH), np.float32)
    np.put_along_axis(encoded[0], (label % SHADE).astype(np.int64)[None], 1.0, axis=0)
    encoded[0, CLASSES] = label >= SHADE
    encoded[0, CLASSES + 1 :] = planes()
    return encoded
