"""The things that stand in a scene: one painter for each kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .landscape import SNOW
from .light import PAINT, RGB, lit, shade
from .pen import Pen, Point, body, other

_WHITE: RGB = (238, 236, 228)
_GLOW: RGB = (255, 216, 120)
_GLASS: RGB = (164, 206, 232)


@dataclass(frozen=True)
class Thing:
    """An object in place. x: its middle, base: the height it stands at, size: 1 is usual, variant: 0 to 1."""

    kind: str
    colour: str
    x: float
    base: float
    size: float
    variant: float
    weather: str


class _Brush:
    """A pen that knows where its thing stands: coordinates from (x, base), y up, in units of its size."""

    def __init__(self, pen: Pen, thing: Thing) -> None:
        self.pen, self.thing = pen, thing
        self.mirror = -1.0 if thing.variant >= 0.5 else 1.0

    def colour(self, rgb: RGB) -> RGB:
        return lit(rgb, self.thing.weather)

    @property
    def paint(self) -> RGB:
        return PAINT[self.thing.colour]

    def _at(self, x: float, y: float) -> Point:
        return self.thing.x + self.mirror * x * self.thing.size, self.thing.base - y * self.thing.size

    def body(self) -> RGB:
        """From here on, shapes are the painted part; returns its colour."""
        self.pen.label = body(self.thing.kind)
        return self.colour(self.paint)

    def rest(self) -> None:
        self.pen.label = other(self.thing.kind)

    def polygon(self, points: list[Point], rgb: RGB) -> None:
        self.pen.polygon([self._at(x, y) for x, y in points], rgb)

    def box(self, x0: float, y0: float, x1: float, y1: float, rgb: RGB) -> None:
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], rgb)

    def disc(self, x: float, y: float, r: float, rgb: RGB, flat: float = 1.0) -> None:
        cx, cy = self._at(x, y)
        self.pen.ellipse(cx, cy, r * self.thing.size, r * flat * self.thing.size, rgb)

    def shadow(self, half: float) -> None:
        self.pen.label = None
        self.pen.ellipse(
            self.thing.x + 0.02,
            self.thing.base,
            half * self.thing.size,
            0.016 * self.thing.size,
            (20, 30, 40),
            80,
        )

    def window(self, x0: float, y0: float, x1: float, y1: float) -> None:
        rim = 0.006
        self.box(x0 - rim, y0 - rim, x1 + rim, y1 + rim, self.colour(_WHITE))
        self.box(x0, y0, x1, y1, _GLOW if self.thing.weather == "night" else self.colour((86, 122, 150)))


def paint_thing(pen: Pen, thing: Thing) -> None:
    """Draws a thing with its shadow, in colours and in labels."""
    _PAINTERS[thing.kind](_Brush(pen, thing))


def _house(b: _Brush) -> None:
    wall, eaves, top = 0.165, 0.15, 0.255  # half width of the whole; heights
    b.shadow(0.185)
    roof = b.colour(SNOW if b.thing.weather == "snow" else (112, 74, 62))
    b.rest()
    b.box(0.03, 0.2, 0.065, 0.29, b.colour((128, 96, 84)))
    front, middle = 0.01, -0.0775  # x where the two walls meet, and of the gable
    b.polygon([(front, 0), (wall, 0), (wall, eaves), (front, eaves)], b.colour(shade(b.paint, 0.8)))
    paint = b.body()
    b.polygon([(-wall, 0), (front, 0), (front, eaves), (middle, top), (-wall, eaves)], paint)
    b.rest()
    ridge_end = middle + wall - front + 0.02
    b.polygon(
        [(middle, top + 0.01), (ridge_end, top + 0.01), (wall + 0.02, eaves - 0.012), (front, eaves)], roof
    )
    dark = b.colour(shade(SNOW if b.thing.weather == "snow" else (112, 74, 62), 0.85))
    for side in (-1, 1):
        end, drop = middle + side * 0.104, eaves - 0.022
        b.polygon(
            [(middle, top + 0.012), (end, drop + 0.012), (end, drop - 0.006), (middle, top - 0.014)], dark
        )
    b.box(middle - 0.022, 0, middle + 0.022, 0.078, b.colour((92, 62, 44)))
    b.window(-0.15, 0.05, -0.118, 0.09)
    b.window(-0.037, 0.05, -0.005, 0.09)
    b.window(middle - 0.016, 0.15, middle + 0.016, 0.185)
    b.window(0.038, 0.05, 0.074, 0.095)
    b.window(0.104, 0.05, 0.14, 0.095)


def _tower(b: _Brush) -> None:
    b.shadow(0.085)
    low, high, top = 0.072, 0.05, 0.34
    paint = b.body()
    b.polygon([(-low, 0), (low, 0), (high, top), (-high, top)], paint)
    b.rest()
    b.polygon([(0.45 * low, 0), (low, 0), (high, top), (0.45 * high, top)], b.colour(shade(b.paint, 0.8)))
    b.box(-0.064, top, 0.064, top + 0.016, b.colour((70, 66, 70)))
    lamp = (255, 232, 150) if b.thing.weather in ("night", "rain") else b.colour((190, 214, 226))
    b.box(-0.034, top + 0.016, 0.034, top + 0.062, lamp)
    for x in (-0.034, -0.002, 0.03):
        b.box(x, top + 0.016, x + 0.005, top + 0.062, b.colour((70, 66, 70)))
    roof = SNOW if b.thing.weather == "snow" else (120, 60, 54)
    b.polygon([(-0.05, top + 0.062), (0.05, top + 0.062), (0, top + 0.125)], b.colour(roof))
    b.box(-0.02, 0, 0.014, 0.06, b.colour((84, 60, 46)))
    b.window(-0.016, 0.13, 0.006, 0.165)
    b.window(-0.014, 0.24, 0.006, 0.272)


def _tree(b: _Brush) -> None:
    b.shadow(0.1)
    b.rest()
    b.polygon([(-0.02, 0), (0.02, 0), (0.011, 0.15), (-0.011, 0.15)], b.colour((104, 74, 50)))
    low = b.colour(shade(b.paint, 0.78))
    for x, y, r in ((-0.055, 0.135, 0.05), (0.05, 0.13, 0.052), (0.0, 0.125, 0.05)):
        b.disc(x, y, r, low)
    paint = b.body()
    for x, y, r in ((-0.05, 0.17, 0.056), (0.05, 0.165, 0.058), (0.0, 0.225, 0.066), (0.0, 0.165, 0.06)):
        b.disc(x, y, r, paint)
    b.rest()
    light = SNOW if b.thing.weather == "snow" else tuple(min(255, round(c * 1.12 + 14)) for c in b.paint)
    for x, y, r in ((-0.022, 0.252, 0.026), (-0.068, 0.192, 0.02), (0.036, 0.196, 0.018)):
        b.disc(x, y, r, b.colour(light))  # type: ignore[arg-type]


def _car(b: _Brush) -> None:
    b.shadow(0.15)
    b.rest()
    tyre, metal = b.colour((34, 34, 38)), b.colour((190, 192, 196))
    paint = b.body()
    b.polygon([(-0.145, 0.026), (0.145, 0.026), (0.145, 0.066), (0.125, 0.082), (-0.145, 0.088)], paint)
    b.polygon([(-0.115, 0.085), (0.085, 0.08), (0.045, 0.138), (-0.085, 0.138)], paint)
    b.rest()
    glass = b.colour(_GLASS)
    b.polygon([(-0.098, 0.09), (-0.02, 0.09), (-0.02, 0.128), (-0.078, 0.128)], glass)
    b.polygon([(-0.008, 0.09), (0.066, 0.088), (0.04, 0.128), (-0.008, 0.128)], glass)
    lamp = (255, 236, 160) if b.thing.weather == "night" else b.colour((250, 240, 190))
    b.box(0.128, 0.05, 0.146, 0.066, lamp)
    for x in (-0.085, 0.085):
        b.disc(x, 0.028, 0.034, tyre)
        b.disc(x, 0.028, 0.016, metal)


def _boat(b: _Brush) -> None:
    b.shadow(0.12)
    b.rest()
    sail, back = b.colour((250, 248, 240)), b.colour((222, 220, 214))
    b.box(-0.005, 0.05, 0.005, 0.27, b.colour((112, 80, 52)))
    b.polygon([(0.012, 0.075), (0.105, 0.075), (0.012, 0.255)], sail)
    b.polygon([(-0.012, 0.085), (-0.075, 0.085), (-0.012, 0.22)], back)
    paint = b.body()
    b.polygon([(-0.135, 0.062), (0.14, 0.062), (0.098, 0.0), (-0.1, 0.0)], paint)
    b.rest()
    b.polygon([(-0.138, 0.066), (0.145, 0.066), (0.14, 0.054), (-0.133, 0.054)], b.colour((240, 232, 214)))


def _balloon(b: _Brush) -> None:
    paint = b.body()
    b.disc(0, 0.175, 0.095, paint)
    b.polygon([(-0.086, 0.135), (0.086, 0.135), (0.026, 0.055), (-0.026, 0.055)], paint)
    b.rest()
    light = b.colour(tuple(min(255, round(c * 0.6 + 100)) for c in b.paint))  # type: ignore[arg-type]
    b.disc(0, 0.175, 0.026, light, 3.6)
    b.polygon([(-0.02, 0.1), (0.02, 0.1), (0.008, 0.055), (-0.008, 0.055)], light)
    rope = b.colour((90, 70, 54))
    for x in (-0.021, 0.021):
        b.polygon(
            [(x - 0.002, 0.055), (x + 0.002, 0.055), (0.8 * x + 0.002, 0.028), (0.8 * x - 0.002, 0.028)], rope
        )
    b.box(-0.022, 0.0, 0.022, 0.03, b.colour((150, 104, 62)))


_PAINTERS: dict[str, Callable[[_Brush], None]] = {
    "house": _house,
    "tower": _tower,
    "tree": _tree,
    "car": _car,
    "boat": _boat,
    "balloon": _balloon,
}
HALF_WIDTH = {"house": 0.19, "tower": 0.09, "tree": 0.11, "car": 0.155, "boat": 0.145, "balloon": 0.1}
