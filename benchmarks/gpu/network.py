"""Whole edits on a GPU against the same network dense in float16, in one run.

    PYTHONPATH=build/tree python benchmarks/gpu/network.py --out build/bench_gpu
    make bench-gpu BENCH_ARGS='--network street --quick'

Dense is torch.compile(mode="reduce-overhead") in float16, channels last; beside it PyTorch's own kernels in a
CUDA graph, and ONNX Runtime on dense.onnx. An edit is the whole of `Session.edit` on torch CUDA inputs, from
an idle GPU to an idle GPU, and finds what differs by itself; a denoiser's `step` has the mask of the step
before, and what all steps share is on the GPU, as in a pipeline. `graph` is what the GPU does once the row
counts are known: tables, edit graph, writing of the outputs. `ratio` is compiled over step or else edit.
Bundles that --bundles lacks are exported into it; random weights have one seed.

Each network has a process of its own. All of them export, compile, check their results and warm up at the
same time; then they are timed one after the other, while the rest waits. With --pipeline, pipeline.py joins
as the last. Each prints its table and writes OUT/<network>.json as soon as it is timed.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import dense
import fidelity
import torch
from edited import CHECKED_SHARE, WARM, Edited, checked, on_gpu
from floor import Work, floor_of
from measure import Memory, copy_bandwidth, interleaved, kernels, matmul_rate
from networks import FAST, NETWORKS, WAYS, build, exported, exporting
from torch import Tensor
from turns import Task, Turn, in_turns

from sige_deploy.bench import EDITS, machine, versions
from sige_deploy.bundle import open_bundle
from sige_deploy.workload import SHAPES, Shape, make_edit, make_inputs

LIMIT_S = 900.0


@dataclass
class Case:
    """One edit. inputs: what it takes; step: what it takes as a step, with the mask, or nothing; example: the
    inputs for the dense ways, channels last; work: of the edit, as `Work.of` says it."""

    share: float
    shape: str
    inputs: dict[str, Tensor]
    step: dict[str, Any]
    example: dict[str, Tensor]
    work: dict[str, float]

    @property
    def last(self) -> dict[str, Any]:
        """What a step takes, or an edit of what has no steps."""
        return self.step or {"inputs": self.inputs}


@dataclass
class Prepared:
    """All that timing one network takes. inputs: recorded; found: what is known already of its document."""

    edited: Edited
    inputs: dict[str, Tensor]
    ways: dict[str, Any]
    cases: list[Case]
    found: dict[str, Any]


def prepare(name: str, options: argparse.Namespace, turn: Turn) -> Prepared:
    """Export, compile, check, and run everything that will be timed."""
    said = partial(_said, name, time.perf_counter())
    exports, wanted = exporting(name, options.bundles), options.ways or NETWORKS[name].ways
    module = build(name).cuda().half().to(memory_format=torch.channels_last)
    example = dense.channels_last({name: _float16(value) for name, value in NETWORKS[name].inputs().items()})
    with turn.tuning(), torch.no_grad():  # cuDNN tries its kernels; what is compiled takes those found here
        module(**example)
        torch.cuda.synchronize()
    ways: dict[str, Any] = {"compiled": dense.Compiled(module)}
    _warm(partial(way, example) for way in ways.values())
    said("compiled")
    exported(exports)
    said("exported")

    bundle = open_bundle(options.bundles / f"{name}.float16.sige")
    recorded = make_inputs(bundle.manifest)
    inputs = on_gpu(recorded)
    if "graphed" in wanted:
        ways["graphed"] = dense.Graphed(module, inputs)
    if "onnxruntime" in wanted:
        with turn.tuning():
            ways["onnxruntime"] = dense.Onnx(bundle, inputs)
    before = torch.cuda.mem_get_info()
    watch = Memory if options.alone else nullcontext  # it counts what all processes have
    with watch() as record_memory:
        with turn.tuning():  # ONNX Runtime tries cuDNN's kernels
            edited = Edited(bundle, options.device)
            edited.record(inputs)
        errors = checked(bundle, edited, module, recorded, NETWORKS[name].on_cpu)
    changed, _ = make_edit(bundle.manifest, recorded, CHECKED_SHARE, "square", 1)
    with watch() as edit_memory:
        edited.sparse(on_gpu(changed))
    said("checked")

    spatial = {spec.name for spec in bundle.manifest.spatial()}
    shared = edited.placed({name: array for name, array in recorded.items() if name not in spatial})
    work, cases = Work(bundle), []
    for shape in options.shapes:
        for area in options.edits:
            changed, mask = make_edit(bundle.manifest, recorded, area / 100, shape, 1)
            given, done = on_gpu(changed), work.of(recorded, changed)
            step = {"inputs": given | shared, "mask": mask} if NETWORKS[name].steps else {}
            case = Case(area / 100, shape, given, step, dense.channels_last(given), done)
            _warm(partial(way, case.example) for way in ways.values())
            _warm(_edits(edited, case).values())
            cases.append(case)
    found = {
        "network": name,
        "bundle": bundle.id,
        "launches_of_the_edit_graph": bundle.manifest.launches,
        "base_bytes": edited.session.report.cache_bytes,
        "onnxruntime_dense_captured": getattr(ways.get("onnxruntime"), "captured", None),
        "distances": errors,
    }
    if record_memory is not None and edit_memory is not None:
        found["used_before_bytes"] = before[1] - before[0]
        found |= {"peak_record_bytes": record_memory.peak, "peak_edit_bytes": edit_memory.peak}
    if name == "street":
        found["fidelity_db"] = fidelity.street(options.bundles, options.device)
    torch.cuda.synchronize()
    said("warm")
    return Prepared(edited, inputs, ways, cases, found)


def _said(name: str, start: float, what: str) -> None:
    print(f"{name}: {what} after {time.perf_counter() - start:.0f} s", flush=True)


def _float16(value: Tensor) -> Tensor:
    return value.cuda().half() if value.is_floating_point() else value.cuda()


def _warm(runs: Iterable[Callable[[], Any]]) -> None:
    for run in runs:
        for _ in range(WARM):
            run()


def measured(prepared: Prepared, repeats: int) -> dict[str, Any]:
    """What is timed of one network; nothing else may run on the machine."""
    edited, inputs = prepared.edited, prepared.inputs
    bandwidth, rate = copy_bandwidth(), matmul_rate()
    record_ms = median(interleaved({"record": lambda: edited.record(inputs)}, 5)["record"])
    edits = [
        {"area": case.share, "shape": case.shape, **measure_case(edited, prepared.ways, case, repeats)}
        for case in prepared.cases
    ]
    for edit, case in zip(edits, prepared.cases):  # once all is timed: a profiler may slow down what follows
        edit["kernels"] = started = kernels_of(edited, case)
        edit["floor"] = floor_of(case.work, sum(k["count"] for k in started), bandwidth, rate)
    return {
        "copy_bytes_per_s": bandwidth,
        "matmul_flop_per_s": rate,
        "record_ms": record_ms,
        "edits": edits,
    }


def measure_case(edited: Edited, ways: dict[str, Any], case: Case, repeats: int) -> dict[str, Any]:
    """One edit against the dense ways, medians in ms."""
    runs = {f"{way}_ms": (lambda run=run: run(case.example)) for way, run in ways.items()}
    edits = {f"{way}_ms": run for way, run in _edits(edited, case).items()}
    _warm(edits.values())
    times = {way: median(ms) for way, ms in interleaved(runs | edits, repeats).items()}
    planned_path = edited.session.report.path
    _warm([partial(edited.sparse, **case.last)])
    report = edited.session.report
    return {
        "active_fraction": report.active_fraction,
        "rows": report.rows,
        **times,
        "planned_path": planned_path,
        "captured": report.captured,
        "stages": report.stages,
        "graph_ms": edited.graph_ms(repeats),
        "ratio": times["compiled_ms"] / times.get("step_ms", times["edit_ms"]),
    }


def _edits(edited: Edited, case: Case) -> dict[str, Any]:
    """The ways of ours; `planned` is the last."""
    ways = {"edit": partial(edited.sparse, case.inputs)}
    if case.step:
        ways["step"] = partial(edited.sparse, **case.step)
    ways["planned"] = partial(edited.planned, **case.last)
    return ways


def kernels_of(edited: Edited, case: Case) -> list[dict[str, Any]]:
    """What one edit starts on the GPU, or one step."""
    run = partial(edited.sparse, **case.last)
    _warm([run])
    return kernels(run)


COLUMNS = (
    "area shape active compiled graphed ORT edit step graph planned path ratio kernels busy floor".split()
)


def line(case: dict[str, Any]) -> str:
    """A row of the table; times in ms, `busy` is the sum of the kernels'."""
    busy = sum(k["us"] for k in case["kernels"]) / 1e3
    ways = "compiled_ms graphed_ms onnxruntime_ms edit_ms step_ms graph_ms planned_ms".split()
    values = [f"{case['area']:.1%}", case["shape"], f"{case['active_fraction']:.1%}"]
    values += [f"{case[way]:.3f}" if way in case else "" for way in ways]
    values += [case["planned_path"], f"{case['ratio']:.2f}", str(case["floor"]["launches"])]
    return row([*values, f"{busy:.3f}", f"{case['floor']['ms']:.3f}"])


