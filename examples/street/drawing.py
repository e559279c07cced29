"""From a scene to its label map: perspective, painter's order, cast shadows on the ground."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .labels import GROUND, HEIGHT, SHADE, WIDTH, Label
from .scenes import CAMERA_HEIGHT, FOCAL, Car, Hedge, House, Lamp, Scene, Tree

SUN = (0.75, 0.30)  # (X, Z) that a shadow reaches per metre of height: the sun is left behind the camera
OVERHANG = 0.4  # metres of roof beyond the walls
DASH = 6.0  # metres from one lane marking to the next
FINE = 9.0  # pixels: smaller windows get no glazing bar

Point = tuple[float, float, float]  # X, Y, Z in metres


def draw_labels(scene: Scene) -> NDArray[np.uint8]:
    """The scene's label map, uint8 [HEIGHT, WIDTH] (see labels.py)."""
    things = sorted(scene.things, key=lambda thing: -thing.z)
    ground = _background(scene)
    shadow = Image.new("L", (WIDTH, HEIGHT))
    pen = _Pen(scene, shadow)
    for thing in things:
        _SHADOWS[type(thing)](pen, thing)
    ground[(np.asarray(shadow) > 0) & np.isin(ground, GROUND)] += SHADE
    image = Image.fromarray(ground)
    pen = _Pen(scene, image)
    for thing in things:
        _PAINTERS[type(thing)](pen, thing)
    return np.array(image)


def _background(scene: Scene) -> NDArray[np.uint8]:
    """Sky, skyline and ground."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float64)
    labels = np.full((HEIGHT, WIDTH), Label.SKY, np.uint8)
    for cx, cy, radius in scene.clouds:
        labels[((x - cx) ** 2 + (1.5 * (y - cy)) ** 2 < radius**2) & (y < cy + 0.35 * radius)] = Label.CLOUD
    columns = np.arange(WIDTH)
    waves = [a * (1 + np.sin(2 * np.pi * columns / wave + phase)) for a, wave, phase in scene.hills]
    labels[y > scene.horizon - 3 - sum(waves)] = Label.HILL
    bumps = 2.2 * np.abs(np.sin(columns / 6.1 + scene.hills[0][2])) + 1.3 * np.abs(np.sin(columns / 3.3))
    labels[y > scene.horizon - 4 - waves[1] * 0.5 - bumps] = Label.FOREST

    below = y > scene.horizon + 0.5
    z = FOCAL * CAMERA_HEIGHT / np.maximum(y - scene.horizon, 0.5)
    across = np.abs((x - scene.vanishing_x) * z / FOCAL - scene.centre(z))
    dash = (
        (across < np.maximum(0.08, 0.45 * z / FOCAL))
        & ((z + scene.dash_phase) % DASH < DASH * 0.45)
        & (z < 70)
    )
    labels[below] = Label.GRASS
    labels[below & (across < scene.road_half + scene.pavement)] = Label.PAVEMENT
    labels[below & (across < scene.road_half)] = Label.ROAD
    labels[below & dash] = Label.MARKING
    return labels


class _Pen:
    """Draws shapes given in metres onto an image of labels."""

    def __init__(self, scene: Scene, image: Image.Image) -> None:
        self.scene = scene
        self.draw = ImageDraw.Draw(image)

    def polygon(self, points: Sequence[Point], label: int) -> None:
        self.draw.polygon([self.scene.project(*p) for p in points], fill=label)

    def upright(self, x0: float, x1: float, y0: float, y1: float, z: float, label: int) -> None:
        """A rectangle that faces the camera."""
        self.polygon([(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)], label)

    def disc(self, x: float, y: float, z: float, radius: float, label: int) -> None:
        column, row = self.scene.project(x, y, z)
        r = radius * FOCAL / z
        self.draw.ellipse([column - r, row - r, column + r, row + r], fill=label)

    def shadow(self, points: Sequence[Point]) -> None:
        """The shadow on the ground of the convex body around `points`."""
        cast = [(x + SUN[0] * y, z + SUN[1] * y) for x, y, z in points]
        self.polygon([(x, 0.0, z) for x, z in _hull(cast)], 255)


def _hull(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Corners of the convex hull, in order (Andrew's monotone chain)."""

    def half(ordered: list[tuple[float, float]]) -> list[tuple[float, float]]:
        chain: list[tuple[float, float]] = []
        for p in ordered:
            while len(chain) > 1:
                (ax, ay), (bx, by) = chain[-2:]
                if (bx - ax) * (p[1] - ay) - (by - ay) * (p[0] - ax) > 0:
                    break
                chain.pop()
            chain.append(p)
        return chain[:-1]

    ordered = sorted(set(points))
    return half(ordered) + half(ordered[::-1])


