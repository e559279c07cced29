"""The background of a scene: sky, weather and place, with nothing standing in it."""

from __future__ import annotations

import numpy as np

from .light import RGB, SKY, lit, mix
from .pen import Pen, Point
from .spec import Scene

MEADOW, SAND, WHEAT, ROCK = (112, 168, 74), (232, 208, 152), (224, 188, 84), (122, 124, 134)
WATER_FAR, WATER_NEAR = (112, 174, 214), (34, 100, 162)
SNOW: RGB = (240, 244, 250)
_CLOUD: dict[str, RGB] = {
    "sunny": (252, 253, 255),
    "rain": (104, 112, 124),
    "snow": (208, 216, 226),
    "sunset": (236, 142, 126),
}
_FIXED = np.random.default_rng(7)  # places of stars and drops: one pattern, shifted from scene to scene
_STARS = _FIXED.random((60, 3))
_DROPS = _FIXED.random((110, 2))


def horizon(scene: Scene) -> float:
    """Height where the sky ends."""
    return 0.42 + 0.08 * (scene.layout.horizon - 0.5)


def ridge(scene: Scene, x: float, base: float, height: float, waves: float, phase: float) -> float:
    """Height of a smooth skyline at x."""
    turn = 2 * np.pi * (scene.layout.relief + phase)
    low = np.sin(waves * 2 * np.pi * x + turn)
    return float(base - height * (0.5 + 0.35 * low + 0.15 * np.sin(2.3 * waves * 2 * np.pi * x + 1.7 * turn)))


def front_hill(scene: Scene, x: float) -> float:
    """Height of the nearest hill at x, which things stand on."""
    return ridge(scene, x, 0.74, 0.14, 0.6, 0.5)


def paint_sky(pen: Pen, scene: Scene) -> None:
    weather, sky = scene.content.weather, scene.layout.sky
    top, bottom = SKY[weather]
    pen.gradient(None, (0.0, top), (horizon(scene), bottom))
    x = 0.12 + 0.76 * sky
    if weather == "night":
        for sx, sy, bright in _STARS:
            dot = 0.0018 + 0.0022 * bright
            pen.ellipse((sx + sky) % 1.0, 0.42 * sy, dot, dot, (236, 236, 214))
        pen.ellipse(x, 0.13, 0.05, 0.05, (246, 240, 208))
        pen.ellipse(x + 0.022, 0.118, 0.043, 0.043, mix(top, bottom, 0.3))
        return
    if weather in ("sunny", "sunset"):
        height = 0.12 if weather == "sunny" else horizon(scene) - 0.1
        glow: RGB = (255, 244, 196) if weather == "sunny" else (255, 206, 120)
        for radius, alpha in ((0.13, 26), (0.1, 40), (0.075, 70)):
            pen.ellipse(x, height, radius, radius, glow, alpha)
        pen.ellipse(x, height, 0.052, 0.052, mix(glow, (255, 255, 255), 0.25))
    count = 5 if weather in ("rain", "snow") else 3
    for i in range(count):
        cx, cy = (sky + 0.55 + i * 0.9 / count + 0.13 * (i % 2)) % 1.2 - 0.1, 0.07 + 0.045 * ((i * 2) % 5)
        size = 0.055 + 0.012 * (i % 3)
        for dx, dy, r in ((-1.0, 0.16, 0.62), (-0.3, -0.12, 0.86), (0.5, 0.0, 0.75), (1.15, 0.2, 0.5)):
            pen.ellipse(cx + dx * size, cy + dy * size, r * size, 0.62 * r * size, _CLOUD[weather], 225)


def paint_place(pen: Pen, scene: Scene) -> None:
    """Everything from the horizon down, and what rises behind it."""
    {
        "lake": _lake,
        "sea": _sea,
        "field": _field,
        "hills": _hills,
        "mountains": _mountains,
    }[scene.content.place](pen, scene)


def paint_weather(pen: Pen, scene: Scene) -> None:
    """Rain and snow, in front of everything."""
    pen.label = None
    shift = scene.layout.sky
    if scene.content.weather == "rain":
        for x, y in _DROPS:
            x, y = (1.2 * (x + shift)) % 1.2 - 0.1, (y + 0.37 * shift) % 1.0
            pen.line((x, y), (x - 0.012, y + 0.05), 0.0028, (206, 216, 228), 130)
    if scene.content.weather == "snow":
        for i, (x, y) in enumerate(_DROPS):
            dot = 0.0035 + 0.0013 * (i % 4)
            pen.ellipse((x + shift) % 1.0, (y + 0.37 * shift) % 1.0, dot, dot, (255, 255, 255), 235)


def _ground(scene: Scene, colour: RGB) -> RGB:
    weather = scene.content.weather
    return lit(mix(colour, SNOW, 0.86) if weather == "snow" else colour, weather)


def _curve(points: list[Point]) -> list[Point]:
    return [*points, (1.0, 1.0), (0.0, 1.0)]


def _layer(pen: Pen, scene: Scene, shape: tuple[float, float, float, float], near: RGB, far: RGB) -> None:
    base, height, waves, phase = shape
    xs = np.linspace(0, 1, 41)
    line = [(float(x), ridge(scene, float(x), base, height, waves, phase)) for x in xs]
    pen.gradient(_curve(line), (base - height, far), (base + 0.16, near))


