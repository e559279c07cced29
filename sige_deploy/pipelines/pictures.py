"""Pictures uint8 [H, W, 3] and what networks make of them; masks of pixels and of latents."""

from __future__ import annotations

from typing import Any

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.masks import dilate


def checked_picture(picture: Any, height: int, width: int, what: str = "picture") -> np.ndarray:
    """uint8 [height, width, 3] of an array or a Pillow image. Raises InputError."""
    if hasattr(picture, "convert"):
        picture = np.asarray(picture.convert("RGB"))
    expected = f"uint8 of shape [{height}, {width}, 3], or a Pillow image of {width} x {height} pixels"
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8:
        kind = picture.dtype if isinstance(picture, np.ndarray) else type(picture).__name__
        raise InputError(f"{what} is {kind}; expected {expected}.")
    if picture.shape != (height, width, 3):
        raise InputError(f"{what} has shape {list(picture.shape)}; expected {expected}.")
    return np.ascontiguousarray(picture)


def checked_mask(mask: Any, height: int, width: int) -> np.ndarray:
    """bool [height, width] of an array; raises InputError."""
    if not isinstance(mask, np.ndarray) or mask.dtype != bool or mask.shape != (height, width):
        kind = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise InputError(f"mask is {kind}; expected bool [{height}, {width}], the picture's size.")
    return mask


def changed(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Pixels that differ: bool [H, W]."""
    differs = picture != other
    rows = differs.reshape(len(differs), -1).any(axis=1)  # few: what is strided is slow
    red, green, blue = differs[rows].transpose(2, 0, 1)
    mask = np.zeros(differs.shape[:2], bool)
    mask[rows] = red | green | blue
    return mask


def to_network(picture: np.ndarray, dtype: str) -> np.ndarray:
    """[1, 3, H, W] in [-1, 1]."""
    values = (np.arange(256, dtype=np.float32) / np.float32(127.5) - 1).astype(dtype)
    return values[picture.transpose(2, 0, 1)[None]]


def from_network(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of [1, 3, H, W] in about [-1, 1]."""
    scaled = np.rint((image[0].astype(np.float32) + 1) * np.float32(127.5))
    return np.ascontiguousarray(np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a mask in which anything is set, from the first to the last."""
    found = [np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0)]
    rows, columns = (slice(at[0], at[-1] + 1) if at.size else slice(0, 0) for at in found)
    return rows, columns


def to_latents(mask: np.ndarray, factor: int) -> np.ndarray:
    """The latents of which any pixel is set: bool [H / factor, W / factor] of bool [H, W]."""
    height, width = mask.shape
    rows = mask.reshape(height // factor, factor, width).any(axis=1)  # first along what is contiguous
    return np.logical_or.reduce(rows.reshape(height // factor, width // factor, factor), axis=2)


def to_pixels(mask: np.ndarray, factor: int) -> np.ndarray:
    """All pixels of the latents that are set."""
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)


def feathered(mask: np.ndarray, feather: int) -> np.ndarray:
    """Weights float32 [H, W] of the edit: 0 outside the mask, rising inside it to 1 at a distance of
    `feather` pixels, counted along rows and columns. The picture's border is no edge. feather 0: a hard
    edge."""
    weight = mask.astype(np.float32)
    outside = ~mask
    for _ in range(feather):
        outside = dilate(outside, 1)
        weight += ~outside
    return weight / np.float32(feather + 1)


def composite(recorded: np.ndarray, edited: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """uint8 [..., 3]: `recorded` where the weight [...] is 0, bit for bit, `edited` where it is 1."""
    mixed = recorded + (edited.astype(np.float32) - recorded) * weight[..., None]
    return np.rint(mixed).astype(np.uint8)


def blended(recorded: np.ndarray, image: np.ndarray, mask: np.ndarray, feather: int) -> np.ndarray:
    """What `composite` makes of `recorded`, `from_network(image)` and `feathered`, in the time of the mask's
    pixels alone."""
    rows, columns = box_of(mask)
    # One row or column of what is outside, for the soft edge.
    box = slice(max(rows.start - 1, 0), rows.stop + 1), slice(max(columns.start - 1, 0), columns.stop + 1)
    inside = np.flatnonzero(mask[box])
    weight = feathered(mask[box], feather).reshape(-1)[inside]
    part = image[0, :, box[0], box[1]]
    made = from_network(part.reshape(3, -1).take(inside, axis=1)[None, :, None])[0]
    picture = recorded.copy()
    old = picture[box].reshape(-1, 3)
    new = old.copy()
    pixels = composite(old.take(inside, axis=0), made, weight)
    np.put(new.view("V3"), inside, pixels.view("V3"))  # a pixel is one item: that is faster than by index
    picture[box] = new.reshape(picture[box].shape)
    return picture
