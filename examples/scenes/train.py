"""Train the scenes model: `python examples/scenes/train.py --out build/scenes` (nine minutes on an H200).

Scenes are drawn by all CPU cores while the GPU trains the autoencoder; then the reader (for the measures),
then the text encoder and the UNet together. Writes into --out: model/ (a diffusers pipeline folder, float16),
reader.safetensors, metrics.json, samples.png and coded.png (drawn pictures above what the autoencoder makes
of them). --resume takes such a folder, keeps its autoencoder and reader, and trains the text encoder and the
UNet further. Budgets in minutes fit the machine; --steps makes two runs equal.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import torch

if not __package__:  # run as a script: let the relative imports find their package
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    __package__ = "examples.scenes"

from . import autoencoder, diffusion
from . import reader as reading
from .budget import Budget
from .data import Drawn
from .evaluation import evaluate, sample_sheet, save_grid
from .measures import psnr
from .networks import MODEL, READER, Parts, load_parts, load_pipeline, new_parts, save_pipeline
from .tokens import write_tokenizer

_PICTURES = 12288  # scenes that the autoencoder and the reader learn from


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--resume", type=Path, help="a folder that an earlier run wrote")
    parser.add_argument("--minutes", type=float, default=5.0, help="for the text encoder and the UNet")
    parser.add_argument("--autoencoder-minutes", type=float, default=1.5)
    parser.add_argument("--reader-minutes", type=float, default=0.3)
    parser.add_argument("--deadline", type=float, default=math.inf, help="minutes until training ends")
    parser.add_argument("--steps", type=int, default=10**9, help="most steps of each stage, for equal runs")
    parser.add_argument("--scenes", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=diffusion.BATCH)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=max(1, (os.cpu_count() or 2) - 2), help="that draw")
    parser.add_argument("--smoke", action="store_true", help="tiny networks and two steps, on the CPU")
    chosen = parser.parse_args(words)
    if chosen.smoke:
        chosen.scenes, chosen.steps, chosen.batch, chosen.processes = 16, 2, 2, 2
    return chosen


def train(options: argparse.Namespace) -> dict[str, object]:
    """Everything from drawing to metrics; returns the metrics."""
    began = time.monotonic()
    out: Path = options.out
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = options.resume / MODEL.name / "tokenizer" if options.resume else out / "tokenizer"
    if not options.resume:
        write_tokenizer(tokenizer)
    drawn = Drawn(options.scenes, tokenizer)
    drawn.start(options.processes)

    fast = torch.cuda.is_available() and not options.smoke
    device = torch.device("cuda" if fast else "cpu")
    torch.backends.cudnn.benchmark = True
    torch._dynamo.config.suppress_errors = True  # where compiling fails, the run goes on without
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(options.seed)
    generator = torch.Generator(device).manual_seed(options.seed)
    parts = (
        load_parts(options.resume / MODEL.name) if options.resume else new_parts(drawn.words, options.smoke)
    )
    for module in parts.modules():
        module.to(device, memory_format=torch.channels_last)
    reader = (
        reading.load_reader(options.resume / READER.name)
        if options.resume
        else reading.Reader(8 if options.smoke else 32)
    ).to(device, memory_format=torch.channels_last)

    if not options.resume:
        _first_stages(parts, reader, drawn, options, generator, fast)
    reading.save_reader(reader, out / READER.name)
    data = _encode_all(parts, drawn, device)
    print(f"latents of {drawn.count} scenes after {time.monotonic() - began:.0f} s", flush=True)

    def checkpoint(average: Parts) -> None:
        _save(average, tokenizer, out)

    average = diffusion.train_diffusion(
        parts,
        data,
        Budget(options.minutes, options.steps, began + 60 * options.deadline),
        options.batch,
        generator,
        resumed=bool(options.resume),
        fast=fast,
        checkpoint=checkpoint,
        checkpoint_minutes=2.0,
    )
    _save(average, tokenizer, out)
    if not options.resume:
        shutil.rmtree(tokenizer)
    print(f"trained after {time.monotonic() - began:.0f} s", flush=True)

    pipeline = load_pipeline(out / MODEL.name, torch.float16 if fast else torch.float32).to(device)
    count, columns, steps = (4, 1, 1) if options.smoke else (192, 6, 25)
    sample_sheet(pipeline, out / "samples.png", columns, steps)
    metrics = {
        **evaluate(pipeline, reader, count, steps),
        "autoencoder_psnr_db": _coded(average, drawn, out / "coded.png", device),
        "parameters": {
            name: sum(p.numel() for p in module.parameters())
            for name, module in zip(("vae", "unet", "text_encoder"), average.modules())
        },
        "seconds": round(time.monotonic() - began),
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    print(json.dumps(metrics, indent=2), flush=True)
    return metrics


def _first_stages(
    parts: Parts,
    reader: reading.Reader,
    drawn: Drawn,
    options: argparse.Namespace,
    generator: torch.Generator,
    fast: bool,
) -> None:
    """The autoencoder, then the reader, on the first scenes."""
    began = time.monotonic()
    count = min(_PICTURES, drawn.count)
    drawn.wait(count)
    print(f"drew {count} scenes in {time.monotonic() - began:.0f} s", flush=True)
    device = generator.device
    pictures = torch.from_numpy(drawn.pictures[:count]).to(device)
    autoencoder.train_autoencoder(
        parts.vae,
        pictures,
        Budget(options.autoencoder_minutes, options.steps),
        min(options.batch, autoencoder.BATCH),
        generator,
        fast,
    )
    latents = autoencoder.encode(parts.vae, pictures[: count // 4])
    seen = torch.cat([autoencoder.decode(parts.vae, part) for part in latents.split(32)])
    truth = tuple(torch.from_numpy(a[:count]).to(device) for a in (drawn.labels, drawn.place, drawn.weather))
    reading.train_reader(
        reader,
        pictures,
        seen,
        truth,
        Budget(options.reader_minutes, options.steps),
        min(options.batch, reading.BATCH),
        generator,
    )


def _encode_all(parts: Parts, drawn: Drawn, device: torch.device) -> diffusion.Data:
    latents = []
    for start in range(0, drawn.count, 2048):
        stop = min(start + 2048, drawn.count)
        drawn.wait(stop)
        latents.append(autoencoder.encode(parts.vae, torch.from_numpy(drawn.pictures[start:stop]).to(device)))
    return diffusion.Data(
        torch.cat(latents),
        torch.from_numpy(drawn.tokens).long().to(device),
        torch.from_numpy(drawn.x).to(device),
        torch.from_numpy(drawn.words.encode([""])[0]).long().to(device),
    )


def _save(parts: Parts, tokenizer: Path, out: Path) -> None:
    """Written beside and renamed, so that a run that is cut short leaves the checkpoint before."""
    fresh, old = out / "model.new", out / MODEL.name
    shutil.rmtree(fresh, ignore_errors=True)
    save_pipeline(parts, tokenizer, fresh)
    shutil.rmtree(old, ignore_errors=True)
    fresh.rename(old)


def _coded(parts: Parts, drawn: Drawn, path: Path, device: torch.device) -> float:
    """Mean PSNR (dB) of drawn pictures through the autoencoder; the first eight are shown."""
    true = drawn.pictures[-min(32, drawn.count) :]
    latents = autoencoder.encode(parts.vae, torch.from_numpy(true).to(device))
    made = autoencoder.decode(parts.vae, latents).cpu().numpy()
    save_grid(np.concatenate((true[:8], made[:8])), 8, path)
    return float(np.mean([psnr(a, b) for a, b in zip(true, made)]))


def main() -> None:
    train(arguments())


if __name__ == "__main__":
    main()
