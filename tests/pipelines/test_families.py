"""Whole runs of every family of networks: recorded, edited, kept in every tier, saved, refused when damaged.

Stable Diffusion 1.x is what the other tests here run; a LoRA and a ControlNet go with one family each.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipeline
import torch
from safetensors.torch import save_file

import sige_deploy as sige
from sige_deploy.errors import CacheError, InputError
from sige_deploy.pipelines.pipeline import DiffusionPipeline, open_pipeline
from sige_deploy.runs.tiers import Budget

from .conftest import SIZE, stroke

GB = 10**9
FAMILIES = "sd2-lora", "sdxl", "inpainting", "controlnet"
RECORD = {"steps": 2, "seed": 5}


def exported(family: str, root: Path) -> Path:
    """At 32 x 32 pixels; the inpainting UNet has a batch of 1, so no guidance."""
    settings: dict[str, Any] = {"height": SIZE, "width": SIZE}
    unet: dict[str, Any] = {}
    if family == "sd2-lora":
        unet = tiny_pipeline.SD2
        key = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
        lora = {f"{key}.lora_A.weight": torch.ones(1, 12), f"{key}.lora_B.weight": torch.ones(16, 1)}
        save_file(lora, root / "style.safetensors")
        settings["loras"] = {root / "style.safetensors": 0.5}
    elif family == "inpainting":
        unet = {"in_channels": 9}
        settings["batch"] = 1
    elif family == "controlnet":
        tiny_pipeline.controlnet(tiny_pipeline.unet()).save_pretrained(root / "controlnet")
        settings["controlnet"] = root / "controlnet"
    source = tiny_pipeline.write(root / "source", xl=family == "sdxl", **unet)
    sige.export_diffusers(source, root / "out", sige.SparseConfig(dense_above=1.0), **settings)
    return root / "out"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """(its name, its pipeline, what `record` takes beside RECORD)."""
    folder = exported(request.param, tmp_path_factory.mktemp(request.param))
    more: dict[str, Any] = {} if request.param == "inpainting" else {"guidance": 2.0}
    if request.param == "controlnet":
        more["control"] = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    with open_pipeline(folder, threads=1) as pipeline:
        yield request.param, pipeline, more


def test_the_record_as_an_edit_gives_the_record(
    family: tuple[str, DiffusionPipeline, dict[str, Any]], mask: np.ndarray
) -> None:
    name, pipeline, more = family
    with pipeline.record("a", **RECORD, **more) as recording:
        for network, track in recording.run.tracks.items():
            level = mask if network == "vae_encoder" else mask[::2, ::2]
            with contextlib.closing(track.walk(range(len(track)), level)) as steps:
                for step in steps:
                    got = track.session.edit(mask=level, **track.inputs(step))
                    assert track.session.report.path == "sparse"
                    for output, value in track.outputs(step).items():
                        np.testing.assert_allclose(got[output], value, rtol=1e-4, atol=1e-4)
        if name != "inpainting":  # which sees of a prompt alone nothing, and of an edit all but the mask
            edit = recording.sdedit(recording.picture, mask, strength=1.0)
            recorded = recording.run.tensors["latents"]
            np.testing.assert_allclose(edit.latents, recorded, rtol=1e-3, atol=1e-3)
            assert np.abs(edit.picture.astype(int) - recording.picture).max() <= 1


def test_edits_in_every_tier(
    family: tuple[str, DiffusionPipeline, dict[str, Any]], mask: np.ndarray, tmp_path: Path
) -> None:
    name, pipeline, more = family
    made: list[list[np.ndarray]] = []
    for budget in (
        Budget(),
        Budget(device=0),
        Budget(device=0, host=0, disk=GB, folder=tmp_path),
        Budget(device=0, host=0),
    ):
        with pipeline.record("a", budget=budget, **RECORD, **more) as recording:
            before = recording.picture
            control = {"control": 255 - more["control"]} if name == "controlnet" else {}
            edits = [
                recording.sdedit(stroke(before), mask, strength=0.5, **control),
                recording.inpaint(mask, "a", seed=11, **control),
                recording.text_edit("", mask),
                recording.text_edit("", warmup=0.5),
            ]
            for edit in edits:
                assert (edit.picture[~edit.mask] == before[~edit.mask]).all()
                assert np.isfinite(edit.latents).all()
            assert all((edit.picture[mask] != before[mask]).any() for edit in edits[:2])
            edits[1].commit()
            edits.append(recording.text_edit("", np.roll(mask, 12, axis=1)))
            made.append([edit.picture for edit in edits])
            recording.undo()
            np.testing.assert_array_equal(recording.picture, before)
    for pictures in made[1:-1]:
        for one, first in zip(pictures, made[0], strict=True):
            np.testing.assert_array_equal(one, first)
    for one, first in zip(made[-1][:-1], made[0]):  # a step kept nowhere is recorded anew after a commit
        np.testing.assert_array_equal(one, first)


def test_saved_runs_are_the_runs_and_damage_is_refused(
    family: tuple[str, DiffusionPipeline, dict[str, Any]], mask: np.ndarray, tmp_path: Path
) -> None:
    _, pipeline, more = family
    folder = tmp_path / "run"
    with pipeline.record("a", **RECORD, **more) as recording:
        painted = stroke(recording.picture)
        wanted = recording.sdedit(painted, mask, strength=1.0).picture  # reads every state
        recording.save(folder)

    def edited() -> np.ndarray:
        with pipeline.load(folder, prompt="a") as loaded:
            return loaded.sdedit(painted, mask, strength=1.0).picture

    np.testing.assert_array_equal(edited(), wanted)
    for file in sorted(folder.iterdir()):
        whole = file.read_bytes()
        place = len(whole) * 2 // 3
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CacheError, match="damaged"):
            edited()
        file.write_bytes(whole)
    np.testing.assert_array_equal(edited(), wanted)


def test_what_a_family_does_not_have_is_refused(
    family: tuple[str, DiffusionPipeline, dict[str, Any]], mask: np.ndarray
) -> None:
    name, pipeline, more = family
    if name == "controlnet":
        with pytest.raises(InputError, match="give it as control"):
            pipeline.record("a", **RECORD)
        with pytest.raises(InputError, match="control_scale is a finite number"):
            pipeline.record("a", control_scale=float("nan"), **RECORD, **more)
        with pytest.raises(InputError, match="control has shape"):
            pipeline.record("a", **RECORD, **{**more, "control": more["control"][:3]})
    else:
        with pytest.raises(InputError, match="has no ControlNet"):
            pipeline.record("a", control=np.zeros((SIZE, SIZE, 3), np.uint8), **RECORD, **more)
    if name == "inpainting":
        with pytest.raises(InputError, match="exported with a batch of 1; leave guidance out"):
            pipeline.record("a", guidance=7.5, **RECORD)
        with pipeline.record("a", **RECORD) as recording:
            assert recording.run.key["guidance"] == 1
            with pytest.raises(InputError, match="both halves of guidance"):
                recording.inpaint(mask, guidance=3.0)


def test_every_family_is_the_one_it_says(family: tuple[str, DiffusionPipeline, dict[str, Any]]) -> None:
    name, pipeline, _ = family
    manifest = json.loads((pipeline.parts.unet.bundle.root.parent / "pipeline.json").read_text())
    kinds = [source["kind"] for source in manifest["sources"]]
    assert manifest["family"] == ("stable-diffusion-xl" if name == "sdxl" else "stable-diffusion")
    assert kinds == {"sd2-lora": ["lora"], "controlnet": ["controlnet"]}.get(name, [])
    assert pipeline.parts.inpainting == (name == "inpainting")
    assert pipeline.parts.controlled == (name == "controlnet")
