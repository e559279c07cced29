"""Padding modes, odd sizes, shrinking convs, position embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.attention import SelfAttention
from zoo.registry import conv, entry


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
