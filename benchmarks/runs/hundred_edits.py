"""A hundred edits in one session, each committed: memory, and the distance to a fresh record.

    python benchmarks/runs/hundred_edits.py --out benchmarks/results/hundred_edits.json    # minutes on a CPU

The scenes model records "a red house by a lake". Then strokes, inpainting and text edits take turns in
squares at random places; every one is checked to leave the pixels outside of it as they are. At some counts
of edits everything is recorded anew from its inputs, and compared with the states that commits wrote to.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import tempfile
import time
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scenes_run import decibels, parser_of

from sige_deploy.bench import machine, versions
from sige_deploy.errors import RuntimeFailure
from sige_deploy.pipelines.edit import Edit
from sige_deploy.pipelines.recording import Recording
from sige_deploy.scenes.edit import open_scenes
from sige_deploy.scenes.evaluation import DEMO, GUIDANCE

PROMPTS = (*DEMO, "a yellow house by a lake", "a red house by a lake at sunset")


def square(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """A mask of a twentieth to a tenth of the picture."""
    side = int(rng.integers(56, 82)) * min(height, width) // 256
    y, x = rng.integers(0, height - side), rng.integers(0, width - side)
    mask = np.zeros((height, width), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def edited(recording: Recording, turn: int, rng: np.random.Generator) -> Edit:
    mask = square(rng, *recording.parts.size)
    if turn % 3 == 0:
        painted = recording.picture
        painted[mask] = painted[mask] // 2 + rng.integers(0, 128, 3).astype(np.uint8)
        return recording.sdedit(painted, mask, strength=0.6)
    prompt = PROMPTS[turn % len(PROMPTS)]
    if turn % 3 == 1:
        return recording.inpaint(mask, prompt, seed=turn)
    return recording.text_edit(prompt, mask, keep=0.2)


def resident() -> int:
    """Bytes of this process in memory, after what is free was given back."""
    gc.collect()
    with contextlib.suppress(AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    raise RuntimeFailure("this system does not tell how much memory a process has.")


def at(turn: int, recording: Recording) -> dict[str, Any]:
    memory = resident()
    found = recording.drift()
    return {
        "edits": turn,
        "resident_bytes": memory,
        "drift_db": {
            name: {"outputs": decibels(one.outputs), "states": decibels(one.caches)}
            for name, one in found.items()
        },
    }


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--edits", type=int, default=100)
    parser.add_argument("--every", type=int, default=20, help="edits between two measurements")
    parser.add_argument("--steps", type=int, default=20)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    rows, edits, commits, shares = [], [], [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        open_scenes(Path(folder) / "scenes.pipeline", options.threads, options.device) as pipeline,
        pipeline.record(DEMO[0], steps=options.steps, seed=1, guidance=GUIDANCE) as recording,
    ):
        for turn in range(options.edits + 1):
            if turn % options.every == 0:
                rows.append(at(turn, recording))
                print(json.dumps(rows[-1]), flush=True)
            if turn == options.edits:
                break
            before, started = recording.picture, time.perf_counter()
            edit = edited(recording, turn, rng)
            done = time.perf_counter()
            edit.commit()
            edits.append((done - started) * 1e3)
            commits.append((time.perf_counter() - done) * 1e3)
            shares.append(float(edit.mask.mean()))
            if (edit.picture != before)[~edit.mask].any():
                raise SystemExit(f"Edit {turn} changed pixels outside of its mask.")
        states = sum(slot.nbytes for track in recording.run.tracks.values() for slot in track.slots if slot)
        content = {
            "edits": options.edits, "steps": options.steps, "threads": options.threads,
            "device": options.device, "undo": recording.run.budget.undo, "state_bytes": states,
            "mask_share": median(shares), "edit_ms": median(edits), "commit_ms": median(commits),
            "after": rows, "machine": machine(), "versions": versions(), "date": date.today().isoformat(),
        }  # fmt: skip
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
