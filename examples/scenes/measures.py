"""Measures of generated and edited pictures without a large model: where things are, their colours, PSNR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from .autoencoder import to_network
from .light import paints
from .pen import LABEL_SIZE, SIZE, body, other
from .reader import Reader
from .spec import COLOURS, KINDS, PLACES, WEATHERS, Content

LEAST = 0.004  # share of the picture that an object covers at the least; smaller traces do not count

Picture = NDArray[np.uint8]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Seen:
    """What the reader finds. labels: uint8 [64, 64], see pen.py; place, weather: words of spec.py."""

    labels: NDArray[np.uint8]
    place: str
    weather: str

    def mask(self, kind: str) -> Mask:
        """Where an object of the kind is, bool [64, 64]."""
        return (self.labels == body(kind)) | (self.labels == other(kind))

    def shows(self, kind: str) -> bool:
        return bool(self.mask(kind).mean() >= LEAST)

    def kinds(self) -> set[str]:
        return {kind for kind in KINDS if self.shows(kind)}

    def middle(self, kind: str) -> float | None:
        """How far to the right the object's middle is, 0 to 1; None if there is none."""
        return float(np.nonzero(self.mask(kind))[1].mean() + 0.5) / LABEL_SIZE if self.shows(kind) else None


@torch.no_grad()
def look(reader: Reader, pictures: Sequence[Picture] | NDArray[np.uint8]) -> list[Seen]:
    """Reads pictures, uint8 [256, 256, 3] each."""
    device = next(reader.parameters()).device
    found = []
    for picture in pictures:
        labels, place, weather = reader(to_network(torch.from_numpy(np.array(picture))[None].to(device)))
        found.append(
            Seen(
                labels[0].argmax(0).byte().cpu().numpy(),
                PLACES[int(place[0].argmax())],
                WEATHERS[int(weather[0].argmax())],
            )
        )
    return found


def enlarge(mask: Mask, grow: int = 0) -> Mask:
    """A mask [64, 64] at the picture's size, widened by `grow` pixels."""
    step = SIZE // LABEL_SIZE
    large = mask.repeat(step, 0).repeat(step, 1)
    return _dilate(large, grow) if grow else large


def _dilate(mask: Mask, by: int) -> Mask:
    floats = torch.from_numpy(mask)[None, None].float()
    return functional.max_pool2d(floats, 2 * by + 1, 1, by)[0, 0].numpy() > 0


def paint_of(picture: Picture, seen: Seen, kind: str) -> NDArray[np.float64] | None:
    """Median colour (RGB, 0..255) of the object's painted part, off its edge; None if there is too little."""
    painted = seen.labels == body(kind)
    if painted.mean() < LEAST / 3:
        return None
    step = SIZE // LABEL_SIZE
    core = ~_dilate(~painted, 1)
    cells = core if core.sum() >= 3 else painted
    rows, columns = np.nonzero(cells)
    pixels = picture[rows * step + step // 2, columns * step + step // 2]
    return np.median(pixels.astype(np.float64), 0)


def colour_word(colour: NDArray[np.float64], weather: str) -> str:
    """The word of spec.COLOURS whose paint, as the weather lights it, is nearest to a colour."""
    return COLOURS[int(np.square(paints(weather) - colour).sum(1).argmin())]


def colour_of(picture: Picture, seen: Seen, kind: str, weather: str) -> str | None:
    """The colour word of the object's painted part; None if there is too little of it."""
    colour = paint_of(picture, seen, kind)
    return None if colour is None else colour_word(colour, weather)


def check(picture: Picture, seen: Seen, content: Content) -> dict[str, bool]:
    """Whether a picture shows what a caption says.

    Keys: object, colour, place, weather, nothing_else; side, second and second_colour where the caption names
    them. A colour counts as wrong when its object is not there.
    """
    expected = {content.kind, content.second} - {""}
    result = {
        "object": seen.shows(content.kind),
        "colour": colour_of(picture, seen, content.kind, content.weather) == content.colour,
        "place": seen.place == content.place,
        "weather": seen.weather == content.weather,
        "nothing_else": seen.kinds() <= expected,
    }
    if content.side:
        x = seen.middle(content.kind)
        result["side"] = x is not None and (x < 0.45 if content.side == "left" else x > 0.55)
    if content.second:
        result["second"] = seen.shows(content.second)
        colour = colour_of(picture, seen, content.second, content.weather)
        result["second_colour"] = colour == content.second_colour
    return result


def shares(checks: Sequence[Mapping[str, bool]]) -> dict[str, float]:
    """For each key, the share of the checks that have it in which it is true."""
    keys = sorted({key for one in checks for key in one})
    return {key: float(np.mean([one[key] for one in checks if key in one])) for key in keys}


def psnr(a: Picture, b: Picture, where: Mask | None = None) -> float:
    """Peak signal-to-noise ratio in dB of two pictures uint8 [H, W, 3], over a mask [H, W] (None: all).

    Infinite where they are equal; not a number where the mask is empty.
    """
    difference = np.square(a.astype(np.float64) - b.astype(np.float64))
    if where is not None:
        difference = difference[where]
    if difference.size == 0:
        return float("nan")
    error = difference.mean()
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def overlap(a: Mask, b: Mask) -> float:
    """Intersection over union of two masks; 0 when both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0


@dataclass(frozen=True)
class EditMeasures:
    """An edit from one picture to another.

    psnr_outside: dB between the two outside the edit's mask. kept: share of the first object's area that both
    pictures give to it (intersection over union). checks: what of the new caption the new picture shows.
    mask_overlap: the mask against the objects that the captions differ in, 0 to 1; None if they differ in
    none.
    """

    psnr_outside: float
    kept: float
    checks: dict[str, bool]
    mask_overlap: float | None


def measure_edit(
    reader: Reader, before: Picture, after: Picture, mask: Mask, contents: tuple[Content, Content]
) -> EditMeasures:
    """Measures an edit of pictures uint8 [256, 256, 3] within a mask bool [256, 256].

    contents: what the caption before and the caption after say (captions.understand).
    """
    old, new = contents
    first, second = look(reader, [before, after])
    concerned = np.zeros((LABEL_SIZE, LABEL_SIZE), bool)
    if (old.kind, old.colour) != (new.kind, new.colour):
        concerned |= first.mask(old.kind) | second.mask(new.kind)
    if (old.second, old.second_colour) != (new.second, new.second_colour):
        for seen, kind in ((first, old.second), (second, new.second)):
            if kind:
                concerned |= seen.mask(kind)
    return EditMeasures(
        psnr_outside=psnr(before, after, ~mask),
        kept=overlap(first.mask(old.kind), second.mask(new.kind)),
        checks=check(after, second, new),
        mask_overlap=overlap(mask, enlarge(concerned)) if concerned.any() else None,
    )