def _roof_points(house: House) -> list[Point]:
    """Eaves and ridge."""
    x0, x1 = house.x - OVERHANG, house.x + house.width + OVERHANG
    z0, z1 = house.z - OVERHANG, house.z + house.depth + OVERHANG
    eaves, top = house.wall_height, house.wall_height + house.roof_height
    corners: list[Point] = [(x0, eaves, z0), (x1, eaves, z0), (x1, eaves, z1), (x0, eaves, z1)]
    return corners + _ridge(house, x0, x1, z0, z1, top)


def _ridge(house: House, x0: float, x1: float, z0: float, z1: float, top: float) -> list[Point]:
    if house.shape == "front":
        middle = (x0 + x1) / 2
        return [(middle, top, z0), (middle, top, z1)]
    inset = 0.3 * (x1 - x0) if house.shape == "hip" else 0.0
    middle = (z0 + z1) / 2
    return [(x0 + inset, top, middle), (x1 - inset, top, middle)]


def _house_shadow(pen: _Pen, house: House) -> None:
    x0, x1, z0, z1 = house.x, house.x + house.width, house.z, house.z + house.depth
    pen.shadow([(x0, 0.0, z0), (x1, 0.0, z0), (x1, 0.0, z1), (x0, 0.0, z1), *_roof_points(house)])


def _paint_house(pen: _Pen, house: House) -> None:
    x0, x1, z0, z1 = house.x, house.x + house.width, house.z, house.z + house.depth
    eaves, top = house.wall_height, house.wall_height + house.roof_height
    a, b, c, d, first, second = _roof_points(house)
    to_right = x1 < 0  # the visible side wall is the right one, which the sun does not reach
    visible = to_right or x0 > 0
    side_x, shade = (x1, SHADE) if to_right else (x0, 0)
    near, far = (b, c) if to_right else (a, d)
    ridge_end = second if to_right else first

    if visible:
        pen.polygon(
            [(side_x, 0, z0), (side_x, eaves, z0), (side_x, eaves, z1), (side_x, 0, z1)], house.wall + shade
        )
        _side_windows(pen, house, side_x, shade)
        if house.shape == "side":
            middle = (z0 + z1) / 2
            pen.polygon(
                [(side_x, eaves, z0), (side_x, top - 0.3, middle), (side_x, eaves, z1)], house.wall + shade
            )
    if house.chimney is not None:
        x = x0 + house.chimney * house.width
        pen.upright(x - 0.45, x + 0.45, top - 1.2, top + 0.9, (z0 + z1) / 2, Label.BRICK)
    if house.shape == "front":
        if visible:
            pen.polygon([near, first, second, far], house.roof + shade)
        pen.upright(x0, x1, 0, eaves, z0, house.wall)
        pen.polygon([(x0, eaves, z0), (first[0], top - 0.25, z0), (x1, eaves, z0)], house.wall)
        for corner in (a, b):  # the roof's edge along the gable
            ridge = (first[0], top, z0)
            rim = [corner, ridge, (ridge[0], top - 0.35, z0), (corner[0], eaves - 0.3, z0)]
            pen.polygon(rim, house.roof)
        gable = (x0 + x1) / 2
        _window(pen, gable - 0.5, gable + 0.5, eaves + 0.25, eaves + 1.25, z0)
    else:
        if visible and house.shape == "hip":
            pen.polygon([near, ridge_end, far], house.roof + shade)
        pen.upright(x0, x1, 0, eaves, z0, house.wall)
        pen.polygon([a, b, second, first], house.roof)
    _front_windows(pen, house)
    if visible:  # a rain pipe down the corner
        pen.upright(side_x - 0.06, side_x + 0.06, 0, eaves - 0.2, z0, Label.LAMP)


