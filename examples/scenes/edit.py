"""Edit a picture by words, twice: `python examples/scenes/edit.py --out build/edit` (a minute on a CPU).

Exports the scenes model, records "a red house by a lake", makes the house blue in the region that is found
for these words, commits, and adds a tree in another. Each edit is also made dense, with the same region, to
compare. Writes edit.png and edit.json into --out, and the exported pipeline, which the next call uses again.
--seeds N tells for the first N seeds how often the edits come out as the words say.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

if not __package__:  # run as a script: let the relative imports find their package
    sys.path.append(str(Path(__file__).resolve().parents[2]))
    __package__ = "examples.scenes"

from sige_deploy import picture
from sige_deploy.errors import SigeError
from sige_deploy.exporters.diffusers import export_diffusers
from sige_deploy.pipeline_folder import read_pipeline
from sige_deploy.pipelines.edit import Draft, Edit
from sige_deploy.pipelines.parts import Denoiser
from sige_deploy.pipelines.pictures import composite, feathered, from_network, to_latents, to_pixels
from sige_deploy.pipelines.pipeline import DiffusionPipeline, open_pipeline
from sige_deploy.pipelines.progress import Step
from sige_deploy.pipelines.recording import FEATHER, Recording

from .captions import understand
from .evaluation import DEMO, GUIDANCE
from .measures import EditMeasures, measure_edit, psnr
from .networks import MODEL, READER
from .reader import Reader, load_reader

SEED, STEPS = 1, 20
KEEP = (0.3, 0.2)  # share of the steps left as recorded: a new colour needs fewer than a new tree
WARMUP, GROW = 0.2, 2
COLUMNS = ["before", "where the words differ", "region", "edited", "dense", f"difference x {picture.GAIN}"]

Pixels = np.ndarray
Say = Callable[[str], None]


@dataclass(frozen=True)
class Round:
    """One edit. Pictures uint8 [256, 256, 3]; mask bool [256, 256]; difference float [64, 64].

    dense: the picture that the same edit gives when every step runs the whole network. sparse_ms, dense_ms:
    median of a step of the UNet. fraction: share of the network's work. psnr: dB of `after` against `dense`
    in the mask.
    """

    before: Pixels
    after: Pixels
    dense: Pixels
    mask: np.ndarray
    difference: np.ndarray
    prompt: str
    measures: EditMeasures
    sparse_ms: float
    dense_ms: float
    steps: int
    fraction: float
    psnr: float

    @property
    def right(self) -> bool:
        """Whether the picture shows what the words say, and the house where it was."""
        return all(self.measures.checks.values()) and self.measures.kept > 0.5

    def numbers(self) -> dict[str, Any]:
        outside = self.measures.psnr_outside
        return {
            "prompt": self.prompt, "right": self.right, "checks": self.measures.checks,
            "kept": self.measures.kept, "mask_overlap": self.measures.mask_overlap,
            "psnr_outside": "infinite" if np.isinf(outside) else outside,
            "region": float(self.mask.mean()), "work": self.fraction, "sparse_steps": self.steps,
            "sparse_ms_per_step": self.sparse_ms, "dense_ms_per_step": self.dense_ms,
            "psnr_to_dense_in_region": self.psnr,
        }  # fmt: skip


def open_scenes(folder: Path, threads: int | None = None, device: str = "cpu") -> DiffusionPipeline:
    """The scenes model as a pipeline, exported to the folder unless it is there already."""
    try:
        read_pipeline(folder)
    except SigeError:
        export_diffusers(MODEL, folder)
    return open_pipeline(folder, device, threads=threads)


def two_rounds(
    pipeline: DiffusionPipeline,
    reader: Reader,
    seed: int = SEED,
    steps: int = STEPS,
    say: Say = lambda text: None,
) -> tuple[Round, Round]:
    """Record the first caption of DEMO; edit it to the second, commit, and edit that to the third."""
    say(f"record {DEMO[0]!r}, seed {seed}, {steps} steps")
    with pipeline.record(DEMO[0], seed=seed, steps=steps, guidance=GUIDANCE) as recording:
        rounds = []
        for prompt, keep in zip(DEMO[1:], KEEP):
            say(f"edit to {prompt!r}")
            draft = recording.draft(prompt, warmup=WARMUP, keep=keep)
            times: list[Step] = []
            edit = recording.text_edit(draft=draft, grow=GROW, on_step=times.append)
            rounds.append(_measured(recording, draft, edit, times, reader))
            edit.commit()
    return rounds[0], rounds[1]


def dense_edit(recording: Recording, draft: Draft, edit: Edit) -> tuple[Pixels, list[float]]:
    """(the edit's picture with the whole network in every step and in the decoder, milliseconds of each)."""
    parts, sampler = recording.parts, recording.sampler
    denoiser, recorded = Denoiser(parts), recording.run.tensors["latents"]
    text = denoiser.placed(parts.condition(draft.prompt, ""))
    latents = to_latents(edit.mask, parts.factor)
    start, walk = draft.first + draft.steps, draft.walk.copied()
    z, times = np.where(latents, draft.latents[-1], recorded[start]), []
    for step in range(start, sampler.steps):
        sample = walk.scaled(z, step)[None].repeat(parts.batch, 0)
        timestep = np.full(1, sampler.timesteps[step], np.float32)
        outputs = parts.unet.dense(sample=sample, timestep=timestep, **text)
        times.append(parts.unet.report.milliseconds)
        prediction = denoiser.prediction(outputs, draft.guidance)
        z = np.where(latents, walk.next(prediction, z, step), recorded[step + 1])
    made = from_network(next(iter(parts.decoder.dense(latents=z[None]).values())))
    return composite(recording.picture, made, feathered(edit.mask, FEATHER)), times


def draw(rounds: tuple[Round, Round], path: Path) -> None:
    """A panel of both rounds."""
    rows = []
    for number, one in enumerate(rounds, start=1):
        low, span = one.difference.min(), np.ptp(one.difference)
        grey = to_pixels(
            ((one.difference - low) / span * 255).astype(np.uint8), len(one.mask) // len(one.difference)
        )
        caption = (
            f"{number}. {DEMO[number - 1]} > {one.prompt} | {100 * one.mask.mean():.1f} % of the picture, "
            f"{100 * one.fraction:.1f} % of the work; a step {one.sparse_ms:.0f} ms instead of "
            f"{one.dense_ms:.0f} ms; {one.psnr:.0f} dB to dense in the region"
        )
        cells = [
            one.before, grey[..., None].repeat(3, 2), picture.outlined(one.before, one.mask), one.after,
            one.dense, picture.difference(one.after, one.dense),
        ]  # fmt: skip
        rows.append(picture.Row(caption, cells))
    picture.write_panel(path, COLUMNS, rows)


def _measured(recording: Recording, draft: Draft, edit: Edit, steps: list[Step], reader: Reader) -> Round:
    before = recording.picture
    dense, times = dense_edit(recording, draft, edit)
    contents = understand(recording.prompt), understand(draft.prompt)
    return Round(
        before, edit.picture, dense, edit.mask, draft.difference, draft.prompt,
        measure_edit(reader, before, edit.picture, edit.mask, contents),
        median(step.milliseconds for step in steps if step.what == "edit"), median(times),
        edit.totals.steps, edit.totals.fraction, psnr(edit.picture, dense, edit.mask),
    )  # fmt: skip


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--seeds", type=int, help="try this many seeds from 0, and count")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--threads", type=int, help="CPU threads; by default, all")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    options = arguments(words)
    options.out.mkdir(parents=True, exist_ok=True)
    reader = load_reader(READER)
    seeds = [options.seed] if options.seeds is None else range(options.seeds)
    found = {}
    with open_scenes(options.out / "scenes.pipeline", options.threads, options.device) as pipeline:
        for seed in seeds:
            rounds = two_rounds(pipeline, reader, seed, options.steps, lambda text: print(text, flush=True))
            found[seed] = [one.numbers() for one in rounds]
            print(json.dumps(found[seed], indent=2), flush=True)
            draw(rounds, options.out / ("edit.png" if options.seeds is None else f"edit-{seed}.png"))
    counts = [sum(numbers[i]["right"] for numbers in found.values()) for i in range(2)]
    (options.out / "edit.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"right: {counts[0]} of {len(found)} colours, {counts[1]} of {len(found)} trees")


if __name__ == "__main__":
    main()
