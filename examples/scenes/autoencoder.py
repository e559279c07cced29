"""Trains the autoencoder between pictures and latents, and encodes the drawn scenes with it."""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional

from .budget import Budget, cosine_rate

RATE, BATCH = 1e-3, 48
_KL = 3e-3  # weight of the latents' divergence from a normal distribution, per latent number
_EDGES = 0.5  # weight of the differences between neighbouring pixels


def to_network(pictures: Tensor) -> Tensor:
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W] in [-1, 1], channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def picture_loss(made: Tensor, true: Tensor) -> Tensor:
    """Mean absolute difference of pixels, and of edges at three sizes."""
    loss = (made - true).abs().mean()
    for level in range(3):
        for axis in (2, 3):
            loss = loss + _EDGES / 3 * (made.diff(dim=axis) - true.diff(dim=axis)).abs().mean()
        if level < 2:
            made, true = functional.avg_pool2d(made, 2), functional.avg_pool2d(true, 2)
    return loss


def train_autoencoder(
    vae: AutoencoderKL, pictures: Tensor, budget: Budget, batch: int, generator: torch.Generator, fast: bool
) -> None:
    """Trains in place on uint8 [N, 256, 256, 3]; in the end the latents have mean 0 and deviation 1."""

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vae = vae

        def forward(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            mean, log_variance = self.vae._encode(x).chunk(2, dim=1)
            log_variance = log_variance.clamp(-30, 20)
            latents = mean + (0.5 * log_variance).exp() * noise
            return self.vae._decode(latents, return_dict=False)[0], mean, log_variance

    device = pictures.device
    both: nn.Module = Both().train()
    run = torch.compile(both) if fast else both
    optimizer = torch.optim.AdamW(vae.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.0, fused=fast)
    step = 0
    while (progress := budget.progress(step)) < 1:
        optimizer.param_groups[0]["lr"] = cosine_rate(RATE, progress, step, 100)
        chosen = torch.randint(len(pictures), (batch,), device=device, generator=generator)
        true = to_network(pictures[chosen]).contiguous(memory_format=torch.channels_last)
        noise = torch.randn(batch, 4, *(n // 4 for n in true.shape[2:]), device=device, generator=generator)
        with torch.autocast(device.type, torch.bfloat16):
            made, mean, log_variance = run(true, noise)
        mean, log_variance = mean.float(), log_variance.float()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
        difference = picture_loss(made.float(), true)
        optimizer.zero_grad(set_to_none=True)
        (difference + _KL * divergence).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if step % 100 == 0:
            print(
                f"autoencoder step {step}: loss {difference:.4f}, divergence {divergence:.2f}; "
                f"{budget.seconds():.0f} s",
                flush=True,
            )
        step += 1
    print(f"autoencoder: {step} steps of {batch} in {budget.seconds():.0f} s", flush=True)
    vae.eval()
    standardize(vae, encode(vae, pictures[:1024]))


@torch.no_grad()
def encode(vae: AutoencoderKL, pictures: Tensor, batch: int = 64) -> Tensor:
    """Latents float16 [N, 4, 64, 64] (means, not samples) of uint8 [N, 256, 256, 3], on the VAE's device."""
    device = next(vae.parameters()).device
    parts = []
    for part in pictures.split(batch):
        x = to_network(part.to(device)).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            parts.append(vae.encode(x).latent_dist.mode().half())
    return torch.cat(parts)


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Pictures uint8 [N, 256, 256, 3] of latents [N, 4, 64, 64]."""
    with torch.autocast(latents.device.type, torch.bfloat16):
        made = vae.decode(latents.float()).sample
    return ((made.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)


@torch.no_grad()
def standardize(vae: AutoencoderKL, latents: Tensor) -> None:
    """Changes the 1x1 convolutions around the latents so that the given ones have mean 0 and deviation 1."""
    latents = latents.float()
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, out_of = vae.quant_conv, vae.post_quant_conv
    count = len(mean)
    out_of.bias += out_of.weight[:, :, 0, 0] @ mean
    out_of.weight *= deviation[None, :, None, None]
    into.weight[:count] /= deviation[:, None, None, None]
    into.bias[:count] = (into.bias[:count] - mean) / deviation
    into.bias[count:] -= 2 * deviation.log()  # the logarithm of the variance
