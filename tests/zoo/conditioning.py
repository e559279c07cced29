"""Several inputs and outputs; time, text and style."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.attention import BmmAttention
from zoo.registry import add, conv, entry


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


@entry("inpainting", {"image": (1, 3, 24, 32), "hole": (1, 1, 24, 32)}, spatial=("image", "hole"))
class Inpainting(nn.Module):
    """The hole as a second input of the same size: multiplied, concatenated, and selecting the output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gated = conv(4, 16), conv(8, 16)
        self.out = conv(8, 3)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        known = torch.sigmoid(4 * hole)
        value, gate = self.stem(torch.cat([image * known, known], 1)).chunk(2, 1)
        value, gate = self.gated(F.elu(value) * torch.sigmoid(gate)).chunk(2, 1)
        result = torch.tanh(self.out(value * torch.sigmoid(gate)))
        return torch.where(hole > 0.3, image, result)


@entry("spatially_adaptive", {"labels": (1, 5, 32, 48)}, spatial=("labels",))
class SpatiallyAdaptive(nn.Module):
    """SPADE: a map of labels, shrunk to each level, makes the scale and shift of every pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(5, 12)
        self.norm1, self.norm2 = (nn.BatchNorm2d(12, affine=False) for _ in range(2))
        self.shared1, self.shared2 = conv(5, 8), conv(5, 8)
        self.gamma1, self.beta1, self.gamma2, self.beta2 = (conv(8, 12) for _ in range(4))
        self.conv1, self.conv2, self.out = conv(12, 12), conv(12, 12), conv(12, 3)

    def forward(self, labels: Tensor) -> Tensor:
        half, quarter = (F.interpolate(labels, size=size, mode="nearest") for size in ((16, 24), (8, 12)))
        x = self.stem(quarter)
        s = F.relu(self.shared1(quarter))
        x = x + self.conv1(F.leaky_relu(self.norm1(x) * (1 + self.gamma1(s)) + self.beta1(s), 0.2))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        s = F.relu(self.shared2(half))
        x = x + self.conv2(F.leaky_relu(self.norm2(x) * (1 + self.gamma2(s)) + self.beta2(s), 0.2))
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return torch.tanh(self.out(F.leaky_relu(x, 0.2)))


@entry("adaptive_instance_norm", {"image": (1, 3, 24, 32), "style": (1, 8)}, statistics=True)
class AdaptiveInstanceNorm(nn.Module):
    """AdaIN: instance norm without affine, scale and shift from a style; bicubic upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.out = conv(3, 8, stride=2), conv(8, 8), conv(8, 3)
        self.norm, self.style = nn.InstanceNorm2d(8), nn.Linear(8, 16)

    def forward(self, image: Tensor, style: Tensor) -> Tensor:
        x = self.conv(F.relu(self.stem(image)))
        gamma, beta = self.style(style)[..., None, None].chunk(2, 1)
        x = F.relu((1 + gamma) * self.norm(x) + beta)
        return self.out(F.interpolate(x, scale_factor=2, mode="bicubic"))


add("batch2_time_unet", TimeUNet, {"image": (2, 3, 32, 48), "t": (2,)}, statistics=True)
two = {"image": (2, 4, 24, 32), "text": (2, 7, 12)}
add("batch2_text", TextTransformer, two, free=("text",), statistics=True)
