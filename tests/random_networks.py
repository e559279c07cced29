"""Networks drawn at random: chains and skips of common layers over changing sizes, reproducible by seed."""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from zoo.attention import BmmAttention, SelfAttention
from zoo.generators import SqueezeExcite
from zoo.norms import LayerNorm2d
from zoo.registry import conv

Shape = tuple[int, int, int]  # channels, height, width
INPUT: Shape = (3, 24, 32)
LARGEST, MOST_TOKENS, MOST_CHANNELS = 48, 200, 24
ACTIVATIONS: list[Callable[[], nn.Module]] = [
    *[nn.ReLU, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.ELU, nn.Hardswish],
    *[lambda: nn.LeakyReLU(0.2), lambda: nn.GELU(approximate="tanh"), lambda: nn.Hardtanh(-0.8, 0.9)],
]


class Apply(nn.Module):
    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *values: Tensor) -> Tensor:
        return self.function(*values)


class Embedding(nn.Module):
    """A vector added to every pixel, or scaling and shifting it."""

    def __init__(self, channels: int, film: bool) -> None:
        super().__init__()
        self.linear, self.film = nn.Linear(6, channels * (2 if film else 1)), film

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        e = self.linear(t)[:, :, None, None]
        if not self.film:
            return x + e
        scale, shift = e.chunk(2, 1)
        return x * (1 + 0.3 * scale) + shift


