"""Where recorded states are kept, and whether to load or to recompute one."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sige_deploy.errors import CacheError, InputError
from sige_deploy.runs.codes import Storage

Tier = Literal["device", "host", "disk", "none"]
GIGABYTE = 10**9


@dataclass(frozen=True)
class Budget:
    """How many bytes of recorded states a run may keep where; what fits nowhere is recorded anew when it is
    needed.

    device: in the memory of the session's device, as they were recorded. host: in host memory, pinned where
    the device is a GPU. disk: in files of `folder` (None: the system's folder for temporary files), which go
    with the run. storage: how caches are kept on the host and on the disk: "exact", "float16", or "int8"
    (docs/runs.md says what that costs). undo: commits that can be undone.
    """

    device: int = 2 * GIGABYTE
    host: int = 8 * GIGABYTE
    disk: int = 0
    folder: str | os.PathLike[str] | None = None
    storage: Storage = "exact"
    undo: int = 8

    def __post_init__(self) -> None:
        for name in ("device", "host", "disk", "undo"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0:
                raise InputError(f"{name} of a budget is a count, 0 or more, not {value!r}.")
        if self.storage not in ("exact", "float16", "int8"):
            raise InputError(f"storage is 'exact', 'float16' or 'int8', not {self.storage!r}.")


class Rooms:
    """What is left of a budget."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._left: dict[str, int] = {tier: getattr(budget, tier) for tier in ("device", "host", "disk")}

    def take(self, tier: Tier, nbytes: int) -> bool:
        """Whether there was room for so many bytes, which is taken now."""
        if tier == "none" or self._left[tier] < nbytes:
            return tier == "none"
        self._left[tier] -= nbytes
        return True

    def give(self, tier: Tier, nbytes: int) -> None:
        if tier != "none":
            self._left[tier] += nbytes

    def plan(self, steps: int, device_bytes: int, kept_bytes: int) -> list[Tier]:
        """Take room for `steps` states; returns the tier of each, the last ones in the fastest: edits need
        the last steps of a run always, and the first ones only if they change much. device_bytes: of one on
        the device; kept_bytes: of one elsewhere."""
        sizes: dict[Tier, int] = {"device": device_bytes, "host": kept_bytes, "disk": kept_bytes, "none": 0}
        tiers = [
            next(tier for tier, nbytes in sizes.items() if self.take(tier, nbytes)) for _ in range(steps)
        ]
        return tiers[::-1]


def spill(nbytes: int, folder: str | os.PathLike[str] | None) -> np.ndarray:
    """uint8 [nbytes] of a file without a name, which goes with the array. Raises CacheError."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, max(nbytes, 1))
            return np.asarray(np.memmap(file, np.uint8, "r+", shape=(max(nbytes, 1),)))
    except OSError as error:
        raise CacheError(
            f"cannot keep {nbytes} bytes of a run in '{folder or tempfile.gettempdir()}' ({error.strerror}); "
            "give a budget another folder, or disk=0."
        ) from error


class Costs:
    """Running means of what loading and recording take, and the choice between them.

    A load runs beside the step before, so it costs what it takes longer than that step. What was never
    measured is tried first, and what was given up is tried again now and then: a rate that was measured while
    the machine did something else must not stand for good.
    """

    WEIGHT = 0.3  # of a new measurement
    PATIENCE = 16  # steps that are recorded anew before a load is tried again

    def __init__(self) -> None:
        self.rates: dict[Tier, float] = {}  # bytes per second
        self.record: float | None = None  # seconds
        self.edit: float | None = None
        self._refused: dict[Tier, int] = {}  # since the last load

    def loaded(self, tier: Tier, nbytes: int, seconds: float) -> None:
        rate = nbytes / max(seconds, 1e-9)
        self.rates[tier] = self._mean(self.rates.get(tier), rate)

    def recorded(self, seconds: float) -> None:
        self.record = self._mean(self.record, seconds)

    def edited(self, seconds: float) -> None:
        self.edit = self._mean(self.edit, seconds)

    def recompute(self, tier: Tier, nbytes: int) -> bool:
        """Whether recording anew is expected to take less time than loading so many bytes."""
        rate = self.rates.get(tier)
        if rate is None or self.record is None or self.edit is None:
            return False
        refused = self._refused.get(tier, 0)
        slower = nbytes / rate - self.edit > self.record and refused < self.PATIENCE
        self._refused[tier] = refused + 1 if slower else 0
        return slower

    def _mean(self, before: float | None, now: float) -> float:
        return now if before is None else (1 - self.WEIGHT) * before + self.WEIGHT * now
