"""Edits of a recorded picture: nothing outside the mask, nothing kept, nothing lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline

from sige_deploy.errors import CacheError, Cancelled, InputError, StateError
from sige_deploy.masks import dilate
from sige_deploy.pipelines.edit import Edit
from sige_deploy.pipelines.pipeline import DiffusionPipeline
from sige_deploy.pipelines.progress import Step, bar
from sige_deploy.pipelines.recording import Recording
from sige_deploy.pipelines.sampling import SCHEDULERS
from sige_deploy.runs.tiers import Budget

from .conftest import SIZE, stroke

GB = 10**9
Make = Callable[[Recording, np.ndarray], Edit]
KINDS: dict[str, Make] = {
    "sdedit": lambda r, m: r.sdedit(stroke(r.picture), m, strength=0.75),
    "inpaint": lambda r, m: r.inpaint(m, "a dog", seed=11),
    "text-edit": lambda r, m: r.text_edit("a red cat", m),
}


def states(recording: Recording) -> list[bytes]:
    """Everything that is recorded, bit for bit."""
    blocks = [track.block(s)[1] for track in recording.run.tracks.values() for s in range(len(track))]
    return [bytes(block) for block in blocks] + [
        recording.run.tensors[name].tobytes() for name in sorted(recording.run.tensors)
    ]


def test_a_recorded_prompt_is_what_diffusers_makes(pipeline: DiffusionPipeline, source_folder: Path) -> None:
    own = StableDiffusionPipeline.from_pretrained(source_folder, safety_checker=None, local_files_only=True)
    own.set_progress_bar_config(disable=True)
    own.scheduler = DDIMScheduler.from_config(dict(pipeline.parts.scheduler))  # it changed what it was given
    with pipeline.record("a red cat", steps=3, seed=9, guidance=3.0, negative="dog") as recording:
        noise = recording.sampler.gaussian(pipeline.parts.latent)
        wanted = own(
            "a red cat", negative_prompt="dog", num_inference_steps=3, guidance_scale=3.0,
            latents=torch.from_numpy(noise)[None], height=SIZE, width=SIZE, output_type="latent",
        ).images[0]  # fmt: skip
        got = recording.run.tensors["latents"][-1]
        np.testing.assert_allclose(got, wanted.numpy(), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_outside_the_mask_nothing_changes(
    pipeline: DiffusionPipeline, mask: np.ndarray, scheduler: str, steps: int
) -> None:
    with pipeline.record("a cat", scheduler=scheduler, steps=steps, seed=2, guidance=2.0) as recording:
        before, picture = states(recording), recording.picture
        for kind, make in KINDS.items():
            edit = make(recording, mask)
            assert edit.kind == kind and not edit.empty
            assert (edit.picture[~mask] == picture[~mask]).all()
            assert (edit.picture[mask] != picture[mask]).any()
            outside = ~recording._masks(mask)[1]
            recorded = recording.run.tensors["latents"]
            assert (edit.latents[..., outside] == recorded[..., outside]).all()
            assert set(edit.totals.paths) == {"sparse"} and 0 < edit.totals.fraction < 0.6
        assert states(recording) == before  # an edit writes nothing


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_the_record_as_an_edit_gives_the_record(
    pipeline: DiffusionPipeline, mask: np.ndarray, scheduler: str
) -> None:
    with pipeline.record("a cat", scheduler=scheduler, steps=3, guidance=2.0) as recording:
        edit = recording.sdedit(recording.picture, mask, strength=1.0)
        recorded = recording.run.tensors["latents"]
        np.testing.assert_allclose(edit.latents, recorded, rtol=1e-3, atol=1e-3)
        assert np.abs(edit.picture.astype(int) - recording.picture).max() <= 1


def test_edits_do_not_know_of_one_another(recording: Recording, mask: np.ndarray) -> None:
    first = KINDS["inpaint"](recording, mask).picture
    KINDS["sdedit"](recording, np.roll(mask, 9, axis=1))
    recording.text_edit("a red dog")
    np.testing.assert_array_equal(KINDS["inpaint"](recording, mask).picture, first)


def test_without_a_mask_the_strokes_are_it(recording: Recording, painted: np.ndarray) -> None:
    edit = recording.sdedit(painted, feather=0)
    np.testing.assert_array_equal(edit.mask, (painted != recording.picture).any(axis=-1))


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_mask_changes_nothing(recording: Recording, kind: str) -> None:
    edit = KINDS[kind](recording, np.zeros((SIZE, SIZE), bool))
    assert edit.empty and not edit.totals.paths
    np.testing.assert_array_equal(edit.picture, recording.picture)
    edit.commit()
    assert recording.undoable == 0


def test_a_full_mask_is_allowed(recording: Recording) -> None:
    edit = KINDS["text-edit"](recording, np.ones((SIZE, SIZE), bool))
    assert np.isfinite(edit.latents).all() and (edit.picture != recording.picture).any()


# ---- pictures


def test_a_recorded_picture_stays_the_picture(pipeline: DiffusionPipeline, mask: np.ndarray) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    with pipeline.record("a cat", picture=picture, steps=4, strength=0.5, guidance=2.0) as recording:
        assert recording.of_picture and list(recording.steps) == [2, 3]
        np.testing.assert_array_equal(recording.picture, picture)
        edit = recording.sdedit(stroke(picture), mask, strength=0.5)
        assert (edit.picture[~mask] == picture[~mask]).all() and (edit.picture[mask] != picture[mask]).any()
        draft = recording.draft("a red dog", warmup=0.5)
        assert draft.steps == 1 and np.isfinite(draft.difference).all() and draft.difference.any()
        assert recording.text_edit(draft=draft, mask=mask, union=True).mask[mask].all()
        edit.commit()
        np.testing.assert_array_equal(recording.picture, edit.picture)
        with pytest.raises(InputError, match=r"record with a strength of at least 0\.8"):
            recording.sdedit(stroke(picture), strength=0.8)


# ---- text


def test_drafts_find_a_region_and_are_made_once(
    recording: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    dense = recording.parts.unet.dense
    monkeypatch.setattr(recording.parts.unet, "dense", lambda **x: calls.append(1) or dense(**x))
    draft = recording.draft("a red dog", warmup=0.5)
    assert len(calls) == draft.steps == 2
    found = draft.mask()
    edit = recording.text_edit("a red dog", warmup=0.5)
    again = recording.text_edit(draft=draft)
    assert len(calls) == 2  # the warm-up was there
    np.testing.assert_array_equal(edit.picture, again.picture)
    np.testing.assert_array_equal(edit.mask[::2, ::2], found)
    low, high = (recording.text_edit(draft=draft, threshold=t).mask.mean() for t in (0.1, 0.9))
    assert low >= high and low > 0
    assert (edit.picture[~edit.mask] == recording.picture[~edit.mask]).all()
    assert set(edit.totals.paths) == {"sparse"} and edit.totals.warmup > 0
    recording.text_edit("a red dog", warmup=0.25)
    assert len(calls) == 3


def test_the_same_prompt_finds_nothing(recording: Recording) -> None:
    draft = recording.draft("a cat", warmup=0.5)
    recorded = recording.run.tensors["latents"]
    np.testing.assert_allclose(draft.latents, recorded[:3], rtol=1e-3, atol=1e-3)


def test_kept_steps_are_left_as_recorded(recording: Recording, mask: np.ndarray) -> None:
    recorded = recording.run.tensors["latents"]
    draft = recording.draft("a red dog", warmup=0.25, keep=0.5)
    assert (draft.first, draft.steps) == (2, 1)
    np.testing.assert_array_equal(draft.latents[0], recorded[2])
    edit = recording.text_edit(draft=draft, mask=mask, union=True)
    assert edit.totals.paths == {"sparse": 1}
    masked = recording.text_edit("a red dog", mask, keep=0.5)
    assert masked.totals.paths == {"sparse": 2}
    np.testing.assert_array_equal(masked.latents[2], recorded[2])


def test_a_region_grows(recording: Recording) -> None:
    draft = recording.draft("a red dog", warmup=0.5)
    found, grown = draft.mask(0.2), draft.mask(0.2, grow=1)
    assert (grown >= found).all() and grown.sum() > found.sum()
    np.testing.assert_array_equal(grown, dilate(found, 1))
    edit = recording.text_edit(draft=draft, threshold=0.2, grow=1)
    np.testing.assert_array_equal(edit.mask[::2, ::2], grown)


def test_an_empty_region_leaves_the_picture(recording: Recording) -> None:
    edit = recording.text_edit("a red dog", threshold=1.0)
    assert edit.empty
    np.testing.assert_array_equal(edit.picture, recording.picture)


def test_a_mask_instead_of_the_region_or_beside_it(recording: Recording, mask: np.ndarray) -> None:
    alone = recording.text_edit("a red dog", mask)
    assert alone.totals.warmup == 0 and alone.totals.paths == {"sparse": 4}
    both = recording.text_edit("a red dog", mask, union=True, threshold=0.5)
    found = recording.text_edit("a red dog", threshold=0.5).mask
    assert (both.mask >= mask).all() and (both.mask >= found).all() and both.totals.warmup > 0


def test_a_warm_up_of_all_steps(recording: Recording) -> None:
    edit = recording.text_edit("a red dog", warmup=1.0)
    assert not edit.totals.paths and (edit.picture[~edit.mask] == recording.picture[~edit.mask]).all()


# ---- commit, undo, files


@pytest.mark.parametrize("kind", KINDS)
def test_commit_and_undo(recording: Recording, mask: np.ndarray, kind: str) -> None:
    before, picture = states(recording), recording.picture
    edit = KINDS[kind](recording, mask)
    edit.commit()
    np.testing.assert_array_equal(recording.picture, edit.picture)
    assert recording.prompt == ("a red cat" if kind == "text-edit" else "a cat")
    # What was committed is the record of what follows: the same steps give the same again.
    prompt, strength = {"sdedit": ("a cat", 0.75), "inpaint": ("a dog", 1.0)}.get(kind, ("a red cat", 1.0))
    again = recording.sdedit(edit.picture, mask, strength=strength, prompt=prompt)
    np.testing.assert_allclose(again.latents[-1], edit.latents[-1], rtol=1e-3, atol=1e-3)
    other = np.roll(mask, 12, axis=1)
    second = KINDS["inpaint"](recording, other)
    assert (second.picture[~other] == edit.picture[~other]).all()
    second.commit()
    assert recording.undoable == 2
    recording.undo()
    np.testing.assert_array_equal(recording.picture, edit.picture)
    recording.undo()
    assert states(recording) == before and recording.prompt == "a cat"
    np.testing.assert_array_equal(recording.picture, picture)
    with pytest.raises(StateError, match="no commit to undo"):
        recording.undo()


def test_what_came_before_a_commit_cannot_be_committed(recording: Recording, mask: np.ndarray) -> None:
    draft = recording.draft("a red dog")
    first, second = (KINDS[kind](recording, mask) for kind in ("sdedit", "inpaint"))
    first.commit()
    with pytest.raises(StateError, match="edit again"):
        second.commit()
    with pytest.raises(StateError, match="edit again"):
        first.commit()
    with pytest.raises(StateError, match="draft again"):
        recording.text_edit(draft=draft)


@pytest.mark.parametrize("storage", ["exact", "int8"])
def test_saved_and_loaded(
    pipeline: DiffusionPipeline, recording: Recording, mask: np.ndarray, tmp_path: Path, storage: str
) -> None:
    KINDS["sdedit"](recording, mask).commit()
    wanted = KINDS["inpaint"](recording, np.roll(mask, 10, axis=1)).picture
    if storage == "int8":
        budget = Budget(device=0, host=GB, storage="int8")
        with pipeline.record("a cat", steps=4, seed=3, guidance=2.0, budget=budget) as small:
            KINDS["sdedit"](small, mask).commit()
            got = KINDS["inpaint"](small, np.roll(mask, 10, axis=1)).picture
            assert np.abs(got.astype(int) - wanted).max() <= 8
            small.save(tmp_path / "run")
            wanted = got
    else:
        recording.save(tmp_path / "run")
    with pipeline.load(tmp_path / "run", prompt="a cat", steps=4, seed=3, scheduler="ddim") as loaded:
        got = KINDS["inpaint"](loaded, np.roll(mask, 10, axis=1)).picture
        np.testing.assert_array_equal(got, wanted)
    for name, value in {"prompt": "a dog", "steps": 5, "seed": 4, "scheduler": "euler"}.items():
        with pytest.raises(CacheError, match=f"recorded with {name}"):
            pipeline.load(tmp_path / "run", **{name: value})
    with pytest.raises(InputError, match="not told by 'colour'"):
        pipeline.load(tmp_path / "run", colour=1)


def test_tiers_give_the_same_picture(
    pipeline: DiffusionPipeline, recording: Recording, mask: np.ndarray
) -> None:
    wanted = {kind: make(recording, mask).picture for kind, make in KINDS.items()}
    for budget in (Budget(device=0), Budget(device=0, host=0, disk=GB), Budget(device=0, host=0)):
        with pipeline.record("a cat", steps=4, seed=3, guidance=2.0, budget=budget) as other:
            for kind, make in KINDS.items():
                np.testing.assert_array_equal(make(other, mask).picture, wanted[kind])
            seen: list[Step] = []
            edit = other.inpaint(mask, "a dog", on_step=seen.append)
            assert [step.path for step in seen] == ["sparse"] * 4  # whatever brings the next step's state
            for step in seen:
                np.testing.assert_array_equal(step.latents, edit.latents[step.index + 1])


# ---- progress


def test_every_step_is_told_and_can_be_the_last(
    pipeline: DiffusionPipeline, recording: Recording, mask: np.ndarray
) -> None:
    seen: list[Step] = []
    recording.text_edit("a dog", mask, union=True, warmup=0.5, on_step=seen.append)
    assert [(s.what, s.index, s.total) for s in seen] == [
        ("warm-up", 0, 2), ("warm-up", 1, 2), ("edit", 0, 2), ("edit", 1, 2)
    ]  # fmt: skip
    assert [s.timestep for s in seen] == recording.sampler.timesteps.tolist()
    assert [s.path for s in seen] == ["dense", "dense", "sparse", "sparse"]
    before, picture = states(recording), KINDS["sdedit"](recording, mask).picture
    for kind, make in KINDS.items():
        with pytest.raises(Cancelled, match=r"after step 2 of \d"):
            _cancelling(make, 1)(recording, mask)
        assert states(recording) == before, kind
    np.testing.assert_array_equal(KINDS["sdedit"](recording, mask).picture, picture)
    try:
        recording.inpaint(mask, on_step=lambda step: False)
    except Cancelled:  # while it is handled, nothing of what was cancelled is in the way
        np.testing.assert_array_equal(KINDS["sdedit"](recording, mask).picture, picture)
    with pytest.raises(Cancelled, match="after step 1 of 4"):
        pipeline.record("a cat", steps=4, on_step=lambda step: False)
    with bar() as on_step:
        assert recording.sdedit(recording.picture, mask, on_step=on_step).totals.steps == 3


def _cancelling(make: Make, after: int) -> Make:
    class Cancelling:
        def __init__(self, recording: Recording) -> None:
            self._recording = recording

        def __getattr__(self, name: str) -> object:
            found = getattr(self._recording, name)
            if name not in ("sdedit", "inpaint", "text_edit"):
                return found
            return lambda *args, **kw: found(*args, **kw, on_step=lambda step: step.index < after)

    return lambda recording, mask: make(Cancelling(recording), mask)  # type: ignore[arg-type]


# ---- mistakes


def test_mistakes_are_one_sentence(
    pipeline: DiffusionPipeline, recording: Recording, mask: np.ndarray
) -> None:
    picture, wanted = recording.picture, KINDS["inpaint"](recording, mask).picture
    wrong: list[Callable[[], object]] = [
        lambda: recording.sdedit(picture[:8]),
        lambda: recording.sdedit(picture, mask[:8]),
        lambda: recording.sdedit(picture, mask, strength=0.0),
        lambda: recording.sdedit(picture, mask, feather=-1),
        lambda: recording.sdedit(picture, mask, control=picture),
        lambda: recording.inpaint(mask, strength=1.5),
        lambda: recording.text_edit(),
        lambda: recording.text_edit("a", warmup=0.0),
        lambda: recording.text_edit("a", threshold=2.0),
        lambda: recording.text_edit("a", keep=1.0),
        lambda: recording.text_edit("a", keep=0.6, warmup=0.5),
        lambda: recording.text_edit("a", mask, keep=-0.1),
        lambda: recording.text_edit("a", grow=-1),
        lambda: recording.text_edit("a", grow=0.5),
        lambda: recording.text_edit("a", threshold="low"),
        lambda: recording.text_edit("a", warmup="short"),
        lambda: recording.text_edit("a", union=True),
        lambda: recording.text_edit(draft=3),
        lambda: recording.text_edit("a dog", draft=recording.draft("a")),
        lambda: recording.text_edit("a dog and a cat"),
        lambda: recording.text_edit(7, mask),
        lambda: recording.sdedit(picture, mask.astype(np.uint8)),
        lambda: recording.sdedit("painted.png"),
        lambda: recording.sdedit(picture, mask, strength=float("nan")),
        lambda: recording.sdedit(picture, mask, strength=None),
        lambda: recording.sdedit(picture, mask, guidance=float("nan")),
        lambda: recording.sdedit(picture, mask, feather=2.5),
        lambda: recording.sdedit(picture, mask, feather=1000),
        lambda: recording.inpaint(mask, seed=1 << 70),
        lambda: recording.inpaint(None),
        lambda: pipeline.record("a", steps=10_000),
        lambda: pipeline.record("a", seed="7"),
        lambda: pipeline.record("a", guidance=float("inf")),
        lambda: pipeline.record(None),
        lambda: pipeline.record("a", negative=("dog",)),
        lambda: pipeline.record("a", picture=picture, strength=float("nan")),
        lambda: pipeline.record("a", budget={"host": 0}),
        lambda: pipeline.record("a", steps=0),
        lambda: pipeline.record("a", scheduler="pndm"),
        lambda: pipeline.record("a", strength=0.5),
        lambda: pipeline.record("a", picture=picture[:3]),
        lambda: pipeline.record("a", control=picture),
    ]
    for number, call in enumerate(wrong):
        with pytest.raises(InputError) as caught:
            call()
        text = str(caught.value)
        assert "\n" not in text and text.endswith("."), (number, text)
    np.testing.assert_array_equal(KINDS["inpaint"](recording, mask).picture, wanted)


def test_long_prompts_are_not_cut(pipeline: DiffusionPipeline) -> None:
    sentence = r"12 tokens and this pipeline reads 10, up to '\.\.\..*cat a c'; shorten it\."
    with pytest.raises(InputError, match=sentence):
        pipeline.record("a cat a cat a cat", steps=1)


def test_drafts_and_edits_belong_to_one_recording(
    pipeline: DiffusionPipeline, recording: Recording, mask: np.ndarray
) -> None:
    with pipeline.record("a cat", steps=4, seed=8, guidance=2.0) as other:
        draft = other.draft("a red dog")
        with pytest.raises(StateError, match="draft again"):
            recording.text_edit(draft=draft)
        assert other.text_edit(draft=draft, mask=mask, union=True).picture.shape == (SIZE, SIZE, 3)
