"""Whole edits on a GPU against the same network dense in float16, in one run.

    PYTHONPATH=build/tree python benchmarks/gpu/network.py --out build/bench_gpu
    make bench-gpu BENCH_ARGS='--network street --quick'

Dense is torch.compile(mode="reduce-overhead") in float16, channels last; beside it PyTorch's own kernels in a
CUDA graph, and ONNX Runtime on dense.onnx. An edit is the whole of `Session.edit` on torch CUDA inputs, from
an idle GPU to an idle GPU; `graph` is what the GPU does in it once the row counts are known: tables, edit
graph, writing of the outputs. Results are checked before anything is timed. Writes OUT/<network>.json.
Bundles that --bundles lacks are exported into it; random weights have one seed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import dense
import fidelity
import numpy as np
import torch
from floor import Floor
from measure import Memory, copy_bandwidth, interleaved, kernels, matmul_rate, on_stream
from networks import FAST, NETWORKS, build, export_missing
from torch import Tensor

import sige_deploy as sige
from sige_deploy.bench import EDITS, always_sparse, machine, versions
from sige_deploy.bundle import Bundle, open_bundle
from sige_deploy.runtimes.base import create
from sige_deploy.workload import SHAPES, Shape, make_edit, make_inputs

TOLERANCE = 5e-2  # of an output's largest value: float16 through a whole network, rounded in other places
CHECKED_SHARE = 0.05
WAYS = ("compiled", "graphed", "onnxruntime")
WARM = 3  # calls of every way before it is timed; the second edit of a size captures its graph


class Edited:
    """A session on the GPU that keeps the last call's work, to run it again alone."""

    def __init__(self, bundle: Bundle, device: str) -> None:
        self._planned, self._sparse = bundle, always_sparse(bundle)
        self.session = sige.Session(bundle, create(None, bundle, device, None))
        self._device: Any = self.session._device
        self._call: Any = None
        take_in = self._device.take_in

        def keep(*given: Any) -> Any:
            self._call = take_in(*given)
            return self._call

        self._device.take_in = keep

    def record(self, inputs: dict[str, Tensor]) -> list[Tensor]:
        return list(self.session.record(**inputs).values())

    def planned(self, inputs: dict[str, Tensor], mask: Any = None) -> list[Tensor]:
        """What a user gets: the planner may run a large edit dense."""
        return list(self.session.edit(**inputs, mask=mask).values())

    def sparse(self, inputs: dict[str, Tensor], mask: Any = None) -> list[Tensor]:
        self.session.bundle = self._sparse
        try:
            return self.planned(inputs, mask)
        finally:
            self.session.bundle = self._planned

    def graph_ms(self, repeats: int) -> float:
        """The last edit's work on the GPU, without the look at the inputs that comes before."""
        with self._device.current():
            return on_stream(self._call.run, self._device.memory.stream, repeats)


def on_gpu(inputs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(value)).cuda() for name, value in inputs.items()}


