"""Attention of the CUDA backend at the sizes of a Stable Diffusion 1.5 UNet, batch 2, 8 heads, float16.

    PYTHONPATH=tests python benchmarks/kernels/cuda_attention.py --library build/native/libsige_kernels.so

Every time is the median of replays of a captured graph of 50 calls, over 50: once with one base, which stays
in the L2 cache, and once with a base for each call, which come from memory. Queries, keys and values of the
rows are parts of one array, as the exporter leaves them; so are keys and values of a text.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plugins.cuda import Device, args_of, shape_of
from plugins.library import Kernels

BATCH, HEADS, CALLS = 2, 8, 50
CASES = {  # queries, keys, channels of a head, whether they are tokens of a text
    "64x64": (77, 4096, 40, False),
    "64x64, 80 queries": (80, 4096, 40, False),
    "64x64, 256 queries": (256, 4096, 40, False),
    "64x64, 1460 queries": (1460, 4096, 40, False),
    "64x128": (140, 8192, 40, False),
    "32x32": (30, 1024, 80, False),
    "32x32, 81 queries": (81, 1024, 80, False),
    "16x16": (16, 256, 160, False),
    "16x16, 36 queries": (36, 256, 160, False),
    "8x8": (9, 64, 160, False),
    "text at 64x64": (77, 77, 40, True),
    "text at 32x32": (30, 77, 80, True),
    "text at 16x16": (16, 77, 160, True),
}


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda").half()


def call(
    device: Device, queries: int, keys: int, width: int, text: bool, kept: list[Any]
) -> Callable[[], None]:
    """One attention with arrays of its own, which `kept` keeps alive."""
    channels = HEADS * width
    rows = values(BATCH, queries, channels if text else 3 * channels)
    base = values(BATCH, keys, 2 * channels) if text else None
    inputs: dict[str, torch.Tensor | None] = {
        "q": rows,
        "k": None if text else rows,
        "v": None if text else rows,
        "k_base": values(BATCH, keys, channels) if base is None else base,
        "v_base": values(BATCH, keys, channels) if base is None else base,
        "active": None if text else torch.randperm(keys, device="cuda")[:queries].sort().values.int(),
    }
    attributes = {"heads": HEADS, "dk": width, "dv": width}
    attributes |= {"v_base_offset": channels} if text else {"k_offset": channels, "v_offset": 2 * channels}
    out = torch.empty(shape_of("attention", inputs, attributes), dtype=torch.float16, device="cuda")
    kept.append((inputs, out))
    return device.call("attention", args_of("attention", inputs, attributes, out))


def timed(calls: list[Callable[[], None]], replays: int = 20) -> float:
    """Median microseconds of one of the calls, run as one graph."""
    for run in calls:
        run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run in calls:
            run()
    times = []
    for _ in range(replays + 3):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3)
    return statistics.median(times[3:]) / len(calls)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file for the times")
    options = parser.parse_args()
    device = Device(Kernels(options.library.resolve()))
    results = {}
    for name, case in CASES.items():
        kept: list[Any] = []
        one = timed([call(device, *case, kept)] * CALLS)
        each = timed([call(device, *case, kept) for _ in range(CALLS)])
        results[name] = {"queries": case[0], "keys": case[1], "dk": case[2], "us": one, "own_base_us": each}
        print(
            f"{name:20} {case[0]:4} queries {one:6.2f} us, with bases from memory {each:6.2f} us", flush=True
        )
    device.close()
    if options.out:
        options.out.write_text(
            json.dumps({"gpu": torch.cuda.get_device_name(), "attention": results}, indent=1)
        )


if __name__ == "__main__":
    main()
