"""States in every tier give the same bits, and commits can be undone bit for bit."""

from __future__ import annotations

import gc
import tracemalloc

import numpy as np
import pytest
import tiny

import sige_deploy as sige
from sige_deploy.devices.base import Needs
from sige_deploy.errors import CacheError, InputError, RuntimeFailure, StateError
from sige_deploy.manifest import Manifest
from sige_deploy.runs.state import Layout
from sige_deploy.runs.tiers import Budget, Costs, Rooms
from sige_deploy.runs.track import Track

from .steps import MASK, STEPS, edit_all, edited, given, record, same, states

GB = 10**9
TIERS = {
    "device": Budget(device=GB, host=0),
    "host": Budget(device=0, host=GB),
    "disk": Budget(device=0, host=0, disk=GB),
    "none": Budget(device=0, host=0),
}


def caches_bytes(manifest: Manifest) -> int:
    return sum(int(np.prod(c.shape)) * np.dtype(c.dtype).itemsize for c in manifest.caches)


def test_tiers_give_the_same_bits(session: sige.Session) -> None:
    wanted = []
    for step in range(STEPS):
        session.record(**given(step))
        wanted.append(session.edit(mask=MASK, **edited(step)))
    for tier, budget in TIERS.items():
        track = record(session, budget)
        assert track.tiers == [tier] * STEPS
        assert same(edit_all(track), wanted), tier
        assert same(edit_all(track), wanted), tier
        assert session.report.path == "sparse"
        track.close()


def test_a_budget_is_kept_with_the_last_steps_in_the_fastest_tier(session: sige.Session) -> None:
    one = Layout(session.bundle.manifest).nbytes
    track = record(session, Budget(device=one + 5, host=one, disk=one))
    assert track.tiers == ["none", "disk", "host", "device"]
    wanted = record(session, TIERS["host"])
    assert same(edit_all(track), edit_all(wanted))
    other = Track(session, 1, track.rooms)
    assert other._plan == ["none"]
    track.close()
    assert Track(session, 1, track.rooms)._plan == ["device"]


def test_only_what_an_edit_reads_is_moved(session: sige.Session) -> None:
    """What lies elsewhere may be anything: here it is NaN."""
    manifest = session.bundle.manifest
    track = record(session, TIERS["disk"])
    wanted = edit_all(track)
    reading = track.read(MASK)
    pixels = (reading.needs.rows or {})["cache.base.h"]
    assert 0 < pixels.size < tiny.H * tiny.W / 2
    left_out = (tiny.H * tiny.W - pixels.size) * tiny.B * tiny.C * 4
    assert reading.nbytes == track.read(np.zeros_like(MASK)).nbytes + caches_bytes(manifest) - left_out
    assert not reading.dense
    others = np.setdiff1d(np.arange(tiny.H * tiny.W), pixels)
    nothing = np.full((tiny.B, others.size, tiny.C), np.nan, np.float32)
    for step in range(STEPS):
        track.slot(step).kept.write("cache.base.h", others, nothing)
    assert same(edit_all(track), wanted)
    touched = track.slot(0).kept
    touched.write("cache.base.h", pixels[1:2], nothing[:, :1])  # the first entry only fills lists up
    assert not np.isfinite(edit_all(track)[0]["y"]).all()


def test_a_dense_edit_needs_no_caches(session: sige.Session) -> None:
    track = record(session, TIERS["disk"])
    everywhere = np.ones_like(MASK)
    reading = track.read(everywhere)
    assert reading.dense == (not session.report.runtime.startswith("cuda")) and reading.fraction == 1
    assert reading.needs == Needs(caches=False)
    changed = tiny.edited(given(2), slice(0, tiny.H), slice(0, tiny.W))
    for _ in track.walk([2], everywhere):
        np.testing.assert_allclose(
            session.edit(mask=everywhere, **changed)["y"], tiny.dense(**changed), rtol=1e-4, atol=1e-4
        )
        assert session.report.path == "dense"


