"""Transformers of image generation and restoration: patches, rotary positions, windows, channel attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.registry import conv, entry


class Heads(nn.Module):
    """Self-attention whose queries and keys pass through `turn` (identity here) before the product."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.out = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def turn(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(self.turn(q), self.turn(k), v)
        return self.out(y.transpose(1, 2).flatten(2))


@entry("diffusion_transformer", {"image": (1, 4, 16, 24), "t": (1, 8)})
class DiffusionTransformer(nn.Module):
    """DiT: patches by a strided conv, adaLN modulation from the time, tokens back to pixels by a permute."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(4, 16, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 96, 16) * 0.3)
        self.modulation = nn.Linear(8, 6 * 16)
        self.norm1, self.norm2 = (nn.LayerNorm(16, elementwise_affine=False, eps=1e-6) for _ in range(2))
        self.attention = Heads(16, 2)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(approximate="tanh"), nn.Linear(32, 16))
        self.head = nn.Linear(16, 2 * 2 * 4)

    def forward(self, image: Tensor, t: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2) + self.position
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(F.silu(t)).unsqueeze(1).chunk(6, -1)
        x = x + gate1 * self.attention(self.norm1(x) * (1 + scale1) + shift1)
        x = x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)
        x = self.head(x).reshape(-1, 8, 12, 2, 2, 4)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(-1, 4, 16, 24)


class RotaryHeads(Heads):
    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__(width, heads)
        angles = torch.arange(length)[:, None] * 0.7 ** torch.arange(width // heads // 2)[None]
        self.register_buffer("cos", angles.cos().repeat(1, 2), persistent=False)
        self.register_buffer("sin", angles.sin().repeat(1, 2), persistent=False)

    def turn(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * self.cos + torch.cat([-second, first], -1) * self.sin  # type: ignore[operator]


@entry("rotary_packed", {"image": (1, 4, 16, 24)})
class RotaryPacked(nn.Module):
    """Flux's way: 2x2 pixels packed into tokens by a permute, rotary positions, RMS norm by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(16, 16), RotaryHeads(16, 2, 96)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)
        self.head = nn.Linear(16, 16)

    def norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale

    def forward(self, image: Tensor) -> Tensor:
        b = image.shape[0]
        x = image.view(b, 4, 8, 2, 12, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, 96, 16)
        x = self.embed(x)
        x = x + self.attention(self.norm(x))
        n = self.norm(x)
        x = self.head(x + self.down(F.silu(self.gate(n)) * self.up(n)))
        return x.view(b, 8, 12, 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, 4, 16, 24)


@entry("multihead_module", {"image": (1, 3, 24, 32)})
class MultiheadModule(nn.Module):
    """torch's own nn.MultiheadAttention on tokens, batch first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 16, stride=2), nn.LayerNorm(16)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.up = nn.ConvTranspose2d(16, 3, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.stem(image))
        tokens = x.flatten(2).transpose(1, 2)
        n = self.norm(tokens)
        tokens = tokens + self.attention(n, n, n, need_weights=False)[0]
        return self.up(tokens.transpose(1, 2).reshape(x.shape))


@entry("shifted_windows", {"image": (1, 3, 16, 24)}, islands=None)
class ShiftedWindows(nn.Module):
    """Swin: attention in 4x4 windows, the second time rolled by half a window."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = conv(3, 8), conv(8, 3)
        self.first, self.second = Heads(8, 2), Heads(8, 2)

    def windows(self, x: Tensor, attention: nn.Module) -> Tensor:
        b, h, w, c = x.shape
        x = x.view(b, h // 4, 4, w // 4, 4, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        x = attention(x).view(b, h // 4, w // 4, 4, 4, c)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image).permute(0, 2, 3, 1)
        x = x + self.windows(x, self.first)
        y = self.windows(torch.roll(x, (-2, -2), (1, 2)), self.second)
        x = x + torch.roll(y, (2, 2), (1, 2))
        return self.out(F.gelu(x.permute(0, 3, 1, 2)))


@entry("channel_attention", {"image": (1, 3, 24, 32)}, islands=None, statistics=True)
class ChannelAttention(nn.Module):
    """Restormer: attention between channels; its C x C scores are sums over all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.depthwise = conv(3, 8), conv(8, 24, 1), conv(24, 24, groups=24)
        self.temperature = nn.Parameter(torch.full((2, 1, 1), 3.0))
        self.project, self.out = conv(8, 8, 1), conv(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        b, c, h, w = x.shape
        q, k, v = (y.reshape(b, 2, c // 2, h * w) for y in self.depthwise(self.qkv(x)).chunk(3, 1))
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        scores = torch.softmax(q @ k.transpose(-2, -1) * self.temperature, -1)
        return self.out(x + self.project((scores @ v).reshape(b, c, h, w)))


@entry("linear_attention", {"image": (1, 3, 24, 32)}, islands=None, statistics=True)
class LinearAttention(nn.Module):
    """Attention without a softmax over scores: relu(Q) (relu(K)^T V), normalised by relu(Q) sum(relu(K))."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.qkv, self.out = conv(3, 8, stride=2), conv(8, 24, 1), nn.ConvTranspose2d(8, 3, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        q, k, v = (y.flatten(2) for y in self.qkv(x).chunk(3, 1))
        q, k = F.relu(q), F.relu(k)
        context = torch.matmul(v, k.transpose(1, 2))
        y = torch.matmul(context, q) / (torch.matmul(k.sum(2)[:, None], q) + 1e-3)
        return self.out(x + y.reshape(x.shape))


@entry("token_mixer", {"image": (1, 3, 16, 16)}, islands=None)
class TokenMixer(nn.Module):
    """MLP-Mixer: a linear layer across tokens, which no row can do alone."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Conv2d(3, 16, 2, 2), nn.ConvTranspose2d(16, 3, 2, 2)
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.tokens = nn.Linear(64, 64)
        self.channels = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch(image).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.out(x.transpose(1, 2).unflatten(2, (8, 8)))


class JointBlock(nn.Module):
    """SD3's and Flux's block: text and image tokens attend to each other in one sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.image_norm, self.text_norm = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attention = Heads(16, 2)
        self.image_mlp, self.text_mlp = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        y = self.attention(torch.cat([self.text_norm(text), self.image_norm(image)], 1))
        image, text = image + y[:, text.shape[1] :], text + y[:, : text.shape[1]]
        return image + F.gelu(self.image_mlp(image)), text + F.gelu(self.text_mlp(text))


@entry("joint_attention", {"image": (1, 4, 16, 24), "text": (1, 7, 16)}, islands=None)
class JointAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patch, self.out = nn.Conv2d(4, 16, 2, 2), nn.ConvTranspose2d(16, 4, 2, 2)
        self.first, self.second = JointBlock(), JointBlock()

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        x = self.patch(image)
        tokens, text = self.first(x.flatten(2).transpose(1, 2), text)
        tokens, _ = self.second(tokens, text)
        return self.out(tokens.transpose(1, 2).reshape(x.shape))
