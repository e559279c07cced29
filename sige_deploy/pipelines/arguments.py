"""Numbers and words that pipelines are given, checked before anything runs. All raise InputError."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from sige_deploy.errors import InputError


def checked_number(name: str, value: Any, what: str, fits: Callable[[float], bool] = lambda x: True) -> float:
    """A finite number that fits. what: completes the sentence "<name> is ..."."""
    kinds = (int, float, np.integer, np.floating)
    if isinstance(value, kinds) and not isinstance(value, bool):
        number = float(value) if abs(value) < 1e300 else math.inf
        if math.isfinite(number) and fits(number):
            return number
    raise InputError(f"{name} is {what}, not {value!r}.")


def checked_count(name: str, value: Any, what: str, fits: Callable[[int], bool]) -> int:
    """A whole number that fits."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and fits(int(value)):
        return int(value)
    raise InputError(f"{name} is {what}, not {value!r}.")


def checked_seed(value: Any) -> int:
    """What torch's generators take."""
    return checked_count("seed", value, "a whole number of 63 bits", lambda n: -(1 << 63) <= n < 1 << 63)


def checked_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise InputError(f"{name} is text, not {value!r}.")
    return value
