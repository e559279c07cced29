"""What is measured of a pipeline, part by part: all parts are prepared before the first is timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from pipeline_cases import Case, Editor, cases, checked, in_turn, steps_of, timed
from pipeline_dense import DensePipeline, Words
from pipeline_model import EDITED, NEW, PROMPT

from sige_deploy.pipelines.pipeline import DiffusionPipeline
from sige_deploy.pipelines.recording import Recording
from sige_deploy.runs.codes import Storage
from sige_deploy.runs.tiers import GIGABYTE, Budget

PARTS = ("sdedit", "text", "bytes", "inpaint", "crop", "tiers")
EDITS = ("sdedit", "text", "inpaint")
STEPS = {"sdedit": 25, "inpaint": 25, "text": 50}  # that are recorded for the edits of a part
ROOM = 24 * GIGABYTE
ON_DEVICE, ON_HOST = Budget(device=ROOM), Budget(device=0, host=ROOM)
STORAGES: tuple[Storage, ...] = ("exact", "int8")
SEED = 7


class Parts:
    """A pipeline, ours and dense, and what is found of it: `document`, in JSON values.

    say: told of every result. crop: whether crop-and-stitch will be timed.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        dense: DensePipeline,
        guidance: float,
        repeats: int,
        crop: bool,
        say: Callable[[str], None],
    ) -> None:
        self.pipeline, self.dense, self.say = pipeline, dense, say
        self.guidance, self.repeats, self.crop = guidance, repeats, crop
        self.document: dict[str, Any] = {
            "distances": {},
            "records": {},
            "edits": [],
            "bytes": [],
            "tiers": [],
        }
        self._cases = cases(*pipeline.parts.size)
        self._editors: dict[int, Editor] = {}
        self._found: dict[str, list[dict[str, Any]]] = {}
        self._timed: list[tuple[Editor, Case, dict[str, Any]]] = []

    def prepare(self, part: str) -> None:
        """Check the results of a part; afterwards whatever is loaded, captured or compiled at a first use is
        so. Raises RuntimeError for wrong results."""
        if part == "tiers":
            self.prepare("text")
            with self._recorded(2, ON_HOST)[0] as recording:
                Editor(recording, self.dense).ours(self._cases["text"][0])
        if part not in EDITS or part in self._found:
            return
        steps = STEPS[part]
        if steps not in self._editors:
            self._editors[steps] = editor = Editor(self._recorded(steps, ON_DEVICE)[0], self.dense)
            self.document["distances"][f"record of {steps} steps - dense"] = generated(editor)
        editor, found = self._editors[steps], []
        for case in self._cases[part]:
            found.append(checked(editor, case))
            if self.crop and case.square:
                editor.in_crop(case, editor.words(case.kind), steps - 1)
            self.say(f"{case.kind} of {case.area:.1%}: {found[-1]}")
        self._found[part] = found

    def begin(self) -> None:
        """From now on everything is timed: recordings are made anew."""
        self.close()
        self.document["prompt_ms"] = prompt_ms(self.pipeline)

    def measure(self, part: str) -> None:
        """Add what is found of a part, which is prepared, to the document."""
        if part in EDITS:
            editor = self._editor(STEPS[part])
            for case, found in zip(self._cases[part], self._found[part]):
                entry = {**timed(editor, case, self.repeats), **found}
                self.document["edits"].append(entry)
                self._timed.append((editor, case, entry))
                self.say(line(entry))
        else:
            {"bytes": self._bytes, "crop": self._crop, "tiers": self._tiers}[part]()

    def close(self) -> None:
        """Give back the recordings."""
        for editor in self._editors.values():
            editor.recording.close()
        self._editors.clear()

    # ---- parts ---------------------------------------------------------------------------------------------

    def _bytes(self) -> None:
        """Caches of one step of the UNet and of one call of each half of the VAE, in every place."""
        places = [
            ("device", Budget(device=ROOM)),
            *((f"host, {storage}", Budget(device=0, host=ROOM, storage=storage)) for storage in STORAGES),
            ("disk", Budget(device=0, host=0, disk=ROOM)),
        ]
        for place, budget in places:
            recording, found = self._recorded(1, budget)
            recording.close()
            self.document["bytes"].append({"place": place, "bytes": found["bytes"]})
            self.say(f"bytes: {self.document['bytes'][-1]}")

    def _crop(self) -> None:
        for editor, case, entry in self._timed:
            if case.square:
                words, start = editor.words(case.kind), len(editor.scheduler.timesteps) - entry["steps"]
                ways = {"crop": lambda e=editor, c=case, w=words, s=start: e.in_crop(c, w, s)}
                ways["crop"]()
                entry["crop_ms"] = in_turn(ways, self.repeats, {})["crop"]
                self.say(line(entry))

    def _tiers(self) -> None:
        for tier, budget in (("device", ON_DEVICE), ("host", ON_HOST)):
            editor = self._editor(STEPS["text"], tier, budget)
            for case in self._cases["text"][:2]:
                self.document["tiers"].append({"tier": tier, **steps_of(editor, case, self.repeats)})
                self.say(tier_line(self.document["tiers"][-1]))

    # ---- recordings ----------------------------------------------------------------------------------------

    def _editor(self, steps: int, tier: str = "device", budget: Budget = ON_DEVICE) -> Editor:
        """Of a recording, whose time and bytes are noted; of those on the host there is one at a time."""
        if tier != "device":
            self.close()
        elif steps in self._editors:
            return self._editors[steps]
        recording, found = self._recorded(steps, budget)
        self.document["records"][f"{tier}, {steps} steps"] = found
        self.say(f"recorded: {tier}, {steps} steps: {found}")
        self._editors[steps] = Editor(recording, self.dense)
        return self._editors[steps]

    def _recorded(self, steps: int, budget: Budget) -> tuple[Recording, dict[str, Any]]:
        """A recording, and what it took: seconds, and bytes of the caches by tier."""
        start = time.perf_counter()
        recording = self.pipeline.record(
            PROMPT, steps=steps, scheduler="ddim", seed=SEED, guidance=self.guidance, budget=budget
        )
        seconds = time.perf_counter() - start
        tiers: dict[str, dict[str, int]] = {}
        for name, track in recording.run.tracks.items():
            for step in range(len(track)):
                slot = track.slot(step)
                found = tiers.setdefault(slot.tier, {})
                found[name] = found.get(name, 0) + slot.nbytes
        return recording, {"seconds": seconds, "bytes": tiers}


