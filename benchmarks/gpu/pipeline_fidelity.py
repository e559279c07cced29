"""How near edits of the trained scenes model are to the same edits with the whole networks in every step: our
sparse ones, and crop-and-stitch, the usual way to spend less on a part of a picture."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import mean
from typing import Any

import numpy as np
from pipeline_cases import Case, Editor
from pipeline_dense import DensePipeline
from pipeline_model import PROMPT

from sige_deploy.pipelines.edit import Edit
from sige_deploy.pipelines.pipeline import DiffusionPipeline
from sige_deploy.pipelines.recording import Recording
from sige_deploy.runs.tiers import Budget
from sige_deploy.scenes.captions import understand
from sige_deploy.scenes.edit import GROW, KEEP, WARMUP
from sige_deploy.scenes.evaluation import DEMO
from sige_deploy.scenes.measures import check, look, psnr
from sige_deploy.scenes.networks import READER
from sige_deploy.scenes.reader import Reader, load_reader

STEPS, STRENGTH = 20, 0.8
BLUE, TREE = DEMO[1], f"{PROMPT} with a tree"
LEAF, TRUNK = (70, 140, 60), (100, 70, 50)
WAYS = ("edit", "dense", "crop")


def fidelity(
    pipeline: DiffusionPipeline, dense: DensePipeline, seeds: Iterable[int], guidance: float
) -> list[dict[str, Any]]:
    """One entry for each seed and edit. area: of the picture. <way>_psnr: dB inside the mask against dense,
    peak 255. <way>_right: whether the picture shows what the words say, as the model's reader sees it."""
    reader, found = load_reader(READER), []
    for seed in seeds:
        with pipeline.record(
            PROMPT, steps=STEPS, scheduler="ddim", seed=seed, guidance=guidance, budget=Budget(device=1 << 40)
        ) as recording:
            editor = Editor(recording, dense)
            for what, prompt, edit, pictures in edits(editor, reader):
                entry = {"seed": seed, "edit": what, "area": float(edit.mask.mean())}
                for way in ("edit", "crop"):
                    entry[f"{way}_psnr"] = psnr(pictures[way], pictures["dense"], edit.mask)
                for way, seen in zip(WAYS, look(reader, [pictures[way] for way in WAYS])):
                    entry[f"{way}_right"] = all(check(pictures[way], seen, understand(prompt)).values())
                found.append(entry)
                print(entry, flush=True)
    return found


def edits(editor: Editor, reader: Reader) -> Iterable[tuple[str, str, Edit, dict[str, np.ndarray]]]:
    """(what, prompt, our edit, pictures by way): another colour in the region found for the words; a painted
    tree; a tree out of nothing in the same place."""
    recording = editor.recording
    draft = recording.draft(BLUE, warmup=WARMUP, keep=KEEP[0])
    edit = recording.text_edit(draft=draft, grow=GROW)
    words, case = editor.words("text", BLUE), Case("text", "found", edit.mask)
    latents = editor.dense.placed(edit.latents[editor.start_of(edit)])
    pictures = {
        "edit": edit.picture,
        "dense": editor.in_dense(case, words, editor.start_of(edit), latents)[0],
        "crop": editor.in_crop(case, words, draft.first),
    }
    yield "another colour", BLUE, edit, pictures

    painted, mask = with_tree(recording, reader)
    for kind in ("sdedit", "inpaint"):
        case, words = Case(kind, "square", mask, painted), editor.words(kind, TREE)
        edit = editor.ours(case, prompt=TREE)
        start = editor.start_of(edit)
        pictures = {
            "edit": edit.picture,
            "dense": editor.in_dense(case, words, start)[0],
            "crop": editor.in_crop(case, words, start),
        }
        yield "a painted tree" if kind == "sdedit" else "a tree in a hole", TREE, edit, pictures


def with_tree(recording: Recording, reader: Reader) -> tuple[np.ndarray, np.ndarray]:
    """(the recorded picture with a coarse tree beside the house, the box around it as a mask)."""
    picture = recording.picture
    middle = look(reader, [picture])[0].middle("house")
    height, width = picture.shape[:2]
    x, y = width * (0.2 if middle is not None and middle > 0.5 else 0.8), height * 0.5
    rows, columns = np.mgrid[:height, :width]
    picture[(abs(columns - x) < 0.015 * width) & (rows > y) & (rows < y + 0.2 * height)] = TRUNK
    crown = ((columns - x) / (0.08 * width)) ** 2 + ((rows - y) / (0.12 * height)) ** 2 < 1
    picture[crown] = LEAF
    mask = (abs(columns - x) < 0.12 * width) & (rows > y - 0.16 * height) & (rows < y + 0.23 * height)
    return picture, mask


def summary(found: list[dict[str, Any]]) -> str:
    """A table of means by edit."""
    lines = ["| edit | area | sparse, dB | crop, dB | right: dense | sparse | crop |", "|" + " --- |" * 7]
    for what in dict.fromkeys(entry["edit"] for entry in found):
        rows = [entry for entry in found if entry["edit"] == what]
        values = [f"{mean(row['area'] for row in rows):.1%}"]
        values += [f"{mean(row[f'{way}_psnr'] for row in rows):.1f}" for way in ("edit", "crop")]
        values += [
            f"{sum(row[f'{way}_right'] for row in rows)}/{len(rows)}" for way in ("dense", "edit", "crop")
        ]
        lines.append(f"| {what} | {' | '.join(values)} |")
    return "\n".join(lines)
