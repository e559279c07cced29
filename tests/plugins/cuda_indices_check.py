"""Checks index feeds, comparison and row moves of the CUDA backend against numpy, and times them; needs a
GPU, torch, numpy and a library built with SIGE_CUDA.

    PYTHONPATH=.:tests python -m plugins.cuda_indices_check --library build/cuda/libsige_kernels.so BUNDLE ...

BUNDLE: folders that `sige_deploy.export` wrote, of which manifest.json and geometry.safetensors are read:
their levels and geometries are checked and timed at edits of several sizes. Exit status 1 if any bit differs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sige_deploy.devices.memory import Buffer
from sige_deploy.geometry import Level, geometries_from_tensors
from sige_deploy.kernels import Comparison, Copies, Kernels, Layout, NativeIndexer, Offsets, RowMoves
from sige_deploy.masks import MaskPolicy, difference_mask

from . import indices_cases as cases
from .indices_cases import Network

REPEATS = 200
STEPS = ("compare", "begin", "round trip", "list", "finish", "take rows")
CHECKS = ("compare", "moves", "networks")
SHARES = (0.0001, 0.012, 0.05, 0.3, 1.0)  # of an input's area, as a square


@dataclass(frozen=True)
class Spec:
    """What is read of a spatial input's manifest entry."""

    shape: list[int]
    axes: list[str]
    dtype: str
    level: str = ""


class TorchMemory:
    """Memory of the protocol in sige_deploy/devices/memory.py, on torch's allocator and current stream."""

    backend = 1
    device = "cuda:0"

    @property
    def stream(self) -> int:
        return torch.cuda.current_stream().cuda_stream

    def empty(self, shape: Any, dtype: Any) -> Buffer:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = torch.full((max(count, 1),), 0xA5, dtype=torch.uint8, device="cuda")
        return Buffer(block.data_ptr(), shape, dtype, block)

    def upload(self, array: np.ndarray, into: Buffer | None = None) -> Buffer:
        into = self.empty(array.shape, array.dtype) if into is None else into
        _bytes(into).copy_(torch.from_numpy(np.array(array, order="C").reshape(-1).view(np.uint8)))
        return into

    def download(self, buffer: Buffer) -> np.ndarray:
        return _bytes(buffer).cpu().numpy().view(buffer.dtype).reshape(buffer.shape)

    def landing(self, buffer: Buffer) -> Buffer:
        block = torch.empty(buffer.nbytes, dtype=torch.uint8, pin_memory=True)
        return buffer.at(block.data_ptr(), block)

    def fetch(self, source: Buffer, landing: Buffer) -> None:
        landing.owner.copy_(_bytes(source), non_blocking=True)

    def mark(self) -> None:
        if not torch.cuda.is_current_stream_capturing():
            self._mark = torch.cuda.current_stream().record_event()

    def reach(self) -> None:
        self._mark.synchronize()

    def synchronize(self) -> None:
        torch.cuda.current_stream().synchronize()

    def fill(self, buffer: Buffer, byte: int) -> None:
        _bytes(buffer).fill_(byte)


def _bytes(buffer: Buffer) -> torch.Tensor:
    offset = buffer.pointer - buffer.owner.data_ptr()
    return buffer.owner[offset : offset + buffer.nbytes]


def check_random(kernels: Kernels, memory: TorchMemory, count: int, seed: int, largest: int) -> int:
    """Random networks, several edits each; returns how many edits were wrong."""
    wrong = 0
    for case in range(count):
        rng = np.random.default_rng((seed, case))
        network = cases.network(rng, int(rng.choice([8, 24, largest])))
        indexer = _native(kernels, memory, network)
        for _ in range(4):
            wrong += _check_edit(memory, network, indexer, cases.masks(rng, network.inputs), rng)
    return wrong


def check_bundle(kernels: Kernels, memory: TorchMemory, network: Network, seed: int) -> int:
    """A bundle's levels and geometries at squares, noise and nothing; returns how many edits were wrong."""
    rng = np.random.default_rng(seed)
    indexer = _native(kernels, memory, network)
    edits = [[_square(size, share) for size in network.inputs] for share in SHARES]
    edits += [[rng.random(size) < share for size in network.inputs] for share in (0.0, 0.001, 0.1)]
    return sum(_check_edit(memory, network, indexer, masks, rng) for masks in edits)


