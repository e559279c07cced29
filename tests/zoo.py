"""Small architectures of many kinds, with random weights: what an exporter has to cope with.

Every module is plain torch, seeded, in eval mode, and small enough to export and run in seconds on one core.
Weights are scaled so that activations stay of order one through the network: a wrong pixel then shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """One architecture of the zoo.

    `make` builds the module, `inputs` its example inputs by forward()'s argument names; `spatial` names the
    inputs whose last two axes are Y, X; `config` are arguments of `SparseConfig`; `free` names inputs that
    an edit may change besides; `islands` is how many dense islands the export is expected to have;
    `statistics` says whether something reduced over space returns into it; `tolerance` is relative to the output's range.
    """

    name: str
    make: Callable[[], nn.Module]
    inputs: dict[str, tuple[int, ...]]
    spatial: tuple[str, ...] = ("image",)
    config: dict[str, Any] = field(default_factory=dict)
    free: tuple[str, ...] = ()
    islands: int = 0
    statistics: bool = False
    tolerance: float = 1e-4

    def module(self) -> nn.Module:
        torch.manual_seed(0)
        module = self.make().eval()
        enliven(module)
        return module

    def example_inputs(self, seed: int = 1) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return {name: torch.randn(shape, generator=generator) for name, shape in self.inputs.items()}


ZOO: dict[str, Entry] = {}


def entry(
    name: str, inputs: dict[str, tuple[int, ...]], **kwargs: Any
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Class decorator: registers the module under `name`."""

    def register(make: type[nn.Module]) -> type[nn.Module]:
        add(name, make, inputs, **kwargs)
        return make

    return register


def add(name: str, make: Callable[[], nn.Module], inputs: dict[str, tuple[int, ...]], **kwargs: Any) -> None:
    assert name not in ZOO, name
    ZOO[name] = Entry(name, make, inputs, **kwargs)


@torch.no_grad()
def enliven(module: nn.Module) -> None:
    """Random weights of unit gain, and norms whose affine and running statistics are not trivial."""
    for child in module.modules():
        if isinstance(child, (nn.modules.conv._ConvNd, nn.Linear)):
            fan_in = child.weight[0].numel()
            if isinstance(child, nn.ConvTranspose2d):
                taps = child.weight[0, 0].numel() // math.prod(child.stride)
                fan_in = child.in_channels // child.groups * max(1, taps)
            child.weight.normal_(0, 1.3 / math.sqrt(fan_in))
            if child.bias is not None:
                child.bias.normal_(0, 0.2)
        elif isinstance(child, (nn.GroupNorm, nn.LayerNorm, nn.modules.batchnorm._NormBase)):
            if child.weight is not None:
                child.weight.normal_(1, 0.2)
                child.bias.normal_(0, 0.2)
            if getattr(child, "running_var", None) is not None:
                child.running_mean.normal_(0, 0.2)  # type: ignore[union-attr]
                child.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]


def conv(cin: int, cout: int, k: int = 3, **kwargs: Any) -> nn.Conv2d:
    kwargs.setdefault("padding", k // 2 * kwargs.get("dilation", 1))
    return nn.Conv2d(cin, cout, k, **kwargs)


# --- generators ------------------------------------------------------------------------------------


@entry("unet_transposed", {"image": (1, 3, 32, 48)})
class UNetTransposed(nn.Module):
    """U-Net: strided convs down, transposed convs (k4 s2 p1, k2 s2) up, skips by concat."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.down1 = nn.Conv2d(8, 12, 4, 2, 1)
        self.down2 = nn.Conv2d(12, 16, 3, 2, 1)
        self.middle = conv(16, 16)
        self.up2 = nn.ConvTranspose2d(16, 12, 4, 2, 1)
        self.up1 = nn.ConvTranspose2d(24, 8, 2, 2)
        self.out = conv(16, 3)

    def forward(self, image: Tensor) -> Tensor:
        a = F.relu(self.stem(image))
        b = F.leaky_relu(self.down1(a), 0.2)
        c = F.relu(self.middle(F.relu(self.down2(b))))
        d = torch.cat([F.relu(self.up2(c)), b], 1)
        e = torch.cat([self.up1(d), a], 1)
        return self.out(F.relu(e))


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, affine: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels, affine=affine),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels, affine=affine),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


@entry("resnet_reflect", {"image": (1, 3, 32, 48)}, config={"level_dilate": 2}, statistics=True)
class ResNetReflect(nn.Module):
    """CycleGAN's generator: reflection padding, instance norm, transposed convs with output_padding, tanh."""

    def __init__(self, affine: bool = False) -> None:
        super().__init__()
        norm = lambda c: nn.InstanceNorm2d(c, affine=affine)  # noqa: E731
        up = {"stride": 2, "padding": 1, "output_padding": 1}
        self.body = nn.Sequential(
            *[nn.ReflectionPad2d(3), nn.Conv2d(3, 8, 7), norm(8), nn.ReLU(True)],
            *[nn.Conv2d(8, 12, 3, 2, 1), norm(12), nn.ReLU(True)],
            *[nn.Conv2d(12, 16, 3, 2, 1), norm(16), nn.ReLU(True)],
            *[ResidualBlock(16, affine), ResidualBlock(16, affine)],
            *[nn.ConvTranspose2d(16, 12, 3, **up), norm(12), nn.ReLU(True)],
            *[nn.ConvTranspose2d(12, 8, 3, **up), norm(8), nn.ReLU(True)],
            *[nn.ReflectionPad2d(3), nn.Conv2d(8, 3, 7), nn.Tanh()],
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.body(image)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = conv(channels, 4, 1), conv(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(self.pool(x)))))


