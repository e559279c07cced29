"""Diffusion pipelines end to end on a GPU: recorded and edited by this package, dense, by crop-and-stitch.

    PYTHONPATH=build/tree python benchmarks/gpu/pipeline.py --out build/bench_gpu
    PYTHONPATH=build/tree python benchmarks/gpu/pipeline.py --network tiny --device cpu --out build/bench_gpu

`sd15` has the shapes of Stable Diffusion 1.5 at 512 x 512 and random weights, written on the spot; `tiny` is
to try the program. Dense is the same networks whole in every step, torch.compile(mode="reduce-overhead"),
float16, channels last, with diffusers' scheduler on the GPU. A time is that of the whole call, from pictures
and masks on the host to the picture on the host; prompts were encoded before. Of `scenes`, the trained model
of examples/scenes, the fidelity is measured and no time; on a CPU that takes minutes.

Everything is exported, compiled, checked and run once before anything is timed; network.py --pipeline does
that beside its networks. OUT/pipeline_<network>.json is written after every part, and a part that fails does
not keep the others from being measured. What --folder holds of an earlier call is used again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pipeline_cases import WARM
from pipeline_dense import DensePipeline
from pipeline_model import MODELS, PROMPT, export_seconds, exported, source_of
from pipeline_parts import COLUMNS, EDITS, PARTS, SEED, Parts, line, row, tier_line
from turns import Turn

from sige_deploy.bench import machine, versions
from sige_deploy.pipelines.pipeline import DiffusionPipeline, open_pipeline

BEGUN = time.perf_counter()


def say(text: str) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.perf_counter() - BEGUN:5.0f} s] {text}", flush=True)


def opened(options: argparse.Namespace, turn: Turn) -> tuple[DiffusionPipeline, DensePipeline]:
    """(ours, dense; compiled and warm); the export runs while dense is compiled."""
    source, written = source_of(options.network, options.folder, options.device)
    say(f"weights written in {written:.0f} s")
    path = options.folder / f"{options.network}.{options.precision}.pipeline"
    export = exported(source, path, options.precision)
    try:
        dtype = torch.float16 if options.precision == "float16" else torch.float32
        dense = DensePipeline(source, options.device, dtype)
        with turn.tuning():  # cuDNN tries its kernels; what is compiled takes those found here
            dense.warm(*sizes(source))
        if options.device != "cpu":
            dense.compile()
            for _ in range(WARM):
                dense.warm(*sizes(source))
        say("dense is ready")
    finally:
        if export is not None:
            export.join()
    if export is not None and export.exitcode:
        raise RuntimeError("the export failed")
    say(f"exported: {export_seconds(path) or 'before'}")
    pipeline = open_pipeline(path, options.device)
    with turn.tuning():  # ONNX Runtime tries cuDNN's kernels
        pipeline.record(PROMPT, steps=2, scheduler="ddim").close()
    say("opened")
    return pipeline, dense


def sizes(source: Path) -> tuple[int, int, int]:
    """(height, width, tokens) of a diffusers folder."""
    unet, vae, text = (
        json.loads((source / part / "config.json").read_text()) for part in ("unet", "vae", "text_encoder")
    )
    side = unet["sample_size"] * 2 ** (len(vae["block_out_channels"]) - 1)
    return side, side, text["max_position_embeddings"]


def timed(options: argparse.Namespace, turn: Turn, write: Callable[[dict[str, Any]], None]) -> int:
    """Measure all parts of a pipeline; `write` gets what is found after each. Returns the exit status."""
    pipeline, dense = opened(options, turn)
    guidance = MODELS[options.network].guidance
    parts = Parts(pipeline, dense, guidance, options.repeats, "crop" in options.parts, say)
    failed: dict[str, str] = {}

    def attempted(work: Callable[[str], None], part: str, what: str) -> bool:
        start = time.perf_counter()
        try:
            work(part)
        except Exception as error:  # the other parts can still be measured
            traceback.print_exc()
            failed[part] = f"{type(error).__name__}: {error}"
        say(f"{part}: {'failed' if part in failed else what} after {time.perf_counter() - start:.1f} s")
        return part not in failed

    ready = [part for part in options.parts if attempted(parts.prepare, part, "prepared")]
    if not ready:
        return 1
    parts.document["prepared_meanwhile"] = turn()
    parts.begin()
    say(row(COLUMNS))
    for part in ready:
        attempted(parts.measure, part, "measured")
        write(parts.document | ({"failed": failed} if failed else {}))
    parts.close()
    show(parts.document)
    far = [case for case in parts.document["edits"] if not case["near"]]
    print(f"far from dense: {len(far)}" if far else "all near dense", flush=True)
    for part, error in failed.items():
        print(f"{part} failed: {error}", flush=True)
    return 1 if far or failed else 0


def show(document: dict[str, Any]) -> None:
    """Print what was measured."""
    print(f"records: {json.dumps(document['records'])}\nbytes of a step: {json.dumps(document['bytes'])}")
    print(f"a new prompt {document['prompt_ms']:.0f} ms; {document['distances']}")
    print("\n".join([row(COLUMNS), *map(line, document["edits"]), *map(tier_line, document["tiers"])]))


def compared(options: argparse.Namespace, turn: Turn, write: Callable[[dict[str, Any]], None]) -> int:
    """Compare the pictures of a trained model's edits, which takes no turn: nothing is timed."""
    from pipeline_fidelity import fidelity, summary

    found = fidelity(*opened(options, turn), range(options.seeds), MODELS[options.network].guidance)
    write({"fidelity": found})
    print(summary(found), flush=True)
    return 0


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The settings of `run`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", choices=MODELS, default="sd15")
    parser.add_argument("--out", type=Path, required=True, help="folder of the .json file")
    parser.add_argument("--folder", type=Path, help="of weights and exports; OUT/pipelines by default")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="in this order")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each way")
    parser.add_argument("--seeds", type=int, default=4, help="of the fidelity of scenes")
    options = parser.parse_args(arguments)
    if "crop" in options.parts and not set(EDITS) & set(options.parts[: options.parts.index("crop")]):
        parser.error(f"--parts: crop times the edits of {', '.join(EDITS)}, of which one must come before it")
    options.folder = options.folder or options.out / "pipelines"
    options.precision = "as_given" if options.device == "cpu" else "float16"
    return options


def run(options: argparse.Namespace, turn: Turn) -> None:
    """Measure, and exit with 1 where something failed or is far from dense."""
    options.folder.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.device != "cpu":
        torch.cuda.set_device(options.device)
        torch.backends.cudnn.benchmark = True
    torch.manual_seed(SEED)

    def write(found: dict[str, Any]) -> None:
        document = {
            "date": time.strftime("%Y-%m-%d"),
            "command": sys.argv,
            "network": options.network,
            "gpu": torch.cuda.get_device_name() if options.device != "cpu" else None,
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "machine": machine(),
            "versions": versions(),
            "repeats": options.repeats,
            **found,
        }
        file = options.out / f"pipeline_{options.network}.json"
        file.write_text(json.dumps(document, indent=1) + "\n")

    trained = MODELS[options.network].trained
    sys.exit(compared(options, turn, write) if trained else timed(options, turn, write))


if __name__ == "__main__":
    run(parse(), Turn())
