"""A Stable Diffusion pipeline of tiny random networks: 32 x 32 pixels, 16 x 16 latents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_pipeline

import sige_deploy as sige
from sige_deploy.pipelines.pipeline import DiffusionPipeline, open_pipeline
from sige_deploy.pipelines.recording import Recording

SIZE = 32
TOKENS = 12  # of a prompt: ten letters and both ends
WORDS = "a", "cat", "dog", "red"


@pytest.fixture(scope="package")
def source_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As diffusers writes it, with a tokenizer that can spell WORDS."""
    folder = tiny_pipeline.write(tmp_path_factory.mktemp("pipeline") / "source", tokens=TOKENS)
    ends = "<|startoftext|>", "<|endoftext|>"
    pieces = dict.fromkeys(piece for word in WORDS for piece in (*word[:-1], f"{word[-1]}</w>"))
    vocabulary = {piece: number for number, piece in enumerate((*ends, *pieces))}
    assert len(vocabulary) <= 2 * len(tiny_pipeline.WORDS) + 2  # as many as the text encoder knows
    (folder / "tokenizer" / "vocab.json").write_text(json.dumps(vocabulary))
    return folder


@pytest.fixture(scope="package")
def pipeline_folder(source_folder: Path) -> Path:
    folder = source_folder.with_name("exported")
    sige.export_diffusers(source_folder, folder, sige.SparseConfig(dense_above=1.0), height=SIZE, width=SIZE)
    return folder


@pytest.fixture(scope="package")
def pipeline(pipeline_folder: Path) -> Iterator[DiffusionPipeline]:
    with open_pipeline(pipeline_folder, threads=1) as opened:
        yield opened


@pytest.fixture
def recording(pipeline: DiffusionPipeline) -> Iterator[Recording]:
    """Of a prompt, 4 steps."""
    with pipeline.record("a cat", steps=4, seed=3, guidance=2.0) as recorded:
        yield recorded


@pytest.fixture
def painted(recording: Recording) -> np.ndarray:
    """The recorded picture with a stroke."""
    return stroke(recording.picture)


@pytest.fixture
def mask() -> np.ndarray:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[9:17, 7:15] = True
    return mask


def stroke(picture: np.ndarray) -> np.ndarray:
    picture = picture.copy()
    picture[10:16, 8:14] = (255, 0, 0)
    return picture