@entry("squeeze_excite", {"image": (1, 3, 32, 48)}, statistics=True)
class SqueezeExciteNet(nn.Module):
    """Inverted residuals with squeeze-excite gates (means over space, in two spellings), hard activations."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 12, stride=2)
        self.depthwise = conv(12, 12, 5, groups=12)
        self.gate1 = SqueezeExcite(12)
        self.project = conv(12, 12, 1)
        self.fc = nn.Linear(12, 12)
        self.up = nn.ConvTranspose2d(12, 3, 2, 2)

    def forward(self, image: Tensor) -> Tensor:
        x = F.hardswish(self.stem(image))
        x = x + self.project(self.gate1(F.hardswish(self.depthwise(x))))
        gate = F.hardsigmoid(self.fc(x.mean((2, 3))))
        return self.up(x * gate[:, :, None, None])


@entry("separable_dilated", {"image": (1, 3, 32, 48)}, config={"dilate": 3, "level_dilate": 2})
class SeparableDilated(nn.Module):
    """Depthwise-separable and grouped convs, then parallel dilations 1, 2, 4 (ASPP)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.separable = nn.Sequential(
            *[conv(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6()],
            *[conv(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU6()],
        )
        self.grouped = conv(16, 16, groups=2)
        self.multiplier = conv(16, 32, groups=16, stride=2)
        self.branches = nn.ModuleList(conv(32, 8, dilation=d, bias=False) for d in (1, 2, 4))
        self.wide = nn.Conv2d(24, 24, (1, 5), padding=(0, 2), groups=24)
        self.tall = nn.Conv2d(24, 12, (5, 1), padding=(2, 0))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.out = conv(12, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = F.silu(self.grouped(self.separable(self.stem(image))))
        x = self.multiplier(x)
        x = torch.cat([branch(x) for branch in self.branches], dim=1)
        return self.out(self.up(F.gelu(self.tall(self.wide(x)))))


@entry("pixel_shuffle", {"image": (1, 3, 24, 32)})
class PixelShuffleNet(nn.Module):
    """Super-resolution: works at half resolution behind a PixelUnshuffle, returns twice the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.PixelUnshuffle(2)
        self.head = conv(12, 16)
        self.body = nn.Sequential(conv(16, 16), nn.PReLU(16), conv(16, 16))
        self.up1 = nn.Sequential(conv(16, 32), nn.PixelShuffle(2), nn.LeakyReLU(0.1))
        self.up2 = nn.Sequential(conv(8, 12), nn.PixelShuffle(2))

    def forward(self, image: Tensor) -> Tensor:
        x = self.head(self.squeeze(image))
        return self.up2(self.up1(x + self.body(x))) + F.interpolate(image, scale_factor=2.0, mode="nearest")


@entry("bilinear_pools", {"image": (1, 3, 32, 48)})
class BilinearPools(nn.Module):
    """Max and average pools (padding counted and not), bilinear upsampling (aligned corners and not)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 8)
        self.max_pool = nn.MaxPool2d(3, 2, 1)
        self.mid1 = conv(8, 12)
        self.avg_pool = nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        self.mid2 = conv(12, 16)
        self.blur = nn.AvgPool2d(3, 1, 1, count_include_pad=True)
        self.up2 = conv(28, 12)
        self.up1 = conv(20, 8)
        self.out = conv(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        a = F.relu(self.stem(image))
        b = F.relu(self.mid1(self.max_pool(a)))
        c = self.blur(F.relu(self.mid2(self.avg_pool(b))))
        c = F.max_pool2d(c, 3, 1, 1)
        d = F.interpolate(c, scale_factor=2, mode="bilinear", align_corners=False)
        e = F.relu(self.up2(torch.cat([d, b], 1)))
        f = F.interpolate(e, scale_factor=2, mode="bilinear", align_corners=True)
        g = F.relu(self.up1(torch.cat([f, a], 1)))
        return self.out(g) + F.interpolate(F.avg_pool2d(image, 2), scale_factor=2, mode="bilinear")


# --- attention -------------------------------------------------------------------------------------


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


class ConvNeXtBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = conv(channels, channels, 7, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.expand, self.project = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.project(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


@entry("convnext", {"image": (1, 3, 32, 48)}, config={"granularity": 2})
class ConvNeXt(nn.Module):
    """Depthwise 7x7, then LayerNorm, Linear and GELU channels-last, layer scale; PixelShuffle head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 4, 4)
        self.blocks = nn.Sequential(ConvNeXtBlock(16), ConvNeXtBlock(16))
        self.head = nn.Sequential(conv(16, 48, 1), nn.PixelShuffle(4))

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(image)))


# --- several inputs and outputs, conditioning ------------------------------------------------------


@entry("two_inputs", {"image": (1, 3, 32, 48), "guide": (1, 2, 16, 24)}, spatial=("image", "guide"))
class TwoInputs(nn.Module):
    """An image and a guidance map of half its size."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.guide = conv(3, 12, stride=2), conv(2, 12)
        self.mid, self.up, self.out = conv(24, 12), conv(12, 12), conv(15, 3)

    def forward(self, image: Tensor, guide: Tensor) -> Tensor:
        x = torch.cat([self.down(image), self.guide(guide)], 1)
        x = F.silu(self.mid(F.silu(x)))
        x = self.up(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return self.out(torch.cat([F.silu(x), image], 1))


@entry("three_outputs", {"image": (1, 3, 32, 48)})
class ThreeOutputs(nn.Module):
    """An image, a feature map at half resolution and a class score of the whole image."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up = conv(3, 8), conv(8, 12, stride=2), nn.ConvTranspose2d(12, 8, 2, 2)
        self.out, self.score = conv(16, 3), nn.Linear(12, 5)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = F.relu(self.stem(image))
        features = F.relu(self.down(x))
        score = self.score(F.adaptive_avg_pool2d(features, 1).flatten(1))
        return self.out(torch.cat([x, F.relu(self.up(features))], 1)), features, score


class TimeBlock(nn.Module):
    """DDPM's residual block: GroupNorm and SiLU, the embedding added or (FiLM) as scale and shift."""

    def __init__(self, cin: int, cout: int, film: bool) -> None:
        super().__init__()
        self.film = film
        self.norm1, self.conv1 = nn.GroupNorm(4, cin), conv(cin, cout)
        self.embed = nn.Linear(16, 2 * cout if film else cout)
        self.norm2, self.conv2 = nn.GroupNorm(4, cout), conv(cout, cout)
        self.skip = conv(cin, cout, 1) if cin != cout else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        e = self.embed(F.silu(embedding))[:, :, None, None]
        if self.film:
            scale, shift = e.chunk(2, dim=1)
            h = self.norm2(h) * (1 + 0.3 * scale) + shift
        else:
            h = self.norm2(h + e)
        return self.skip(x) + self.conv2(F.silu(h))


def sinusoids(t: Tensor, width: int) -> Tensor:
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(width // 2) / (width // 2))
    angles = t.float()[:, None] * frequencies[None]
    return torch.cat([torch.sin(angles), torch.cos(angles)], 1)


@entry("time_unet", {"image": (1, 3, 32, 48), "t": (1,)}, statistics=True)
class TimeUNet(nn.Module):
    """Time-conditioned U-Net: GroupNorm, SiLU, additive and FiLM embeddings, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.stem = conv(3, 8)
        self.block1, self.down = TimeBlock(8, 8, False), conv(8, 8, stride=2)
        self.block2, self.block3 = TimeBlock(8, 16, True), TimeBlock(16, 16, False)
        self.attention = BmmAttention(16)
        self.up, self.block4 = conv(16, 16), TimeBlock(24, 8, True)
        self.norm, self.out = nn.GroupNorm(4, 8), conv(8, 3)

    def forward(self, image: Tensor, t: Tensor) -> Tensor:
        e = self.embed(sinusoids(t * 100, 8))
        a = self.block1(self.stem(image), e)
        b = self.down(a)
        c = self.block3(self.attention(self.block2(b, e)), e)
        d = self.up(F.interpolate(c, scale_factor=2.0, mode="nearest"))
        f = self.block4(torch.cat([d, a], 1), e)
        return self.out(F.silu(self.norm(f)))


class CrossAttention(nn.Module):
    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k, self.v = nn.Linear(context, width, bias=False), nn.Linear(context, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        b, length, width = x.shape
        q, k, v = (
            y.view(b, -1, self.heads, width // self.heads).transpose(1, 2)
            for y in (self.q(x), self.k(context), self.v(context))
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, length, width))


@entry("text_transformer", {"image": (1, 4, 24, 32), "text": (1, 7, 12)}, free=("text",), statistics=True)
class TextTransformer(nn.Module):
    """Latent-diffusion block: GroupNorm, self-attention, cross-attention to a text, GEGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.proj_in = conv(4, 16, stride=2), conv(16, 16, 1)
        self.norm = nn.GroupNorm(4, 16, eps=1e-6)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(16) for _ in range(3))
        self.self_attention, self.cross = CrossAttention(16, 16, 2), CrossAttention(16, 12, 2)
        self.geglu, self.project = nn.Linear(16, 64), nn.Linear(32, 16)
        self.proj_out, self.out = conv(16, 16, 1), conv(16, 4)

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        x = self.stem(image)
        b, c, height, width = x.shape
        h = self.proj_in(self.norm(x)).permute(0, 2, 3, 1).reshape(b, height * width, c)
        n = self.norm1(h)
        h = h + self.self_attention(n, n)
        h = h + self.cross(self.norm2(h), text)
        value, gate = self.geglu(self.norm3(h)).chunk(2, dim=-1)
        h = h + self.project(value * F.gelu(gate))
        x = x + self.proj_out(h.reshape(b, height, width, c).permute(0, 3, 1, 2).contiguous())
        return self.out(F.interpolate(x, scale_factor=2.0, mode="nearest"))


@entry("modulated", {"image": (1, 3, 24, 32), "style": (1, 8)})
class Modulated(nn.Module):
    """StyleGAN2's modulation as scales: the style's on a conv's input, unit norm on its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = conv(3, 8), conv(8, 3)
        self.style1, self.style2 = nn.Linear(8, 8), nn.Linear(8, 8)
        self.conv1, self.conv2 = conv(8, 8, bias=False), conv(8, 8, bias=False)
        self.noise = nn.Parameter(torch.randn(1, 1, 24, 32))

    def modulate(self, x: Tensor, layer: nn.Conv2d, style: Tensor) -> Tensor:
        energy = (layer.weight[None] * style[:, None, :, None, None]).square().sum((2, 3, 4))
        return layer(x * style[:, :, None, None]) * torch.rsqrt(energy + 1e-8)[:, :, None, None]

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        x = F.leaky_relu(self.stem(image), 0.2)
        x = self.modulate(x, self.conv1, self.style1(style) + 1) + 0.1 * self.noise
        x = self.modulate(F.leaky_relu(x, 0.2) * 2**0.5, self.conv2, self.style2(style) + 1)
        return self.out(F.leaky_relu(x, 0.2))


@entry("modulated_weights", {"image": (1, 3, 24, 32), "style": (1, 8)})
class ModulatedWeights(Modulated):
    """The same with the style in the weights, as StyleGAN2 itself does it: they are computed."""

    def modulate(self, x: Tensor, layer: nn.Conv2d, style: Tensor) -> Tensor:
        weight = layer.weight * style[0][None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8)
        return F.conv2d(x, weight, padding=1)


# --- borders, sizes, layouts -----------------------------------------------------------------------


@entry("replicate_circular", {"image": (1, 3, 24, 32)})
class ReplicateCircular(nn.Module):
    """Convs that pad by replication and around the border."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(3, 8, padding_mode="replicate")
        self.b = conv(8, 12, 5, stride=2, padding_mode="replicate")
        self.c = conv(12, 12, padding_mode="circular")
        self.d = conv(12, 12, padding_mode="reflect")
        self.pad = nn.ZeroPad2d((1, 2, 0, 1))
        self.e = nn.Conv2d(12, 8, (2, 4))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.d(F.relu(self.c(F.relu(self.b(F.relu(self.a(image))))))))
        return F.interpolate(self.e(self.pad(x)), scale_factor=2.0, mode="nearest")


@entry("positions_and_gates", {"image": (1, 3, 24, 32)})
class PositionsAndGates(nn.Module):
    """Learned positional embeddings on pixels and on tokens, gates by channel chunks, channel slices."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down = conv(3, 8), conv(8, 16, stride=2)
        self.position = nn.Parameter(torch.randn(1, 8, 24, 32) * 0.5)
        self.token_position = nn.Parameter(torch.randn(1, 12 * 16, 16) * 0.5)
        self.attention = SelfAttention(16, 2)
        self.gate = conv(16, 32)
        self.out = conv(16, 12)

    def forward(self, image: Tensor) -> Tensor:
        x = self.down(F.silu(self.stem(image) + self.position))
        tokens = self.attention(x.flatten(2).transpose(1, 2) + self.token_position)
        x = tokens.transpose(1, 2).unflatten(2, (12, 16))
        value, gate = self.gate(x).chunk(2, dim=1)
        x = value * torch.sigmoid(gate)
        x = torch.cat([x[:, 8:], x[:, :8] * x[:, -8:]], 1)
        return F.pixel_shuffle(self.out(x), 2)


@entry("odd_sizes", {"image": (1, 3, 33, 47)})
class OddSizes(nn.Module):
    """Sizes that no power of two divides; upsampling to the size of the skip."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down1, self.down2 = conv(3, 8), conv(8, 12, stride=2), conv(12, 16, stride=2)
        self.mid, self.up2, self.up1 = conv(16, 16), conv(28, 12), conv(20, 8)
        self.out = conv(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        a = F.relu(self.stem(image))
        b = F.relu(self.down1(a))
        c = F.relu(self.mid(F.relu(self.down2(b))))
        d = F.interpolate(c, size=b.shape[-2:], mode="nearest")
        e = F.relu(self.up2(torch.cat([d, b], 1)))
        f = F.interpolate(e, size=a.shape[-2:], mode="nearest")
        return self.out(F.relu(self.up1(torch.cat([f, a], 1))))


@entry("nearest_decoder", {"image": (1, 3, 16, 24)}, config={"granularity": 4}, statistics=True)
class NearestDecoder(nn.Module):
    """VAE-style decoder: nearest upsampling in front of convs, output four times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 16), nn.GroupNorm(4, 16)
        self.up1, self.up2, self.out = conv(16, 12), conv(12, 8), conv(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        x = F.silu(self.norm(self.stem(image)))
        x = F.silu(self.up1(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = F.silu(self.up2(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        return self.out(x)


@entry("valid_convs", {"image": (1, 3, 32, 48)})
class ValidConvs(nn.Module):
    """Convs without padding shrink the image; the skip is cropped to match."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(16, 3, 3)

    def forward(self, image: Tensor) -> Tensor:
        a = F.relu(self.a(image))
        b = F.relu(self.b(a))
        return self.c(torch.cat([b, a[:, :, 1:-1, 1:-1]], 1))


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


# --- what the pass need not understand -------------------------------------------------------------


@entry("island_roll", {"image": (1, 3, 24, 32)}, islands=1)
class IslandRoll(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 3)

    def shuffle(self, x: Tensor) -> Tensor:
        return torch.roll(x, (5, -3), (2, 3))

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.a(image))
        x = x + self.b(self.shuffle(x))
        return self.c(F.relu(x))


@entry("island_flip", {"image": (1, 3, 24, 32)}, islands=1)
class IslandFlip(IslandRoll):
    def shuffle(self, x: Tensor) -> Tensor:
        return torch.flip(x, (3,))


@entry("island_cumsum", {"image": (1, 3, 24, 32)}, islands=1)
class IslandCumsum(IslandRoll):
    def shuffle(self, x: Tensor) -> Tensor:
        return torch.cumsum(x, 2) * 0.1


add("batch2_unet", UNetTransposed, {"image": (2, 3, 32, 48)})
add("batch2_time_unet", TimeUNet, {"image": (2, 3, 32, 48), "t": (2,)}, statistics=True)
add(
    "batch2_text",
    TextTransformer,
    {"image": (2, 4, 24, 32), "text": (2, 7, 12)},
    free=("text",),
    statistics=True,
)
add("batch2_squeeze_excite", SqueezeExciteNet, {"image": (2, 3, 32, 48)}, statistics=True)
