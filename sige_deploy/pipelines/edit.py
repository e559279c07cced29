"""An edit that is done and can be committed, and a draft of one."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy.errors import StateError
from sige_deploy.masks import difference_to_mask, dilate
from sige_deploy.pipelines.arguments import checked_count, checked_number
from sige_deploy.pipelines.parts import Conditions, Denoiser
from sige_deploy.pipelines.pictures import to_network
from sige_deploy.pipelines.sampling import Walk
from sige_deploy.runs.run import Edits
from sige_deploy.session import Report

if TYPE_CHECKING:
    from sige_deploy.pipelines.recording import Recording


class Totals:
    """How the UNet ran in an edit.

    steps: of the edit. paths: how often it ran in which way. milliseconds: of the network, in the edit;
    warmup: of the dense steps before. fraction: mean share of the network's work.
    """

    def __init__(self, steps: int, warmup: float = 0.0) -> None:
        self.steps, self.warmup = steps, warmup
        self.paths: Counter[str] = Counter()
        self.milliseconds = self._fractions = 0.0

    @property
    def fraction(self) -> float:
        return self._fractions / max(sum(self.paths.values()), 1)

    def add(self, report: Report) -> None:
        self.paths[report.path] += 1
        self.milliseconds += report.milliseconds
        self._fractions += report.active_fraction


class Draft:
    """Where another prompt would change a picture.

    prompt: that prompt. first: the first step that was run, steps: how many, all dense. difference: float
    [h, w], the sum over them of the latents' differences, each scaled to 0..1. milliseconds: that the network
    took.
    """

    def __init__(
        self,
        key: tuple[object, ...],
        version: int,
        prompt: str,
        negative: str | None,
        guidance: float,
        first: int,
        latents: np.ndarray,
        difference: np.ndarray,
        walk: Walk,
        milliseconds: float,
    ) -> None:
        self.key, self.version = key, version
        self.prompt, self.negative, self.guidance = prompt, negative, guidance
        self.latents, self.difference, self.walk = latents, difference, walk
        self.milliseconds = milliseconds
        self.first, self.steps = first, len(latents) - 1

    def mask(self, threshold: float | None = None, grow: int = 0) -> np.ndarray:
        """The region found, bool [h, w] of latents: `masks.difference_to_mask`, then dilated by `grow`.

        threshold: share 0 to 1 of the difference's range; None for Otsu's. Raises InputError.
        """
        widest = max(self.difference.shape)
        grow = checked_count("grow", grow, f"a count of latents, 0 to {widest}", lambda n: 0 <= n <= widest)
        if threshold is not None:
            share = "a share of the difference's range, 0 to 1, or None for Otsu's"
            threshold = checked_number("threshold", threshold, share, lambda x: 0 <= x <= 1)
        return dilate(difference_to_mask(self.difference, threshold), grow)


class Edit:
    """An edited picture.

    kind: "sdedit", "inpaint" or "text-edit". picture: uint8 [H, W, 3]; outside `mask` it is the recorded one.
    mask: bool [H, W]. empty: whether nothing was to be changed. totals: how the UNet ran.
    """

    def __init__(
        self,
        recording: Recording,
        kind: str,
        prompt: str | None,
        picture: np.ndarray,
        mask: np.ndarray,
        latents_mask: np.ndarray,
        latents: np.ndarray,
        conditions: Conditions,
        totals: Totals,
    ) -> None:
        self.kind, self.prompt, self.picture, self.mask, self.totals = kind, prompt, picture, mask, totals
        self.latents = latents  # float32 [steps + 1, C, h, w]
        self._recording, self._version = recording, recording.version
        self._latents_mask, self._conditions = latents_mask, conditions

    @property
    def empty(self) -> bool:
        return not self.mask.any()

    def commit(self) -> None:
        """Make the edit part of the recording: later edits start from it, `Recording.undo` takes it back.
        Every recorded step runs once more on the edit's pixels. Raises StateError where another commit or an
        undo came in between; the recording is as it was if this raises."""
        recording = self._recording
        if self._version != recording.version:
            raise StateError("the recording has changed since this edit was made; edit again.")
        if self.empty:
            return
        parts, sampler = recording.parts, recording.sampler
        denoiser = Denoiser(parts)
        unet: dict[int, dict[str, Any]] = {}
        for step in recording.steps:
            scaled = sampler.begin(step).scaled(self.latents[step], step)
            unet[step] = denoiser.inputs(scaled, float(sampler.timesteps[step]), self._conditions)
        image = to_network(self.picture, parts.dtype(parts.encoder, "image"))
        last = self.latents[-1][None].astype(parts.dtype(parts.decoder, "latents"))
        recording.run.commit(
            {
                "unet": Edits(self._latents_mask, unet),
                "vae_encoder": Edits(self.mask, {0: {"image": image}}),
                "vae_decoder": Edits(self._latents_mask, {0: {"latents": last}}),
            },
            {"picture": self.picture, "latents": self.latents},
            {} if self.prompt is None else {"prompt": self.prompt},
        )
        encoded = recording.run.tracks["vae_encoder"].outputs(0)["mean"][0].astype(np.float32)
        recording.run.tensors["encoded"] = encoded
        recording.changed()
