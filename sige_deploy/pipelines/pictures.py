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


def to_network(picture: np.ndarray, dtype: str) -> np.ndarray:
    """[1, 3, H, W] in [-1, 1]."""
    planes = picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(127.5) - 1
    return np.ascontiguousarray(planes, dtype)


def from_network(image: np.ndarray) -> np.ndarray:
    """uint8 [H, W, 3] of [1, 3, H, W] in about [-1, 1]."""
    scaled = np.rint((image[0].astype(np.float32) + 1) * np.float32(127.5))
    return np.ascontiguousarray(np.clip(scaled, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def to_latents(mask: np.ndarray, factor: int) -> np.ndarray:
    """The latents of which any pixel is set: bool [H / factor, W / factor] of bool [H, W]."""
    height, width = mask.shape
    blocks = mask.reshape(height // factor, factor, width // factor, factor)
    return np.logical_or.reduce(blocks, axis=(1, 3))


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
    """uint8 [H, W, 3]: `recorded` where the weight is 0, bit for bit, `edited` where it is 1."""
    mixed = recorded + (edited.astype(np.float32) - recorded) * weight[..., None]
    return np.rint(mixed).astype(np.uint8)