def _window(pen: _Pen, x0: float, x1: float, y0: float, y1: float, z: float) -> None:
    rim = 0.13
    pen.upright(x0 - rim, x1 + rim, y0 - rim, y1 + rim, z, Label.FRAME)
    pen.upright(x0, x1, y0, y1, z, Label.WINDOW)
    if (x1 - x0) * FOCAL / z > FINE:
        middle, half = (x0 + x1) / 2, 0.05
        pen.upright(middle - half, middle + half, y0, y1, z, Label.FRAME)
        pen.upright(x0, x1, y0 + 0.62 * (y1 - y0) - half, y0 + 0.62 * (y1 - y0) + half, z, Label.FRAME)


def _front_windows(pen: _Pen, house: House) -> None:
    column, storey = house.width / house.columns, house.wall_height / house.rows
    for i in range(house.columns):
        x = house.x + (i + 0.5) * column
        for j in range(house.rows):
            if j == 0 and i == house.door:
                pen.upright(x - 0.65, x + 0.65, 0, 2.3, house.z, Label.FRAME)
                pen.upright(x - 0.5, x + 0.5, 0, 2.15, house.z, Label.DOOR)
            else:
                _window(pen, x - 0.55, x + 0.55, j * storey + 0.95, j * storey + 2.3, house.z)


def _side_windows(pen: _Pen, house: House, x: float, shade: int) -> None:
    storey = house.wall_height / house.rows
    for z in (house.z + 0.3 * house.depth, house.z + 0.7 * house.depth):
        for j in range(house.rows):
            low, high = j * storey + 0.95, j * storey + 2.3
            for grow, label in ((0.13, Label.FRAME), (0.0, Label.WINDOW)):
                near, far, y0, y1 = z - 0.55 - grow, z + 0.55 + grow, low - grow, high + grow
                pen.polygon([(x, y0, near), (x, y1, near), (x, y1, far), (x, y0, far)], label + shade)


def _crown_middle(tree: Tree) -> float:
    return tree.height - 0.5 * tree.radius if tree.kind == Label.CROWN else 0.55 * tree.height


def _tree_shadow(pen: _Pen, tree: Tree) -> None:
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    y = _crown_middle(tree)
    x, z = tree.x + SUN[0] * y, tree.z + SUN[1] * y
    across, along = tree.radius, tree.radius * (0.8 if tree.kind == Label.CROWN else 1.3)
    pen.polygon([(x + across * np.cos(t), 0.0, z + along * np.sin(t)) for t in turn], 255)
    pen.shadow([(tree.x - 0.15, 0, tree.z), (tree.x + 0.15, 0, tree.z), (tree.x, y, tree.z)])


def _paint_tree(pen: _Pen, tree: Tree) -> None:
    x, z, radius, middle = tree.x, tree.z, tree.radius, _crown_middle(tree)
    half = 0.08 * radius + 0.06
    pen.polygon(
        [(x - half * 1.4, 0, z), (x + half * 1.4, 0, z), (x + half, middle, z), (x - half, middle, z)],
        Label.TRUNK,
    )
    if tree.kind == Label.CROWN:
        for dx, dy, size in tree.blobs:
            pen.disc(x + dx * radius, middle + dy * radius, z, size * radius, Label.CROWN)
        return
    low, tiers = 0.12 * tree.height, 5
    step = (tree.height - low) / (tiers + 0.6)
    for tier in range(tiers):
        width = radius * (1 - tier / (tiers + 0.4))
        base = low + tier * step
        corners = [(x - width, base, z), (x + width, base, z), (x, base + 1.75 * step, z)]
        pen.polygon(corners, Label.CONIFER)


def _hedge_shadow(pen: _Pen, hedge: Hedge) -> None:
    x, z = (hedge.x, hedge.x + hedge.width), (hedge.z, hedge.z + hedge.depth)
    pen.shadow([(i, j, k) for i in x for j in (0.0, hedge.height) for k in z])


