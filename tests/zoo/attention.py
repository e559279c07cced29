"""Self-attention in its spellings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.registry import conv, entry


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return x + self.out(y.transpose(1, 2).reshape(batch, length, width))


@entry("grid_attention", {"image": (1, 3, 32, 48)})
class GridAttention(nn.Module):
    """Patchify, transformer blocks on flattened tokens (scaled_dot_product_attention), unpatchify."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.block1, self.block2 = SelfAttention(16, 2), SelfAttention(16, 4)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(approximate="tanh"), nn.Linear(32, 16))
        self.out = nn.ConvTranspose2d(16, 3, 4, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image)
        batch, channels, height, width = x.shape
        tokens = self.block1(x.flatten(2).transpose(1, 2))
        tokens = tokens + self.mlp(self.norm(tokens))
        tokens = self.block2(tokens)
        return self.out(tokens.transpose(1, 2).reshape(batch, channels, height, width))


class BmmAttention(nn.Module):
    """Attention as the first DDPM code wrote it: 1x1 convs, softmax(QK) V by bmm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, channels)
        self.q, self.k, self.v = (conv(channels, channels, 1) for _ in range(3))
        self.out = conv(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        b, c, height, width = q.shape
        q = q.reshape(b, c, height * width).permute(0, 2, 1)
        k = k.reshape(b, c, height * width)
        w = torch.softmax(torch.bmm(q, k) * int(c) ** (-0.5), dim=2)
        v = v.reshape(b, c, height * width)
        h = torch.bmm(v, w.permute(0, 2, 1)).reshape(b, c, height, width)
        return x + self.out(h)


@entry("bmm_attention", {"image": (1, 3, 32, 48)}, statistics=True)
class BmmAttentionNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv(3, 8), nn.SiLU(), conv(8, 16, stride=4))
        self.attention = BmmAttention(16)
        self.up = nn.Sequential(nn.ConvTranspose2d(16, 8, 4, 4), nn.SiLU(), conv(8, 3))

    def forward(self, image: Tensor) -> Tensor:
        return self.up(self.attention(self.down(image)))


@entry("einsum_attention", {"image": (1, 3, 24, 32)}, statistics=True)
class EinsumAttention(nn.Module):
    """Heads and products written with einsum and channels-first tokens (guided diffusion style)."""

    def __init__(self) -> None:
        super().__init__()
        self.down = conv(3, 16, stride=2)
        self.norm = nn.GroupNorm(4, 16)
        self.qkv = nn.Conv1d(16, 48, 1)
        self.proj = nn.Conv1d(16, 16, 1)
        self.up = nn.ConvTranspose2d(16, 3, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.down(image)
        b, c, height, width = x.shape
        x = x.reshape(b, c, -1)
        q, k, v = self.qkv(self.norm(x)).reshape(b * 4, 12, -1).split(4, dim=1)
        scale = 1 / math.sqrt(math.sqrt(4))
        weight = torch.softmax(torch.einsum("bct,bcs->bts", q * scale, k * scale), dim=-1)
        h = torch.einsum("bts,bcs->bct", weight, v).reshape(b, -1, height * width)
        x = (x + self.proj(h)).reshape(b, c, height, width)
        return self.up(F.silu(x))