@torch.no_grad()
def generated(editor: Editor) -> float:
    """Distance of the recorded latents from the dense pipeline's of the same noise, over their size."""
    dense, latents = editor.dense, editor.recorded.latents
    text = editor.recording.parts.condition(PROMPT, "")["text"]
    words = Words(dense.placed(text), editor.words("text").guidance)
    everywhere = torch.ones(latents.shape[-2:], dtype=torch.bool, device=dense.device)
    z = dense.denoise(latents[0], 0, words, editor.scheduler, everywhere, latents)
    return float((z - latents[-1]).square().mean().sqrt() / z.square().mean().sqrt())


def prompt_ms(pipeline: DiffusionPipeline) -> float:
    """Of encoding a prompt that was not seen before; the text encoder is loaded."""
    pipeline.parts.condition(EDITED, "")
    start = time.perf_counter()
    pipeline.parts.condition(NEW, "")
    return (time.perf_counter() - start) * 1e3


COLUMNS = "kind area steps active edit dense ratio crop unet warm-up enc dec rest dB missed".split()


def line(case: dict[str, Any]) -> str:
    """A row of the table; times in ms."""
    rest = case["edit_ms"] - sum(case[f"{part}_ms"] for part in ("unet", "warmup", "encoder", "decoder"))
    values = [case["kind"], f"{case['area']:.1%}", f"{case['steps']}", f"{case['active_fraction']:.1%}"]
    values += [f"{case['edit_ms']:.1f}", f"{case['dense_ms']:.1f}", f"{case['ratio']:.2f}"]
    values += [f"{case['crop_ms']:.1f}" if "crop_ms" in case else "-"]
    values += [f"{case[f'{part}_ms']:.1f}" for part in ("unet", "warmup", "encoder", "decoder")]
    values += [f"{rest:.1f}", f"{case['psnr']:.1f}", f"{case['change_missed']:.3f}"]
    return row(values)


def row(values: list[str]) -> str:
    return " ".join(f"{value:>7}" for value in values)


def tier_line(case: dict[str, Any]) -> str:
    return (
        f"{case['tier']:>6}: {case['kind']} of {case['area']:.1%}: {case['edit_ms']:.1f} ms, a step "
        f"{case['step_ms']:.2f} ms ({case['unet_ms_per_step']:.2f} in the UNet), reads "
        f"{case['read_bytes_per_step'] / 1e6:.0f} MB a step, loads {case['load_bytes_per_s']}"
    )