@pytest.mark.parametrize("storage", ["float16", "int8"])
def test_lossy_storage_is_close_and_smaller(session: sige.Session, storage: str) -> None:
    exact = edit_all(record(session, TIERS["host"]))
    track = record(session, Budget(device=0, host=GB, storage=storage))  # type: ignore[arg-type]
    got = edit_all(track)
    assert track.slot(0).nbytes < Layout(session.bundle.manifest).nbytes
    for a, b in zip(got, exact):
        error = np.abs(a["y"] - b["y"])
        # Only pixels with halo neighbours are off, by a share of the values' size.
        assert error[..., ~sige.masks.dilate(MASK, 1)].max() == 0
        assert 0 < error.max() < (0.02 if storage == "float16" else 0.3)


def test_commits_and_undo_in_every_tier(session: sige.Session) -> None:
    wanted = None
    for tier, budget in TIERS.items():
        track = record(session, budget)
        before = states(track)
        commits = []
        for turn in range(3):
            edits = {step: edited(step, 1.0 + turn, track.inputs(step)) for step in range(1, STEPS)}
            commits.append(track.commit(edits, MASK))
        after, result = states(track), edit_all(track)
        assert after[0] == before[0] and after[1] != before[1]
        if wanted is None:
            wanted = after, result
        elif tier == "none":  # recorded anew from the inputs that were committed
            for one, other in zip(after, wanted[0]):
                assert all(x == other[name] for name, x in one.items() if name.startswith("input."))
        else:
            assert after == wanted[0] and same(result, wanted[1]), tier
        for commit in reversed(commits):
            track.undo(commit)
        assert states(track) == before, tier
        track.close()


def test_a_commit_is_what_the_session_s_own_is(session: sige.Session) -> None:
    session.record(**given(1))
    session.edit(mask=MASK, **edited(1))
    session.commit()
    again = edited(1, 2.0)
    wanted = session.edit(mask=MASK, **again)
    track = record(session, TIERS["device"])
    track.commit({1: edited(1)}, MASK)
    for _ in track.walk([1], MASK):
        assert same([session.edit(mask=MASK, **again)], [wanted])


def test_dense_commits_record_anew_and_can_be_undone(session: sige.Session) -> None:
    track = record(session, TIERS["host"])
    before, left = states(track), dict(track.rooms._left)
    everywhere = np.ones_like(MASK)
    commit = track.commit({1: given(7)}, everywhere)
    assert track.inputs(1)["image"].tobytes() == given(7)["image"].tobytes()
    track.undo(commit)
    assert states(track) == before and track.rooms._left == left
    track.forget(track.commit({1: given(7)}, everywhere))
    assert track.rooms._left == left


