"""Saved runs: read where they are, whole or refused, and only what they are of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny
from safetensors.numpy import load_file

import sige_deploy as sige
from sige_deploy.errors import CacheError, StateError
from sige_deploy.runs import saved
from sige_deploy.runs.run import Edits, Run, open_run
from sige_deploy.runs.tiers import Budget

from .steps import MASK, STEPS, edit_all, edited, given, same, states

KEY = {"model": "tiny", "scheduler": {"name": "ddim", "steps": 4}, "seed": 7, "prompt": "a street"}
GB = 10**9


def recorded(session: sige.Session, budget: Budget | None = None) -> Run:
    run = Run({"net": session}, {"net": STEPS}, KEY, budget)
    for step in range(STEPS):
        run.tracks["net"].record(step, **given(step))
    run.tensors["latents"] = np.arange(6, dtype=np.float32)
    return run


def opened(session: sige.Session, folder: Path, **expected: object) -> Run:
    return open_run(folder, {"net": session}, expected)


def edits(run: Run, by: float = 1.0) -> dict[str, Edits]:
    track = run.tracks["net"]
    return {"net": Edits(MASK, {step: edited(step, by, track.inputs(step)) for step in range(STEPS)})}


@pytest.fixture
def folder(session: sige.Session, tmp_path: Path) -> Path:
    with recorded(session) as run:
        run.save(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("storage", ["exact", "float16", "int8"])
def test_a_saved_run_is_the_run(session: sige.Session, tmp_path: Path, storage: str) -> None:
    one = 31744
    with recorded(session, Budget(device=one, host=one, disk=one, storage=storage)) as run:  # type: ignore
        wanted = edit_all(run.tracks["net"])
        run.save(tmp_path / "run")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    with opened(session, tmp_path / "run", **KEY) as again:
        assert again.key == KEY and again.tensors["latents"].tolist() == list(range(6))
        assert set(again.tracks["net"].tiers) <= {"disk", "none"}
        assert same(edit_all(again.tracks["net"]), wanted)
        again.save(tmp_path / "copy")
    with opened(session, tmp_path / "copy") as copy:
        assert same(edit_all(copy.tracks["net"]), wanted)


def test_the_files_are_safetensors(session: sige.Session, folder: Path) -> None:
    arrays = load_file(folder / "net.0002.safetensors")
    assert arrays["input.image"].tobytes() == given(2)["image"].tobytes()
    assert arrays["cache.base.h"].shape == (tiny.B, tiny.H * tiny.W, tiny.C)


def test_one_byte_anywhere_is_refused(session: sige.Session, folder: Path) -> None:
    rng = np.random.default_rng(0)
    for file in sorted(folder.iterdir()):
        whole = bytearray(file.read_bytes())
        places = {0, 3, 9, len(whole) // 2, len(whole) - 1, *rng.integers(0, len(whole), 6).tolist()}
        for place in places:
            damaged = bytearray(whole)
            damaged[place] ^= 1 << int(rng.integers(0, 8))
            if file.name == "run.json" and _meaning(damaged) == _meaning(whole):
                continue  # white space
            file.write_bytes(damaged)
            with pytest.raises(CacheError) as caught, opened(session, folder, **KEY) as run:
                edit_all(run.tracks["net"])
            assert str(caught.value).count("\n") == 0 and str(caught.value).endswith(".")
            file.write_bytes(whole)
    with opened(session, folder, **KEY) as run:
        edit_all(run.tracks["net"])


def _meaning(text: bytes) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_a_state_that_no_edit_reads_is_not_hashed(session: sige.Session, folder: Path) -> None:
    file = folder / "net.0000.safetensors"
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    with opened(session, folder) as run:
        track = run.tracks["net"]
        for step in track.walk([1, 2, 3], MASK):
            session.edit(mask=MASK, **edited(step))
        with pytest.raises(CacheError, match="damaged"):
            next(track.walk([0], MASK))


def test_files_that_are_missing_or_cut(session: sige.Session, folder: Path) -> None:
    os.truncate(folder / "net.0001.safetensors", 1000)
    with pytest.raises(CacheError, match="damaged or truncated"):
        opened(session, folder)
    (folder / "net.0001.safetensors").unlink()
    with pytest.raises(CacheError, match="save the run anew"):
        opened(session, folder)
    (folder / "run.json").unlink()
    with pytest.raises(CacheError, match="no saved run"):
        opened(session, folder)


@pytest.mark.parametrize(
    "name, value", [("model", "other"), ("scheduler", {"name": "euler"}), ("seed", 8), ("prompt", "a cat")]
)
def test_another_run_is_refused(session: sige.Session, folder: Path, name: str, value: object) -> None:
    with pytest.raises(CacheError, match=f"recorded with {name} .* not "):
        opened(session, folder, **{**KEY, name: value})


def test_another_bundle_is_refused(session: sige.Session, folder: Path) -> None:
    with pytest.raises(CacheError, match="networks"):
        open_run(folder, {"unet": session})
    index = json.loads((folder / "run.json").read_text())
    index["tracks"]["net"]["bundle"] = "0" * 64
    del index["sha256"], index["format"], index["version"]
    saved.write_index(folder, index)
    with pytest.raises(CacheError, match="recorded with another net"):
        opened(session, folder)


def test_commits_on_a_saved_run_leave_its_files(session: sige.Session, folder: Path) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    with recorded(session) as own, opened(session, folder) as run:
        for _ in range(2):
            own.commit(edits(own))
            run.commit(edits(run))
        assert states(run.tracks["net"]) == states(own.tracks["net"])
        assert set(run.tracks["net"].tiers) == {"host"}
        run.undo()
        run.undo()
        assert run.tracks["net"].tiers == ["disk"] * STEPS
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_undo(session: sige.Session) -> None:
    with recorded(session, Budget(undo=2)) as run:
        marks = []
        for turn in range(3):
            marks.append(states(run.tracks["net"]))
            run.commit(edits(run, turn + 1.0), {"latents": np.full(2, turn)}, {"prompt": f"turn {turn}"})
        assert run.undoable == 2 and run.key["prompt"] == "turn 2"
        for turn in (2, 1):
            run.undo()
            assert states(run.tracks["net"]) == marks[turn]
            assert (
                run.key["prompt"] == f"turn {turn - 1}" and run.tensors["latents"].tolist() == [turn - 1] * 2
            )
        with pytest.raises(StateError, match="no commit to undo"):
            run.undo()


def test_a_run_takes_the_place_of_a_run_only(session: sige.Session, folder: Path) -> None:
    (folder.parent / "full").mkdir()
    (folder.parent / "full" / "file").write_text("mine")
    with opened(session, folder) as run:
        run.commit(edits(run))
        run.save(folder)  # the one that it reads
        with pytest.raises(CacheError, match="not empty and is no saved run"):
            run.save(folder.parent / "full")
        wanted = states(run.tracks["net"])
    with opened(session, folder) as again:
        assert states(again.tracks["net"]) == wanted
        assert all(slot is not None and slot.edited for slot in again.tracks["net"].slots)


def test_a_full_disk_is_told_and_leaves_the_run(
    session: sige.Session, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    before = sorted(folder.iterdir())
    with opened(session, folder) as run:
        for name in ("write_bytes", "mkdir"):
            with monkeypatch.context() as patch:
                patch.setattr(Path, name, full)
                with pytest.raises(CacheError, match=r"cannot write a run to .* \(No space left on device\)"):
                    run.save(folder)
        with pytest.raises(CacheError, match="is no saved run"):
            saved.check_target(folder / saved.INDEX)
        saved.check_target(folder)
    assert sorted(folder.iterdir()) == before and len(list(folder.parent.iterdir())) == 1
