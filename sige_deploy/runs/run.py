"""A recorded run of several networks: their states step by step, small arrays, commits, files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy.errors import CacheError, InputError, StateError
from sige_deploy.runs import saved
from sige_deploy.runs.drift import Drift
from sige_deploy.runs.state import Layout, State
from sige_deploy.runs.tiers import Budget, Rooms
from sige_deploy.runs.track import Before, Track
from sige_deploy.session import Session

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Edits:
    """What a commit runs again on one track. mask: bool [H, W] at the first spatial input's size. inputs: of
    each step."""

    mask: np.ndarray
    inputs: Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True)
class _Commit:
    befores: dict[str, list[Before]]
    tensors: Arrays
    key: dict[str, Any]


class Run:
    """States of several sessions, by name, with what they are of.

    key: JSON values that say what was recorded: model, scheduler, steps, seed, prompt. tensors: small arrays
    of the run as a whole. Not for several threads at once; `close` gives back the memory.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        steps: Mapping[str, int],
        key: Mapping[str, Any],
        budget: Budget | None = None,
    ) -> None:
        if budget is not None and not isinstance(budget, Budget):
            raise InputError(f"budget is a sige_deploy.Budget, not {budget!r}.")
        self.budget = budget or Budget()
        self.key = dict(key)
        self.tensors: Arrays = {}
        self._rooms = Rooms(self.budget)
        # The shortest first: a network of one step is read by every edit.
        order = sorted(sessions, key=lambda name: steps[name])
        self.tracks = {name: Track(sessions[name], steps[name], self._rooms) for name in order}
        self._commits: list[_Commit] = []

    @property
    def undoable(self) -> int:
        """Commits that can be undone."""
        return len(self._commits)

    def commit(
        self,
        edits: Mapping[str, Edits],
        tensors: Mapping[str, np.ndarray] | None = None,
        key: Mapping[str, Any] | None = None,
    ) -> None:
        """Make edits, by track, part of the run: each runs again and its rows are written into the states.
        tensors, key: entries that change with it. If this raises, the run is as it was."""
        befores: dict[str, list[Before]] = {}
        try:
            for name, edit in edits.items():
                befores[name] = self.tracks[name].commit(edit.inputs, edit.mask)
        except BaseException:
            self._restore(befores)
            raise
        self._commits.append(_Commit(befores, dict(self.tensors), dict(self.key)))
        self.tensors.update(tensors or {})
        self.key.update(key or {})
        while len(self._commits) > self.budget.undo:
            for name, old in self._commits.pop(0).befores.items():
                self.tracks[name].forget(old)

    def undo(self) -> None:
        """Take the last commit back: states and arrays are as before it, bit for bit. Raises StateError where
        there is none that can be undone."""
        if not self._commits:
            raise StateError(
                f"there is no commit to undo (a run keeps the last {self.budget.undo}, Budget(undo=...))."
            )
        last = self._commits.pop()
        self._restore(last.befores)
        self.tensors, self.key = last.tensors, last.key

    def drift(self) -> dict[str, Drift]:
        """How far each track is from a fresh record of its inputs; records every step anew to see."""
        return {name: track.drift() for name, track in self.tracks.items()}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the run to a folder, crash-safely. Raises CacheError where that cannot be."""
        with saved.writing(folder) as place:
            listed = {saved.TENSORS: saved.write_tensors(place, self.tensors)}
            tracks = {}
            for name, track in self.tracks.items():
                steps = []
                for step in range(len(track)):
                    file = f"{name}.{step:04}.safetensors"
                    layout, block = track.block(step)
                    listed[file] = saved.write_state(place / file, layout, block)
                    edited = track.slot(step).edited
                    steps.append({"storage": layout.storage, "caches": layout.with_caches, "edited": edited})
                tracks[name] = {"bundle": track.session.bundle.id, "steps": steps}
            saved.write_index(place, {"key": self.key, "tracks": tracks, "files": listed})

    def close(self) -> None:
        """Give back the memory; the sessions stay open."""
        self._commits.clear()
        for track in self.tracks.values():
            track.close()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _restore(self, befores: Mapping[str, list[Before]]) -> None:
        for name, before in befores.items():
            self.tracks[name].undo(before)


def open_run(
    folder: str | os.PathLike[str],
    sessions: Mapping[str, Session],
    expected: Mapping[str, Any] | None = None,
    budget: Budget | None = None,
) -> Run:
    """A saved run, read where it is: a state is mapped into memory, and checked whole before its first use.

    sessions: on the bundles with which it was recorded, by name. expected: entries of its key that must be
    equal. Raises CacheError where the run is missing, damaged, or of something else.
    """
    root = Path(folder)
    index = saved.read_index(root)
    key, tracks, listed = index["key"], index["tracks"], index["files"]
    for name, value in json.loads(json.dumps(dict(expected or {}))).items():
        if key.get(name) != value:
            raise CacheError(
                f"the run '{root}' was recorded with {name} {_short(key.get(name))}, not {_short(value)}; "
                "record anew, or open it with what it was recorded with."
            )
    if set(tracks) != set(sessions):
        raise CacheError(
            f"the run '{root}' is of the networks {sorted(tracks)}, not {sorted(sessions)}; open it with the "
            "pipeline that it was recorded with."
        )
    for name, session in sessions.items():
        if tracks[name]["bundle"] != session.bundle.id:
            raise CacheError(
                f"the run '{root}' was recorded with another {name}; open it with that one, or record anew."
            )
    run = Run(sessions, {name: len(tracks[name]["steps"]) for name in tracks}, key, budget)
    run.tensors = saved.read_tensors(root, listed[saved.TENSORS])
    for name, track in run.tracks.items():
        layouts: dict[tuple[str, bool], Layout] = {}
        for step, entry in enumerate(tracks[name]["steps"]):
            kind = entry["storage"], entry["caches"]
            if kind not in layouts:
                layouts[kind] = Layout(track.manifest, *kind)
            file = f"{name}.{step:04}.safetensors"
            state: State = saved.SavedState(root / file, layouts[kind], listed[file])
            track.adopt(step, state, entry["edited"])
    return run


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
