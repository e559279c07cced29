"""Checks the CUDA backend on a device against float64; needs a GPU, torch and a library built with SIGE_CUDA.

    PYTHONPATH=tests python -m plugins.cuda_check --library build/cuda/libsige_kernels.so

Every case draws new sizes, tables and values, poisons outputs and workspace with NaN, and runs the op plainly
and inside a captured graph; at the end, convs that read one another run in one graph, and ops that fill the
GPU repeat their bits. Exit status 1 if anything misses the tolerance of docs/ops.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from . import cuda_reference
from .cuda import Device, args_of, shape_of
from .cuda_cases import Case, Draw, set_apart
from .library import KernelError, Kernels

TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3}
GUARD = 64  # poisoned values behind an output that must stay as they are
NOT_PREPARED = 5
CASES = (
    "gather",
    "gather_own_rows",
    "gather_two",
    "conv",
    "conv_own_rows",
    "conv_two",
    "conv_norm",
    "conv_gated",
    "conv_affine",
    "scatter",
    "attention",
    "attention_wide_inputs",
)
CHECKS = (*CASES, "chains", "repeats", "unprepared")


def poisoned(count: int, dtype: torch.dtype) -> torch.Tensor:
    """NaN, with a guard behind."""
    return torch.full((count + GUARD,), float("nan"), dtype=dtype, device="cuda")


def error_of(actual: torch.Tensor, expected: torch.Tensor, exact: bool) -> float:
    """Largest difference in units of the tolerance; infinite if anything is NaN or a bit differs."""
    if not expected.numel():
        return 0.0
    if exact:
        return 0.0 if torch.equal(actual.double(), expected) else float("inf")
    infinite = expected.isinf()
    if not torch.equal(actual[infinite].double(), expected[infinite]):
        return float("inf")
    actual, expected = actual[~infinite].double(), expected[~infinite]
    if not actual.isfinite().all():
        return float("inf")
    if not expected.numel():
        return 0.0
    return float((actual - expected).abs().max() / expected.abs().max().clamp(min=1.0))


def check(device: Device, op: str, case: Case) -> tuple[float, float]:
    """Errors of a plain and of a captured run, over the tolerance."""
    inputs, attributes = case
    dtype = next(value.dtype for value in inputs.values() if value.dtype.is_floating_point)
    shape = shape_of(op, inputs, attributes)
    count = torch.Size(shape).numel()
    memory = poisoned(count, dtype)
    out = memory[:count].view(shape)
    args = args_of(op, inputs, attributes, out)
    if op == "conv":
        device.prepare(args)
    expected = cuda_reference.run(op, inputs, attributes)
    plain = op == "gather" and not {"scale", "shift"} & set(inputs) and attributes["activation"] == "identity"
    exact = op == "scatter" or plain
    run = device.call(op, args)
    errors = []

    run()
    errors.append(error_of(out, expected, exact))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
        torch.empty(1, device="cuda").zero_()  # an op may have nothing to do, a graph may not be empty
    renew(op, inputs)
    if attributes.get("norm_epsilon"):
        set_apart(inputs["rows"])
    expected = cuda_reference.run(op, inputs, attributes)
    memory.fill_(float("nan"))
    graph.replay()
    errors.append(error_of(out, expected, exact))
    if not memory[count:].isnan().all():
        errors.append(float("inf"))
    return max(errors) / TOLERANCE[dtype], errors[0]


def renew(op: str, inputs: Mapping[str, torch.Tensor | None]) -> None:
    """New values at the same addresses; rows that padding has to repeat stay."""
    kept = [inputs.get(name) for name in ("k", "v")]
    for name, value in inputs.items():
        if value is None or op == "scatter" or any(value is other for other in kept):
            continue
        if value.is_floating_point():
            # The sums that a weight makes stay of order 1.
            factor = (value.shape[0] * value.shape[1]) ** -0.5 if name == "weight" else 1.0
            value.copy_(torch.randn_like(value, dtype=torch.float32) * factor)


def describe(case: Case) -> str:
    inputs, attributes = case
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items() if value is not None)
    return f"{shapes}; {attributes}"


def chains(device: Device, dtype: torch.dtype) -> bool:
    """Convs that read one another's results, in two buffers and one workspace as an engine's arena lends
    them, give in a captured graph what they give when each is waited for."""
    batch, rows, channels, links = 2, 240, 128, 12
    draw = Draw(0, True)
    table = torch.randint(-1, rows + 30, (rows, 9), device="cuda", dtype=torch.int32)
    halo = torch.arange(30, device="cuda", dtype=torch.int32)
    neighbours = {"base": draw.values(dtype, batch, 64, channels), "halo": halo, "table": table}
    memory = [draw.values(dtype, batch, rows, channels) for _ in range(2)]
    first = [value.clone() for value in memory]
    ones = torch.ones_like(memory[0])
    runs, workspace = [], torch.full((1 << 26,), 0xFF, dtype=torch.uint8, device="cuda")
    for link in range(links):
        taps = 9 if link % 3 else 1
        inputs = {"rows": memory[link % 2]} | (neighbours if taps == 9 else {})
        depth = channels
        if link % 4 == 1:
            inputs["rows_2"], depth = memory[link % 2], 2 * channels
            inputs |= {"base_2": draw.values(dtype, batch, 64, channels)} if taps == 9 else {}
        inputs["weight"] = draw.values(dtype, taps, depth, channels) * (taps * depth) ** -0.5
        if link % 2:
            inputs |= {
                "shift": torch.ones_like(draw.values(dtype, 1, 1, depth)),
                "residual": memory[link % 2],
            }
        else:
            inputs |= {"multiplier": ones}
        attributes = {"activation_in": "silu" if link % 2 else "identity"}
        args = args_of("conv", inputs, attributes, memory[1 - link % 2])
        device.prepare(args)
        runs.append((device.call("conv", args, workspace), inputs))

    def reset() -> None:
        for value, initial in zip(memory, first):
            value.copy_(initial)

    reset()
    for run, _ in runs:
        run()
        torch.cuda.synchronize()
    expected = memory[links % 2].double()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for run, _ in runs:
            run()
    errors = []
    for _ in range(20):
        reset()
        graph.replay()
        errors.append(error_of(memory[links % 2], expected, exact=False))
    return max(errors) <= TOLERANCE[dtype]


def repeats(device: Device, small: bool) -> list[str]:
    """Names of ops that do not repeat their bits: each runs many times in a row in a captured graph, with
    more blocks than the GPU has room for."""
    draw, dtype = Draw(0, small), torch.float16
    shrink = 8 if small else 1
    cases: dict[str, tuple[str, Case]] = {}
    convs = (
        (180, 640, 2560, "gate"),
        (80, 1280, 3840, "norm"),
        (24, 1280, 5120, "gate"),
        (512, 320, 1280, "gate"),
        (256, 512, 1536, "affine"),
        (280, 1280, 640, "affine"),
        (1500, 320, 320, "affine"),
        (40, 2560, 1280, "affine"),
    )
    for rows, depth, outputs, how in convs:
        depth, outputs = max(depth // shrink, 128), outputs // shrink
        columns = 2 * outputs if how == "gate" else outputs
        inputs = {
            "rows": draw.values(dtype, 1, rows, depth),
            "weight": draw.values(dtype, 1, depth, columns) * depth**-0.5,
            "bias": draw.values(dtype, columns),
        }
        attributes: dict[str, Any] = {"gate": "gelu"} if how == "gate" else {}
        if how == "affine":
            inputs |= {name: draw.values(dtype, 1, 1, depth) for name in ("scale", "shift")}
            attributes["activation_in"] = "silu"
        else:
            attributes["norm_epsilon"] = 1e-5
        cases[f"conv of {rows} rows, {depth} to {outputs} channels"] = "conv", (inputs, attributes)
    for pixels, rows, head in ((4096, 77, 40), (4096, 300, 40), (1024, 90, 80), (256, 12, 160)):
        pixels = pixels // shrink
        rows = min(rows, pixels)
        inputs = {name: draw.values(dtype, 2, rows, 8 * head) for name in "qkv"}
        inputs |= {f"{name}_base": draw.values(dtype, 2, pixels, 8 * head) for name in "kv"}
        inputs["active"] = torch.randperm(pixels, device="cuda")[:rows].sort().values.int()
        name = f"attention of {rows} rows, {pixels} pixels, heads of {head}"
        cases[name] = "attention", (inputs, {"heads": 8})
    return [name for name, (op, case) in cases.items() if not repeats_bits(device, op, case)]


def repeats_bits(device: Device, op: str, case: Case, runs: int = 24) -> bool:
    """Whether all runs of an op in a captured graph, and the graph's replays, give the same bits."""
    inputs, attributes = case
    shape = shape_of(op, inputs, attributes)
    outs = [torch.full(shape, float("nan"), dtype=torch.float16, device="cuda") for _ in range(runs)]
    args = [args_of(op, inputs, attributes, out) for out in outs]
    if op == "conv":
        device.prepare(args[0])
    workspace = torch.full((1 << 26,), 0xFF, dtype=torch.uint8, device="cuda")
    calls = [device.call(op, arg, workspace) for arg in args]
    calls[0]()
    first = outs[0].view(torch.int16).clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    same = True
    for _ in range(4):
        for out in outs:
            out.fill_(float("nan"))
        graph.replay()
        same &= all(torch.equal(out.view(torch.int16), first) for out in outs)
    return same


