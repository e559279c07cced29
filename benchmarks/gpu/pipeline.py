"""Diffusion pipelines end to end on a GPU: recorded and edited by this package, dense, by crop-and-stitch.

    PYTHONPATH=build/tree python benchmarks/gpu/pipeline.py --out build/bench_gpu
    PYTHONPATH=build/tree python benchmarks/gpu/pipeline.py --network tiny --device cpu --out build/bench_gpu

`sd15` has the shapes of Stable Diffusion 1.5 at 512 x 512 and random weights, written on the spot; `tiny` is
to try the program. Dense is the same networks whole in every step, torch.compile(mode="reduce-overhead"),
float16, channels last, with diffusers' scheduler on the GPU. A time is that of the whole call, from pictures
and masks on the host to the picture on the host; prompts were encoded before. Every result is checked before
it is timed. Of `scenes`, the trained model of examples/scenes, the fidelity is measured and no time; on a CPU
that takes minutes.
Writes OUT/pipeline_<network>.json. What --folder holds of an earlier call is used again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from pipeline_cases import Editor, cases, steps_of, timed
from pipeline_dense import DensePipeline, Words
from pipeline_model import EDITED, MODELS, PROMPT, export_seconds, exported, source_of

from sige_deploy.bench import machine, versions
from sige_deploy.pipelines.pipeline import DiffusionPipeline, open_pipeline
from sige_deploy.pipelines.recording import Recording
from sige_deploy.runs.tiers import GIGABYTE, Budget

SHORT, LONG = 25, 50  # steps that are recorded
ROOM = 24 * GIGABYTE
SEED = 7


def opened(options: argparse.Namespace) -> tuple[DiffusionPipeline, DensePipeline, dict[str, Any]]:
    """(ours, dense, seconds that making them took); the export runs while dense is compiled."""
    gpu = options.device != "cpu"
    start = time.perf_counter()
    source, written = source_of(options.network, options.folder, options.device)
    path = options.folder / f"{options.network}.{options.precision}.pipeline"
    export = exported(source, path, options.precision)
    try:
        begun = time.perf_counter()
        dtype = torch.float16 if options.precision == "float16" else torch.float32
        dense = DensePipeline(source, options.device, dtype, compiled=gpu)
        size = sizes(source)
        dense.warm(*size)
        compiled = time.perf_counter() - begun
        print(f"dense ready after {compiled:.0f} s", flush=True)
    finally:
        if export is not None:
            export.join()
    if export is not None and export.exitcode:
        raise RuntimeError("the export failed")
    parts = export_seconds(path)
    print(f"exported: {parts or 'before'}", flush=True)
    begun = time.perf_counter()
    pipeline = open_pipeline(path, options.device)
    spent = {
        "write_s": written, "compile_s": compiled, "export_s": parts,
        "open_s": time.perf_counter() - begun, "ready_s": time.perf_counter() - start,
    }  # fmt: skip
    return pipeline, dense, spent


def sizes(source: Path) -> tuple[int, int, int]:
    """(height, width, tokens) of a diffusers folder."""
    unet, vae, text = (
        json.loads((source / part / "config.json").read_text()) for part in ("unet", "vae", "text_encoder")
    )
    side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    return side, side, text["max_position_embeddings"]


def recorded(
    pipeline: DiffusionPipeline, steps: int, guidance: float, budget: Budget
) -> tuple[Recording, dict[str, Any]]:
    """A recording, and what it took: seconds, and bytes of the caches by tier."""
    start = time.perf_counter()
    recording = pipeline.record(
        PROMPT, steps=steps, scheduler="ddim", seed=SEED, guidance=guidance, budget=budget
    )
    seconds = time.perf_counter() - start
    tiers: dict[str, dict[str, int]] = {}
    for name, track in recording.run.tracks.items():
        for step in range(len(track)):
            slot = track.slot(step)
            found = tiers.setdefault(slot.tier, {})
            found[name] = found.get(name, 0) + slot.nbytes
    count = len(recording.run.tracks["unet"])
    return recording, {"steps": count, "seconds": seconds, "bytes": tiers, "free_bytes": free_bytes()}


def free_bytes() -> int | None:
    """Of the GPU."""
    return torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else None


@torch.no_grad()
def generated(recording: Recording, dense: DensePipeline) -> dict[str, float]:
    """Distance of the recorded latents from the dense pipeline's of the same noise, over their size."""
    editor = Editor(recording, dense)
    words = Words(dense.placed(recording.parts.condition(PROMPT, "")["text"]), editor.words("text").guidance)
    latents = editor.recorded.latents
    everywhere = torch.ones(latents.shape[-2:], dtype=torch.bool, device=dense.device)
    z = dense.denoise(latents[0], 0, words, editor.scheduler, everywhere, latents)
    return {"record - dense": float((z - latents[-1]).square().mean().sqrt() / z.square().mean().sqrt())}


