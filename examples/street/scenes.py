"""Street scenes in metres, composed from a seed.

A street runs away from a camera above the road, between boxes (houses, hedges, cars) and upright shapes
(trees, lamps). X points right, Y up, Z away from the camera, which is at X = 0, Y = CAMERA_HEIGHT, Z = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .labels import PAINTS, ROOFS, WALLS, WIDTH, Label

FOCAL = 340.0  # pixels
CAMERA_HEIGHT = 4.0  # metres
NEAREST, FARTHEST = 15.0, 110.0  # metres: where things stand

Blob = tuple[float, float, float]  # centre and radius


@dataclass(frozen=True)
class House:
    """A box with a roof; `x`, `z`: its near left corner; `door`: the column of windows that has the door."""

    x: float
    z: float
    width: float
    depth: float
    wall_height: float
    roof_height: float
    wall: Label
    roof: Label
    shape: str  # "front" (ridge along Z), "side" (ridge along X) or "hip"
    columns: int
    rows: int
    door: int
    chimney: float | None  # position along the width, 0 to 1


@dataclass(frozen=True)
class Tree:
    """A trunk at (x, z) and a crown: blobs in units of `radius` around its middle, or tiers of a conifer."""

    x: float
    z: float
    height: float
    radius: float
    kind: Label
    blobs: tuple[Blob, ...]


@dataclass(frozen=True)
class Hedge:
    """A low green box; `x`, `z`: its near left corner."""

    x: float
    z: float
    width: float
    depth: float
    height: float


@dataclass(frozen=True)
class Car:
    """A car seen from behind; `x`: its middle, `z`: its rear."""

    x: float
    z: float
    paint: Label


@dataclass(frozen=True)
class Lamp:
    """A street lamp; its arm points to the right (side 1) or left (side -1)."""

    x: float
    z: float
    side: int


Thing = House | Tree | Hedge | Car | Lamp


@dataclass(frozen=True)
class Scene:
    """All that a label map is drawn from: pixels for the sky, metres for the street."""

    horizon: float
    vanishing_x: float
    road_x: float
    curve: float  # metres of bend at 1000 / 32 metres' distance
    road_half: float
    pavement: float
    dash_phase: float
    hills: tuple[Blob, ...]  # amplitude, wavelength, phase: waves of the skyline, in pixels
    clouds: tuple[Blob, ...]
    things: tuple[Thing, ...]

    def centre(self, z: float) -> float:
        """X of the road's middle at distance z (also of arrays)."""
        return self.road_x + self.curve * z * z * 1e-3

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """The pixel (column, row) that shows a point."""
        return self.vanishing_x + FOCAL * x / z, self.horizon + FOCAL * (CAMERA_HEIGHT - y) / z

    def with_thing(self, thing: Thing) -> Scene:
        """The scene with one thing more."""
        return replace(self, things=(*self.things, thing))

    def without(self, index: int) -> Scene:
        """The scene without its index-th thing."""
        return replace(self, things=self.things[:index] + self.things[index + 1 :])


def random_scene(seed: int) -> Scene:
    """A street that `seed` determines."""
    rng = np.random.default_rng(seed)
    scene = Scene(
        horizon=rng.uniform(92, 124),
        vanishing_x=WIDTH / 2 + rng.uniform(-60, 60),
        road_x=rng.uniform(-2, 2),
        curve=rng.uniform(-4, 4) * (rng.random() < 0.7),
        road_half=rng.uniform(2.2, 5.2),
        pavement=rng.uniform(1.0, 2.4),
        dash_phase=rng.uniform(0, 6),
        hills=tuple(
            (a * rng.uniform(0.3, 1), w * rng.uniform(0.7, 1.4), rng.uniform(0, 7))
            for a, w in ((14, 300), (7, 120), (3, 45))
        ),
        clouds=tuple(blob for _ in range(rng.integers(1, 6)) for blob in _cloud(rng)),
        things=(),
    )
    things: list[Thing] = []
    for side in (-1, 1):
        things += _roadside(rng, scene, side)
    things += _traffic(rng, scene)
    return replace(scene, things=tuple(things))


def random_edit(scene: Scene, seed: int) -> Scene:
    """The scene with one change that `seed` determines: a thing gone, a thing new, or another road width."""
    rng = np.random.default_rng(seed)
    choice = rng.random()
    if choice < 0.6 and scene.things:
        return scene.without(int(rng.integers(len(scene.things))))
    if choice < 0.85:
        z = rng.uniform(NEAREST, 50)
        offset = scene.road_half + scene.pavement + rng.uniform(1.5, 8)
        return scene.with_thing(random_tree(rng, scene.centre(z) + offset * rng.choice((-1, 1)), z))
    return replace(scene, road_half=rng.uniform(2.2, 5.2))


