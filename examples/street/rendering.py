"""From a label map to the picture it stands for: materials, textures, sunlight and shade.

The picture is a function of the label map alone, so that a network can learn it, and each pixel depends on
labels a few pixels away. Textures lie still in the image (planes.py).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from .labels import CLASSES, GROUND, HEIGHT, PAINTS, ROOFS, SHADE, WALLS, Label
from .planes import PLANES, planes

SHADOW_TINT = (0.44, 0.50, 0.64)  # what the sky alone gives, relative to full sun
HAZE = (0.80, 0.86, 0.92)

# Albedo (RGB, 0..1) and how strongly each plane modulates it.
_MATERIALS: dict[Label, tuple[tuple[float, float, float], dict[str, float]]] = {
    Label.SKY: ((0.60, 0.77, 0.95), {}),
    Label.CLOUD: ((0.97, 0.97, 0.98), {}),
    Label.HILL: ((0.52, 0.63, 0.62), {"patches": 0.08, "leaves": 0.06}),
    Label.FOREST: ((0.27, 0.39, 0.28), {"leaves": 0.30, "patches": 0.10}),
    Label.GRASS: ((0.43, 0.60, 0.25), {"blades": 0.16, "patches": 0.16, "grain": 0.05}),
    Label.ROAD: ((0.40, 0.40, 0.42), {"grain": 0.11, "patches": 0.07}),
    Label.MARKING: ((0.88, 0.88, 0.84), {"grain": 0.07}),
    Label.PAVEMENT: ((0.70, 0.67, 0.62), {"grain": 0.06, "patches": 0.06}),
    Label.BRICK: ((0.66, 0.34, 0.25), {"bricks": 0.30, "grain": 0.05}),
    Label.PLASTER: ((0.90, 0.86, 0.78), {"patches": 0.05, "grain": 0.03}),
    Label.OCHRE: ((0.86, 0.68, 0.38), {"patches": 0.07, "grain": 0.05}),
    Label.TILES: ((0.70, 0.32, 0.22), {"tiles": 0.34, "patches": 0.08}),
    Label.SLATE: ((0.36, 0.40, 0.46), {"tiles": 0.30, "patches": 0.08}),
    Label.FRAME: ((0.95, 0.94, 0.91), {}),
    Label.WINDOW: ((0.24, 0.34, 0.44), {"patches": 0.45}),
    Label.DOOR: ((0.40, 0.22, 0.13), {"blades": 0.18}),
    Label.CROWN: ((0.27, 0.47, 0.17), {"leaves": 0.42, "patches": 0.14}),
    Label.CONIFER: ((0.15, 0.34, 0.22), {"leaves": 0.36, "blades": 0.10}),
    Label.TRUNK: ((0.40, 0.29, 0.20), {"blades": 0.25}),
    Label.HEDGE: ((0.30, 0.48, 0.20), {"leaves": 0.34}),
    Label.CAR_RED: ((0.72, 0.09, 0.10), {}),
    Label.CAR_BLUE: ((0.12, 0.27, 0.62), {}),
    Label.WHEEL: ((0.09, 0.09, 0.10), {}),
    Label.LAMP: ((0.28, 0.30, 0.32), {}),
}


@lru_cache(maxsize=4)
def _tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Albedo [CLASSES, 3], modulation [CLASSES, planes] and the planes [planes, HEIGHT, WIDTH]."""
    albedo = torch.tensor([_MATERIALS[label][0] for label in Label], device=device)
    rows = [[_MATERIALS[label][1].get(plane, 0.0) for plane in PLANES] for label in Label]
    strength = torch.tensor(rows, device=device)
    return albedo, strength, torch.from_numpy(planes()).to(device)


def _blur(x: Tensor, radius: int) -> Tensor:
    """Two box blurs of 2 * radius + 1 pixels, edges replicated: x float [B, C, H, W]."""
    for _ in range(2):
        x = functional.pad(x, (radius,) * 4, mode="replicate")
        x = functional.avg_pool2d(x, 2 * radius + 1, stride=1)
    return x


def _below(x: Tensor, rows: int) -> Tensor:
    """x moved down: each pixel sees what is `rows` above it (up, if negative)."""
    if rows > 0:
        return functional.pad(x, (0, 0, rows, 0), mode="replicate")[..., :-rows, :]
    return functional.pad(x, (0, 0, 0, -rows), mode="replicate")[..., -rows:, :]