def distance(results: list[Tensor], expected: list[Tensor]) -> float:
    """Largest difference over the largest expected value; infinite where a result is not finite."""
    worst = 0.0
    for a, b in zip(results, expected, strict=True):
        a, b = a.float().cpu(), b.float().cpu()
        if not bool(a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        worst = max(worst, float((a - b).abs().max() / b.abs().max()))
    return worst


def checked(
    bundle: Bundle,
    edited: Edited,
    module: torch.nn.Module,
    recorded: dict[str, np.ndarray],
    on_cpu: bool,
) -> dict[str, float]:
    """Distances that must be small; raises RuntimeError where one is not. Leaves `recorded` on record."""
    inputs = on_gpu(recorded)
    height, width = bundle.manifest.spatial()[0].shape[-2:]
    with torch.no_grad():
        truth = dense.outputs_of(module(**inputs))
    record = [t.clone() for t in edited.record(inputs)]
    found = {"record - dense": distance(record, truth)}
    everywhere = np.ones((height, width), bool)
    found["all of the recorded input - record"] = distance(edited.sparse(inputs, everywhere), record)
    part = np.zeros((height, width), bool)
    part[height // 3 : height // 2, width // 4 : width // 2] = True
    found["part of the recorded input - record"] = distance(edited.sparse(inputs, part), record)
    changed, _ = make_edit(bundle.manifest, recorded, CHECKED_SHARE, "square", 1)
    first = [t.clone() for t in edited.sparse(on_gpu(changed))]
    for _ in range(WARM):  # the later ones run a captured graph
        again = edited.sparse(on_gpu(changed))
    found["edit again - edit"] = distance(again, first)
    if on_cpu:
        with sige.Session(always_sparse(bundle), create(None, bundle, "cpu", None)) as session:
            session.record(**recorded)
            there = [torch.from_numpy(value) for value in session.edit(**changed).values()]
        found["edit - edit on the CPU"] = distance(first, there)
    wrong = {name: value for name, value in found.items() if not value <= TOLERANCE}
    if wrong:
        raise RuntimeError(f"wrong results, nothing was timed: {wrong}")
    return found


def measured(name: str, options: argparse.Namespace, rates: tuple[float, float]) -> dict[str, Any]:
    """The document of one network."""
    bundle = open_bundle(options.bundles / f"{name}.float16.sige")
    recorded = make_inputs(bundle.manifest)
    inputs = on_gpu(recorded)
    module = build(name).cuda().half()
    before = torch.cuda.mem_get_info()
    edited = Edited(bundle, options.device)
    with Memory() as record_memory:
        errors = checked(bundle, edited, module, recorded, NETWORKS[name].on_cpu)
    record_ms = median(interleaved({"record": lambda: edited.record(inputs)}, 5)["record"])
    cache_bytes = edited.session.report.cache_bytes
    changed, _ = make_edit(bundle.manifest, recorded, CHECKED_SHARE, "square", 1)
    with Memory() as edit_memory:
        edited.sparse(on_gpu(changed))

    module = module.to(memory_format=torch.channels_last)
    example = dense.channels_last(inputs)
    start = time.perf_counter()
    makers: dict[str, Any] = {
        "compiled": lambda: dense.Compiled(module),
        "graphed": lambda: dense.Graphed(module, inputs),
        "onnxruntime": lambda: dense.Onnx(bundle, inputs),
    }
    ways = {name: makers[name]() for name in options.ways}
    for way in ways.values():
        for _ in range(WARM):
            way(example)
    print(f"{name}: dense ways ready after {time.perf_counter() - start:.0f} s", flush=True)
    floor = Floor(bundle, *rates)
    sizes = [(area / 100, shape) for shape in options.shapes for area in options.edits]
    changes = [make_edit(bundle.manifest, recorded, share, shape, 1)[0] for share, shape in sizes]
    cases = [
        {"area": share, "shape": shape, **measure_case(edited, ways, arrays, options.repeats)}
        for (share, shape), arrays in zip(sizes, changes)
    ]
    for case, arrays in zip(cases, changes):  # once all is timed: a profiler may slow down what comes after
        case["kernels"] = started = kernels_of(edited, arrays)
        case["floor"] = floor.of(recorded, arrays, sum(k["count"] for k in started))
    return {
        "network": name,
        "bundle": bundle.id,
        "launches_of_the_edit_graph": bundle.manifest.launches,
        "record_ms": record_ms,
        "base_bytes": cache_bytes,
        "used_before_bytes": before[1] - before[0],
        "peak_record_bytes": record_memory.peak,
        "peak_edit_bytes": edit_memory.peak,
        "onnxruntime_dense_captured": getattr(ways.get("onnxruntime"), "captured", None),
        "distances": errors,
        "edits": cases,
    }


def measure_case(
    edited: Edited, ways: dict[str, Any], arrays: dict[str, np.ndarray], repeats: int
) -> dict[str, Any]:
    """One edit against the dense ways, medians in ms."""
    inputs = on_gpu(arrays)
    example = dense.channels_last(inputs)
    runs = {f"{way}_ms": (lambda run=run: run(example)) for way, run in ways.items()}
    runs["edit_ms"] = lambda: edited.sparse(inputs)
    runs["planned_ms"] = lambda: edited.planned(inputs)
    for _ in range(WARM):
        for key in ("planned_ms", "edit_ms"):
            runs[key]()
    times = {way: median(ms) for way, ms in interleaved(runs, repeats).items()}
    planned_path = edited.session.report.path
    edited.sparse(inputs)
    report = edited.session.report
    return {
        "active_fraction": report.active_fraction,
        "rows": report.rows,
        **times,
        "planned_path": planned_path,
        "captured": report.captured,
        "stages": report.stages,
        "graph_ms": edited.graph_ms(repeats),
        "ratio": times["compiled_ms"] / times["edit_ms"],
    }


def kernels_of(edited: Edited, arrays: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """What one edit starts on the GPU."""
    inputs = on_gpu(arrays)
    for _ in range(WARM):
        edited.sparse(inputs)
    return kernels(lambda: edited.sparse(inputs))


COLUMNS = "area shape active compiled graphed ORT edit graph planned path ratio kernels busy floor".split()


def line(case: dict[str, Any]) -> str:
    """A row of the table; times in ms, `busy` is the sum of the kernels'."""
    busy = sum(k["us"] for k in case["kernels"]) / 1e3
    ways = ("compiled_ms", "graphed_ms", "onnxruntime_ms", "edit_ms", "graph_ms", "planned_ms")
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
        "--ways", nargs="+", choices=WAYS, default=list(WAYS), help="dense runs to compare with"
    )
    parser.add_argument("--repeats", type=int, default=20, help="timed runs of each way")
    parser.add_argument("--quick", action="store_true", help="two sizes, five repeats")
    options = parser.parse_args()
    if "compiled" not in options.ways:
        parser.error("--ways must hold 'compiled': ratios are against it")
    options.bundles = options.bundles or options.out / "bundles"
    if options.quick:
        options.edits, options.shapes, options.repeats = [1.2, 15.0], ["square"], 5
    return options


def run(name: str, options: argparse.Namespace) -> None:
    """Measure one network and write its document; in a process of its own, for the memory's sake."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = (
        False  # float32 is the reference
    )
    torch.backends.cudnn.benchmark = True
    rates = copy_bandwidth(), matmul_rate()
    document = {
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "machine": machine(),
        "versions": versions(),
        "repeats": options.repeats,
        "copy_bytes_per_s": rates[0],
        "matmul_flop_per_s": rates[1],
        **measured(name, options, rates),
    }
    if name == "street":
        document["fidelity_db"] = fidelity.street(options.bundles, options.device)
    (options.out / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n")


def show(document: dict[str, Any]) -> None:
    """Print what was measured."""
    print(
        f"{document['network']}: record {document['record_ms']:.1f} ms, "
        f"bases {document['base_bytes'] / 1e6:.0f} MB, peak {document['peak_record_bytes'] / 1e6:.0f} MB, "
        f"copy {document['copy_bytes_per_s'] / 1e12:.2f} TB/s, "
        f"products {document['matmul_flop_per_s'] / 1e12:.0f} TFLOP/s"
    )
    print("  " + ", ".join(f"{what}: {value:.1e}" for what, value in document["distances"].items()))
    for edit in document.get("fidelity_db", []):
        print(f"  {edit}")
    print("\n".join([row(COLUMNS), *map(line, document["edits"])]), flush=True)


def main() -> int:
    options = parse()
    options.out.mkdir(parents=True, exist_ok=True)
    export_missing(options.network, options.bundles)
    failed = []
    for name in options.network:
        process = multiprocessing.get_context("spawn").Process(target=run, args=(name, options))
        process.start()
        process.join()
        if process.exitcode:
            failed.append(name)
    for name in options.network:
        if name not in failed:
            show(json.loads((options.out / f"{name}.json").read_text()))
    print(f"failed: {', '.join(failed)}" if failed else "all measured")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
