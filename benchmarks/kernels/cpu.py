"""Conv and Attention on one CPU thread: native kernels against ONNX Runtime's run of the function bodies.

    PYTHONPATH=tests python benchmarks/kernels/cpu.py --out benchmarks/results/kernels_cpu.json

Shapes are 3x3 convs of GauGAN, DDPM and Stable Diffusion, linear layers of rows, and self-attentions. Both
run the same arrays in turn, and the median of the thread's own time counts, so that other work on the machine
disturbs little.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from ops.helpers import Window, model_of, random, session_of
from plugins.library import Kernels

from plugins import cpu, library

# name, batch, side of the level, side of the active square, Cin, Cout, group
SHAPES = [
    ("SD 64x64, 1.4 %", 2, 64, 11, 320, 320, 1),
    ("SD 32x32", 2, 32, 6, 640, 640, 1),
    ("SD 16x16", 2, 16, 4, 1280, 1280, 1),
    ("DDPM 256x256, 1.2 %", 1, 256, 28, 128, 128, 1),
    ("DDPM 32x32", 1, 32, 5, 512, 512, 1),
    ("GauGAN 256, 5 %", 1, 256, 57, 64, 64, 1),
    ("first conv, Cin 4", 2, 64, 11, 4, 320, 1),
    ("last conv, Cout 3", 1, 256, 28, 128, 3, 1),
    ("GauGAN 256, 30 %", 1, 256, 140, 64, 64, 1),
    ("depthwise 128", 1, 128, 28, 128, 128, 128),
    ("8 groups", 1, 64, 16, 256, 256, 8),
]


def case(batch: int, side: int, edit: int, channels: int, outputs: int, group: int) -> dict[str, np.ndarray]:
    """A ResNet block's conv: affine and SiLU in front, bias and residual behind."""
    first = (side - edit) // 2
    active = [y * side + x for y in range(first, first + edit) for x in range(first, first + edit)]
    halo, table = Window(side, side).tables(active, active)
    return {
        "rows": random(1, np.float32, batch, len(active), channels),
        "base": random(2, np.float32, batch, side * side, channels),
        "halo": halo,
        "table": table,
        "weight": random(3, np.float32, 9, channels // group, outputs),
        "bias": random(4, np.float32, outputs),
        "scale": random(5, np.float32, batch, 1, channels),
        "shift": random(6, np.float32, batch, 1, channels),
        "residual": random(7, np.float32, batch, len(active), outputs),
    }


# name, batch, rows, Cin, Cout
LINEARS = [
    ("linear SD 64x64, 1.4 %", 2, 121, 320, 1280),
    ("linear SD 16x16", 2, 16, 1280, 1280),
    ("linear DDPM 256x256", 1, 784, 512, 256),
    ("linear DDPM 16x16", 1, 28, 512, 512),
    ("linear GauGAN 256, 5 %", 1, 3249, 64, 64),
]


def linear_case(batch: int, rows: int, channels: int, outputs: int) -> dict[str, np.ndarray]:
    """A 1x1 conv without a table: bias and residual behind."""
    return {
        "rows": random(1, np.float32, batch, rows, channels),
        "weight": random(3, np.float32, 1, channels, outputs),
        "bias": random(4, np.float32, outputs),
        "residual": random(7, np.float32, batch, rows, outputs),
    }


# name, batch, side of the level, active pixels, heads, channels of a head
ATTENTIONS = [
    ("attention SD 64x64", 2, 64, 121, 8, 40),
    ("attention SD 32x32", 2, 32, 36, 8, 80),
    ("attention SD 16x16", 2, 16, 16, 8, 160),
]


def attention_case(batch: int, side: int, edit: int, heads: int, width: int) -> dict[str, np.ndarray]:
    """Self-attention over a level."""
    fresh, pixels = (batch, edit, heads * width), (batch, side * side, heads * width)
    names = {"q": fresh, "k": fresh, "v": fresh, "k_base": pixels, "v_base": pixels}
    inputs = {name: random(seed, np.float32, *shape) for seed, (name, shape) in enumerate(names.items())}
    return inputs | {"active": np.arange(edit, dtype=np.int32)}


def conv_args(
    kernels: Kernels, inputs: dict[str, np.ndarray], attributes: dict[str, Any], out: np.ndarray
) -> Any:
    """The arguments of a Conv, its weight packed."""
    packed = kernels.pack(library.conv_args(inputs, attributes, out), cpu.allocate)
    args = library.conv_args(inputs, attributes, out, packed)
    args.kept = packed
    return args


def measure(
    kernels: Kernels, name: str, op: str, inputs: dict[str, np.ndarray], attributes: dict[str, Any], runs: int
) -> dict[str, Any]:
    """Median milliseconds of both, and the largest difference relative to the largest value."""
    if op == "conv":
        out = np.empty_like(inputs["residual"])
        args = conv_args(kernels, inputs, attributes, out)
        weight = inputs["weight"]
        flops = 2 * weight.size // weight.shape[2] * out.size
    else:
        out = np.empty_like(inputs["q"])
        args = library.attention_args(inputs, attributes, out)
        flops = 4 * out.size * inputs["k_base"].shape[1]
    workspace = cpu.allocate(kernels.size(f"sige_{op}_workspace_size", args, library.CPU))
    execution = cpu.execution(kernels, workspace)
    session = session_of(model_of(op.capitalize(), inputs, attributes))
    feeds = {value.name: inputs[value.name] for value in session.get_inputs()}

    times: dict[str, list[float]] = {"native": [], "onnxruntime": []}
    for _ in range(runs + 1):  # the first one warms up
        start = time.thread_time()
        kernels.run(op, args, execution)
        middle = time.thread_time()
        expected = session.run(None, feeds)[0]
        times["native"].append((middle - start) * 1e3)
        times["onnxruntime"].append((time.thread_time() - middle) * 1e3)
    native, reference = (statistics.median(series[1:]) for series in times.values())
    return {
        "name": name,
        "rows": out.shape[0] * out.shape[1],
        "shapes": {key: list(value.shape) for key, value in inputs.items()},
        "attributes": attributes,
        "native_ms": round(native, 4),
        "onnxruntime_ms": round(reference, 4),
        "ratio": round(reference / native, 2),
        "native_gflops": round(flops / native / 1e6, 1),
        "onnxruntime_gflops": round(flops / reference / 1e6, 1),
        "difference": float(np.abs(out - expected).max() / np.abs(expected).max()),
    }


def processor() -> str:
    """Model name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", type=Path, default=Path("build/native/libsige_kernels.so"))
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--only", default="", help="a part of the names to run")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kernels = Kernels(options.library.resolve())
    cases: list[tuple[str, str, dict[str, np.ndarray], dict[str, Any]]] = []
    for name, *sizes in SHAPES:
        cases.append((name, "conv", case(*sizes), {"group": sizes[-1], "activation_in": "silu"}))
    for name, *sizes in LINEARS:
        cases.append((name, "conv", linear_case(*sizes), {}))
    for name, batch, side, edit, heads, width in ATTENTIONS:
        cases.append((name, "attention", attention_case(batch, side, edit, heads, width), {"heads": heads}))
    results = []
    for name, op, inputs, attributes in cases:
        if options.only in name:
            result = measure(kernels, name, op, inputs, attributes, options.runs)
            results.append(result)
            print(
                f"{name:24} rows {result['rows']:6} native {result['native_ms']:9.3f} ms "
                f"({result['native_gflops']:6.1f} GF/s)  onnxruntime {result['onnxruntime_ms']:9.3f} ms "
                f"({result['onnxruntime_gflops']:6.1f})  x{result['ratio']:.2f}"
            )
    if options.out:
        document = {
            "date": time.strftime("%Y-%m-%d"),
            "processor": processor(),
            "cores": os.cpu_count(),
            "onnxruntime": onnxruntime.__version__,
            "threads": 1,
            "runs": options.runs,
            "results": results,
        }
        options.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