def check_compare(kernels: Kernels, memory: TorchMemory, seed: int, small: bool) -> int:
    """Shapes with and without 16-byte vectors, few and many planes; returns how many were wrong."""
    rng, wrong = np.random.default_rng(seed), 0
    shapes = [[2, 9, 31, 17], [1, 1, 1, 1], [4, 8, 5, 16]]
    for shape in shapes if small else [*shapes, [1, 3, 256, 256], [1, 36, 256, 512]]:
        for axes in ("NCYX", "NYXC", "CNXY"):
            for dtype in ("float16", "float32", "float64", "uint8", "int64"):
                recorded = (rng.standard_normal(shape) * 3).astype(dtype)
                given = np.where(rng.random(shape) < 0.0005, recorded + np.dtype(dtype).type(1), recorded)
                eps = float(rng.choice([0.0, 0.5, 1.5]))
                order = [axes.index(kind) for kind in "NCYX"]
                mask = difference_mask(given.transpose(order), recorded.transpose(order), eps)
                layout = Layout.of(shape, dtype, axes, eps)
                out, status = memory.empty(layout.size[2:], np.uint8), memory.empty([1, 2], np.int32)
                a, b = memory.upload(given), memory.upload(recorded)
                Comparison(kernels, memory, [layout], status).launch([a.pointer], [b.pointer], [out.pointer])
                right = np.array_equal(memory.download(out).view(bool), mask)
                right &= memory.download(status).tolist() == [[0, int((given != recorded).any())]]
                if recorded.dtype.kind == "f":
                    given.reshape(-1)[-1] = np.nan
                    a = memory.upload(given)
                    Comparison(kernels, memory, [layout], status).launch([a.pointer], [b.pointer], [0])
                    right &= memory.download(status).tolist() == [[1, 1]]
                wrong += not right
    for count in (1, 31, 32, 4096, 100_000):  # without pixels
        for changed in (False, True):
            recorded = rng.standard_normal(count).astype("float16")
            given = recorded.copy()
            given[-1] += np.float16(changed)
            status = memory.empty([1, 2], np.int32)
            a, b = memory.upload(given), memory.upload(recorded)
            comparison = Comparison(kernels, memory, [Layout.of([count], "float16")], status)
            comparison.launch([a.pointer], [b.pointer], [0])
            wrong += memory.download(status).tolist() != [[0, int(changed)]]
    return wrong


def check_copies(kernels: Kernels, memory: TorchMemory, seed: int) -> int:
    """Arrays of several sizes at several alignments, all by one call; returns how many were wrong."""
    rng, wrong = np.random.default_rng(seed), 0
    sizes = [0, 1, 15, 16, 17, 20_000, 100_003, *range(1, 13)]  # more than one launch
    for offset in (0, 2, 16):
        arrays = [rng.integers(0, 255, size + 64, np.uint8) for size in sizes]
        sources = [memory.upload(array) for array in arrays]
        targets = [memory.upload(np.zeros_like(array)) for array in arrays]
        pairs = [
            (source.view([size], offset=offset), target.view([size], offset=16))
            for source, target, size in zip(sources, targets, sizes)
        ]
        Copies(kernels, memory, len(sizes)).copy(pairs)
        for array, target, size in zip(arrays, targets, sizes):
            expected = np.zeros_like(array)
            expected[16 : 16 + size] = array[offset : offset + size]
            wrong += not np.array_equal(memory.download(target), expected)
    return wrong


def check_moves(kernels: Kernels, memory: TorchMemory, seed: int) -> int:
    """Rows taken out and put back, in three layouts, and whole arrays; returns how many were wrong."""
    rng, wrong = np.random.default_rng(seed), check_copies(kernels, memory, seed)
    for axes in ("NCYX", "NYXC", "CXY"):
        for dtype in (np.uint8, np.float16, np.float32, np.int64):
            shape = [{"N": 2, "C": 36, "Y": 40, "X": 50}[kind] for kind in axes]
            spec = Spec(shape, list(axes), np.dtype(dtype).name)
            array = rng.integers(0, 200, shape).astype(dtype)
            active = np.sort(rng.choice(2000, 100, replace=False)).astype(np.int32)
            active[-5:] = active[-6]
            y, x = np.divmod(active, 50)
            expected = _planes(array, axes)[:, :, y, x].transpose(0, 2, 1)
            moves = RowMoves(kernels, memory, [Offsets.of_input(spec)])  # type: ignore[arg-type]
            where, source, back = (memory.upload(a) for a in (active, array, np.zeros_like(array)))
            fresh = memory.empty(expected.shape, dtype)
            moves.take([source.pointer], [fresh.pointer], [where])
            moves.put([back.pointer], [fresh.pointer], [where])
            wanted = np.zeros_like(array)
            _planes(wanted, axes)[:, :, y, x] = expected.transpose(0, 2, 1)
            right = np.array_equal(memory.download(fresh), expected)
            wrong += not (right and np.array_equal(memory.download(back), wanted))
    return wrong


