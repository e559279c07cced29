"""Pipelines whose sessions work on buffers, as on a GPU, here in host memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from devices.conftest import library, on_buffers

from sige_deploy.bundle import Bundle
from sige_deploy.pipelines.pipeline import DiffusionPipeline
from sige_deploy.runs.tiers import Budget
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers
from sige_deploy.session import Session

from .test_edits import KINDS, states

__all__ = ["library", "on_buffers"]
GB = 10**9


def test_edits_in_every_tier(
    pipeline: DiffusionPipeline, on_buffers: Callable[[Bundle], OnnxRuntimeOnBuffers], mask: np.ndarray
) -> None:
    parts = pipeline.parts
    unet, encoder, decoder = (Session(s.bundle, on_buffers(s.bundle)) for s in parts.sessions.values())
    settings = {"steps": 3, "seed": 5, "guidance": 2.0}
    with pipeline.record("a cat", **settings) as recording:
        wanted = [make(recording, mask).picture for make in KINDS.values()]
    made: list[list[np.ndarray]] = []
    with DiffusionPipeline(replace(parts, unet=unet, encoder=encoder, decoder=decoder)) as other:
        for budget in (
            Budget(),
            Budget(device=0),
            Budget(device=0, host=0, disk=GB),
            Budget(device=0, host=0),
        ):
            with other.record("a cat", budget=budget, **settings) as recording:
                before = states(recording)
                edits = [make(recording, mask) for make in KINDS.values()]
                made.append([edit.picture for edit in edits])
                edits[0].commit()
                np.testing.assert_array_equal(recording.picture, edits[0].picture)
                recording.undo()
                assert states(recording) == before
    for pictures in made:
        for one, first, host in zip(pictures, made[0], wanted):
            np.testing.assert_array_equal(one, first)
            assert np.abs(one.astype(int) - host).max() <= 2
