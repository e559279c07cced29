"""Convolutional networks: U-Nets, residual generators, separable convs, pools, shuffles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.registry import add, conv, entry


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


add("batch2_unet", UNetTransposed, {"image": (2, 3, 32, 48)})
add("batch2_squeeze_excite", SqueezeExciteNet, {"image": (2, 3, 32, 48)}, statistics=True)
