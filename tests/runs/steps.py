"""A run of a few steps on the tiny bundle, and an edit of all of them."""

from __future__ import annotations

import numpy as np
import tiny

import sige_deploy as sige
from sige_deploy.runs.tiers import Budget, Rooms
from sige_deploy.runs.track import Track

STEPS = 4
MASK = np.zeros((tiny.H, tiny.W), bool)
MASK[3:6, 4:9] = True
Arrays = dict[str, np.ndarray]


def given(step: int) -> Arrays:
    return tiny.inputs(step)


def edited(step: int, by: float = 1.0, base: Arrays | None = None) -> Arrays:
    changed = tiny.edited(base or given(step), slice(3, 6), slice(4, 9), by)
    changed["offset"] = changed["offset"] + np.float32(0.25)
    return changed


def record(session: sige.Session, budget: Budget) -> Track:
    track = Track(session, STEPS, Rooms(budget))
    for step in range(STEPS):
        track.record(step, **given(step))
    return track


def edit_all(track: Track, by: float = 1.0) -> list[Arrays]:
    steps = range(len(track))
    return [
        track.session.edit(mask=MASK, **edited(step, by, track.inputs(step)))
        for step in track.walk(steps, MASK)
    ]


def same(a: list[Arrays], b: list[Arrays]) -> bool:
    return all(x[name].tobytes() == y[name].tobytes() for x, y in zip(a, b, strict=True) for name in x)


def states(track: Track) -> list[dict[str, bytes]]:
    """Every kept array of every step, bit for bit."""
    found = []
    for step in range(len(track)):
        with track.session.held():
            kept = track.slot(step).kept
            names = track.block(step)[0].entries
            found.append({name: kept.array(name).tobytes() for name in names})
    return found
