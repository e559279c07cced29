"""The scenes model, edited by words in two rounds, with few steps; pictures are read by the reader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image

from sige_deploy.pipelines.pipeline import DiffusionPipeline
from sige_deploy.scenes import edit
from sige_deploy.scenes.evaluation import DEMO, GUIDANCE
from sige_deploy.scenes.measures import colour_of, look
from sige_deploy.scenes.networks import READER
from sige_deploy.scenes.reader import Reader, load_reader

SEED, STEPS = 1, 6


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusionPipeline]:
    with edit.open_scenes(tmp_path_factory.mktemp("scenes") / "scenes.pipeline", threads=2) as opened:
        yield opened


@pytest.fixture(scope="module")
def reader() -> Reader:
    return load_reader(READER)


def test_two_rounds_of_words(pipeline: DiffusionPipeline, reader: Reader, tmp_path: Path) -> None:
    first, second = edit.two_rounds(pipeline, reader, SEED, STEPS)
    for one in (first, second):
        assert 0.02 < one.mask.mean() < 0.3
        assert (one.after[~one.mask] == one.before[~one.mask]).all()
        assert (one.after[one.mask] != one.before[one.mask]).any()
        assert one.fraction < 0.5 and one.psnr > 20
        assert one.measures.kept > 0.5 and one.measures.psnr_outside == np.inf
    assert first.measures.checks["object"] and first.measures.checks["colour"]
    np.testing.assert_array_equal(second.before, first.after)  # what was committed

    edit.draw((first, second), tmp_path / "edit.png")
    with Image.open(tmp_path / "edit.png") as drawn:
        assert drawn.width > 1500


def test_a_committed_edit_is_taken_back(pipeline: DiffusionPipeline, reader: Reader) -> None:
    with pipeline.record(DEMO[0], seed=SEED, steps=STEPS, guidance=GUIDANCE) as recording:
        red = recording.picture
        latents = recording.run.tensors["latents"].copy()
        mask = np.zeros(red.shape[:2], bool)
        seen = look(reader, [red])[0]
        mask[np.kron(seen.mask("house"), np.ones((4, 4), bool))] = True
        edited = recording.text_edit(DEMO[1], mask, keep=edit.KEEP[0])
        edited.commit()
        blue = recording.picture
        assert (blue[~mask] == red[~mask]).all()
        words = [colour_of(p, look(reader, [p])[0], "house", "sunny") for p in (red, blue)]
        assert words == ["red", "blue"]
        assert recording.undoable == 1
        recording.undo()
        np.testing.assert_array_equal(recording.picture, red)
        np.testing.assert_array_equal(recording.run.tensors["latents"], latents)
