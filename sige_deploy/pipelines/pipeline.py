"""Diffusion pipelines: opened once, recording pictures and prompts, and loading what was recorded."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sige_deploy.errors import InputError
from sige_deploy.pipeline_folder import read_pipeline
from sige_deploy.pipelines.arguments import checked_number, checked_text
from sige_deploy.pipelines.parts import Conditions, Denoiser, Parts
from sige_deploy.pipelines.pictures import checked_picture, from_network, to_network
from sige_deploy.pipelines.progress import OnStep, Step, report
from sige_deploy.pipelines.recording import Recording, control_input
from sige_deploy.pipelines.sampling import GUIDED, SCHEDULERS, Sampler
from sige_deploy.runs.run import Run, open_run
from sige_deploy.runs.saved import read_index
from sige_deploy.runs.tiers import Budget

GUIDANCE = 7.5
STEPS = 50


def open_pipeline(
    folder: str | os.PathLike[str],
    device: str = "cpu",
    runtime: str | None = None,
    threads: int | None = None,
) -> DiffusionPipeline:
    """Open the folder that `sige-deploy export --diffusers` wrote; all of it is checked before anything is
    loaded. device, runtime, threads: as for `sige_deploy.open`; text encoders run in ONNX Runtime, on the CPU
    if the runtime is another.

    Raises BundleError for a damaged or foreign folder, InputError, RuntimeFailure.
    """
    from sige_deploy.pipelines.text import Prompts
    from sige_deploy.runtimes.base import create
    from sige_deploy.session import Session

    found = read_pipeline(folder)
    with contextlib.ExitStack() as opened:
        unet, encoder, decoder = (
            opened.enter_context(Session(bundle, create(runtime, bundle, device, threads)))
            for bundle in (found.unet, found.vae_encoder, found.vae_decoder)
        )
        parts = Parts(
            unet=unet,
            encoder=encoder,
            decoder=decoder,
            condition=Prompts(found, threads, device if runtime in (None, "onnxruntime") else "cpu"),
            scheduler=found.scheduler_config(),
            model={"name": found.manifest.name, **found.manifest.bundles},
        )
        pipeline = DiffusionPipeline(parts)
        opened.pop_all()
    return pipeline


class DiffusionPipeline:
    """Sessions of a UNet and a VAE, with what goes between them. Closing it closes the sessions."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    def record(
        self,
        prompt: str = "",
        *,
        picture: Any = None,
        steps: int = STEPS,
        scheduler: str | None = None,
        seed: int = 0,
        negative: str = "",
        guidance: float | None = None,
        strength: float = 1.0,
        control: Any = None,
        control_scale: float = 1.0,
        budget: Budget | None = None,
        on_step: OnStep | None = None,
    ) -> Recording:
        """Record a prompt's picture, or a given one, for edits to come.

        prompt: what the picture shows. picture: uint8 [H, W, 3] or a Pillow image; None: it is made from the
        prompt. scheduler: one of "ddim", "euler", "dpm++2m", "lcm"; None for the pipeline's own, or ddim
        where that is none of these. steps, seed: of the run; edits have the same. guidance: of prompts over
        `negative`; None for 7.5, and for 1 with lcm or a UNet's batch of 1. strength: of a given picture, the
        share of the steps that is recorded: edits cannot use more. control: a picture for the ControlNet,
        control_scale its weight. budget: where states are kept.

        Every step runs the whole UNet once. Of a given picture, the recorded latents are the picture's own,
        with the noise of each step, so what no edit touches stays the picture. Raises InputError,
        RuntimeFailure, Cancelled.
        """
        parts = self.parts
        name = scheduler or self._own_scheduler()
        sampler = Sampler(name, parts.scheduler, steps, seed)
        steps, seed = sampler.steps, sampler.seed
        weight = GUIDANCE if name in GUIDED and parts.batch > 1 else 1.0
        weight = weight if guidance is None else parts.checked_guidance(guidance)
        prompt, negative = checked_text("prompt", prompt), checked_text("negative", negative)
        given = None if picture is None else checked_picture(picture, *parts.size)
        strength = checked_number(
            "strength", strength, "a share of the steps, above 0 and up to 1, and 1 without a picture",
            lambda x: 0 < x <= 1 and (given is not None or x == 1),
        )  # fmt: skip
        start = steps - max(1, min(round(steps * strength), steps))
        key = {
            **self._key(name),
            "steps": steps, "seed": seed, "prompt": prompt, "negative": negative, "guidance": weight,
            "picture": None if given is None else hashlib.sha256(given.tobytes()).hexdigest(), "start": start,
        }  # fmt: skip
        controls = self._controls(control, control_scale)
        counts = {"unet": steps, "vae_encoder": 1, "vae_decoder": 1}
        run = Run(parts.sessions, counts, key, budget)
        try:
            denoiser = Denoiser(parts)
            text = denoiser.text(prompt, negative)
            conditions = Conditions(text, weight, denoiser.placed(controls))
            self._recorded(run, sampler, denoiser, conditions, given, start, on_step)
            run.tensors.update(controls)
        except BaseException:
            run.close()
            raise
        return Recording(parts, run, sampler)

    def load(
        self, folder: str | os.PathLike[str], *, budget: Budget | None = None, **expected: Any
    ) -> Recording:
        """Open a recording that `Recording.save` wrote; its states are read where they are.

        expected: any of prompt, negative, steps, seed, scheduler and guidance, which must be as recorded.
        Raises CacheError where the recording is missing, damaged, of other weights, or not as expected.
        """
        known = ("prompt", "negative", "steps", "seed", "guidance", "scheduler")
        for name in expected:
            if name not in known:
                raise InputError(f"a recording is not told by '{name}'; use {', '.join(known)}.")
        key = read_index(Path(folder))["key"]
        wanted = {**self._key(str(expected.pop("scheduler", key.get("scheduler")))), **expected}
        run = open_run(folder, self.parts.sessions, wanted, budget)
        key = run.key
        sampler = Sampler(str(key["scheduler"]), self.parts.scheduler, int(key["steps"]), int(key["seed"]))
        return Recording(self.parts, run, sampler)

    def close(self) -> None:
        """Close the sessions; recordings cannot be edited afterwards."""
        for session in self.parts.sessions.values():
            session.close()

    def __enter__(self) -> DiffusionPipeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recorded(
        self,
        run: Run,
        sampler: Sampler,
        denoiser: Denoiser,
        conditions: Conditions,
        given: np.ndarray | None,
        start: int,
        on_step: OnStep | None,
    ) -> None:
        parts = self.parts
        noise = sampler.gaussian(parts.latent)
        latents = np.zeros((sampler.steps + 1, *parts.latent), np.float32)
        if given is not None:
            encoded = self._encode(run, given)
            for step in range(sampler.steps + 1):
                latents[step] = sampler.add_noise(encoded, noise, step)
        else:
            latents[0] = sampler.start(noise)
        if parts.inpainting:  # of a prompt alone, everything is to be filled
            seen = encoded if given is not None else self._grey()
            marked = np.full((1, *parts.latent[1:]), given is None, np.float32)
            conditions = replace(conditions, extra=np.concatenate([marked, seen]))
        walk = sampler.begin(start)
        for step in range(start, sampler.steps):
            timestep = float(sampler.timesteps[step])
            scaler = walk if given is None else sampler.begin(step)
            inputs = denoiser.inputs(scaler.scaled(latents[step], step), timestep, conditions)
            outputs = run.tracks["unet"].record(step, **inputs)
            if given is None:
                prediction = denoiser.prediction(outputs, conditions.guidance)
                latents[step + 1] = walk.next(prediction, latents[step], step)
            how = parts.unet.report
            report(
                on_step,
                Step(
                    "record", step - start, sampler.steps - start, timestep, how.path, how.milliseconds,
                    latents[step + 1],
                ),
            )  # fmt: skip
        last = latents[-1][None].astype(parts.dtype(parts.decoder, "latents"))
        outputs = run.tracks["vae_decoder"].record(0, latents=last)
        picture = given
        if picture is None:
            picture = from_network(next(iter(outputs.values())))
            encoded = self._encode(run, picture)
        run.tensors.update(latents=latents, picture=picture, encoded=encoded)

    def _encode(self, run: Run, picture: np.ndarray) -> np.ndarray:
        """Record the encoder; latents float32 [C, h, w]."""
        image = to_network(picture, self.parts.dtype(self.parts.encoder, "image"))
        return run.tracks["vae_encoder"].record(0, image=image)["mean"][0].astype(np.float32)

    def _grey(self) -> np.ndarray:
        """Latents of a picture of which nothing is seen."""
        encoder, (height, width) = self.parts.encoder, self.parts.size
        image = np.zeros((1, 3, height, width), self.parts.dtype(encoder, "image"))
        return encoder.dense(image=image)["mean"][0].astype(np.float32)

    def _controls(self, control: Any, scale: float) -> dict[str, np.ndarray]:
        parts = self.parts
        if parts.controlled != (control is not None):
            has = "follows a picture: give it as control" if parts.controlled else "has no ControlNet"
            raise InputError(f"this pipeline {has}{'' if parts.controlled else '; leave control out'}.")
        if control is None:
            return {}
        followed = checked_picture(control, *parts.size, "control")
        scale = checked_number("control_scale", scale, "a finite number")
        dtype = parts.dtype(parts.unet, "control_scale")
        return {"control": control_input(parts, followed), "control_scale": np.full(1, scale, dtype)}

    def _own_scheduler(self) -> str:
        own = str(self.parts.scheduler.get("_class_name"))
        for name, (kind, _) in SCHEDULERS.items():
            if kind == own:
                return name
        return "ddim"

    def _key(self, scheduler: str) -> dict[str, Any]:
        """What a recording is of, whatever was recorded."""
        config = json.dumps(dict(self.parts.scheduler), sort_keys=True, default=str)
        digest = hashlib.sha256(config.encode()).hexdigest()
        return {"model": dict(self.parts.model), "scheduler": scheduler, "scheduler_config": digest}
