"""A small network that reads a picture: which object each cell shows, the place and the weather.

It finds objects; it does not judge colours. measures.py takes those from the picture itself.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from .autoencoder import to_network
from .budget import Budget, cosine_rate
from .pen import LABELS
from .spec import PLACES, WEATHERS

RATE, BATCH = 2e-3, 64


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.GroupNorm(8, outputs), nn.SiLU())


class Reader(nn.Module):
    """[N, 3, 256, 256] in [-1, 1] -> scores: labels [N, LABELS, 64, 64], place [N, 5], weather [N, 5]."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        w = width
        self.fine = nn.Sequential(_block(3, w, 2), _block(w, w), _block(w, 2 * w, 2), _block(2 * w, 2 * w))
        self.middle = nn.Sequential(_block(2 * w, 3 * w, 2), _block(3 * w, 3 * w))
        self.coarse = nn.Sequential(_block(3 * w, 4 * w, 2), _block(4 * w, 4 * w), _block(4 * w, 4 * w))
        self.up_middle = _block(7 * w, 3 * w)
        self.up_fine = _block(5 * w, 2 * w)
        self.labels = nn.Conv2d(2 * w, LABELS, 1)
        self.place = nn.Linear(4 * w, len(PLACES))
        self.weather = nn.Linear(4 * w, len(WEATHERS))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        fine = self.fine(x)
        middle = self.middle(fine)
        coarse = self.coarse(middle)
        pooled = coarse.mean((2, 3))
        wide = functional.interpolate(coarse, scale_factor=2.0)
        middle = self.up_middle(torch.cat((wide, middle), 1))
        wide = functional.interpolate(middle, scale_factor=2.0)
        fine = self.up_fine(torch.cat((wide, fine), 1))
        return self.labels(fine), self.place(pooled), self.weather(pooled)


def train_reader(
    reader: Reader,
    pictures: Tensor,
    seen: Tensor,
    truth: tuple[Tensor, Tensor, Tensor],
    budget: Budget,
    batch: int,
    generator: torch.Generator,
) -> None:
    """Trains in place on drawn pictures and on the first of them as the autoencoder renders them.

    pictures, seen: uint8 [N, 256, 256, 3] and [M, 256, 256, 3], M <= N; truth: labels uint8 [N, 64, 64],
    place and weather int64 [N]. Noise is added, so that the reader also knows objects not cleanly drawn.
    """
    device = pictures.device
    labels, place, weather = truth
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=0.01)
    reader.train()
    step = 0
    while (progress := budget.progress(step)) < 1:
        optimizer.param_groups[0]["lr"] = cosine_rate(RATE, progress, step, 50)
        drawn = torch.randint(len(pictures), (batch // 2,), device=device, generator=generator)
        coded = torch.randint(len(seen), (batch - batch // 2,), device=device, generator=generator)
        chosen = torch.cat((drawn, coded))
        x = to_network(torch.cat((pictures[drawn], seen[coded])))
        strength = 0.1 * torch.rand(batch, 1, 1, 1, device=device, generator=generator)
        x = x + strength * torch.randn(x.shape, device=device, generator=generator)
        with torch.autocast(device.type, torch.bfloat16):
            scores = reader(x.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(scores[0].float(), labels[chosen].long())
        loss = loss + 0.1 * functional.cross_entropy(scores[1].float(), place[chosen])
        loss = loss + 0.1 * functional.cross_entropy(scores[2].float(), weather[chosen])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 100 == 0:
            print(f"reader step {step}: loss {loss:.4f}; {budget.seconds():.0f} s", flush=True)
        step += 1
    reader.eval()


def save_reader(reader: Reader, path: Path) -> None:
    """Weights as float16."""
    save_file({key: value.half().contiguous().cpu() for key, value in reader.state_dict().items()}, path)


def load_reader(path: Path) -> Reader:
    """The reader of a weights file, in float32 on the CPU."""
    state = load_file(path)
    reader = Reader(state["fine.0.0.weight"].shape[0])
    reader.load_state_dict(state)
    return reader.eval()
