"""What it costs an edit that states are kept in fewer bits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sige_deploy.compare import active_masks, differences, given_masks
from sige_deploy.inputs import as_numpy
from sige_deploy.runs.codes import Storage
from sige_deploy.runs.tiers import Budget, Rooms
from sige_deploy.runs.track import Track
from sige_deploy.session import Session


@dataclass(frozen=True)
class StorageCost:
    """psnr: dB of the worst output's recomputed pixels against an edit on the exact state, with the range of
    the latter as peak. nbytes: of one state."""

    psnr: float
    nbytes: int


def storage_costs(
    session: Session, recorded: Mapping[str, Any], edited: Mapping[str, Any], mask: np.ndarray
) -> dict[Storage, StorageCost]:
    """Edit one recorded call with its state kept in every way. The session has no record in force
    afterwards. Raises what record and edit raise."""
    results: dict[Storage, dict[str, np.ndarray]] = {}
    costs: dict[Storage, StorageCost] = {}
    bundle = session.bundle
    active = active_masks(bundle, given_masks(bundle, mask))
    kinds: tuple[Storage, ...] = ("exact", "float16", "int8")
    for storage in kinds:
        track = Track(session, 1, Rooms(Budget(device=0, host=1 << 62, storage=storage)))
        track.record(0, **recorded)
        with contextlib.closing(track.walk([0], mask)) as steps:
            next(steps)
            outputs = session.edit(mask=mask, **edited)
        results[storage] = {name: as_numpy(name, value) for name, value in outputs.items()}
        found = differences(bundle, results[storage], results["exact"], active)
        inside = [d.psnr if d.psnr_inside is None else d.psnr_inside for d in found]
        costs[storage] = StorageCost(min(inside), track.slot(0).nbytes)
        track.close()
    return costs
