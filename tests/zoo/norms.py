"""Normalisations and activations, library and hand-written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.registry import conv, entry


class LayerNorm2d(nn.Module):
    """Channels of each pixel normalised, written by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(channels) + 0.5), nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(variance + 1e-6)
        return self.weight[:, None, None] * x + self.bias[:, None, None]


@entry("norms_and_activations", {"image": (1, 3, 24, 32)}, statistics=True)
class NormsAndActivations(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norms = [nn.InstanceNorm2d(8, affine=True), nn.BatchNorm2d(8), LayerNorm2d(8), nn.GroupNorm(8, 8)]
        acts = [nn.PReLU(8), nn.LeakyReLU(0.1), nn.ELU(), nn.Hardtanh(-0.7, 1.1)]
        self.stem = conv(3, 8)
        self.layers = nn.ModuleList(nn.Sequential(n, a, conv(8, 8)) for n, a in zip(norms, acts))
        self.out = conv(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for layer in self.layers:
            x = x + layer(x)
        x = F.softplus(x) - F.mish(x).clamp(min=-0.2) + x.abs().clamp(max=2.0).sqrt()
        return self.out(F.group_norm(x, 1))


@entry("by_hand_statistics", {"image": (1, 3, 24, 32)}, statistics=True)
class ByHandStatistics(nn.Module):
    """Instance normalisation and a global context, written with means over space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.context, self.out = conv(3, 8), conv(8, 8), nn.Linear(8, 8), conv(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        mean, variance = x.mean((2, 3), keepdim=True), x.var((2, 3), unbiased=False, keepdim=True)
        x = F.relu(self.mid((x - mean) * torch.rsqrt(variance + 1e-5)))
        return self.out(x + self.context(x.flatten(2).mean(2))[:, :, None, None])
