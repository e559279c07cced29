"""How far states that many edits were committed to are from a fresh record."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sige_deploy.compare import psnr


@dataclass(frozen=True)
class Drift:
    """PSNR in dB of the worst array against a fresh record of the same inputs, the peak being the range of
    the fresh one; infinite where nothing differs.

    outputs: of the network. caches: of those that are kept; infinite where none is.
    """

    outputs: float
    caches: float


class Worst:
    """The lowest PSNR of several arrays."""

    def __init__(self) -> None:
        self.psnr = math.inf

    def add(self, kept: np.ndarray, fresh: np.ndarray) -> None:
        peak = float(np.ptp(fresh.astype(np.float64))) if fresh.size else 0.0
        found = psnr(kept, fresh, peak) if peak > 0 else (math.inf if np.array_equal(kept, fresh) else 0.0)
        self.psnr = min(self.psnr, found)
