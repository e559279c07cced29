"""Runs and pipelines on a GPU: the host's own tests, with the copies on streams of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pipelines.conftest import mask, pipeline_folder, source_folder
from pipelines.test_edits import KINDS, states
from runs import test_saved, test_track

import sige_deploy as sige
from sige_deploy.runs.run import Run
from sige_deploy.runs.tiers import Budget

__all__ = ["folder", "mask", "pipeline_folder", "source_folder"]

# A GPU's planner never runs an edit dense, unless it was told to.
DENSE = ("test_a_dense_edit_needs_no_caches", "test_dense_commits_record_anew_and_can_be_undone")
globals().update(
    {
        name: test
        for module in (test_track, test_saved)
        for name, test in vars(module).items()
        if name.startswith("test_") and name not in DENSE
    }
)
folder = test_saved.folder
GB = 10**9


@pytest.fixture
def session(device: str, tiny_path: Path) -> Iterator[sige.Session]:
    with sige.open(tiny_path, device) as opened:
        yield opened


def test_a_unet_s_states_arrive_before_they_are_read(device: str, pipeline_folder: Path) -> None:
    """Many steps, again and again: the bits of states on the device, whatever the timing."""
    mask = np.zeros((16, 16), bool)
    mask[4:8, 5:9] = True
    rng = np.random.default_rng(0)
    with sige.open(pipeline_folder / "unet", device) as session:
        specs = session.bundle.manifest.inputs
        given = [{s.name: rng.standard_normal(s.shape).astype(s.dtype) for s in specs} for _ in range(12)]
        wanted: list[bytes] = []
        for budget in (Budget(device=GB), Budget(device=0), Budget(device=0, host=0, disk=GB)):
            with Run({"unet": session}, {"unet": 12}, {}, budget) as run:
                track = run.tracks["unet"]
                for step, inputs in enumerate(given):
                    track.record(step, **inputs)
                for _ in range(5):
                    got = []
                    for step in track.walk(range(12), mask):
                        edited = {**given[step], "sample": given[step]["sample"] + mask}
                        outputs = session.edit(mask=mask, **edited)
                        got.append(next(iter(outputs.values())).tobytes())
                    wanted = wanted or got
                    assert got == wanted, budget


def test_edits_on_a_gpu_are_those_of_the_cpu(device: str, pipeline_folder: Path, mask: np.ndarray) -> None:
    pictures: dict[str, list[np.ndarray]] = {}
    for place in ("cpu", device):
        with (
            sige.open_pipeline(pipeline_folder, place) as pipeline,
            pipeline.record("a cat", steps=4, seed=3, guidance=2.0) as recording,
        ):
            before = states(recording)
            made = [recording.picture]
            for make in KINDS.values():
                edit = make(recording, mask)
                assert (edit.picture[~mask] == made[0][~mask]).all()
                made.append(edit.picture)
            edit.commit()
            recording.undo()
            assert states(recording) == before
            pictures[place] = made
    for one, other in zip(*pictures.values()):
        assert np.abs(one.astype(int) - other).mean() < 1
