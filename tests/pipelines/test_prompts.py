"""Prompts are encoded once, wherever the text encoder runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sige_deploy.pipeline_folder import read_pipeline
from sige_deploy.pipelines import text
from sige_deploy.pipelines.parts import Denoiser
from sige_deploy.pipelines.pipeline import DiffusionPipeline
from sige_deploy.pipelines.text import Prompts


def test_every_prompt_is_encoded_once(pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = []
    run = Prompts._run
    monkeypatch.setattr(Prompts, "_run", lambda self, path, feeds: ran.append(path) or run(self, path, feeds))
    prompts = Prompts(read_pipeline(pipeline_folder), threads=1)
    first = prompts("a cat", "dog")
    assert [path.parent.name for path in ran] == ["text_encoder", "text_encoder", "prompt"]
    assert prompts("a cat", "dog") is first and len(ran) == 3
    swapped = prompts("dog", "a cat")
    assert [path.parent.name for path in ran[3:]] == ["prompt"]
    np.testing.assert_array_equal(swapped["text"], first["text"][::-1])


def test_the_encoder_runs_on_the_pipeline_s_gpu(
    pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    create = text.create
    monkeypatch.setattr(
        text,
        "create",
        lambda path, providers, threads: (
            asked.append(providers) or create(path, ["CPUExecutionProvider"], threads)
        ),
    )
    folder = read_pipeline(pipeline_folder)
    there, here = Prompts(folder, 1, "cuda:1")("a cat", ""), Prompts(folder, 1)("a cat", "")
    np.testing.assert_array_equal(there["text"], here["text"])
    options = {"device_id": "1", "use_tf32": "0"}
    assert asked[:2] == [[("CUDAExecutionProvider", options), "CPUExecutionProvider"]] * 2
    assert asked[2:] == [["CPUExecutionProvider"]] * 2


def test_texts_are_placed_once(pipeline: DiffusionPipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = []
    place = Denoiser.placed
    monkeypatch.setattr(Denoiser, "placed", lambda self, arrays: placed.append(1) or place(self, arrays))
    denoiser = Denoiser(pipeline.parts)
    prompts = ["a cat", "a dog", "a red cat", "cat", "dog"]
    texts = [denoiser.text(prompt, "") for prompt in prompts]
    assert denoiser.text("dog", "") is texts[-1] and len(placed) == len(prompts)
    assert denoiser.text("a cat", "") is not texts[0] and len(placed) == len(prompts) + 1  # the oldest went