def refuses_unprepared(device: Device) -> bool:
    """A product without a plan is refused."""
    inputs, _ = Draw(0, True).conv(torch.float32)
    inputs = {name: inputs[name] for name in ("rows", "base", "halo")}
    inputs["table"] = torch.full((7, 1), -1, dtype=torch.int32, device="cuda")
    inputs["weight"] = torch.zeros(1, inputs["base"].shape[2], 23, device="cuda")
    out = torch.zeros(inputs["base"].shape[0], 7, 23, device="cuda")
    try:
        device.call("conv", args_of("conv", inputs, {}, out))()
    except KernelError as error:
        return error.status == NOT_PREPARED
    return False


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--cases", type=int, default=60, help="per op and dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="small sizes, for compute-sanitizer")
    parser.add_argument(
        "--only", nargs="+", choices=CHECKS, default=CHECKS, metavar="NAME", help="what to check: %(choices)s"
    )
    options = parser.parse_args()
    print(f"checking {', '.join(options.only)}", flush=True)
    device = Device(Kernels(options.library.resolve()))
    failures = 0
    for draws in (name for name in CASES if name in options.only):
        op = draws.partition("_")[0]
        for dtype in TOLERANCE:
            worst, failed = 0.0, 0
            for index in range(options.cases):
                draw = Draw(options.seed * 100003 + index, options.small)
                case = getattr(draw, draws)(dtype)
                try:
                    ratio, _ = check(device, op, case)
                except KernelError as error:
                    ratio = float("inf")
                    print(f"  {draws}: {error}")
                worst = max(worst, ratio)
                if not ratio <= 1:
                    failed += 1
                    if failed <= 4:
                        print(f"  case {index}, {ratio:.2f} tolerances: {describe(case)}")
            failures += failed
            name = str(dtype).removeprefix("torch.")
            outcome = f"{options.cases} cases, {failed} failed, worst {worst:.3f} of the tolerance"
            print(f"{draws:15} {name:8} {outcome}", flush=True)
    for dtype in TOLERANCE:
        if "chains" in options.only and not chains(device, dtype):
            failures += 1
            print(f"Convs of {dtype} in a row, captured, do not give what they give one by one.")
    for name in repeats(device, options.small) if "repeats" in options.only else ():
        failures += 1
        print(f"{name}: other bits when it runs again.")
    if "unprepared" in options.only and not refuses_unprepared(device):
        failures += 1
        print("An unprepared product was not refused.")
    torch.cuda.synchronize()
    device.close()
    print(f"{torch.cuda.get_device_name()}: {'FAILED' if failures else 'all passed'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
