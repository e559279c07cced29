"""What a user chooses when exporting: the masks' definition, statistics, and when to run dense."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sige_deploy.errors import InputError


@dataclass(frozen=True)
class SparseConfig:
    """How edits are found and run. docs/masks.md defines the mask parameters exactly.

    eps: values that differ by more than this are edited (in units of the input).
    dilate: radius in pixels, at the input's own size, by which the edited region grows.
    threshold: a pixel of a smaller level becomes active when more than this share of its block is, 0 up to 1.
    level_dilate: radius by which a level's resampled mask grows: one for all levels or a dict by level id
        (levels left out: 1).
    granularity: side of the square blocks that become active together: one for all or a dict by level id
        (levels left out: 1).
    statistics: "recorded" reuses the recorded normalisation statistics, "fresh" computes them anew.
    precision: "as_given" keeps the network's types, "float16" casts its float32 weights, activations and
        inputs to float16; statistics are computed in float32 all the same.
    dense_above: active share of the network's multiply-accumulates beyond which an edit runs dense, 0 to 1.

    Raises InputError when a value is out of range.
    """

    eps: float = 0.0
    dilate: int = 1
    threshold: float = 0.3
    level_dilate: int | dict[str, int] = 1
    granularity: int | dict[str, int] = 1
    statistics: str = "recorded"
    precision: str = "as_given"
    dense_above: float = 0.5

    def __post_init__(self) -> None:
        _check_number("eps", self.eps, 0.0, math.inf)
        _check_count("dilate", self.dilate, 0)
        _check_number("threshold", self.threshold, 0.0, 1.0)
        if self.threshold == 1.0:
            raise InputError("threshold must be below 1 (no pixel could exceed it), got 1.0.")
        _check_counts("level_dilate", self.level_dilate, 0)
        _check_counts("granularity", self.granularity, 1)
        if self.statistics not in ("recorded", "fresh"):
            raise InputError(f'statistics must be "recorded" or "fresh", got {self.statistics!r}.')
        if self.precision not in ("as_given", "float16"):
            raise InputError(f'precision must be "as_given" or "float16", got {self.precision!r}.')
        _check_number("dense_above", self.dense_above, 0.0, 1.0)


def _check_number(name: str, value: object, low: float, high: float) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value < math.inf or value > high:  # type: ignore[operator]
        bounds = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise InputError(f"{name} must be a number {bounds}, got {value!r}.")


def _check_count(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise InputError(f"{name} must be a whole number of at least {low}, got {value!r}.")


def _check_counts(name: str, value: object, low: int) -> None:
    if not isinstance(value, dict):
        _check_count(name, value, low)
        return
    for level, count in value.items():
        if not isinstance(level, str):
            raise InputError(f'{name} must be keyed by level ids such as "256x512", got {level!r}.')
        _check_count(f"{name} of level {level}", count, low)
