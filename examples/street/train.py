"""Train the demo network on drawn street scenes: `python examples/street/train.py` (ten minutes on a GPU).

Label maps are drawn by all CPU cores, their pictures rendered on the GPU. Scenes come in pairs that differ by
one edit, so that the network also learns to leave alone what an edit does not touch. Writes
street.safetensors (float16), metrics.json and held_out.png (label map, network, truth) into --out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

if not __package__:  # run as a script: let the relative imports find their package
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    __package__ = "examples.street"

from sige_deploy.models.gaugan import GauGAN

from .drawing import draw_labels
from .labels import palette
from .network import CHANNELS, encode, street_generator
from .rendering import render
from .scenes import random_edit, random_scene

HELD_OUT = 10_000_000  # seeds from here on are never trained on
WEIGHT_PIXEL, WEIGHT_PYRAMID, WEIGHT_FEATURES, WEIGHT_STILL = 20.0, 20.0, 4.0, 20.0
EMA = 0.998
REACH = 10  # pixels around an edit within which the picture may change


def draw_pair(seed: int) -> np.ndarray:
    """Label maps of a scene and of an edit of it, uint8 [2, H, W]."""
    scene = random_scene(seed)
    return np.stack((draw_labels(scene), draw_labels(random_edit(scene, seed + 1))))


def draw_pairs(seeds: range) -> Tensor:
    """Label maps uint8 [len(seeds), 2, H, W], drawn by all cores."""
    with multiprocessing.get_context("fork").Pool() as pool:
        return torch.from_numpy(np.stack(pool.map(draw_pair, seeds, chunksize=16)))


class Discriminator(nn.Module):
    """Patch critics (Isola et al., arXiv 1611.07004) at full and half size; forward returns all features."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.critics = nn.ModuleList(self._critic(width) for _ in range(2))

    @staticmethod
    def _critic(width: int) -> nn.ModuleList:
        layers = [nn.Conv2d(CHANNELS + 3, width, 4, 2, 1)]
        for factor in (1, 2):
            layers.append(spectral_norm(nn.Conv2d(factor * width, 2 * factor * width, 4, 2, 1)))
        return nn.ModuleList([*layers, nn.Conv2d(4 * width, 1, 3, 1, 1)])

    def forward(self, label: Tensor, picture: Tensor) -> list[list[Tensor]]:
        x = torch.cat((label, picture), 1)
        outputs = []
        for critic in self.critics:
            features, y = [], x
            for layer in critic[:-1]:
                y = functional.leaky_relu(layer(y), 0.2)
                features.append(y)
            outputs.append([*features, critic[-1](y)])
            x = functional.avg_pool2d(x, 2)
        return outputs


def pyramid_loss(a: Tensor, b: Tensor, levels: int = 4) -> Tensor:
    """Mean absolute difference of Laplacian pyramids: edges and texture count as much as areas."""
    difference, loss = a - b, a.new_zeros(())
    for _ in range(levels):
        coarse = functional.avg_pool2d(difference, 2)
        loss = loss + (difference - functional.interpolate(coarse, scale_factor=2.0)).abs().mean()
        difference = coarse
    return loss


def still_loss(pictures: Tensor, labels: Tensor) -> Tensor:
    """How much pictures [2n, 3, H, W], n bases then their edits, differ farther than REACH from the edit."""
    half = len(labels) // 2
    changed = (labels[:half] != labels[half:]).float()[:, None]
    near = functional.max_pool2d(changed, 2 * REACH + 1, 1, REACH)
    return ((pictures[:half] - pictures[half:]).abs() * (1 - near)).mean()


