"""Edits of a recorded picture, made by our pipeline, dense, and by crop-and-stitch: checked, and timed."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import torch
from pipeline_dense import DensePipeline, Recorded, Words
from pipeline_model import EDITED

from sige_deploy.compare import psnr
from sige_deploy.pipelines.edit import Edit
from sige_deploy.pipelines.pictures import to_latents
from sige_deploy.pipelines.recording import Recording
from sige_deploy.workload import make_mask

WARM = 3  # calls before anything is timed; the second edit of a size captures its graphs
STRENGTH = 0.8  # of 25 steps: 20
FAR = 0.7  # of what an edit changes: more than that it may not be off the dense one
EQUAL = 99.0  # dB, of equal pictures
NOISE_SEED = 11


@dataclass(frozen=True)
class Case:
    """One edit. mask: bool [H, W]. kind: "sdedit", "inpaint", "text" with the mask, or "draft": text, with a
    warm-up before; its region is the mask. painted: the picture of an sdedit, None for a stroke."""

    kind: str
    shape: str
    mask: np.ndarray
    painted: np.ndarray | None = None

    @property
    def area(self) -> float:
        return float(self.mask.mean())

    @property
    def square(self) -> bool:
        """Whether crop-and-stitch is for it."""
        return self.shape == "square"


def cases(height: int, width: int) -> dict[str, list[Case]]:
    """Edits by the part of the measurement that they belong to."""

    def case(kind: str, share: float, shape: Any = "square") -> Case:
        return Case(kind, shape, make_mask(height, width, share, shape))

    return {
        "sdedit": [case("sdedit", share) for share in (0.012, 0.05, 0.15)],
        "text": [case("text", 0.05), case("text", 0.23, "blobs"), case("draft", 0.23, "blobs")],
        "inpaint": [case("inpaint", 0.05)],
    }


class Editor:
    """Makes the cases of one recording in every way."""

    def __init__(self, recording: Recording, dense: DensePipeline) -> None:
        self.recording, self.dense = recording, dense
        parts, tensors = recording.parts, recording.run.tensors
        self.scheduler = scheduler_of(recording)
        self.recorded = Recorded(
            dense.placed(tensors["latents"]), dense.placed(tensors["encoded"]), recording.picture,
            self.scheduler,
        )  # fmt: skip
        self.noise = recording.sampler.gaussian(parts.latent, NOISE_SEED)
        self.drafts = 0

    def words(self, kind: str, prompt: str | None = None) -> Words:
        """Of a prompt; None: the one that `ours` takes for the kind."""
        if prompt is None:
            prompt = self.recording.prompt if kind == "sdedit" else EDITED
        text = self.recording.parts.condition(prompt, "")["text"]
        return Words(self.dense.placed(text), float(self.recording.run.key["guidance"]))

    def painted(self, case: Case) -> np.ndarray:
        """The recorded picture with what was painted."""
        if case.painted is not None:
            return case.painted
        picture = self.recording.picture
        picture[case.mask] = (40, 90, 200)
        return picture

    def ours(self, case: Case, **more: Any) -> Edit:
        recording = self.recording
        if case.kind == "sdedit":
            return recording.sdedit(self.painted(case), case.mask, strength=STRENGTH, **more)
        if case.kind == "inpaint":
            settings = {"prompt": EDITED, "strength": STRENGTH, "seed": NOISE_SEED, **more}
            return recording.inpaint(case.mask, **settings)
        if case.kind == "text":
            return recording.text_edit(EDITED, case.mask, **more)
        # A guidance that was not there before, so that the draft is made anew.
        self.drafts += 1
        guidance = float(recording.run.key["guidance"]) + 1e-5 * self.drafts
        return recording.text_edit(
            EDITED, case.mask, union=True, threshold=1.0, guidance=guidance, **more
        )  # nothing is above 1

    def start_of(self, edit: Edit) -> int:
        """The first step that an edit ran sparse."""
        return len(self.scheduler.timesteps) - edit.totals.steps

    def in_dense(self, case: Case, words: Words, start: int, latents: Any = None) -> Any:
        painted = self.painted(case) if case.kind == "sdedit" else None
        noise = self.dense.placed(self.noise) if case.kind == "inpaint" else None
        return self.dense.edit(self.recorded, words, start, case.mask, painted, noise, latents)

    def in_crop(self, case: Case, words: Words, start: int) -> np.ndarray:
        picture = self.painted(case) if case.kind == "sdedit" else self.recording.picture
        return self.dense.stitched(
            self.recorded, words, start, case.mask, picture, self.dense.placed(self.noise)
        )


def scheduler_of(recording: Recording) -> Any:
    """diffusers' scheduler with the recording's steps; its timesteps stay on the CPU, so nothing waits."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(dict(recording.parts.scheduler))
    scheduler.set_timesteps(recording.sampler.steps)
    return scheduler


