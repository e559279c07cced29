"""Trains the text encoder and the denoising UNet together, on latents."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .budget import Budget, cosine_rate
from .networks import LATENT_SIZE, Parts, scheduler

RATE, BATCH = 8e-4, 256
_DROP = 0.12  # share of captions replaced by the empty one, for classifier-free guidance
_COUPLED = 0.5  # share of samples whose noise is arranged after their layout
_EMA = 0.999
_STRIPS, _FIRST, _WIDE, _ROWS = 8, 12, 5, slice(24, 56)  # upright strips of a latent, where objects stand


@dataclass
class Data:
    """What it learns from.

    latents float16 [N, 4, 64, 64]; tokens int64 [N, captions, length]; x float32 [N] in [0, 1), where the
    object stands; empty int64 [length], the tokens of no caption.
    """

    latents: Tensor
    tokens: Tensor
    x: Tensor
    empty: Tensor


def strips(device: torch.device) -> Tensor:
    """Orthonormal patterns [8, 4, 64, 64]: upright strips from left to right."""
    patterns = torch.zeros(_STRIPS, 4, LATENT_SIZE, LATENT_SIZE, device=device)
    for i, pattern in enumerate(patterns):
        pattern[:, _ROWS, _FIRST + i * _WIDE : _FIRST + (i + 1) * _WIDE] = 1
    return patterns / patterns[0].square().sum().sqrt()


def couple(noise: Tensor, x: Tensor, patterns: Tensor) -> Tensor:
    """Arranges normal noise [B, 4, 64, 64] so that it is strongest in the strip where x [B] in [0, 1) falls.

    Two of the noise's coefficients change places. As x is uniform and independent of the caption, the result
    is still normal noise, also given the caption; but where the object stands now follows from the noise, and
    not from the words. So a changed colour word leaves the composition of a seed alone.
    """
    coefficients = torch.einsum("bchw,kchw->bk", noise, patterns)
    wanted = (x * _STRIPS).long().clamp(max=_STRIPS - 1)[:, None]
    highest = coefficients.argmax(1, keepdim=True)
    gap = coefficients.gather(1, highest) - coefficients.gather(1, wanted)
    change = torch.zeros_like(coefficients).scatter_add_(1, wanted, gap).scatter_add_(1, highest, -gap)
    return noise + torch.einsum("bk,kchw->bchw", change, patterns)


def train_diffusion(
    parts: Parts,
    data: Data,
    budget: Budget,
    batch: int,
    generator: torch.Generator,
    *,
    resumed: bool,
    fast: bool,
    checkpoint: Callable[[Parts], None] = lambda parts: None,
    checkpoint_minutes: float = math.inf,
) -> Parts:
    """Trains parts.unet and parts.text in place; returns parts with their moving averages.

    resumed: the networks are trained already, so start at half the learning rate. checkpoint is called with
    the averages every checkpoint_minutes.
    """
    device = data.latents.device
    unet, text = parts.unet.train(), parts.text.train()
    average = Parts(parts.vae, copy.deepcopy(unet).eval(), copy.deepcopy(text).eval())
    trained = [*unet.parameters(), *text.parameters()]
    averaged = [*average.unet.parameters(), *average.text.parameters()]
    peak = RATE / 2 if resumed else RATE
    optimizer = torch.optim.AdamW(trained, peak, betas=(0.9, 0.99), weight_decay=0.01, fused=fast)
    run = torch.compile(unet) if fast else unet
    steps = scheduler()
    alpha = steps.alphas_cumprod.to(device)
    patterns = strips(device)
    losses, step, saved = [], 0, 0.0
    while (progress := budget.progress(step)) < 1:
        optimizer.param_groups[0]["lr"] = cosine_rate(peak, progress, step, 200)
        chosen = torch.randint(len(data.latents), (batch,), device=device, generator=generator)
        latents = data.latents[chosen].float().contiguous(memory_format=torch.channels_last)
        said = torch.randint(data.tokens.shape[1], (batch,), device=device, generator=generator)
        dropped = torch.rand(batch, device=device, generator=generator) < _DROP
        tokens = torch.where(dropped[:, None], data.empty, data.tokens[chosen, said])
        noise = torch.randn(latents.shape, device=device, generator=generator)
        arranged = torch.rand(batch, 1, 1, 1, device=device, generator=generator) < _COUPLED
        noise = torch.where(arranged, couple(noise, data.x[chosen], patterns), noise)
        # One time step out of each of `batch` equal intervals.
        spread = torch.arange(batch, device=device) + torch.rand(batch, device=device, generator=generator)
        times = (spread * (len(alpha) / batch)).long().clamp(max=len(alpha) - 1)
        signal, level = alpha[times].sqrt().view(-1, 1, 1, 1), (1 - alpha[times]).sqrt().view(-1, 1, 1, 1)
        noisy = (signal * latents + level * noise).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            meaning = text(tokens).last_hidden_state
            made = run(noisy, times, meaning, return_dict=False)[0]
        loss = (made.float() - (signal * noise - level * latents)).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(_EMA, (step + 1) / (step + 10))
            torch._foreach_lerp_(averaged, trained, 1 - decay)
        losses.append(loss.detach())
        if step % 200 == 0:
            mean = torch.stack(losses).mean()
            print(f"diffusion step {step}: loss {mean:.4f}; {budget.seconds():.0f} s", flush=True)
            losses.clear()
        step += 1
        if budget.seconds() - saved > 60 * checkpoint_minutes:
            checkpoint(average)
            saved = budget.seconds()
    print(f"diffusion: {step} steps of {batch} in {budget.seconds():.0f} s", flush=True)
    return average
