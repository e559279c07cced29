"""What fewer bits cost an edit of the scenes model, in decibels, and what they save.

    python benchmarks/runs/storage.py --out benchmarks/results/run_storage.json    # a few minutes on a CPU

"a red house by a lake" becomes blue in the region that is found for these words. Of single calls,
`storage_costs` compares the recomputed pixels with those of an edit on exact states; of the whole edit, its
picture is compared in the mask with that of exact states, and with the picture of the original network.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from scenes_run import decibels, parser_of

from sige_deploy.bench import machine, versions
from sige_deploy.pipelines.edit import Draft
from sige_deploy.pipelines.pictures import to_latents
from sige_deploy.pipelines.pipeline import DiffusionPipeline
from sige_deploy.pipelines.recording import Recording
from sige_deploy.runs.cost import storage_costs
from sige_deploy.runs.tiers import Budget
from sige_deploy.scenes.edit import GROW, KEEP, SEED, STEPS, WARMUP, dense_edit, open_scenes
from sige_deploy.scenes.evaluation import DEMO, GUIDANCE
from sige_deploy.scenes.measures import psnr

STORAGES = ("exact", "float16", "int8")
ROOM = 1 << 40


def record(pipeline: DiffusionPipeline, storage: str) -> Recording:
    budget = Budget(device=0, host=ROOM, storage=storage)  # type: ignore[arg-type]
    return pipeline.record(DEMO[0], steps=STEPS, seed=SEED, guidance=GUIDANCE, budget=budget)


def drafted(recording: Recording) -> Draft:
    return recording.draft(DEMO[1], warmup=WARMUP, keep=KEEP[0])


def of_calls(pipeline: DiffusionPipeline) -> list[dict[str, Any]]:
    """Single calls of the UNet at three steps of the edit, and one of the decoder."""
    parts = pipeline.parts
    rows = []
    with record(pipeline, "exact") as recording:
        draft = drafted(recording)
        edit = recording.text_edit(draft=draft, grow=GROW)
        latents = to_latents(edit.mask, parts.factor)
        text = parts.condition(DEMO[1], "")
        start = draft.first + draft.steps
        calls: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = []
        for step in (start, (start + STEPS) // 2, STEPS - 1):
            recorded = recording.run.tracks["unet"].inputs(step)
            scaled = recording.sampler.begin(step).scaled(edit.latents[step], step)
            sample = scaled[None].repeat(parts.batch, axis=0)
            calls.append(
                (f"unet, step {step + 1} of {STEPS}", recorded, recorded | text | {"sample": sample})
            )
        recorded = recording.run.tracks["vae_decoder"].inputs(0)
        calls.append(("vae_decoder", recorded, {"latents": edit.latents[-1][None]}))
    for name, before, after in calls:
        session = parts.sessions[name.split(",")[0]]
        costs = storage_costs(session, before, after, latents)
        rows.append(
            {
                "call": name,
                "share": float(latents.mean()),
                **{s: {"db": decibels(c.psnr), "bytes": c.nbytes} for s, c in costs.items()},
            }
        )
    return rows


def of_edits(pipeline: DiffusionPipeline) -> list[dict[str, Any]]:
    """The whole edit, on a run kept in each way."""
    rows: list[dict[str, Any]] = []
    pictures: dict[str, np.ndarray] = {}
    for storage in STORAGES:
        with record(pipeline, storage) as recording:
            draft = drafted(recording)
            edit = recording.text_edit(draft=draft, grow=GROW)
            pictures[storage] = edit.picture
            dense = dense_edit(recording, draft, edit)[0]
            tracks = recording.run.tracks.values()
            rows.append(
                {
                    "storage": storage,
                    "to_exact_db": decibels(psnr(edit.picture, pictures["exact"], edit.mask)),
                    "to_dense_db": decibels(psnr(edit.picture, dense, edit.mask)),
                    "run_bytes": sum(track.slot(s).nbytes for track in tracks for s in range(len(track))),
                    "share": float(edit.mask.mean()),
                }
            )
    return rows


def main() -> None:
    parser = parser_of(__doc__)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        open_scenes(Path(folder) / "scenes.pipeline", options.threads, options.device) as pipeline,
    ):
        edits = of_edits(pipeline)
        content = {
            "prompt": DEMO[1], "steps": STEPS, "seed": SEED, "edits": edits, "calls": of_calls(pipeline),
            "device": options.device, "machine": machine(), "versions": versions(),
            "date": date.today().isoformat(),
        }  # fmt: skip
    print(json.dumps(content, indent=1))
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
