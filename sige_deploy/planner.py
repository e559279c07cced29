"""Whether an edit is small enough to run sparse."""

from __future__ import annotations

from collections.abc import Mapping

from sige_deploy.manifest import LevelSpec, PlannerSpec


class Work:
    """The work that a network's levels hold."""

    def __init__(self, levels: list[LevelSpec]) -> None:
        weighed = weights(levels)
        self._levels = [(level.id, w, level.height * level.width) for level, w in zip(levels, weighed)]
        self._total = sum(weighed)

    def active_fraction(self, counts: Mapping[str, int]) -> float:
        """Share of the network's dense multiply-adds that an edit touches: sum of macs_l * P_l / (H_l * W_l)
        over the levels, divided by the sum of macs_l; a network without multiply-adds is weighed by its
        pixels.

        counts: active pixels P_l by level id.
        """
        touched = 0.0
        for id_, work, pixels in self._levels:
            touched += work * (counts[id_] / pixels)
        return touched / self._total


def weights(levels: list[LevelSpec]) -> list[int]:
    """What all pixels of each level weigh: multiply-adds, or pixels in a network without any."""
    counted = any(level.macs for level in levels)
    return [level.macs if counted else level.height * level.width for level in levels]


def runs_dense(planner: PlannerSpec, fraction: float, gpu: bool = False) -> bool:
    """Whether an edit with this active fraction is faster dense. gpu: whether it would run on a GPU."""
    return fraction > (planner.gpu_dense_above if gpu else planner.dense_above)