def _slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """Central differences along columns and rows."""
    padded = functional.pad(x, (1, 1, 1, 1), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    return across, (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2


def render(labels: Tensor) -> Tensor:
    """The pictures of label maps: uint8 [B, HEIGHT, WIDTH] -> float32 [B, 3, HEIGHT, WIDTH] in [-1, 1]."""
    albedo, strength, fields = _tables(labels.device)
    classes = (labels % SHADE).long()
    shaded = (labels >= SHADE).float()[:, None]
    one_hot = functional.one_hot(classes, CLASSES).permute(0, 3, 1, 2).float()

    def mask(*members: Label) -> Tensor:
        return one_hot[:, list(members)].sum(1, keepdim=True)

    ground, walls, roofs, glass = mask(*GROUND), mask(*WALLS), mask(*ROOFS), mask(Label.WINDOW)
    sky, cloud = mask(Label.SKY, Label.CLOUD), mask(Label.CLOUD)
    facade = walls + mask(Label.WINDOW, Label.FRAME, Label.DOOR)
    detail = sum(strength[classes][..., k][:, None] * fields[k] for k in range(1, len(PLANES)))
    colour = albedo[classes].permute(0, 3, 1, 2) * (1 + detail)
    light = torch.ones_like(ground)

    # Round things: the slope of the blurred mask stands for the surface's normal.
    for members, radius, strength_ in (
        ((Label.CROWN,), 5, 3.2),
        ((Label.CONIFER,), 4, 2.2),
        ((Label.HEDGE,), 4, 2.4),
        ((Label.FOREST,), 3, 1.4),
        ((Label.HILL,), 4, 0.8),
        ((Label.TRUNK,), 2, 1.6),
        ((Label.LAMP, Label.WHEEL), 1, 0.6),
        (PAINTS, 2, 1.5),
    ):
        shape = mask(*members)
        across, down = _slope(_blur(shape, radius))
        light = light + shape * strength_ * (0.6 * across + 0.8 * down)

    # Ambient darkening: under eaves, where things meet the ground, in the gutter, under window frames.
    eaves = sum(_below(roofs, k) for k in range(1, 7)) / 6
    light = light * (1 - 0.42 * facade * eaves)
    things = 1 - ground - sky - mask(Label.HILL, Label.FOREST)
    contact = _blur(_below(things, 1), 2)
    light = light * (1 - 0.55 * ground * contact)
    foot = sum(_below(ground, -k) for k in range(1, 6)) / 5
    light = light * (1 - 0.30 * (facade + mask(Label.HEDGE)) * foot)
    paving = mask(Label.PAVEMENT)
    light = light * (1 - 0.28 * mask(Label.ROAD) * _blur(paving, 2))
    light = light + 0.16 * paving * _blur(mask(Label.ROAD, Label.MARKING), 1)
    light = light * (
        1 - 0.35 * glass * (_below(mask(Label.FRAME), 2) + _below(mask(Label.FRAME), 1)).clamp(max=1)
    )
    light = light * (1 - 0.25 * walls * _below(mask(Label.FRAME), 1))
    light = (
        light + 0.35 * roofs * _slope(_blur(sky + mask(Label.HILL), 1))[1].abs()
    )  # a glint along the ridge

    tint = torch.tensor(SHADOW_TINT, device=labels.device).view(1, 3, 1, 1)
    soft = torch.where(ground > 0, _blur(shaded * ground, 1) / _blur(ground, 1).clamp(min=0.2), shaded)
    colour = colour * light * (1 + soft * (tint - 1))

    # Glass mirrors the sky, ground and hills fade with distance, clouds have soft tops and grey feet.
    height = fields[0].view(1, 1, HEIGHT, -1)
    haze = torch.tensor(HAZE, device=labels.device).view(1, 3, 1, 1)
    mirror = (
        glass * (0.10 + 0.55 * (fields[PLANES.index("patches")] * 2 + 0.2).clamp(0, 1)) * (1 - 0.6 * shaded)
    )
    colour = colour + mirror * (haze - colour)
    colour = colour + ground * (0.10 - 0.45 * height).clamp(0, 0.28) * (haze - colour)
    top = torch.tensor((0.28, 0.52, 0.86), device=labels.device).view(1, 3, 1, 1)
    low = torch.tensor((0.86, 0.92, 0.96), device=labels.device).view(1, 3, 1, 1)
    heaven = top + (low - top) * ((height + 1) * 0.95).clamp(0, 1)
    cover = _blur(cloud, 3) + 0.35 * fields[PLANES.index("patches")] * (_blur(cloud, 5) * (1 - cloud) + 0.25)
    cover = ((cover - 0.12) / 0.7).clamp(0, 1) * (_blur(cloud, 3) > 0.02)
    relief = _slope(_blur(cloud, 5))[1]
    white = (0.93 + 1.2 * relief + 0.02 * fields[PLANES.index("leaves")]).clamp(0.6, 1)
    puff = torch.cat((white * 0.98, white * 0.99, 0.35 + 0.65 * white), 1)
    heaven = heaven + cover * cover * (3 - 2 * cover) * (puff - heaven)
    colour = torch.where(sky > 0, heaven, colour).clamp(0, 1)
    return 2 * _antialias(colour, labels[:, None].float()) - 1


def _antialias(colour: Tensor, labels: Tensor) -> Tensor:
    """Soften the steps along borders: a 3x3 binomial filter where the labels around a pixel differ."""
    high, low = functional.max_pool2d(labels, 3, 1, 1), -functional.max_pool2d(-labels, 3, 1, 1)
    kernel = torch.tensor((1.0, 2.0, 1.0), device=colour.device)
    weight = (kernel[:, None] * kernel / 16).expand(3, 1, 3, 3)
    smooth = functional.conv2d(functional.pad(colour, (1, 1, 1, 1), mode="replicate"), weight, groups=3)
    return torch.where(high > low, smooth, colour)
