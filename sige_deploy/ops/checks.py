"""Checks that the numpy definitions share."""

from __future__ import annotations

import numpy as np

from sige_deploy.errors import InputError


def require(condition: bool, sentence: str) -> None:
    """Raises InputError with `sentence` unless `condition` holds."""
    if not condition:
        raise InputError(sentence)


def require_indices(name: str, indices: np.ndarray, rank: int, low: int, high: int) -> None:
    """Raises InputError unless `indices` is an int32 array of that rank with low <= index < high."""
    require(
        indices.dtype == np.int32 and indices.ndim == rank,
        f"{name} must be int32 of rank {rank}, got {indices.dtype} {list(indices.shape)}.",
    )
    if indices.size and (indices.min() < low or indices.max() >= high):
        raise InputError(f"{name} must lie in [{low}, {high}), got {indices.min()} to {indices.max()}.")


def require_shape(name: str, array: np.ndarray | None, like: np.ndarray, *allowed: tuple[int, ...]) -> None:
    """Raises InputError unless `array` (None passes) has one of the shapes and the dtype of `like`."""
    if array is None:
        return
    shapes = " or ".join(str(list(shape)) for shape in allowed)
    require(array.shape in allowed, f"{name} must have shape {shapes}, got {list(array.shape)}.")
    require(array.dtype == like.dtype, f"{name} must be {like.dtype} as the rows are, got {array.dtype}.")


def require_rows(name: str, array: np.ndarray) -> None:
    """Raises InputError unless `array` is float32 or float16 of rank 3."""
    require(
        array.ndim == 3 and array.dtype in (np.float32, np.float16),
        f"{name} must be float32 or float16 of rank 3, got {array.dtype} {list(array.shape)}.",
    )