def calibrate(model: nn.Module, labels: Tensor, batch: int) -> None:
    """Make the running statistics those of the averaged weights, over `labels`."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over all batches
    model.train()
    with torch.no_grad():
        for part in labels.split(batch):
            model(encode(part).contiguous(memory_format=torch.channels_last))
    for norm in norms:
        norm.momentum = 0.1
    model.eval()


@torch.no_grad()
def evaluate(model: nn.Module, labels: Tensor) -> dict[str, float]:
    """Mean PSNR (dB, of pictures in 0..1) and mean absolute error (of 255) over label maps [N, H, W]."""
    psnr, error = [], []
    for part in labels.split(8):
        difference = (model(encode(part)) - render(part)) / 2
        psnr += (-10 * difference.square().mean((1, 2, 3)).log10()).tolist()
        error += (255 * difference.abs().mean((1, 2, 3))).tolist()
    return {
        "psnr_db": float(np.mean(psnr)),
        "psnr_worst_db": min(psnr),
        "mean_abs_error_255": float(np.mean(error)),
    }


@torch.no_grad()
def contact_sheet(model: nn.Module, labels: Tensor, path: Path) -> None:
    """One row per scene: label map, network, truth."""
    columns = [palette[labels.cpu().numpy()]]
    for pictures in (model(encode(labels)), render(labels)):
        columns.append((127.5 * (pictures + 1)).round().byte().permute(0, 2, 3, 1).cpu().numpy())
    Image.fromarray(np.concatenate(np.concatenate(columns, 2), 0)).save(path)


def save(model: nn.Module, path: Path) -> None:
    """Weights as float16, running statistics as float32; counters are left out."""
    tensors = {}
    for key, value in model.state_dict().items():
        if value.is_floating_point():
            tensors[key] = (value.float() if "running" in key else value.half()).contiguous().cpu()
    save_file(tensors, path, metadata={"format": "pt", "network": "street"})


def train(model: GauGAN, labels: Tensor, arguments: argparse.Namespace) -> nn.Module:
    """Train in place; returns the exponential moving average of the weights."""
    device, steps, pairs = labels.device, arguments.steps, arguments.batch // 2
    average = copy.deepcopy(model)
    critic = Discriminator().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), arguments.rate, betas=(0.5, 0.99), fused=True)
    critic_optimizer = torch.optim.Adam(critic.parameters(), 4e-4, betas=(0.0, 0.99), fused=True)
    generate, judge = (torch.compile(m) for m in (model, critic)) if arguments.compile else (model, critic)
    warmup, adversarial = max(1, min(200, steps // 10)), steps // 4
    generator = torch.Generator().manual_seed(arguments.seed)
    epochs = steps * pairs // len(labels) + 1
    order = torch.cat([torch.randperm(len(labels), generator=generator) for _ in range(epochs)])
    start = time.monotonic()
    for step in range(steps):
        rate = arguments.rate * min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / steps) + 0.005)
        optimizer.param_groups[0]["lr"] = rate
        chosen = labels[order[step * pairs : (step + 1) * pairs].to(device)]
        batch = torch.cat((chosen[:, 0], chosen[:, 1]))
        with torch.no_grad():
            true = render(batch).contiguous(memory_format=torch.channels_last)
            inputs = encode(batch).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            made = generate(inputs)
        made = made.float()
        pixel, pyramid, still = (made - true).abs().mean(), pyramid_loss(made, true), still_loss(made, batch)
        loss = WEIGHT_PIXEL * pixel + WEIGHT_PYRAMID * pyramid + WEIGHT_STILL * still
        if step >= adversarial:
            critic.requires_grad_(False)
            with torch.autocast(device.type, torch.bfloat16):
                with torch.no_grad():
                    reference = judge(inputs, true)
                judged = judge(inputs, made)
            for scale, truth in zip(judged, reference):
                loss = loss - 0.5 * scale[-1].float().mean()
                for a, b in zip(scale[:-1], truth[:-1]):
                    loss = loss + WEIGHT_FEATURES / 6 * (a.float() - b.float()).abs().mean()
            critic.requires_grad_(True)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        if step >= adversarial - warmup:  # the critic gets a head start
            with torch.autocast(device.type, torch.bfloat16):
                reals, fakes = judge(inputs, true), judge(inputs, made.detach())
            hinge = torch.stack([(1 - r[-1].float()).relu().mean() for r in reals]).sum()
            hinge = hinge + torch.stack([(1 + f[-1].float()).relu().mean() for f in fakes]).sum()
            critic_optimizer.zero_grad(set_to_none=True)
            hinge.backward()
            critic_optimizer.step()
        with torch.no_grad():
            decay = min(EMA, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        if step % 100 == 0 or step == steps - 1:
            seconds = time.monotonic() - start
            parts = f"l1 {pixel:.4f}, pyramid {pyramid:.4f}, still {still:.5f}"
            print(f"step {step} of {steps}: {parts}; {seconds:.0f} s", flush=True)
        if time.monotonic() - start > arguments.limit:
            print(f"stopped at step {step} by the time limit", flush=True)
            break
    return average


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--scenes", type=int, default=6000, help="training scenes (pairs)")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which training stops")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="use torch.compile")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    labels, held_out = draw_pairs(range(arguments.scenes)), draw_pairs(range(HELD_OUT, HELD_OUT + 200))[:, 0]
    print(f"drew {arguments.scenes} pairs in {time.monotonic() - began:.0f} s", flush=True)

    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    labels, held_out = labels.to(device), held_out.to(device)
    model = street_generator().to(device, memory_format=torch.channels_last)
    average = train(model, labels, arguments)
    calibrate(average, labels[: 40 * arguments.batch, 0], arguments.batch)
    metrics = {**evaluate(average, held_out), "scenes": arguments.scenes, "steps": arguments.steps}
    save(average, arguments.out / "street.safetensors")
    (arguments.out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    contact_sheet(average, held_out[:5], arguments.out / "held_out.png")
    print(json.dumps(metrics), flush=True)


if __name__ == "__main__":
    main()
