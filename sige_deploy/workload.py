"""Random inputs for any bundle, and edits of a given area on them: what benchmarks and self-checks run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import numpy as np

from sige_deploy import masks
from sige_deploy.compare import image_size
from sige_deploy.manifest import InputSpec, Manifest
from sige_deploy.rows import planes

Arrays = dict[str, np.ndarray]
Shape = Literal["square", "blobs"]

SHAPES: tuple[Shape, ...] = ("square", "blobs")
ONE_HOT_ABOVE = 8  # channels: a float spatial input with more is taken for a label map
RECTANGLES = 40  # of one label each, on a random label map


def make_inputs(manifest: Manifest, seed: int = 0) -> Arrays:
    """Random inputs by name: floats are normal, integers 1, booleans true.

    A float spatial input of more than 8 channels is taken for a one-hot label map: rectangles of random
    labels.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: _random(spec, rng) for spec in manifest.inputs}


def make_edit(
    manifest: Manifest, inputs: Mapping[str, np.ndarray], share: float, shape: Shape, seed: int = 1
) -> tuple[Arrays, np.ndarray]:
    """(inputs with new content in an area, that area as a bool mask [H, W] of the first spatial input).

    share, shape: as for `make_mask`. Every edited pixel differs: label maps get the next label, other floats
    new normal values, 1 becomes 0. Other spatial inputs are edited where the mask, resampled, falls.
    """
    rng = np.random.default_rng(seed)
    spatial = manifest.spatial()
    mask = make_mask(*image_size(spatial[0]), share, shape, seed)
    edited = dict(inputs)
    for spec in spatial:
        array = np.array(inputs[spec.name])
        there = masks.resample_mask(mask, image_size(spec), manifest.policy.threshold)
        view = planes(spec, array)
        old = view[:, :, there]
        if _is_label_map(spec):
            view[:, :, there] = np.roll(old, 1, axis=1)
        elif array.dtype.kind == "f":
            view[:, :, there] = rng.standard_normal(old.shape)
        else:
            view[:, :, there] = old == 0
        edited[spec.name] = array
    return edited, mask


def make_mask(height: int, width: int, share: float, shape: Shape, seed: int = 1) -> np.ndarray:
    """bool [height, width] with `share` (0 to 1) of the pixels set, at least one.

    "square": one in the middle, a rectangle where the border cuts it. "blobs": the highest places of smooth
    noise, scattered.
    """
    area = min(max(share * height * width, 1.0), float(height * width))
    mask = np.zeros((height, width), bool)
    if shape == "square":
        w = min(max(round(math.sqrt(area)), round(area / height)), width)
        h = min(max(round(area / w), 1), height)
        top, left = (height - h) // 2, (width - w) // 2
        mask[top : top + h, left : left + w] = True
        return mask
    noise = _smooth_noise(height, width, np.random.default_rng(seed))
    mask.reshape(-1)[np.argsort(noise, axis=None)[-round(area) :]] = True
    return mask


def _is_label_map(spec: InputSpec) -> bool:
    axes = spec.axes or []
    channels = spec.shape[axes.index("C")] if "C" in axes else 1
    return spec.role == "spatial" and np.dtype(spec.dtype).kind == "f" and channels > ONE_HOT_ABOVE


def _random(spec: InputSpec, rng: np.random.Generator) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    if _is_label_map(spec):
        array = np.zeros(spec.shape, dtype)
        view = planes(spec, array)
        _, channels, height, width = view.shape
        view[:] = _label_map(height, width, channels, rng) == np.arange(channels)[:, None, None]
        return array
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(spec.shape)).astype(dtype)
    return np.ones(spec.shape, dtype)


def _label_map(height: int, width: int, labels: int, rng: np.random.Generator) -> np.ndarray:
    """int [height, width]: rectangles of random labels over one another."""
    drawn = np.full((height, width), rng.integers(labels))
    for _ in range(RECTANGLES):
        (top, bottom), (left, right) = (np.sort(rng.integers(0, n + 1, 2)) for n in (height, width))
        drawn[top:bottom, left:right] = rng.integers(labels)
    return drawn


def _smooth_noise(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """White noise blurred by a periodic Gaussian whose sigma is a 32nd of the shorter side."""
    sigma = min(height, width) / 32
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    blur = np.exp(-2 * (math.pi * sigma) ** 2 * (fy**2 + fx**2))
    return np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * blur, s=(height, width))
