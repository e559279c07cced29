"""A diffusion pipeline whose networks run whole in every step, the best way a user could run it instead: all
of it on the device, compiled. And crop-and-stitch on it, the usual way to edit a part of a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dense
import numpy as np
import torch
from torch import Tensor, nn

from sige_deploy.exporters.diffusers_folder import load_network
from sige_deploy.exporters.diffusers_modules import Denoiser, VaeDecoder, VaeEncoder
from sige_deploy.pipelines.pictures import composite, feathered, to_latents
from sige_deploy.pipelines.recording import FEATHER

Call = Callable[[Mapping[str, Tensor]], list[Tensor]]


@dataclass(frozen=True)
class Recorded:
    """What a recording begins and ends with. latents: float32 [steps + 1, C, h, w]; encoded: float32
    [C, h, w]; picture: uint8 [H, W, 3]; scheduler: diffusers' DDIM, with its steps set."""

    latents: Tensor
    encoded: Tensor
    picture: np.ndarray
    scheduler: Any


@dataclass(frozen=True)
class Words:
    """What the UNet follows. text: its input of that name; guidance: the conditional half's weight."""

    text: Tensor
    guidance: float


def _called(module: nn.Module) -> Call:
    return lambda inputs: dense.outputs_of(module(**inputs))


class _Unet(nn.Module):
    """A Denoiser that keeps nothing of a call: what it hands to its layers would outlive the CUDA graph."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        outputs = self.denoiser(**inputs)
        self.denoiser.call.parts = []
        return outputs


class DensePipeline:
    """The networks of a diffusers folder on a device, compiled once `compile` was called. Pictures uint8
    [H, W, 3]."""

    def __init__(self, source: Path, device: str, dtype: torch.dtype) -> None:
        self.device, self.dtype = torch.device(device), dtype
        vae = load_network(source / "vae", "AutoencoderKL", dtype)
        unet = load_network(source / "unet", "UNet2DConditionModel", dtype)
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        denoiser = Denoiser(unet)
        self.widths, self.channels = sum(denoiser.widths), vae.config.latent_channels
        self._modules = [
            module.eval().to(self.device, memory_format=torch.channels_last)
            for module in (_Unet(denoiser), VaeEncoder(vae), VaeDecoder(vae))
        ]
        self._unet, self._encoder, self._decoder = map(_called, self._modules)

    def compile(self) -> None:
        """Have the networks compiled at their next calls."""
        self._unet, self._encoder, self._decoder = map(dense.Compiled, self._modules)

    @torch.no_grad()
    def warm(self, height: int, width: int, tokens: int) -> None:
        """Call every network once as later calls do."""
        picture = torch.zeros(height, width, 3, dtype=torch.uint8, device=self.device)
        text = torch.zeros(2, tokens, self.widths, dtype=self.dtype, device=self.device)
        z = self.encode(picture)
        self.predict(z, 500.0, Words(text, 1.0))
        self.decode(z)

    def placed(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)

    # ---- parts ---------------------------------------------------------------------------------------------

    def encode(self, picture: Tensor) -> Tensor:
        """float32 [C, h, w] of uint8 [H, W, 3] on the device."""
        image = picture.permute(2, 0, 1)[None].float() / 127.5 - 1
        return self._encoder({"image": self._given(image)})[0][0].float()

    def decode(self, latents: Tensor) -> Tensor:
        """uint8 [H, W, 3] on the device."""
        image = self._decoder({"latents": self._given(latents[None])})[0][0].float()
        return ((image + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)

    def predict(self, z: Tensor, timestep: float, words: Words) -> Tensor:
        """The guided prediction, float32 [C, h, w]."""
        sample = self._given(z[None].repeat(2, 1, 1, 1))
        time = torch.full((1,), timestep, device=self.device)
        noise = self._unet({"sample": sample, "timestep": time, "text": words.text})[0].float()
        return noise[0] + words.guidance * (noise[1] - noise[0])

    def denoise(
        self, z: Tensor, start: int, words: Words, scheduler: Any, mask: Tensor, around: Tensor
    ) -> Tensor:
        """Latents [C, h, w] after the steps from `start` on; outside `mask` they are those of `around`
        [steps + 1, C, h, w], step by step."""
        for step in range(start, len(scheduler.timesteps)):
            timestep = scheduler.timesteps[step]
            noise = self.predict(z, float(timestep), words)
            z = scheduler.step(noise, timestep, z, return_dict=False)[0]
            z = torch.where(mask, z, around[step + 1])
        return z

    def _given(self, value: Tensor) -> Tensor:
        """A network's input, always with the same strides: others would have it compiled again."""
        return value.to(self.dtype).clone(memory_format=torch.channels_last)

    # ---- edits of a recorded picture -----------------------------------------------------------------------

    @torch.no_grad()
    def edit(
        self,
        recorded: Recorded,
        words: Words,
        start: int,
        mask: np.ndarray,
        painted: np.ndarray | None = None,
        noise: Tensor | None = None,
        latents: Tensor | None = None,
    ) -> tuple[np.ndarray, Tensor]:
        """(picture, last latents): what `Recording` makes inside a mask bool [H, W], with the whole networks.
        It begins with a painted picture, noise [C, h, w], latents [C, h, w] of step `start`, or those
        recorded."""
        where = self.placed(to_latents(mask, self.factor))
        base = recorded.latents[start]
        signal = float(recorded.scheduler.alphas_cumprod[int(recorded.scheduler.timesteps[start])]) ** 0.5
        if painted is not None:
            latents = base + signal * (self.encode(self.placed(painted)) - recorded.encoded)
        elif noise is not None:
            latents = signal * recorded.latents[-1] + (1 - signal**2) ** 0.5 * noise
        z = base if latents is None else torch.where(where, latents, base)
        z = self.denoise(z, start, words, recorded.scheduler, where, recorded.latents)
        made = self.decode(z).cpu().numpy()
        return composite(recorded.picture, made, feathered(mask, FEATHER)), z

    @torch.no_grad()
    def stitched(
        self,
        recorded: Recorded,
        words: Words,
        start: int,
        mask: np.ndarray,
        picture: np.ndarray,
        noise: Tensor,
        context: float = 1.5,
    ) -> np.ndarray:
        """Crop-and-stitch: the square around the mask, `context` times its size, enlarged to the size of the
        picture, noised and denoised there, made small again and put into the mask."""
        top, left, side = crop_of(mask, context)
        height, width = mask.shape
        part = np.s_[top : top + side, left : left + side]
        scheduler = recorded.scheduler
        image = self.placed(picture[part]).permute(2, 0, 1)[None].float()
        large = _resized(image, height, width).round().clamp(0, 255).byte()[0].permute(1, 2, 0)
        inside = _resized(self.placed(mask[part])[None, None].float(), height, width)[0, 0] > 0.5
        where = (
            nn.functional.max_pool2d(inside[None, None].float(), self.factor)[0, 0] > 0
        )  # the latents that it touches
        clean = self.encode(large)
        signal = (
            scheduler.alphas_cumprod[scheduler.timesteps.long()].to(self.device)[:, None, None, None] ** 0.5
        )
        around = torch.cat([signal * clean + (1 - signal**2) ** 0.5 * noise, clean[None]])
        z = self.denoise(around[start], start, words, scheduler, where, around)
        made = _resized(self.decode(z).permute(2, 0, 1)[None].float(), side, side)
        result = picture.copy()
        result[part] = made.round().clamp(0, 255).byte()[0].permute(1, 2, 0).cpu().numpy()
        return composite(recorded.picture, result, feathered(mask, FEATHER))


def crop_of(mask: np.ndarray, context: float) -> tuple[int, int, int]:
    """(top, left, side) of a square `context` times as large as the box of a mask bool [H, W], inside it."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = max(np.ptp(rows), np.ptp(columns)) + 1
    side = min(max(round(box * context), 1), *mask.shape)

    def first(places: np.ndarray, size: int) -> int:
        middle = (int(places[0]) + int(places[-1]) + 1 - side) // 2
        return min(max(middle, 0), size - side)

    return first(rows, mask.shape[0]), first(columns, mask.shape[1]), side


def _resized(image: Tensor, height: int, width: int) -> Tensor:
    return nn.functional.interpolate(image, (height, width), mode="bicubic", antialias=True)
