"""The classes of a street label map, and colours to draw it with.

A label map is uint8 [HEIGHT, WIDTH]: the class in the low bits, plus SHADE where the sun does not reach.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH = 256, 512
SHADE = 32  # flag beside the class


class Label(IntEnum):
    """What a pixel shows."""

    SKY = 0
    CLOUD = 1
    HILL = 2
    FOREST = 3
    GRASS = 4
    ROAD = 5
    MARKING = 6
    PAVEMENT = 7
    BRICK = 8
    PLASTER = 9
    OCHRE = 10
    TILES = 11
    SLATE = 12
    FRAME = 13
    WINDOW = 14
    DOOR = 15
    CROWN = 16
    CONIFER = 17
    TRUNK = 18
    HEDGE = 19
    CAR_RED = 20
    CAR_BLUE = 21
    WHEEL = 22
    LAMP = 23


CLASSES = len(Label)
GROUND = (Label.GRASS, Label.ROAD, Label.MARKING, Label.PAVEMENT)
WALLS = (Label.BRICK, Label.PLASTER, Label.OCHRE)
ROOFS = (Label.TILES, Label.SLATE)
PAINTS = (Label.CAR_RED, Label.CAR_BLUE)

_COLOURS = """87b7e8 ffffff 7f9a8c 4d6b4a 7cab4e 6a6a70 f2f2e6 bdb6aa b0563c ece5d6 e0b25c c4593f 5a6672
fbfbfb 3b5872 6f4427 3f7d34 23573c 6b4a30 558a3c c8202c 2b56b8 18181a 44474c""".split()


def _palette() -> NDArray[np.uint8]:
    table = np.zeros((256, 3), np.uint8)
    for index, colour in enumerate(_COLOURS):
        table[index] = tuple(bytes.fromhex(colour))
        table[index + SHADE] = table[index] * 0.6
    return table


palette: NDArray[np.uint8] = _palette()
"""uint8 [256, 3]: palette[label map] is the map as a picture [HEIGHT, WIDTH, 3]."""
