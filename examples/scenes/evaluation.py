"""What a trained pipeline can do: pictures against their captions, and edits of the words at equal seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image

from .captions import plain_caption
from .data import HELD_OUT
from .drawing import SIZE, draw
from .measures import check, colour_of, enlarge, look, overlap, psnr, shares
from .reader import Reader
from .spec import COLOURS, Content, random_scene

STEPS, GUIDANCE = 25, 3.0
_BATCH = 64
DEMO = ("a red house by a lake", "a blue house by a lake", "a blue house by a lake with a tree")


def generate(
    pipeline: StableDiffusionPipeline, captions: Sequence[str], seeds: Sequence[int], steps: int = STEPS
) -> NDArray[np.uint8]:
    """Pictures uint8 [N, 256, 256, 3] of captions; the noise depends on the seeds alone, on every device."""
    parts = []
    for start in range(0, len(captions), _BATCH):
        part = slice(start, start + _BATCH)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[part]]
        made = pipeline(
            prompt=list(captions[part]),
            num_inference_steps=steps,
            guidance_scale=GUIDANCE,
            generator=generators,
            output_type="np",
        ).images
        parts.append((made * 255).round().astype(np.uint8))
    return np.concatenate(parts)


def held_out_contents(count: int) -> list[Content]:
    return [random_scene(HELD_OUT + i).content for i in range(count)]


def evaluate(
    pipeline: StableDiffusionPipeline, reader: Reader, count: int, steps: int = STEPS
) -> dict[str, object]:
    """Shares of what is right: in drawn pictures (how good the reader is), generated ones, and edits."""
    contents = held_out_contents(count)
    drawn = np.stack([draw(random_scene(HELD_OUT + i))[0] for i in range(count)])
    made = generate(pipeline, [plain_caption(c) for c in contents], range(count), steps)
    results: dict[str, object] = {}
    for name, pictures in (("drawn", drawn), ("generated", made)):
        seen = look(reader, pictures)
        results[name] = shares([check(p, s, c) for p, s, c in zip(pictures, seen, contents)])
    results["recoloured"] = _edits(pipeline, reader, [(c, _recolour(c)) for c in contents], made, steps)
    bare = [replace(c, second="", second_colour="") for c in contents if c.kind in ("house", "tower")]
    added = [(c, replace(c, second="tree", second_colour="green")) for c in bare]
    before = generate(pipeline, [plain_caption(c) for c in bare], range(len(bare)), steps)
    results["tree_added"] = _edits(pipeline, reader, added, before, steps)
    return results


def _recolour(content: Content) -> Content:
    return replace(content, colour=COLOURS[(COLOURS.index(content.colour) + 4) % len(COLOURS)])


def _edits(
    pipeline: StableDiffusionPipeline,
    reader: Reader,
    pairs: Sequence[tuple[Content, Content]],
    before: NDArray[np.uint8],
    steps: int,
) -> dict[str, float]:
    """Same seed, changed words, no mask: how far the rest stays as it was."""
    after = generate(pipeline, [plain_caption(new) for _, new in pairs], range(len(pairs)), steps)
    right, kept, outside = [], [], []
    for (old, new), a, b, seen_a, seen_b in zip(
        pairs, before, after, look(reader, before), look(reader, after)
    ):
        right.append(
            colour_of(b, seen_b, new.kind, new.weather) == new.colour
            and (not new.second or seen_b.shows(new.second))
        )
        kept.append(overlap(seen_a.mask(old.kind), seen_b.mask(new.kind)))
        things = seen_a.mask(old.kind) | seen_b.mask(new.kind)
        for kind in {old.second, new.second} - {""}:
            things |= seen_a.mask(kind) | seen_b.mask(kind)
        outside.append(psnr(a, b, ~enlarge(things, 6)))
    finite = [min(p, 60.0) for p in outside if not np.isnan(p)]
    return {
        "right": float(np.mean(right)),
        "area_kept_mean": float(np.mean(kept)),
        "area_kept_over_half": float(np.mean(np.array(kept) > 0.5)),
        "psnr_outside_mean": float(np.mean(finite)) if finite else float("nan"),
    }


def sample_sheet(pipeline: StableDiffusionPipeline, path: Path, columns: int = 6, steps: int = STEPS) -> None:
    """Three rows with the demo's captions at the same seeds, then rows of held-out captions."""
    captions = [caption for caption in DEMO for _ in range(columns)]
    captions += [plain_caption(c) for c in held_out_contents(4 * columns)]
    seeds = [*list(range(columns)) * len(DEMO), *range(4 * columns)]
    save_grid(generate(pipeline, captions, seeds, steps), columns, path)


def save_grid(pictures: NDArray[np.uint8], columns: int, path: Path) -> None:
    """Pictures uint8 [N, 256, 256, 3], N a multiple of `columns`, row by row in one file."""
    rows = pictures.reshape(-1, columns, SIZE, SIZE, 3)
    Image.fromarray(np.concatenate([np.concatenate(list(row), 1) for row in rows])).save(path)