def prompt_ms(pipeline: DiffusionPipeline) -> float:
    """Of encoding a prompt that was not seen before, once the text encoder is loaded."""
    pipeline.parts.condition(PROMPT, "")
    start = time.perf_counter()
    pipeline.parts.condition(EDITED, "")
    return (time.perf_counter() - start) * 1e3


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """The document."""
    pipeline, dense, document = opened(options)
    guidance, repeats = MODELS[options.network].guidance, options.repeats
    document["prompt_ms"] = prompt_ms(pipeline)
    document["free_bytes"] = free_bytes()
    short, long = cases(*pipeline.parts.size)
    device, host = Budget(device=ROOM), Budget(device=0, host=ROOM)
    recorded(pipeline, 2, guidance, device)[0].close()  # whatever is loaded at the first use
    document["records"], document["edits"], document["tiers"] = {}, [], []

    recording, document["records"]["device, short"] = recorded(pipeline, SHORT, guidance, device)
    with recording:
        document["distances"] = generated(recording, dense)
        print(f"recorded; {document['distances']}", flush=True)
        editor = Editor(recording, dense)
        for case in short:
            document["edits"].append(timed(editor, case, repeats))
            print(line(document["edits"][-1]), flush=True)
    recording, document["records"]["device"] = recorded(pipeline, LONG, guidance, device)
    with recording:
        editor = Editor(recording, dense)
        for case in long:
            document["edits"].append(timed(editor, case, repeats))
            print(line(document["edits"][-1]), flush=True)
        document["tiers"] += [{"tier": "device", **steps_of(editor, case, repeats)} for case in long[:2]]
    recording, document["records"]["host"] = recorded(pipeline, LONG, guidance, host)
    with recording:
        editor = Editor(recording, dense)
        document["tiers"] += [{"tier": "host", **steps_of(editor, case, repeats)} for case in long[:2]]
    return document


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


def show(document: dict[str, Any]) -> None:
    """Print what was measured."""
    print(f"{document['network']} on {document['gpu']}: {json.dumps(document['records'])}")
    print(f"a new prompt {document['prompt_ms']:.0f} ms; {document['distances']}")
    print("\n".join([row(COLUMNS), *map(line, document["edits"])]))
    for case in document["tiers"]:
        print(
            f"{case['tier']:>6}: {case['kind']} of {case['area']:.1%}: {case['edit_ms']:.1f} ms, a step "
            f"{case['step_ms']:.2f} ms ({case['unet_ms_per_step']:.2f} in the UNet), reads "
            f"{case['read_bytes_per_step'] / 1e6:.0f} MB a step, loads {case['load_bytes_per_s']}"
        )


def compared(options: argparse.Namespace) -> dict[str, Any]:
    """The document of a trained model."""
    from pipeline_fidelity import fidelity

    pipeline, dense, _ = opened(options)
    return {"fidelity": fidelity(pipeline, dense, range(options.seeds), MODELS[options.network].guidance)}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=MODELS, default="sd15")
    parser.add_argument("--out", type=Path, required=True, help="folder of the .json file")
    parser.add_argument("--folder", type=Path, help="of weights and exports; OUT/pipelines by default")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each way")
    parser.add_argument("--seeds", type=int, default=4, help="of the fidelity of scenes")
    options = parser.parse_args()
    options.folder = options.folder or options.out / "pipelines"
    options.precision = "as_given" if options.device == "cpu" else "float16"
    return options


def main() -> int:
    options = parse()
    options.folder.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device != "cpu":
        torch.cuda.set_device(options.device)
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(SEED)
    gpu = torch.cuda.get_device_name() if options.device != "cpu" else None
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "command": sys.argv,
        "network": options.network,
        "gpu": gpu,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": machine(),
        "versions": versions(),
        "repeats": options.repeats,
        **(compared(options) if MODELS[options.network].trained else measured(options)),
    }
    name = f"pipeline_{options.network}.json"
    (options.out / name).write_text(json.dumps(document, indent=1) + "\n")
    if "fidelity" in document:
        from pipeline_fidelity import summary

        print(summary(document["fidelity"]))
        return 0
    show(document)
    far = [case for case in document["edits"] if not case["near"]]
    print(f"far from dense: {len(far)} of {len(document['edits'])}" if far else "all near dense")
    return 1 if far else 0


if __name__ == "__main__":
    sys.exit(main())