def time_bundle(
    kernels: Kernels, memory: TorchMemory, name: str, network: Network, inputs: list[Spec]
) -> None:
    """Prints device time and Python's time of every step of edits of several sizes."""
    print(f"{name}: {len(network.levels)} levels, {len(network.geometries)} geometries")
    print("us on the device / in Python")
    print(f"{'edit':>8} {'rows':>7}" + "".join(f"{step:>16}" for step in STEPS))
    indexer = _native(kernels, memory, network, words=2 * len(inputs))
    layouts = [Layout.of(spec.shape, spec.dtype, spec.axes) for spec in inputs]
    comparison = Comparison(kernels, memory, layouts, indexer.status)
    offsets = [Offsets.of_input(spec) for spec in inputs]  # type: ignore[arg-type]
    moves = RowMoves(kernels, memory, offsets)
    given, recorded = ([memory.upload(np.zeros(s.shape, s.dtype)) for s in inputs] for _ in range(2))
    found = [memory.empty(size, np.uint8) for size in network.inputs]
    for share in SHARES:
        masks = [memory.upload(_square(size, share).view(np.uint8)) for size in network.inputs]
        indexer.begin(masks)
        indexer.list_active()
        counts, _ = indexer.counts_and_status()
        rows = {level.id: min(-(-counts[level.id] // 8) * 8, level.pixels) for level in network.levels}
        feeds = indexer.finish(rows)
        active = [feeds[f"active.{spec.level}"] for spec in inputs]
        row_bytes = [len(o.n) * len(o.c) * o.itemsize for o in offsets]
        fresh = [memory.empty([a.shape[0], width], np.uint8) for a, width in zip(active, row_bytes)]
        steps = _time_edit(indexer, comparison, moves, masks, rows, active, [given, recorded, found, fresh])
        cells = "".join(f"{device:8.1f}/{python:7.1f}" for device, python in steps)
        print(f"{share:8.2%} {sum(rows.values()):7d}{cells}")


def _time_edit(
    indexer: NativeIndexer,
    comparison: Comparison,
    moves: RowMoves,
    masks: list[Buffer],
    rows: dict[str, int],
    active: list[Buffer],
    buffers: list[list[Buffer]],
) -> list[tuple[float, float]]:
    """Microseconds of STEPS, on the device and in Python."""
    given, recorded, found, fresh = ([buffer.pointer for buffer in group] for group in buffers)

    def listed() -> None:
        indexer.begin(masks)
        indexer.list_active()

    def finished() -> None:
        listed()
        indexer.finish(rows)

    compare = _time(lambda: comparison.launch(given, recorded, found))
    begin, two, three = _time(lambda: indexer.begin(masks)), _time(listed), _time(finished)
    take = _time(lambda: moves.take(given, fresh, active))
    ranked, tables = ((b[0] - a[0], b[1] - a[1]) for a, b in ((begin, two), (two, three)))
    return [compare, begin, (0.0, _round_trip(indexer)), ranked, tables, take]


def _time(call: Callable[[], None]) -> tuple[float, float]:
    """Microseconds of one call: on the device, in a captured graph of many; in Python, without waiting."""
    call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.current_stream()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(REPEATS // 10):
            call()
    best = float("inf")
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(stream)
        graph.replay()
        end.record(stream)
        end.synchronize()
        best = min(best, start.elapsed_time(end) * 1e3 / (REPEATS // 10))
    walls = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        call()
        walls.append((time.perf_counter() - begun) * 1e6)
    return best, float(np.median(walls))


def _round_trip(indexer: NativeIndexer) -> float:
    """Microseconds of fetching counts and status when the device is idle."""
    walls = []
    for _ in range(REPEATS):
        torch.cuda.synchronize()
        begun = time.perf_counter()
        indexer.counts_and_status()
        walls.append((time.perf_counter() - begun) * 1e6)
    return float(np.median(walls))


def _native(kernels: Kernels, memory: TorchMemory, network: Network, words: int = 0) -> NativeIndexer:
    parts = (network.levels, network.geometries, network.policy, network.inputs)
    return NativeIndexer(kernels, memory, *parts, words=words)  # type: ignore[arg-type]


def _planes(array: np.ndarray, axes: str) -> np.ndarray:
    """View [N, C, Y, X]."""
    view = array.transpose([axes.index(kind) for kind in "NCYX" if kind in axes])
    return view if "N" in axes else view[None]


def _check_edit(
    memory: TorchMemory,
    network: Network,
    indexer: NativeIndexer,
    masks: list[np.ndarray],
    rng: np.random.Generator,
) -> bool:
    """Whether any count or feed of an edit is wrong."""
    indices = network.indexer().build(masks)
    indexer.begin([memory.upload(mask.view(np.uint8)) for mask in masks])
    indexer.list_active()
    counts, _ = indexer.counts_and_status()
    if counts != indices.counts:
        print(f"counts {counts} instead of {indices.counts}", file=sys.stderr)
        return True
    rows = cases.padded_counts(rng, network, counts)
    feeds = indexer.finish(rows)
    wrong = [
        name
        for name, feed in cases.expected(network, indices, rows).items()
        if not np.array_equal(memory.download(feeds[name]), feed)
    ]
    if wrong:
        print(f"wrong feeds {', '.join(wrong)} with {counts} in {rows}", file=sys.stderr)
    return bool(wrong)


def _square(size: tuple[int, int], share: float) -> np.ndarray:
    """A square of some share of the area, about the middle; all of it for 1."""
    mask = np.zeros(size, bool)
    side = max(round((size[0] * size[1] * share) ** 0.5), 1)
    top, left = (max(n // 2 - side // 2, 0) for n in size)
    mask[top : top + side, left : left + side] = True
    if share == 1.0:
        mask[:] = True
    return mask


def _open(folder: Path) -> tuple[Network, list[Spec]]:
    """A bundle's levels and geometries, and its spatial inputs."""
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / "geometry.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {}
    for name, entry in json.loads(data[8:start]).items():
        if name != "__metadata__":
            dtype = {"I32": np.int32, "F32": np.float32}[entry["dtype"]]
            low, high = (start + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[low:high], dtype).reshape(entry["shape"])
    levels = [Level(v["id"], v["height"], v["width"], v["geometry"]) for v in manifest["levels"]]
    ends = [(g["id"], g["source"], g["target"]) for g in manifest["geometries"]]
    geometries = geometries_from_tensors(tensors, ends)
    policy = MaskPolicy(
        dilate=manifest["policy"]["dilate"],
        threshold=manifest["policy"]["threshold"],
        level_dilate={v["id"]: v["dilation"] for v in manifest["levels"]},
        granularity={v["id"]: v["granularity"] for v in manifest["levels"]},
    )
    spatial = [v for v in manifest["inputs"] if v["role"] == "spatial"]
    inputs = [Spec(v["shape"], v["axes"], v["dtype"], v["level"]) for v in spatial]
    sizes = [(v.shape[v.axes.index("Y")], v.shape[v.axes.index("X")]) for v in inputs]
    return Network(levels, geometries, policy, sizes), inputs


def main() -> int:
    """Runs all checks; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=150, help="random networks")
    parser.add_argument("--small", action="store_true", help="small cases, for a sanitizer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CHECKS,
        default=CHECKS,
        metavar="NAME",
        help="what to check beside bundles: %(choices)s",
    )
    parser.add_argument("bundles", type=Path, nargs="*")
    options = parser.parse_args()
    print(f"checking {', '.join(options.only)}", flush=True)
    kernels, memory = Kernels(options.library), TorchMemory()
    kernels.check_device(0)
    bundles = {folder.name: _open(folder) for folder in options.bundles}
    wrong = 0
    with torch.cuda.stream(torch.cuda.Stream()):
        results = {}
        if "compare" in options.only:
            results["compare"] = check_compare(kernels, memory, options.seed, options.small)
        if "moves" in options.only:
            results["row moves"] = check_moves(kernels, memory, options.seed)
        if "networks" in options.only:
            largest = 24 if options.small else 100
            wrong_networks = check_random(kernels, memory, options.cases, options.seed, largest)
            results[f"{options.cases} random networks"] = wrong_networks
        for name, (network, _) in bundles.items():
            results[name] = check_bundle(kernels, memory, network, options.seed)
        for name, count in results.items():
            print(f"{name}: {f'{count} wrong' if count else 'equal bits'}")
            wrong += count
        for name, (network, inputs) in bundles.items():
            time_bundle(kernels, memory, name, network, inputs)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