def row(values: list[str]) -> str:
    return " ".join(f"{value:>8}" for value in values)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--network", nargs="+", choices=NETWORKS, default=list(FAST))
    parser.add_argument("--out", type=Path, required=True, help="folder of the .json files")
    parser.add_argument("--bundles", type=Path, help="folder of bundles; OUT/bundles by default")
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--edits", type=float, nargs="+", default=list(EDITS), help="areas in per cent")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list[Shape](SHAPES))
    parser.add_argument(
        "--ways", nargs="+", choices=WAYS, help="dense runs to compare with; by default all, of sd15 two"
    )
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of each way")
    parser.add_argument("--quick", action="store_true", help="two sizes, five repeats")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, help="seconds after which those that are ready are timed"
    )
    parser.add_argument(
        "--pipeline", metavar="ARGS", help="measure a pipeline as well: arguments of pipeline.py, maybe ''"
    )
    options = parser.parse_args()
    if options.ways and "compiled" not in options.ways:
        parser.error("--ways must hold 'compiled': ratios are against it")
    options.bundles = options.bundles or options.out / "bundles"
    if options.quick:
        options.edits, options.shapes, options.repeats = [1.2, 15.0], ["square"], 5
    return options


def run(name: str, options: argparse.Namespace, turn: Turn) -> None:
    """Measure one network, print its table and write its document."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        False  # float32 is the reference
    )
    torch.backends.cudnn.benchmark = True
    prepared = prepare(name, options, turn)
    beside = turn()
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": machine(),
        "versions": versions(),
        "repeats": options.repeats,
        "prepared_meanwhile": beside,
        **prepared.found,
        **measured(prepared, options.repeats),
    }
    (options.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")
    show(document)


def show(document: dict[str, Any]) -> None:
    """Print what was measured."""
    peak = document.get("peak_record_bytes")
    print(
        f"{document['network']}: record {document['record_ms']:.1f} ms, "
        f"bases {document['base_bytes'] / 1e6:.0f} MB, "
        + (f"peak {peak / 1e6:.0f} MB, " if peak is not None else "")
        + f"copy {document['copy_bytes_per_s'] / 1e12:.2f} TB/s, "
        f"products {document['matmul_flop_per_s'] / 1e12:.0f} TFLOP/s"
    )
    print("  " + ", ".join(f"{what}: {value:.1e}" for what, value in document["distances"].items()))
    for edit in document.get("fidelity_db", []):
        print(f"  {edit}")
    print("\n".join([row(COLUMNS), *map(line, document["edits"])]), flush=True)


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    tasks: dict[str, Task] = {name: partial(run, name, options) for name in options.network}
    if options.pipeline is not None:
        import pipeline

        where = ["--out", str(options.out), "--device", options.device]
        tasks["pipeline"] = partial(pipeline.run, pipeline.parse([*where, *shlex.split(options.pipeline)]))
    options.alone = len(tasks) == 1
    failed = in_turns(tasks, options.limit)
    print(f"failed: {', '.join(failed)}" if failed else "all measured")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
