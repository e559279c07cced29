"""Whole edits on the CPU: native kernels against function bodies, on exported bundles.

    make native
    python benchmarks/kernels/session_cpu.py street.sige ddpm.sige --out benchmarks/results/session_cpu.json

Both sessions have the same base and run the same edit in turn. On one thread the median of that thread's own
time counts, so that other work on the machine disturbs little, and wall time stands beside it; on several
threads it is wall time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sige_deploy.bench import SETTLE, always_sparse, machine, poison, versions
from sige_deploy.bundle import open_bundle
from sige_deploy.runtimes.onnxruntime import OnnxRuntime
from sige_deploy.session import Session
from sige_deploy.workload import make_edit, make_inputs

EDITS = (1.2, 5.0, 15.0, 30.0)  # per cent of the first spatial input's area, square


def measure(path: Path, edits: Sequence[float], repeats: int, threads: int) -> dict[str, Any]:
    """Milliseconds of edits of a bundle, with the largest difference relative to the largest value."""
    bundle = always_sparse(open_bundle(path))
    ways = {
        "native": Session(bundle, OnnxRuntime(bundle, "cpu", threads)),
        "bodies": Session(bundle, OnnxRuntime(bundle, "cpu", threads, kernels=False)),
    }
    inputs = make_inputs(bundle.manifest)
    for session in ways.values():
        session.record(**inputs)
    results = []
    for area in edits:
        edited, _ = make_edit(bundle.manifest, inputs, area / 100, "square")
        outputs = {way: session.edit(**edited) for way, session in ways.items()}  # warms up as well
        report = ways["native"].report
        if "native" not in report.runtime:
            raise SystemExit("There is no native library; run make native, or set SIGE_NATIVE_LIBRARY.")
        cpu: dict[str, list[float]] = {way: [] for way in ways}
        wall: dict[str, list[float]] = {way: [] for way in ways}
        for run in range(repeats):
            for way in ways if run % 2 else reversed(ways):
                time.sleep(SETTLE)
                start = time.perf_counter(), time.thread_time()
                fresh = ways[way].edit(**edited)
                cpu[way].append((time.thread_time() - start[1]) * 1e3)
                wall[way].append((time.perf_counter() - start[0]) * 1e3)
                poison(fresh.values())
        ms = {way: median(times) for way, times in (cpu if threads == 1 else wall).items()}
        results.append(
            {
                "share": area / 100,
                "active_fraction": round(report.active_fraction, 4),
                **{f"{way}_ms": round(value, 2) for way, value in ms.items()},
                **{f"{way}_wall_ms": round(median(times), 2) for way, times in wall.items()},
                "ratio": round(ms["bodies"] / ms["native"], 3),
                "difference": difference(outputs["native"], outputs["bodies"]),
            }
        )
        print(bundle.manifest.name, results[-1], flush=True)
    for session in ways.values():
        session.close()
    return {"bundle": bundle.manifest.name, "bundle_id": bundle.id, "edits": results}


def difference(got: Mapping[str, np.ndarray], want: Mapping[str, np.ndarray]) -> float:
    """Largest difference of any output, relative to that output's largest value."""
    return max(float(np.abs(got[name] - want[name]).max() / np.abs(want[name]).max()) for name in want)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--edits", type=float, nargs="+", default=EDITS, help="areas in per cent")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    networks = [measure(path, options.edits, options.repeats, options.threads) for path in options.bundles]
    if options.out:
        document = {
            "date": date.today().isoformat(),
            "machine": machine(),
            "versions": versions(),
            "threads": options.threads,
            "repeats": options.repeats,
            "networks": networks,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
