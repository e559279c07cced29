"""A recorded run of a pipeline: a picture, the latents of every step, and the UNet's state at each."""

from __future__ import annotations

import contextlib
import itertools
import os
from dataclasses import replace
from typing import Any

import numpy as np

from sige_deploy.errors import InputError, StateError
from sige_deploy.pipelines.arguments import checked_count, checked_number, checked_seed, checked_text
from sige_deploy.pipelines.edit import Draft, Edit, Totals
from sige_deploy.pipelines.parts import Arrays, Conditions, Denoiser, Parts
from sige_deploy.pipelines.pictures import (
    blended,
    box_of,
    changed,
    checked_mask,
    checked_picture,
    to_latents,
    to_network,
    to_pixels,
)
from sige_deploy.pipelines.progress import OnStep, Step, report
from sige_deploy.pipelines.sampling import Sampler, Walk
from sige_deploy.runs.drift import Drift
from sige_deploy.runs.run import Run
from sige_deploy.session import Report

FEATHER = 4  # pixels
_VERSIONS = itertools.count()  # of all recordings


class Recording:
    """What `DiffusionPipeline.record` and `load` return. Edits are independent of one another, each against
    the recording; `Edit.commit` makes one part of it, `undo` takes the last commit back.

    Not for several threads at once. `close` gives back the memory; the pipeline stays open.
    """

    def __init__(self, parts: Parts, run: Run, sampler: Sampler) -> None:
        self.parts, self.run, self.sampler = parts, run, sampler
        self.version = next(_VERSIONS)  # of its state, to which edits and drafts belong
        self._denoiser = Denoiser(parts)
        self._draft: Draft | None = None
        self._image: tuple[int, np.ndarray] | None = None  # of that version, as the encoder takes it

    # ---- what it is ----------------------------------------------------------------------------------------

    @property
    def picture(self) -> np.ndarray:
        """uint8 [H, W, 3], a copy."""
        return self.run.tensors["picture"].copy()

    @property
    def prompt(self) -> str:
        return str(self.run.key["prompt"])

    @property
    def steps(self) -> range:
        """The steps that are recorded, from the noisiest; those before can be no edit's."""
        return range(int(self.run.key["start"]), self.sampler.steps)

    @property
    def of_picture(self) -> bool:
        """Whether a given picture was recorded, not one of a prompt."""
        return self.run.key["picture"] is not None

    @property
    def undoable(self) -> int:
        """Commits that can be undone."""
        return self.run.undoable

    # ---- edits ---------------------------------------------------------------------------------------------

    def sdedit(
        self,
        picture: Any,
        mask: np.ndarray | None = None,
        *,
        strength: float = 0.8,
        prompt: str | None = None,
        negative: str | None = None,
        guidance: float | None = None,
        control: Any = None,
        feather: int = FEATHER,
        on_step: OnStep | None = None,
    ) -> Edit:
        """Make painted strokes or pasted pixels look as if they belonged there.

        picture: the recorded one with changes, uint8 [H, W, 3] or a Pillow image. mask: bool [H, W] of what
        may change; None: the pixels that differ. strength: share of the noise, and of the steps; 1 leaves
        nothing of the strokes. prompt, negative, guidance: None for the recording's. control: None or another
        picture for a ControlNet, of which what lies in the mask counts. feather: width in pixels of the soft
        edge, inside the mask. Raises InputError, Cancelled.
        """
        painted = checked_picture(picture, *self.parts.size)
        if mask is None:
            mask = changed(painted, self.run.tensors["picture"])
        pixels, latents = self._masks(mask)
        start = self._start_of(strength)
        conditions = self._conditions(prompt, negative, guidance, control)
        totals = Totals(self.steps.stop - start)
        base = self.run.tensors["latents"][start]
        z = base
        if pixels.any():
            change = self._encoded(painted, pixels) - self.run.tensors["encoded"]
            z = np.where(latents, base + self.sampler.signal[start] * change, base)
            conditions = self._inpainted(conditions, painted, pixels, latents, hide=False)
        walk = self.sampler.begin(start)
        return self._edited("sdedit", start, z, walk, pixels, latents, conditions, feather, on_step, totals)

    def inpaint(
        self,
        mask: np.ndarray,
        prompt: str | None = None,
        *,
        strength: float = 1.0,
        seed: int | None = None,
        negative: str | None = None,
        guidance: float | None = None,
        control: Any = None,
        feather: int = FEATHER,
        on_step: OnStep | None = None,
    ) -> Edit:
        """Fill a masked region by a prompt.

        mask: bool [H, W]. strength: 1 starts the region from noise alone, less keeps of what is there. seed:
        of that noise; None for the recording's. Others as for sdedit. Raises InputError, Cancelled.
        """
        pixels, latents = self._masks(mask)
        start = self._start_of(strength)
        conditions = self._conditions(prompt, negative, guidance, control)
        noise = self.sampler.gaussian(self.parts.latent, None if seed is None else checked_seed(seed))
        clean = self.run.tensors["latents"][-1]
        begun = self.sampler.start(noise) if start == 0 else self.sampler.add_noise(clean, noise, start)
        z = np.where(latents, begun, self.run.tensors["latents"][start])
        conditions = self._inpainted(conditions, self.run.tensors["picture"], pixels, latents, hide=True)
        totals = Totals(self.steps.stop - start)
        walk = self.sampler.begin(start)
        return self._edited("inpaint", start, z, walk, pixels, latents, conditions, feather, on_step, totals)

    def draft(
        self,
        prompt: str,
        *,
        warmup: float = 0.2,
        keep: float = 0.0,
        negative: str | None = None,
        guidance: float | None = None,
        on_step: OnStep | None = None,
    ) -> Draft:
        """Find where another prompt would change the picture, before anything is edited.

        A share `warmup` of the steps runs dense with the new prompt, after a share `keep` that is left as
        recorded: where things stand is settled in the noisiest steps, so with 0.2 or 0.3 kept they stay where
        they are. `Draft.mask` shows the region, `text_edit(draft=...)` goes on from there. A draft of the
        same arguments is not run again before the next commit. Raises InputError, Cancelled.
        """
        share = "a share of the steps, above 0 and up to 1"
        warmup = checked_number("warmup", warmup, share, lambda x: 0 < x <= 1)
        first = self._kept(keep)
        if keep + warmup > 1 + 1e-9:
            raise InputError(
                f"keep {keep} and warmup {warmup} are shares of the same steps, together at most 1."
            )
        count = min(max(1, round(warmup * len(self.steps))), self.steps.stop - first)
        conditions = self._conditions(prompt, negative, guidance, None)
        key = (self.version, prompt, negative, conditions.guidance, first, count)
        if self._draft is None or self._draft.key != key:
            self._draft = self._drafted(
                key, prompt, negative, conditions, range(first, first + count), on_step
            )
        return self._draft

    def text_edit(
        self,
        prompt: str | None = None,
        mask: np.ndarray | None = None,
        *,
        union: bool = False,
        draft: Draft | None = None,
        warmup: float = 0.2,
        keep: float = 0.0,
        threshold: float | None = None,
        grow: int = 0,
        negative: str | None = None,
        guidance: float | None = None,
        feather: int = FEATHER,
        on_step: OnStep | None = None,
    ) -> Edit:
        """Change the picture to another prompt where the two differ.

        mask: bool [H, W] instead of the region found, or with `union` beside it; with a mask alone there is
        no warm-up. draft: of `draft`, None to make one of `prompt`, `warmup`, `keep`, `negative` and
        `guidance`. threshold, grow: of the region found, see `Draft.mask`. An empty region leaves the picture
        as it is. Raises InputError, StateError for a draft of before a commit, Cancelled.
        """
        if draft is None and prompt is None:
            raise InputError("a text edit needs a prompt or a draft.")
        if draft is not None:
            self._check_draft(draft, prompt)
        if union and mask is None:
            raise InputError("union puts the region found beside a mask; give a mask, or leave union out.")
        factor = self.parts.factor
        if mask is not None and not union:
            words = prompt if prompt is not None else draft.prompt if draft is not None else ""
            pixels, latents = self._masks(mask)
            start = self._kept(keep)
            z, walk = self.run.tensors["latents"][start], self.sampler.begin(start)
        else:
            if draft is None:
                draft = self.draft(
                    prompt or "", warmup=warmup, keep=keep, negative=negative, guidance=guidance,
                    on_step=on_step,
                )  # fmt: skip
            words, negative, guidance = draft.prompt, draft.negative, draft.guidance
            latents = draft.mask(threshold, grow)
            if mask is not None:
                latents = latents | self._masks(mask)[1]
            pixels = to_pixels(latents, factor)
            start, walk = draft.first + draft.steps, draft.walk.copied()
            z = np.where(latents, draft.latents[-1], self.run.tensors["latents"][start])
        conditions = self._conditions(words, negative, guidance, None)
        conditions = self._inpainted(conditions, self.run.tensors["picture"], pixels, latents, hide=True)
        totals = Totals(self.steps.stop - start, 0 if draft is None else draft.milliseconds)
        return self._edited(
            "text-edit", start, z, walk, pixels, latents, conditions, feather, on_step, totals,
            prompt=words,
        )  # fmt: skip

    # ---- the recording as a whole --------------------------------------------------------------------------

    def undo(self) -> None:
        """Take the last commit back, bit for bit. Raises StateError where there is none."""
        self.run.undo()
        self.changed()

    def changed(self) -> None:
        """The state is another one: edits and drafts of before are void."""
        self.version = next(_VERSIONS)

    def drift(self) -> dict[str, Drift]:
        """How far the states are from a fresh record of their inputs, in dB by network; takes as long as
        recording."""
        return self.run.drift()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write everything to a folder, crash-safely, for `DiffusionPipeline.load`. Raises CacheError."""
        self.run.save(folder)

    def close(self) -> None:
        self._draft = None
        self.run.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- parts of an edit ----------------------------------------------------------------------------------

    def _masks(self, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(the mask, the latents that it touches)."""
        pixels = checked_mask(mask, *self.parts.size)
        return pixels, to_latents(pixels, self.parts.factor)

    def _check_draft(self, draft: Any, prompt: str | None) -> None:
        if not isinstance(draft, Draft):
            raise InputError(f"draft is what Recording.draft returns, not {draft!r}.")
        if draft.version != self.version:
            raise StateError("the recording has changed since this draft, or is another one; draft again.")
        if prompt not in (None, draft.prompt):
            raise InputError(
                f"the draft is for the prompt {draft.prompt!r}, not {prompt!r}; leave the prompt out, or "
                "draft again."
            )

    def _start_of(self, strength: float) -> int:
        share = "a share of the noise, above 0 and up to 1"
        strength = checked_number("strength", strength, share, lambda x: 0 < x <= 1)
        total = self.sampler.steps
        start = total - max(1, min(round(total * strength), total))
        if start < self.steps.start:
            raise InputError(
                f"strength {strength} needs step {start} of {total}, and the recording begins at step "
                f"{self.steps.start}; record with a strength of at least {strength}."
            )
        return start

    def _kept(self, keep: float) -> int:
        """The first step after a share that is left as recorded."""
        share = "a share of the steps, 0 or more and below 1"
        keep = checked_number("keep", keep, share, lambda x: 0 <= x < 1)
        return min(self.steps.start + round(keep * len(self.steps)), self.steps.stop - 1)

    def _conditions(
        self, prompt: str | None, negative: str | None, guidance: float | None, control: Any
    ) -> Conditions:
        key = self.run.key
        text = self._denoiser.text(
            str(key["prompt"]) if prompt is None else checked_text("prompt", prompt),
            str(key["negative"]) if negative is None else checked_text("negative", negative),
        )
        given: Arrays = {}
        if self.parts.controlled:
            given = {
                name: self.run.tensors[name].astype(self.parts.dtype(self.parts.unet, name))
                for name in ("control", "control_scale")
            }
            if control is not None:
                followed = checked_picture(control, *self.parts.size, "control")
                given["control"] = control_input(self.parts, followed)
        elif control is not None:
            raise InputError("this pipeline has no ControlNet; leave control out.")
        weight = float(key["guidance"]) if guidance is None else self.parts.checked_guidance(guidance)
        return Conditions(text, weight, self._denoiser.placed(given))

    def _inpainted(
        self, conditions: Conditions, picture: np.ndarray, pixels: np.ndarray, latents: np.ndarray, hide: bool
    ) -> Conditions:
        """With what an inpainting UNet reads: the mask, and the latents of the picture without it."""
        if not self.parts.inpainting:
            return conditions
        seen = np.where(pixels[..., None], np.uint8(128), picture) if hide else picture
        encoded = self._encoded(seen, pixels) if pixels.any() else self.run.tensors["encoded"]
        encoded = np.where(latents, encoded, self.run.tensors["encoded"])
        marked = (latents if hide else np.zeros_like(latents))[None].astype(np.float32)
        return replace(conditions, extra=np.concatenate([marked, encoded]))

    def _encoded(self, picture: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """Latents float32 [C, h, w] of the recorded picture with changes in `pixels`."""
        track = self.run.tracks["vae_encoder"]
        dtype = self.parts.dtype(self.parts.encoder, "image")
        if self._image is None or self._image[0] != self.version:
            self._image = self.version, to_network(self.run.tensors["picture"], dtype)
        image, box = self._image[1].copy(), box_of(pixels)
        image[:, :, box[0], box[1]] = to_network(picture[box], dtype)
        with contextlib.closing(track.walk([0], pixels)) as steps:
            next(steps)
            return self.parts.encoder.edit(mask=pixels, image=image)["mean"][0].astype(np.float32)

    def _decoded(self, latents: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The decoder's output [1, 3, H, W] for the recorded latents with changes in `mask`."""
        track = self.run.tracks["vae_decoder"]
        given = latents[None].astype(self.parts.dtype(self.parts.decoder, "latents"))
        with contextlib.closing(track.walk([0], mask)) as steps:
            next(steps)
            outputs = self.parts.decoder.edit(mask=mask, latents=given)
        return next(iter(outputs.values()))

    def _edited(
        self,
        kind: str,
        start: int,
        z: np.ndarray,
        walk: Walk,
        pixels: np.ndarray,
        latents: np.ndarray,
        conditions: Conditions,
        feather: int,
        on_step: OnStep | None,
        totals: Totals,
        prompt: str | None = None,
    ) -> Edit:
        """Denoise latents [C, h, w] of step `start` inside the mask."""
        widest = max(self.parts.size)
        feather = checked_count(
            "feather", feather, f"a width in pixels, 0 to {widest}", lambda n: 0 <= n <= widest
        )
        recorded = self.run.tensors["latents"]
        trajectory = recorded.copy()
        picture = self.run.tensors["picture"]
        if not pixels.any():
            picture = picture.copy()
        else:
            trajectory[start] = z
            session = self.parts.unet
            walked = self.run.tracks["unet"].walk(range(start, self.steps.stop), latents)
            with contextlib.closing(walked) as steps:
                step = next(steps, self.steps.stop)
                while step < self.steps.stop:
                    inputs = self._denoiser.inputs(
                        walk.scaled(z, step), float(self.sampler.timesteps[step]), conditions
                    )
                    outputs = session.edit(mask=latents, **inputs)
                    how = session.report
                    totals.add(how)
                    following = next(steps, self.steps.stop)  # its state is copied meanwhile
                    prediction = self._denoiser.prediction(outputs, conditions.guidance)
                    made = walk.next(prediction, z, step)
                    z = trajectory[step + 1]
                    np.copyto(z, made, where=latents)
                    if on_step is not None:
                        report(on_step, self._step("edit", step - start, totals.steps, step, how, z))
                    step = following
            change = z - recorded[-1]
            for step in range(start):
                # Steps that the edit did not run, and those of a warm-up: as if its result had been noised.
                noised = recorded[step] + self.sampler.signal[step] * change
                trajectory[step] = np.where(latents, noised, recorded[step])
            picture = blended(picture, self._decoded(z, latents), pixels, feather)
        return Edit(self, kind, prompt, picture, pixels, latents, trajectory, conditions, totals)

    def _drafted(
        self,
        key: tuple[object, ...],
        prompt: str,
        negative: str | None,
        conditions: Conditions,
        steps: range,
        on_step: OnStep | None,
    ) -> Draft:
        """Run some steps dense with another prompt, and add up how far the latents are from those that the
        recorded predictions lead to.

        Both walks begin at the recorded latents. The recorded ones of later steps are that second walk only
        where a prompt was recorded and nothing is committed.
        """
        first = steps.start
        z = beside = self.run.tensors["latents"][first]
        everything = np.zeros(z.shape[-2:], bool)
        conditions = self._inpainted(conditions, self.run.tensors["picture"], everything, everything, False)
        walk, other = self.sampler.begin(first), self.sampler.begin(first)
        weight = float(self.run.key["guidance"])
        kept, difference, milliseconds = [z], np.zeros(z.shape[-2:]), 0.0
        for step in steps:
            timestep = float(self.sampler.timesteps[step])
            inputs = self._denoiser.inputs(walk.scaled(z, step), timestep, conditions)
            outputs = self.parts.unet.dense(**inputs)
            how = self.parts.unet.report
            milliseconds += how.milliseconds
            z = walk.next(self._denoiser.prediction(outputs, conditions.guidance), z, step)
            recorded = self._denoiser.prediction(self.run.tracks["unet"].outputs(step), weight)
            beside = other.next(recorded, beside, step)
            kept.append(z)
            change = np.abs(z - beside).sum(axis=0)
            span = float(np.ptp(change))
            difference += (change - change.min()) / span if span > 0 else 0
            report(on_step, self._step("warm-up", step - first, len(steps), step, how, z))
        return Draft(
            key, self.version, prompt, negative, conditions.guidance, first, np.stack(kept), difference, walk,
            milliseconds,
        )  # fmt: skip

    def _step(self, what: str, index: int, total: int, step: int, how: Report, z: np.ndarray) -> Step:
        return Step(what, index, total, float(self.sampler.timesteps[step]), how.path, how.milliseconds, z)


def control_input(parts: Parts, picture: np.ndarray) -> np.ndarray:
    """A ControlNet's picture as the UNet's bundle takes it, in [0, 1]."""
    planes = picture.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255)
    return np.repeat(planes.astype(parts.dtype(parts.unet, "control")), parts.batch, axis=0)