class OnTokens(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(x.shape)


class RandomNetwork(nn.Module):
    """forward(image [B, 3, 24, 32], t [B, 6]) -> one or two images."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.random = random.Random(seed)
        self.layers, self.reads = nn.ModuleList(), [[0]]
        self.shapes: list[Shape] = [INPUT, (8, *INPUT[1:])]
        self.layers.append(conv(3, 8))
        while len(self.shapes) < 20:
            recent = self.random.random() < 0.6
            source = len(self.shapes) - 1 if recent else self.random.randrange(len(self.shapes))
            kind = self.random.choice(
                [self.conv, self.conv, self.point, self.point, self.norm, self.resize, self.join]
            )
            drawn = kind(source, *self.shapes[source])
            if drawn is not None and max(drawn[2][1:]) <= LARGEST and min(drawn[2][1:]) >= 3:
                self.layers.append(drawn[0])
                self.reads.append(drawn[1])
                self.shapes.append(drawn[2])
        self.returns = sorted({self.random.randrange(1, 20), 19})

    def conv(self, at: int, c: int, h: int, w: int) -> tuple[nn.Module, list[int], Shape] | None:
        kernel, stride, out = self.random.choice([1, 3, 3, 5]), self.random.choice([1, 1, 1, 2]), 8
        groups = self.random.choice([1, 1, 1, 2, c]) if c % 2 == 0 else 1
        out = c if groups == c else self.random.choice([4, 8, 12])
        dilation = self.random.choice([1, 2]) if kernel == 3 else 1
        padding = kernel // 2 * dilation if self.random.random() < 0.85 else 0
        mode = (
            self.random.choice(["zeros", "zeros", "reflect", "replicate", "circular"]) if padding else "zeros"
        )
        height, width = ((n + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 for n in (h, w))
        if padding >= min(h, w) or c > MOST_CHANNELS:
            return None
        options = {"padding_mode": mode, "bias": self.random.random() < 0.8}
        layer = nn.Conv2d(c, out, kernel, stride, padding, dilation, groups, **options)  # type: ignore[arg-type]
        return layer, [at], (out, height, width)

    def point(self, at: int, c: int, h: int, w: int) -> tuple[nn.Module, list[int], Shape] | None:
        kind = self.random.choice(["activation", "activation", "affine", "embedding", "gate", "softmax"])
        if kind == "activation":
            return self.random.choice(ACTIVATIONS)(), [at], (c, h, w)
        if kind == "embedding":
            return Embedding(c, self.random.random() < 0.5), [at, -1], (c, h, w)
        if kind == "gate":
            gated = Apply(lambda x: x.chunk(2, 1)[0] * torch.sigmoid(x.chunk(2, 1)[1]))
            return (gated, [at], (c // 2, h, w)) if c % 2 == 0 and c > 4 else None
        function = (lambda x: x * 0.7 + 0.2) if kind == "affine" else (lambda x: x.softmax(1) * x)
        return Apply(function), [at], (c, h, w)

    def norm(self, at: int, c: int, h: int, w: int) -> tuple[nn.Module, list[int], Shape] | None:
        if c % 4 or h * w < 40:
            return None
        kinds: list[Callable[[], nn.Module]] = [
            *[
                lambda: nn.GroupNorm(2, c),
                lambda: nn.InstanceNorm2d(c, affine=True),
                lambda: nn.BatchNorm2d(c),
            ],
            *[lambda: LayerNorm2d(c), lambda: SqueezeExcite(c)],
        ]
        if h * w <= MOST_TOKENS:
            kinds += [lambda: OnTokens(SelfAttention(c, 2)), lambda: BmmAttention(c)]
        return self.random.choice(kinds)(), [at], (c, h, w)

    def resize(self, at: int, c: int, h: int, w: int) -> tuple[nn.Module, list[int], Shape] | None:
        kinds: list[tuple[nn.Module, Shape]] = [
            (nn.Upsample(scale_factor=2), (c, 2 * h, 2 * w)),
            (nn.Upsample(size=(h + 5, w + 3), mode="bilinear"), (c, h + 5, w + 3)),
            (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), (c, 2 * h, 2 * w)),
            (nn.ConvTranspose2d(c, 8, 4, 2, 1), (8, 2 * h, 2 * w)),
            (nn.ConvTranspose2d(c, 8, 3, 2, 1, 1), (8, 2 * h, 2 * w)),
            (nn.MaxPool2d(3, 2, 1), (c, (h + 1) // 2, (w + 1) // 2)),
            (nn.AvgPool2d(3, 2, 1, count_include_pad=False), (c, (h + 1) // 2, (w + 1) // 2)),
            (nn.AvgPool2d(2), (c, h // 2, w // 2)),
            (nn.ReplicationPad2d((1, 0, 2, 1)), (c, h + 3, w + 1)),
            (nn.ConstantPad2d((0, 1, 1, 2), 0.7), (c, h + 3, w + 1)),
            (Apply(lambda x: x[:, :, 1:, 2:-1]), (c, h - 1, w - 3)),
        ]
        if c % 4 == 0:
            kinds.append((nn.PixelShuffle(2), (c // 4, 2 * h, 2 * w)))
        if h % 2 == 0 and w % 2 == 0 and c <= 6:
            kinds.append((nn.PixelUnshuffle(2), (4 * c, h // 2, w // 2)))
        layer, shape = self.random.choice(kinds)
        return layer, [at], shape

    def join(self, at: int, c: int, h: int, w: int) -> tuple[nn.Module, list[int], Shape] | None:
        others = [i for i, shape in enumerate(self.shapes) if shape[1:] == (h, w) and i != at]
        if not others:
            return None
        other = self.random.choice(others)
        if self.shapes[other][0] != c:
            joined = c + self.shapes[other][0]
            cat = Apply(lambda x, y: torch.cat([x, y], 1))
            return (cat, [at, other], (joined, h, w)) if joined <= MOST_CHANNELS else None
        function = self.random.choice([torch.add, torch.maximum, lambda x, y: x * torch.tanh(y)])
        return Apply(function), [at, other], (c, h, w)

    def forward(self, image: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        values = [image]
        for layer, reads in zip(self.layers, self.reads):
            values.append(layer(*(t if i < 0 else values[i] for i in reads)))
        values[-1] = values[-1] + F.tanh(t.sum())  # t reaches an output whatever was drawn
        return tuple(values[i] for i in self.returns)
