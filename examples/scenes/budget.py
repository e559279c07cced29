"""How long a stage of the training may last."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field


@dataclass
class Budget:
    """Ends after `minutes` or `steps`, or at `deadline` (of time.monotonic), whichever comes first.

    The clock starts after the first step, which is slow where it compiles.
    """

    minutes: float
    steps: int
    deadline: float = math.inf
    _start: float | None = field(default=None, init=False)

    def seconds(self) -> float:
        """Since the clock started."""
        return 0.0 if self._start is None else time.monotonic() - self._start

    def progress(self, step: int) -> float:
        """0 before the first of all steps, 1 or more at the end. step: how many are done."""
        if step == 0:
            return 0.0
        if self._start is None:
            self._start = time.monotonic()
        allowed = max(1e-3, min(60 * self.minutes, self.deadline - self._start))
        return max(self.seconds() / allowed, step / self.steps)


def cosine_rate(peak: float, progress: float, step: int, warmup: int) -> float:
    """Learning rate: up in `warmup` steps, then down along a cosine to 1 % of the peak."""
    fall = 0.5 + 0.5 * math.cos(math.pi * min(1.0, progress))
    return peak * min((step + 1) / warmup, 0.01 + 0.99 * fall)