def random_tree(rng: np.random.Generator, x: float, z: float) -> Tree:
    """A broadleaf or conifer at (x, z)."""
    if rng.random() < 0.25:
        height = rng.uniform(6, 11)
        return Tree(x, z, height, height * rng.uniform(0.2, 0.28), Label.CONIFER, ())
    radius = rng.uniform(1.5, 2.9)
    blobs = [(0.0, 0.0, 0.72)]
    for angle in np.linspace(0, 2 * np.pi, rng.integers(6, 10), endpoint=False):
        reach, size = rng.uniform(0.45, 0.7), rng.uniform(0.3, 0.48)
        blobs.append((reach * np.cos(angle + 0.4), 0.85 * reach * np.sin(angle + 0.4), size))
    return Tree(x, z, rng.uniform(2.2, 3.4) + radius, radius, Label.CROWN, tuple(blobs))


def random_house(rng: np.random.Generator, x: float, z: float, side: int) -> House:
    """A house whose near corner towards the road is (x, z); it stands left (-1) or right (1) of the road."""
    width, rows = rng.uniform(6, 11), int(rng.integers(1, 3))
    shape = str(rng.choice(("front", "side", "hip")))
    columns = int(width / rng.uniform(2.2, 3.0))
    return House(
        x=x if side > 0 else x - width,
        z=z,
        width=width,
        depth=rng.uniform(6, 10),
        wall_height=rows * rng.uniform(2.7, 3.1) + 0.3,
        roof_height=rng.uniform(2.0, 3.6),
        wall=WALLS[rng.integers(len(WALLS))],
        roof=ROOFS[rng.integers(len(ROOFS))],
        shape=shape,
        columns=columns,
        rows=rows,
        door=int(rng.integers(columns)),
        chimney=float(rng.choice((0.25, 0.75))) if rng.random() < 0.6 else None,
    )


def _roadside(rng: np.random.Generator, scene: Scene, side: int) -> list[Thing]:
    """Plots along one side of the road, nearest first: a house or trees, and what stands before them."""
    things: list[Thing] = []
    z = rng.uniform(NEAREST + 2, 26)
    edge = scene.road_half + scene.pavement
    while z < FARTHEST:
        setback = edge + rng.uniform(1.5, 6)
        if rng.random() < 0.72:
            corner = max(scene.centre(z) * side, scene.centre(z + 8) * side)
            house = random_house(rng, side * (corner + setback), z, side)
            things.append(house)
            depth = house.depth
        else:
            depth = rng.uniform(6, 10)
            for _ in range(rng.integers(1, 4)):
                tree_z = z + rng.uniform(0, depth)
                x = scene.centre(tree_z) + side * (setback + rng.uniform(0, 9))
                things.append(random_tree(rng, x, tree_z))
        if rng.random() < 0.35:
            x = scene.centre(z) + side * (edge + 0.3)
            width = rng.uniform(0.6, 1.0)
            length = min(depth, 6.0)
            things.append(Hedge(x - width * (side < 0), z - 1, width, length, rng.uniform(0.7, 1.4)))
        if rng.random() < 0.4:
            tree_z = z + depth + rng.uniform(0.5, 3)
            things.append(
                random_tree(rng, scene.centre(tree_z) + side * (edge + rng.uniform(1.5, 4)), tree_z)
            )
        if rng.random() < 0.35:
            lamp_z = z + rng.uniform(-1, depth)
            things.append(Lamp(scene.centre(lamp_z) + side * (edge - 0.3), lamp_z, -side))
        z += depth + rng.uniform(2.5, 9)
    return things


def _traffic(rng: np.random.Generator, scene: Scene) -> list[Thing]:
    """Up to four cars, one behind the other in each lane."""
    things: list[Thing] = []
    for lane in (-1, 1):
        z = rng.uniform(NEAREST, 40)
        for _ in range(rng.integers(0, 3)):
            x = scene.centre(z) + lane * scene.road_half * 0.52
            things.append(Car(x, z, PAINTS[rng.integers(len(PAINTS))]))
            z += rng.uniform(9, 30)
    return things


def _cloud(rng: np.random.Generator) -> list[Blob]:
    x, y, size = rng.uniform(-20, WIDTH + 20), rng.uniform(4, 66), rng.uniform(9, 24)
    return [
        (x + rng.uniform(-2.6, 2.6) * size, y + rng.uniform(-0.25, 0.2) * size, size * rng.uniform(0.4, 0.85))
        for _ in range(rng.integers(5, 10))
    ]
