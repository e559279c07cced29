"""A session on the GPU that is measured, and the check of what it computes."""

from __future__ import annotations

from typing import Any

import dense
import numpy as np
import torch
from measure import on_stream
from torch import Tensor

import sige_deploy as sige
from sige_deploy.bench import always_sparse
from sige_deploy.bundle import Bundle
from sige_deploy.runtimes.base import create
from sige_deploy.workload import make_edit

TOLERANCE = 5e-2  # of an output's largest value: float16 through a whole network, rounded in other places
CHECKED_SHARE = 0.05
WARM = 3  # calls of every way before it is timed; the second edit of a size captures its graph


class Edited:
    """A session on the GPU that keeps the last call's work, to run it again alone."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._planned, self._sparse = bundle, always_sparse(bundle)
        self.session = sige.Session(bundle, create(None, bundle, device, None))
        self._device: Any = self.session._device
        self._call: Any = None
        take_in = self._device.take_in

        def keep(*given: Any) -> Any:
            self._call = take_in(*given)
            return self._call

        self._device.take_in = keep

    def record(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        return list(self.session.record(**inputs).values())

    def planned(self, inputs: dict[str, Any], mask: Any = None) -> list[Tensor]:
        """What a user gets: the planner may run a large edit dense."""
        return list(self.session.edit(**inputs, mask=mask).values())

    def sparse(self, inputs: dict[str, Any], mask: Any = None) -> list[Tensor]:
        self.session.bundle = self._sparse
        try:
            return self.planned(inputs, mask)
        finally:
            self.session.bundle = self._planned

    def placed(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Inputs that all steps share, on the device once, as pipelines have it."""
        with self.session.held() as device:
            return {name: device.placed(array) for name, array in arrays.items()}

    def graph_ms(self, repeats: int) -> float:
        """The last edit's work on the GPU, without the look at the inputs that comes before."""
        with self._device.current():
            return on_stream(self._call.run, self._device.memory.stream, repeats)


def on_gpu(inputs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)).cuda() for name, value in inputs.items()}


def distance(results: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference over the largest expected value; infinite where a result is not finite."""
    worst = 0.0
    for a, b in zip(results, expected, strict=True):
        a, b = a.float().cpu(), b.float().cpu()
        if not bool(a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / b.abs().max()))
    return worst


def checked(
    bundle: Bundle,
    edited: Edited,
    module: torch.nn.Module,
    recorded: dict[str, np.ndarray],
    on_cpu: bool,
) -> dict[str, float]:
    """Distances that must be small; raises RuntimeError where one is not. Leaves `recorded` on record."""
    inputs = on_gpu(recorded)
    height, width = bundle.manifest.spatial()[0].shape[-2:]
    with torch.no_grad():
        truth = dense.outputs_of(module(**inputs))
    record = [t.clone() for t in edited.record(inputs)]
    found = {"record - dense": distance(record, truth)}
    everywhere = np.ones((height, width), bool)
    found["all of the recorded input - record"] = distance(edited.sparse(inputs, everywhere), record)
    part = np.zeros((height, width), bool)
    part[height // 3 : height // 2, width // 4 : width // 2] = True
    found["part of the recorded input - record"] = distance(edited.sparse(inputs, part), record)
    changed, _ = make_edit(bundle.manifest, recorded, CHECKED_SHARE, "square", 1)
    first = [t.clone() for t in edited.sparse(on_gpu(changed))]
    for _ in range(WARM):  # the later ones run a captured graph
        again = edited.sparse(on_gpu(changed))
    found["edit again - edit"] = distance(again, first)
    if on_cpu:
        runtime = create(None, bundle, "cpu", torch.get_num_threads())
        with sige.Session(always_sparse(bundle), runtime) as session:
            session.record(**recorded)
            there = [torch.from_numpy(value) for value in session.edit(**changed).values()]
        found["edit - edit on the CPU"] = distance(first, there)
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if wrong:
        raise RuntimeError(f"wrong results, nothing was timed: {wrong}")
    return found