def checked(editor: Editor, case: Case) -> dict[str, Any]:
    """How near ours is to dense; raises RuntimeError for a result that is wrong.

    psnr: dB of the pictures inside the mask, peak 255, at most EQUAL; psnr_unedited: of the recorded picture;
    psnr_again: of ours as it ran first, before graphs were captured, against ours later;
    change_missed: root mean square of what the last latents of the mask are off, over that of what the edit
    changes in them.
    """
    recording = editor.recording
    first = editor.ours(case)
    for _ in range(WARM - 1):  # later ones run captured graphs
        edit = editor.ours(case)
    mask, where = edit.mask, to_latents(case.mask, recording.parts.factor)
    right = {
        "not finite": np.isfinite(edit.latents).all(),
        "not the recorded picture outside the mask": (edit.picture[~mask] == recording.picture[~mask]).all(),
        "another mask": (to_latents(mask, recording.parts.factor) == where).all(),
        "not sparse": set(edit.totals.paths) == {"sparse"},
    }
    wrong = [what for what, fine in right.items() if not fine]
    if wrong:
        raise RuntimeError(f"{case.kind} of {case.area:.1%}: {', '.join(wrong)}")
    start = editor.start_of(edit)
    latents = editor.dense.placed(edit.latents[start]) if case.kind == "draft" else None
    picture, z = editor.in_dense(replace(case, mask=mask), editor.words(case.kind), start, latents)
    z, last = z.cpu().numpy(), recording.run.tensors["latents"][-1]
    missed = _rms((edit.latents[-1] - z)[:, where]) / _rms((last - z)[:, where])
    return {
        "psnr": min(psnr(edit.picture[mask], picture[mask], 255), EQUAL),
        "psnr_unedited": min(psnr(recording.picture[mask], picture[mask], 255), EQUAL),
        "psnr_again": min(psnr(first.picture[mask], edit.picture[mask], 255), EQUAL),
        "change_missed": missed,
        "near": bool(missed <= FAR),
    }


def timed(editor: Editor, case: Case, repeats: int) -> dict[str, Any]:
    """Medians in ms of ours and of dense, in turn, from the call to the picture on the host; and where the
    time of ours goes."""
    words = editor.words(case.kind)
    edit = editor.ours(case)
    start = 0 if case.kind == "draft" else editor.start_of(edit)
    ways: dict[str, Callable[[], Any]] = {
        "edit": lambda: editor.ours(case),
        "dense": lambda: editor.in_dense(case, words, start),
    }
    for way in ways.values():
        way()
    spent: list[dict[str, float]] = []
    times = in_turn(ways, repeats, {"edit": lambda edit: spent.append(stages(editor.recording, edit))})
    return {
        "kind": case.kind,
        "area": case.area,
        "shape": case.shape,
        "steps": len(editor.scheduler.timesteps) - start,
        "sparse_steps": edit.totals.steps,
        "active_fraction": edit.totals.fraction,
        **{f"{way}_ms": ms for way, ms in times.items()},
        **{name: median(one[name] for one in spent) for name in spent[0]},
        "ratio": times["dense"] / times["edit"],
    }


def stages(recording: Recording, edit: Edit) -> dict[str, float]:
    """Milliseconds of the networks in the last edit."""
    parts, encodes = recording.parts, edit.kind == "sdedit"
    return {
        "unet_ms": edit.totals.milliseconds,
        "warmup_ms": edit.totals.warmup,
        "encoder_ms": parts.encoder.report.milliseconds if encodes else 0.0,
        "decoder_ms": parts.decoder.report.milliseconds,
    }


def steps_of(editor: Editor, case: Case, repeats: int) -> dict[str, Any]:
    """Of one edit, medians: the whole call, and one step from one to the next, loads and all."""
    for _ in range(WARM):
        editor.ours(case)
    whole, each = [], []
    for _ in range(repeats):
        ends: list[float] = []
        start = time.perf_counter()
        edit = editor.ours(case, on_step=lambda _, ends=ends: ends.append(time.perf_counter()))
        whole.append((time.perf_counter() - start) * 1e3)
        each += [(b - a) * 1e3 for a, b in pairwise(ends)]
    costs = editor.recording.run.tracks["unet"].costs
    return {
        "kind": case.kind,
        "area": case.area,
        "edit_ms": median(whole),
        "step_ms": median(each),
        "unet_ms_per_step": edit.totals.milliseconds / edit.totals.steps,
        "read_bytes_per_step": editor.recording.run.tracks["unet"]
        .read(to_latents(case.mask, editor.recording.parts.factor))
        .nbytes,
        "load_bytes_per_s": dict(costs.rates),
    }


def in_turn(
    ways: Mapping[str, Callable[[], Any]], repeats: int, after: Mapping[str, Callable[[Any], None]]
) -> dict[str, float]:
    """Median milliseconds of each way. after: told what a way returned, outside of its time."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, way in ways.items():
                _wait()
                start = time.perf_counter()
                result = way()
                _wait()
                times[name].append((time.perf_counter() - start) * 1e3)
                if name in after:
                    after[name](result)
    finally:
        gc.enable()
    return {name: median(ms) for name, ms in times.items()}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(values.astype(np.float64) ** 2)))