def test_a_commit_that_fails_changes_nothing(session: sige.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    track = record(session, TIERS["host"])
    before = states(track)
    edits = {step: edited(step) for step in range(STEPS)}
    edits[2]["gain"] = edits[2]["gain"] + 1
    with pytest.raises(InputError, match="'gain' must be as recorded"):
        track.commit(edits, MASK)
    assert states(track) == before
    with pytest.raises(StateError, match="call record or load first"):
        session.edit(**given(0))  # a run leaves no partial state in force
    session.record(**given(0))


def test_cost_model() -> None:
    costs = Costs()
    assert not costs.recompute("disk", GB)  # tried first
    costs.recorded(1.0)
    costs.edited(0.1)
    costs.loaded("disk", GB, 2.0)
    costs.loaded("host", GB, 0.1)
    assert costs.recompute("disk", GB) and not costs.recompute("host", GB)
    assert not costs.recompute("disk", GB // 2)  # 1.0 s, of which 0.1 beside the step before
    for _ in range(30):
        costs.loaded("disk", GB, 0.1)
    assert not costs.recompute("disk", GB)


def test_a_load_that_was_given_up_is_tried_again() -> None:
    costs = Costs()
    costs.recorded(1.0)
    costs.edited(0.0)
    costs.loaded("host", GB, 2.0)
    for _ in range(2):
        assert [costs.recompute("host", GB) for _ in range(Costs.PATIENCE + 1)] == [
            *[True] * Costs.PATIENCE,
            False,
        ]


def test_what_a_parcel_takes_to_grow_is_no_rate(
    session: sige.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    track = record(session, TIERS["host"])
    measured = []
    monkeypatch.setattr(track.costs, "loaded", lambda tier, nbytes, seconds: measured.append(nbytes))
    edit_all(track)
    nbytes = track.read(MASK).nbytes
    assert measured == [nbytes] * (STEPS - 2)  # each of the two parcels was filled for the first time
    edit_all(track)
    assert measured == [nbytes] * (2 * STEPS - 2)
    larger = np.zeros_like(MASK)
    larger[2:9, 2:12] = True
    assert track.read(larger).nbytes > nbytes
    for _ in track.walk(range(STEPS), larger):
        pass
    assert len(measured) == 3 * STEPS - 4


def test_recomputing_gives_the_same_bits(session: sige.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    track = record(session, TIERS["disk"])
    wanted = edit_all(track)
    track.costs.rates["disk"], track.costs.record, track.costs.edit = 1.0, 1e-3, 0.0
    records = []
    original = session.record
    monkeypatch.setattr(session, "record", lambda **inputs: records.append(1) or original(**inputs))
    assert same(edit_all(track), wanted) and len(records) == STEPS
    track.commit({1: edited(1)}, MASK)
    records.clear()
    monkeypatch.setattr(track.costs, "loaded", lambda *_: None)
    edit_all(track)
    assert len(records) == STEPS - 1  # a state with commits is more than its inputs


def test_a_hundred_edits_in_one_session(session: sige.Session) -> None:
    """Memory stays as it is, and so does the distance to a fresh record, reported in dB."""
    track = record(session, TIERS["host"])
    rng = np.random.default_rng(0)
    sizes = []
    tracemalloc.start()
    for turn in range(100):
        mask = np.zeros_like(MASK)
        y, x = rng.integers(0, tiny.H - 3), rng.integers(0, tiny.W - 4)
        mask[y : y + 3, x : x + 4] = True
        base = track.inputs(1)
        changed = tiny.edited(base, slice(y, y + 3), slice(x, x + 4), float(rng.normal()))
        track.forget(track.commit({1: changed}, mask))
        if turn in (49, 99):
            gc.collect()
            sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert sizes[1] < sizes[0] + 50_000, sizes
    drift = track.drift()
    # The caches are pixel by pixel, the output reads neighbours: corners of an edit that it does not reach.
    assert drift.caches == np.inf and 30 < drift.outputs < 100


def test_drift_of_an_untouched_run_is_none(session: sige.Session) -> None:
    drift = record(session, TIERS["host"]).drift()
    assert drift.outputs == drift.caches == np.inf


def test_what_is_refused(session: sige.Session, tmp_path) -> None:
    track = Track(session, 2, Rooms(Budget()))
    with pytest.raises(InputError, match="step 1 of this run is not recorded"):
        next(track.walk([1], MASK))
    for wrong in ({"device": -1}, {"undo": 1.5}, {"storage": "int4"}):
        with pytest.raises(InputError):
            Budget(**wrong)
    spilled = Track(session, 1, Rooms(Budget(device=0, host=0, disk=GB, folder=tmp_path / "missing")))
    with pytest.raises(CacheError, match=r"cannot keep .* give a budget another folder"):
        spilled.record(0, **given(0))


def test_errors_of_the_engine_come_through(session: sige.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    track = record(session, TIERS["host"])

    def failing(*_: object, **__: object) -> None:
        raise RuntimeFailure("the engine failed.")

    with monkeypatch.context() as patch:
        patch.setattr(session, "edit", failing)
        with pytest.raises(RuntimeFailure):
            track.commit({0: edited(0)}, MASK)
    assert len(edit_all(track)) == STEPS
