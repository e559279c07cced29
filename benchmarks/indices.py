"""Time from two images to the index feeds of an edit: difference mask, level masks, active pixels, tables.

python benchmarks/indices.py [--size 512] [--share 0.05] [--repeats 50]

The network is stood for by what a diffusion UNet reads: at each of four levels a 3x3 window, between them
stride-2 windows down and nearest-enlarged 3x3 windows up. One core, medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np

from sige_deploy import geometry as geo
from sige_deploy.geometry import Geometry, Level
from sige_deploy.indices import Indexer
from sige_deploy.masks import MaskPolicy, difference_mask, level_masks

RESULT = Path(__file__).parent / "results" / "indices.json"


def unet(size: int, depth: int = 4) -> tuple[list[Level], list[Geometry]]:
    """Levels size, size/2, ... and the geometries of a UNet over them."""
    sizes = [size >> i for i in range(depth)]
    levels = [Level(f"{n}x{n}", n, n) for n in sizes]
    geometries = []

    def add(name: str, source: Level, target: Level, taps: geo.AxisTaps) -> None:
        geometries.append(Geometry(f"{name}.{target.id}", source.id, target.id, taps, taps))

    for level in levels:
        add("conv3", level, level, geo.window(level.width, 3, pad=(1, 1)))
    for fine, coarse in pairwise(levels):
        add("down", fine, coarse, geo.window(fine.width, 3, stride=2, pad=(1, 1)))
        up = geo.compose(geo.window(fine.width, 3, pad=(1, 1)), geo.nearest(coarse.width, 2))
        add("up", coarse, fine, up)
    return levels, geometries


def square_edit(size: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Two float32 images [1, 3, size, size] that differ in a square of that share of the area."""
    before = np.random.default_rng(0).standard_normal((1, 3, size, size), np.float32)
    after = before.copy()
    side = round(size * share**0.5)
    start = (size - side) // 3
    after[..., start : start + side, start : start + side] += 1
    return before, after


def measure(size: int, share: float, repeats: int) -> dict[str, float]:
    """Median milliseconds of each stage."""
    levels, geometries = unet(size)
    policy = MaskPolicy()
    indexer = Indexer(levels, geometries, policy)
    before, after = square_edit(size, share)
    mask = difference_mask(before, after)
    by_id = {g.id: g for g in geometries}
    actives = {f"active.{level.id}" for level in levels}
    stages = {
        "difference mask": lambda: difference_mask(before, after),
        "level masks": lambda: level_masks([mask], levels, by_id, policy),
        "level masks + active": lambda: indexer.build([mask], only=actives),
        "level masks + active + tables": lambda: indexer.build([mask]),
        "total": lambda: indexer.build([difference_mask(before, after)]),
    }
    times: dict[str, list[float]] = {stage: [] for stage in stages}
    for _ in range(repeats + 5):
        for stage, run in stages.items():
            start = time.perf_counter()
            run()
            times[stage].append((time.perf_counter() - start) * 1e3)
    median = {stage: statistics.median(values[5:]) for stage, values in times.items()}
    return {
        "difference mask": median["difference mask"],
        "level masks": median["level masks"],
        "active pixels": median["level masks + active"] - median["level masks"],
        "tables and halos": median["level masks + active + tables"] - median["level masks + active"],
        "total": median["total"],
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--share", type=float, default=0.05, help="edited share of the image's area")
    parser.add_argument("--repeats", type=int, default=50)
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    milliseconds = measure(arguments.size, arguments.share, arguments.repeats)
    for stage, value in milliseconds.items():
        print(f"{stage:20} {value:7.3f} ms")
    result = {
        "benchmark": "indices",
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/indices.py", *sys.argv[1:]]),
        "size": arguments.size,
        "share": arguments.share,
        "repeats": arguments.repeats,
        "machine": {
            "processor": processor(),
            "cores_used": 1,
            "load": round(load, 2),
            "system": platform.platform(terse=True),
        },
        "versions": {"python": platform.python_version(), "numpy": np.__version__},
        "milliseconds": {stage: round(value, 4) for stage, value in milliseconds.items()},
    }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
