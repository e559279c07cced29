"""Checks the CUDA backend on a device against float64; needs a GPU, torch and a library built with SIGE_CUDA.

    PYTHONPATH=tests python -m plugins.cuda_check --library build/cuda/libsige_kernels.so

Every case draws new sizes, tables and values, poisons outputs and workspace with NaN, and runs the op plainly
and inside a captured graph. Exit status 1 if any case misses the tolerance of docs/ops.md.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path
from typing import Any

import torch

from . import cuda_reference
from .cuda import Device, args_of, shape_of
from .library import ACTIVATIONS, KernelError, Kernels

TOLERANCE = {torch.float32: 2e-5, torch.float16: 5e-3}
GUARD = 64  # poisoned values behind an output that must stay as they are
NOT_PREPARED = 5

Case = tuple[dict[str, torch.Tensor], dict[str, Any]]


class Draw:
    """Random sizes and device tensors."""

    def __init__(self, seed: int, small: bool) -> None:
        self.random = random.Random(seed)
        self.small = small
        torch.manual_seed(seed)

    def pick(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def values(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        return torch.randn(shape, device="cuda", dtype=torch.float32).to(dtype)

    def active(self, pixels: int) -> torch.Tensor:
        """Ascending pixels: none, one, all, or some; sometimes padded by repeating the last."""
        count = self.pick(0, 1, pixels, self.random.randint(1, pixels), self.random.randint(1, pixels))
        chosen = torch.randperm(pixels)[:count].sort().values
        if count and self.random.random() < 0.5:
            chosen = torch.cat([chosen, chosen[-1:].expand(self.random.randint(1, 9))])
        return chosen.int().cuda()

    def source(self, dtype: torch.dtype, channels: int, phases: int = 1) -> dict[str, torch.Tensor]:
        """rows, base, halo, table, and sometimes scale and shift."""
        most = 40 if self.small else 300
        batch, pixels = self.pick(1, 2, 3), self.random.randint(1, most)
        fresh = self.pick(0, 1, pixels, self.random.randint(0, pixels))
        halo, targets = self.random.randint(0, pixels), self.pick(0, 1, self.random.randint(1, most))
        taps = self.pick(1, 2, 9, 25)
        inputs = {
            "rows": self.values(dtype, batch, fresh, channels),
            "base": self.values(dtype, batch, pixels, channels),
            "halo": torch.randint(0, pixels, (halo,), device="cuda", dtype=torch.int32),
            "table": torch.randint(
                -1, (fresh + halo) * phases, (targets, taps), device="cuda", dtype=torch.int32
            ),
        }
        for name in ("scale", "shift"):
            if self.random.random() < 0.6:
                inputs[name] = self.values(dtype, self.pick(1, batch), 1, channels)
        return inputs

    def gather(self, dtype: torch.dtype) -> Case:
        phases, width = self.pick(1, 1, 2, 4), self.pick(1, 3, 4, 8, 12, 64, 320)
        attributes = {
            "activation": self.pick("identity", *ACTIVATIONS),
            "alpha": 0.2,
            "phases": phases,
            "pad_value": self.pick(0.0, 1.5, -float("inf")),
        }
        return self.source(dtype, width * phases, phases), attributes

    def conv(self, dtype: torch.dtype) -> Case:
        kind = self.pick("plain", "plain", "wide", "wide", "grouped", "depthwise", "depthwise x2")
        group = 1 if kind in ("plain", "wide") else self.pick(2, 3, 16)
        depth = 1 if kind.startswith("depthwise") else self.pick(1, 3, 4, 8, 12, 64, 160)
        wide = self.pick(1, 3, 4, 8, 40, 64, 320)
        if kind == "wide":
            depth, wide = self.pick(64, 128, 320), self.pick(64, 128, 320)
        outputs = group * {"depthwise": 1, "depthwise x2": 2}.get(kind, wide)
        inputs = self.source(dtype, group * depth)
        batch, targets, taps = inputs["base"].shape[0], *inputs["table"].shape
        # The sum of taps * depth products stays of order 1.
        inputs["weight"] = self.values(dtype, taps, depth, outputs) * (taps * depth) ** -0.5
        for name, shape in (
            ("bias", (outputs,)),
            ("embedding", (self.pick(1, batch), 1, outputs)),
            ("residual", (batch, targets, outputs)),
        ):
            if self.random.random() < 0.5:
                inputs[name] = self.values(dtype, *shape)
        attributes = {
            "group": group,
            "activation_in": self.pick("identity", *ACTIVATIONS),
            "alpha_in": 0.2,
            "activation_out": self.pick("identity", "relu", *ACTIVATIONS),
            "alpha_out": 0.3,
        }
        return inputs, attributes

    def scatter(self, dtype: torch.dtype) -> Case:
        batch, pixels, channels = self.pick(1, 2), self.random.randint(1, 200), self.pick(1, 3, 8, 64)
        active = self.active(pixels)
        by_pixel = self.values(dtype, batch, pixels, channels)
        inputs = {
            "base": self.values(dtype, batch, pixels, channels),
            "rows": by_pixel[:, active.long()].contiguous(),
            "active": active,
        }
        return inputs, {}

    def attention(self, dtype: torch.dtype) -> Case:
        batch, heads = self.pick(1, 2), self.pick(1, 2, 5)
        dk = self.pick(1, 8, 12, 40, 64, 80, 128, 160, 256, 300, 512)
        dv = self.pick(dk, dk, 1, 20, 64)
        pixels = self.pick(1, 31, 64, 65, self.random.randint(1, 150 if self.small else 900))
        active = self.active(pixels)
        keys = self.values(dtype, batch, pixels, heads * dk)
        values = self.values(dtype, batch, pixels, heads * dv)
        inputs = {
            "q": self.values(dtype, batch, active.numel(), heads * dk),
            "k": keys[:, active.long()].contiguous(),
            "v": values[:, active.long()].contiguous(),
            "k_base": self.values(dtype, batch, pixels, heads * dk),
            "v_base": self.values(dtype, batch, pixels, heads * dv),
            "active": active,
        }
        return inputs, {"heads": heads, "scale": self.pick(0.0, 0.1)}


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
    for name, value in inputs.items():  # new values at the captured addresses
        if value.is_floating_point() and op != "scatter" and name not in ("k", "v"):
            value.copy_(torch.randn_like(value, dtype=torch.float32) * (0.1 if name == "weight" else 1.0))
    expected = cuda_reference.run(op, inputs, attributes)
    memory.fill_(float("nan"))
    graph.replay()
    errors.append(error_of(out, expected, exact))
    if not memory[count:].isnan().all():
        errors.append(float("inf"))
    return max(errors) / TOLERANCE[dtype], errors[0]


def describe(case: Case) -> str:
    inputs, attributes = case
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
    return f"{shapes}; {attributes}"


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
    options = parser.parse_args()
    device = Device(Kernels(options.library.resolve()))
    failures = 0
    for op in ("gather", "conv", "scatter", "attention"):
        for dtype in TOLERANCE:
            worst, failed = 0.0, 0
            for index in range(options.cases):
                draw = Draw(options.seed * 100003 + index, options.small)
                case = getattr(draw, op)(dtype)
                try:
                    ratio, _ = check(device, op, case)
                except KernelError as error:
                    ratio = float("inf")
                    print(f"  {op}: {error}")
                worst = max(worst, ratio)
                if not ratio <= 1:
                    failed += 1
                    if failed <= 4:
                        print(f"  case {index}, {ratio:.2f} tolerances: {describe(case)}")
            failures += failed
            name = str(dtype).removeprefix("torch.")
            print(
                f"{op:9} {name:8} {options.cases} cases, {failed} failed, worst {worst:.3f} of the tolerance",
                flush=True,
            )
    if not refuses_unprepared(device):
        failures += 1
        print("An unprepared product was not refused.")
    torch.cuda.synchronize()
    device.close()
    print(f"{torch.cuda.get_device_name()}: {'FAILED' if failures else 'all passed'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
