"""Colours by name, and how each weather lights them. Colours are RGB in 0..255."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .spec import COLOURS

RGB = tuple[int, int, int]

PAINT: dict[str, RGB] = {
    "red": (200, 44, 40),
    "orange": (236, 130, 36),
    "yellow": (246, 212, 70),
    "green": (60, 146, 66),
    "blue": (46, 94, 200),
    "purple": (126, 66, 170),
    "pink": (244, 146, 180),
    "white": (242, 240, 234),
}
SKY: dict[str, tuple[RGB, RGB]] = {  # top, bottom
    "sunny": (((82, 152, 226)), (198, 227, 246)),
    "rain": ((96, 108, 124), (164, 172, 180)),
    "snow": ((168, 182, 200), (224, 230, 236)),
    "night": ((10, 16, 44), (46, 58, 106)),
    "sunset": ((84, 76, 146), (254, 168, 104)),
}
# A lit colour is factor * colour + haze.
_FACTOR: dict[str, tuple[float, float, float]] = {
    "sunny": (1.0, 1.0, 1.0),
    "rain": (0.70, 0.72, 0.75),
    "snow": (0.88, 0.89, 0.91),
    "night": (0.42, 0.44, 0.58),
    "sunset": (0.94, 0.78, 0.74),
}
_HAZE: dict[str, RGB] = {
    "sunny": (0, 0, 0),
    "rain": (14, 16, 18),
    "snow": (22, 24, 26),
    "night": (4, 6, 18),
    "sunset": (14, 4, 6),
}


def lit(colour: RGB, weather: str) -> RGB:
    """How a colour looks in a weather."""
    return tuple(  # type: ignore[return-value]
        min(255, round(c * f + h)) for c, f, h in zip(colour, _FACTOR[weather], _HAZE[weather])
    )


def mix(a: RGB, b: RGB, share: float) -> RGB:
    """share = 0 gives a, 1 gives b."""
    return tuple(round(x + (y - x) * share) for x, y in zip(a, b))  # type: ignore[return-value]


def shade(colour: RGB, factor: float) -> RGB:
    return tuple(min(255, round(c * factor)) for c in colour)  # type: ignore[return-value]


def paints(weather: str) -> NDArray[np.float64]:
    """All named colours as a weather lights them: [len(COLOURS), 3]."""
    return np.array([lit(PAINT[name], weather) for name in COLOURS], np.float64)
