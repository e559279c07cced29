"""What a scene is: words (content) and numbers that no word names (layout)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np

KINDS = ("house", "tower", "tree", "car", "boat", "balloon")
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SIZES = ("", "small", "big")
SIDES = ("", "left", "right")
PLACES = ("lake", "sea", "field", "hills", "mountains")
WEATHERS = ("sunny", "rain", "snow", "night", "sunset")
WATER = ("lake", "sea")  # where boats are
SECONDS = ("tree", "car", "boat", "balloon")  # what may stand beside the first object

_KIND_SHARES = (0.42, 0.12, 0.14, 0.12, 0.1, 0.1)
_SECOND_SHARES = {"tree": 0.46, "car": 0.18, "boat": 0.18, "balloon": 0.18}
_WEATHER_SHARES = (0.44, 0.14, 0.14, 0.14, 0.14)


@dataclass(frozen=True)
class Content:
    """What a caption says. An empty string is what is not there: no size word, no side, no second object."""

    kind: str
    colour: str
    size: str
    side: str
    place: str
    weather: str
    second: str
    second_colour: str


@dataclass(frozen=True)
class Layout:
    """What a caption leaves open: uniform numbers in [0, 1), independent of each other and of the content."""

    x: float
    scale: float
    depth: float
    gap: float
    horizon: float
    relief: float
    sky: float
    variant: float


@dataclass(frozen=True)
class Scene:
    """One picture: see drawing.draw."""

    content: Content
    layout: Layout

    def recoloured(self, colour: str) -> Scene:
        """The same picture with its first object in another colour."""
        return replace(self, content=replace(self.content, colour=colour))

    def with_second(self, second: str, colour: str) -> Scene:
        """The same picture with another second object; "" takes it away."""
        return replace(self, content=replace(self.content, second=second, second_colour=colour))


def random_content(generator: np.random.Generator) -> Content:
    """Words that go together: boats are on water, and the second object is of another kind than the first."""
    place = str(generator.choice(PLACES))
    kind = str(generator.choice(KINDS, p=_KIND_SHARES))
    while kind == "boat" and place not in WATER:
        kind = str(generator.choice(KINDS, p=_KIND_SHARES))
    second = ""
    if generator.random() < 0.5:
        allowed = [s for s in SECONDS if s != kind and (s != "boat" or place in WATER)]
        shares = np.array([_SECOND_SHARES[s] for s in allowed])
        second = str(generator.choice(allowed, p=shares / shares.sum()))
    return Content(
        kind=kind,
        colour=_colour(kind, generator),
        size=str(generator.choice(SIZES, p=(0.7, 0.15, 0.15))),
        side=str(generator.choice(SIDES, p=(0.7, 0.15, 0.15))),
        place=place,
        weather=str(generator.choice(WEATHERS, p=_WEATHER_SHARES)),
        second=second,
        second_colour=_second_colour(second, generator),
    )


def random_layout(generator: np.random.Generator) -> Layout:
    return Layout(*generator.random(len(fields(Layout))).tolist())


def random_scene(seed: int) -> Scene:
    """The scene of a seed, the same on every machine."""
    generator = np.random.default_rng(seed)
    return Scene(random_content(generator), random_layout(generator))


def _colour(kind: str, generator: np.random.Generator) -> str:
    if kind == "tree" and generator.random() < 0.4:
        return "green"
    return str(generator.choice(COLOURS))


def _second_colour(second: str, generator: np.random.Generator) -> str:
    if not second:
        return ""
    return "green" if second == "tree" else str(generator.choice(COLOURS))
