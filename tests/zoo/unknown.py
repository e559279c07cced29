"""Operations that a graph pass need not understand: it has to run them whole."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.registry import conv, entry


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