def _paint_hedge(pen: _Pen, hedge: Hedge) -> None:
    x0, x1, z0, z1 = hedge.x, hedge.x + hedge.width, hedge.z, hedge.z + hedge.depth
    h = hedge.height
    if x1 < 0:
        pen.polygon([(x1, 0, z0), (x1, h, z0), (x1, h, z1), (x1, 0, z1)], Label.HEDGE + SHADE)
    elif x0 > 0:
        pen.polygon([(x0, 0, z0), (x0, h, z0), (x0, h, z1), (x0, 0, z1)], Label.HEDGE)
    pen.polygon([(x0, h, z0), (x1, h, z0), (x1, h, z1), (x0, h, z1)], Label.HEDGE)
    pen.upright(x0, x1, 0, h, z0, Label.HEDGE)


def _car_shadow(pen: _Pen, car: Car) -> None:
    x, z = (car.x - 0.9, car.x + 0.9), (car.z, car.z + 4.0)
    pen.shadow([(i, j, k) for i in x for j in (0.0, 1.0) for k in z])


def _paint_car(pen: _Pen, car: Car) -> None:
    x, z0, z1 = car.x, car.z, car.z + 4.0
    side, shade = (x + 0.9, SHADE) if x < 0 else (x - 0.9, 0)
    inner = side - 0.2 if x < 0 else side + 0.2
    for z in (z0 + 0.8, z1 - 0.8):
        pen.polygon(
            [(side, 0, z - 0.35), (side, 0.6, z - 0.35), (side, 0.6, z + 0.35), (side, 0, z + 0.35)],
            Label.WHEEL,
        )
    pen.polygon([(side, 0.3, z0), (side, 0.95, z0), (side, 0.9, z1), (side, 0.3, z1)], car.paint + shade)
    pen.polygon(
        [(side, 0.95, z0 + 0.2), (inner, 1.5, z0 + 0.7), (inner, 1.5, z0 + 2.4), (side, 0.95, z0 + 3.0)],
        Label.WINDOW,
    )
    for wheel in (x - 0.72, x + 0.72):
        pen.upright(wheel - 0.13, wheel + 0.13, 0, 0.5, z0, Label.WHEEL)
    pen.upright(x - 0.9, x + 0.9, 0.3, 0.95, z0, car.paint)
    pen.polygon(
        [(x - 0.85, 0.9, z0), (x + 0.85, 0.9, z0), (x + 0.65, 1.5, z0 + 0.5), (x - 0.65, 1.5, z0 + 0.5)],
        car.paint,
    )
    pen.polygon(
        [(x - 0.68, 0.98, z0), (x + 0.68, 0.98, z0), (x + 0.54, 1.38, z0 + 0.3), (x - 0.54, 1.38, z0 + 0.3)],
        Label.WINDOW,
    )


def _lamp_shadow(pen: _Pen, lamp: Lamp) -> None:
    x, z = (lamp.x - 0.08, lamp.x + 0.08), (lamp.z - 0.2, lamp.z + 0.2)
    pen.shadow([(i, j, k) for i in x for j in (0.0, 5.0) for k in z])


def _paint_lamp(pen: _Pen, lamp: Lamp) -> None:
    end = lamp.x + lamp.side * 1.1
    pen.upright(lamp.x - 0.07, lamp.x + 0.07, 0, 5.0, lamp.z, Label.LAMP)
    pen.upright(min(lamp.x, end), max(lamp.x, end), 4.9, 5.02, lamp.z, Label.LAMP)
    pen.upright(end - 0.3, end + 0.3, 4.72, 4.9, lamp.z, Label.LAMP)


_PAINTERS: dict[type, Callable[[_Pen, Any], None]] = {
    House: _paint_house,
    Tree: _paint_tree,
    Hedge: _paint_hedge,
    Car: _paint_car,
    Lamp: _paint_lamp,
}
_SHADOWS: dict[type, Callable[[_Pen, Any], None]] = {
    House: _house_shadow,
    Tree: _tree_shadow,
    Hedge: _hedge_shadow,
    Car: _car_shadow,
    Lamp: _lamp_shadow,
}