def _backdrop(pen: Pen, scene: Scene, colour: RGB, height: float) -> None:
    """Far hills, pale by the air in front of them."""
    haze = SKY[scene.content.weather][1]
    h = horizon(scene)
    far, near = mix(_ground(scene, colour), haze, 0.62), mix(_ground(scene, colour), haze, 0.4)
    _layer(pen, scene, (h + 0.03, height, 1.3, 0.1), mix(far, haze, 0.1), far)
    _layer(pen, scene, (h + 0.04, 0.6 * height, 0.9, 0.6), near, near)


def _plain(pen: Pen, scene: Scene, colour: RGB) -> None:
    h = horizon(scene) + 0.03
    light, dark = mix(colour, (255, 255, 210), 0.16), mix(colour, (20, 50, 30), 0.18)
    pen.gradient([(0, h), (1, h), (1, 1), (0, 1)], (h, _ground(scene, light)), (1.0, _ground(scene, dark)))


def _lake(pen: Pen, scene: Scene) -> None:
    _backdrop(pen, scene, (84, 138, 92), 0.1)
    _plain(pen, scene, MEADOW)
    weather, turn = scene.content.weather, 2 * np.pi * scene.layout.relief
    xs = np.linspace(-0.05, 1.05, 45)
    shore = [
        (float(x), 0.735 + 0.012 * np.sin(7 * x + turn) + 0.1 * max(0.0, abs(x - 0.5) - 0.3)) for x in xs
    ]
    pen.polygon(_curve([(x, y - 0.012) for x, y in shore]), _ground(scene, (206, 190, 140)))
    far, near = lit(WATER_FAR, weather), lit(WATER_NEAR, weather)
    pen.gradient(_curve(shore), (0.72, far), (1.0, near))
    _ripples(pen, scene, 0.80, 0.97)


def _sea(pen: Pen, scene: Scene) -> None:
    h, weather = horizon(scene) + 0.01, scene.content.weather
    pen.gradient(
        [(0, h), (1, h), (1, 1), (0, 1)], (h, lit(WATER_NEAR, weather)), (0.68, lit(WATER_FAR, weather))
    )
    _ripples(pen, scene, h + 0.04, 0.64)
    turn = 2 * np.pi * scene.layout.relief
    beach = [(float(x), 0.675 + 0.018 * np.sin(5 * x + turn)) for x in np.linspace(0, 1, 41)]
    pen.polygon(_curve([(x, y - 0.012) for x, y in beach]), lit((240, 246, 250), weather))
    pen.gradient(_curve(beach), (0.66, _ground(scene, SAND)), (1.0, _ground(scene, (206, 176, 116))))


def _ripples(pen: Pen, scene: Scene, top: float, bottom: float) -> None:
    colour = lit((196, 224, 240), scene.content.weather)
    for i in range(9):
        x, y = (0.37 * i + scene.layout.relief) % 1.0, top + (bottom - top) * ((i * 4) % 9) / 8
        length = 0.03 + 0.05 * (y - top)
        pen.line((x - length, y), (x + length, y), 0.004, colour, 150)


def _field(pen: Pen, scene: Scene) -> None:
    _backdrop(pen, scene, (96, 146, 92), 0.07)
    _plain(pen, scene, WHEAT)
    h, middle = horizon(scene) + 0.03, 0.3 + 0.4 * scene.layout.relief
    furrow = _ground(scene, (186, 146, 52))
    for i in range(-9, 10):
        near = middle + 0.26 * i
        pen.polygon([(middle + 0.025 * i, h), (near - 0.022, 1.0), (near + 0.022, 1.0)], furrow, 120)


def _hills(pen: Pen, scene: Scene) -> None:
    h = horizon(scene)
    haze = SKY[scene.content.weather][1]
    for base, height, waves, phase, colour, share in (
        (h + 0.06, 0.16, 1.1, 0.0, (108, 160, 96), 0.45),
        (h + 0.16, 0.17, 0.8, 0.3, (104, 168, 80), 0.2),
        (0.74, 0.14, 0.6, 0.5, (120, 180, 70), 0.0),
    ):
        near = mix(_ground(scene, mix(colour, (30, 70, 30), 0.25)), haze, share)
        _layer(pen, scene, (base, height, waves, phase), near, mix(_ground(scene, colour), haze, share))


def _mountains(pen: Pen, scene: Scene) -> None:
    h, haze = horizon(scene) + 0.04, SKY[scene.content.weather][1]
    rock, white = mix(_ground(scene, ROCK), haze, 0.22), mix(lit(SNOW, scene.content.weather), haze, 0.1)
    dark = mix(_ground(scene, (86, 88, 102)), haze, 0.2)
    for i in range(4):
        x = (i * 0.34 + 0.5 * scene.layout.relief) % 1.3 - 0.15
        tall, wide = 0.26 + 0.07 * ((i * 2) % 3) / 2, 0.24 + 0.03 * (i % 2)
        top = h - tall
        pen.polygon([(x, top), (x - wide, h), (x + wide, h)], rock)
        pen.polygon([(x, top), (x + 0.02, h), (x + wide, h)], dark)
        cap = [(0.0, 0.0), (-0.30, 0.30), (-0.13, 0.25), (0.02, 0.33), (0.14, 0.25), (0.30, 0.30)]
        pen.polygon([(x + dx * wide, top + dy * tall) for dx, dy in cap], white)
    _plain(pen, scene, (104, 158, 84))
