"""The CUDA backend at the sizes of a Stable Diffusion 1.5 UNet: its 50 inner 3x3 convs and self-attentions.

    PYTHONPATH=tests python benchmarks/kernels/cuda.py --library build/cuda/libsige_kernels.so \
        --out benchmarks/results/kernels_cuda.json

And at the attention of a DDPM (batch 1, one head of 512 channels), and at convs and linear layers of a DDPM,
of GauGAN, of a VAE's decoder and of that UNet's transformers at a 1.2 % edit, 40 in one graph, each with a
weight of its own.

float16, batch 2, 64x64 latents; every time is the median of replays of a captured graph. A conv is timed over
copies of its weight that together exceed the L2 cache, and all 50 once more in one graph, each with its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from plugins.cuda import Device, args_of, shape_of
from plugins.library import CUDA, Kernels
from torch.nn import functional

BATCH, HEADS = 2, 8
LEVELS = (64, 32, 16, 8)
CHANNELS = dict(zip(LEVELS, (320, 640, 1280, 1280)))
SHARES = {  # active pixels per level
    "1.2 %": {64: 120, 32: 36, 16: 16, 8: 9},
    "5 %": {64: 256, 32: 81, 16: 36, 8: 16},
}
WIDE_ROWS = (9, 16, 32, 64)  # of the DDPM's attention: one head of 512 channels, 16x16 pixels
ROTATION_BYTES = 256 << 20
CHAINS = [  # (batch, taps, rows of an image, Cin, Cout, what comes before or behind)
    (1, 9, 896, 128, 128, "affine"), (1, 9, 896, 256, 128, "affine"), (1, 9, 252, 128, 128, "affine"),
    (1, 9, 252, 384, 128, "affine"), (1, 9, 88, 256, 256, "affine"), (1, 9, 88, 512, 256, "affine"),
    (1, 9, 32, 256, 256, "affine"), (1, 9, 32, 768, 256, "affine"), (1, 9, 12, 512, 512, "affine"),
    (1, 9, 12, 1024, 512, "affine"), (1, 1, 12, 512, 512, "affine"), (1, 1, 88, 512, 256, ""),
    (1, 9, 1718, 36, 128, ""), (1, 9, 1718, 128, 128, ""), (1, 9, 480, 36, 128, ""),
    (1, 9, 480, 128, 256, ""), (1, 9, 140, 512, 256, ""), (1, 9, 52, 128, 1024, ""),
    (1, 9, 12, 128, 1024, ""), (1, 9, 12, 1024, 1024, ""),
    (1, 9, 1372, 256, 256, "affine"), (1, 9, 376, 512, 512, "affine"),
    (2, 1, 77, 320, 320, ""), (2, 1, 77, 320, 960, "norm"), (2, 1, 77, 320, 1280, "norm gate"),
    (2, 1, 77, 1280, 320, ""), (2, 1, 30, 640, 640, ""), (2, 1, 30, 640, 2560, "norm gate"),
    (2, 1, 12, 1280, 1280, ""), (2, 1, 12, 1280, 3840, "norm"), (2, 1, 12, 1280, 5120, "norm gate"),
    (2, 1, 12, 5120, 1280, ""),
]  # fmt: skip
CHAIN = 40
REPEATS = 20  # of an attention in one graph, so that the launch of the graph itself hardly counts


def unet_convs() -> list[tuple[int, int, int, bool]]:
    """(target level, Cin, Cout, whether it is the first conv of a ResNet block) of the 50 convs."""
    convs: list[tuple[int, int, int, bool]] = []

    def block(level: int, channels: int) -> None:
        convs.append((level, channels, CHANNELS[level], True))
        convs.append((level, CHANNELS[level], CHANNELS[level], False))

    below = 320
    for level in LEVELS:
        block(level, below)
        block(level, CHANNELS[level])
        below = CHANNELS[level]
        if level > 8:
            convs.append((level // 2, below, below, False))
    block(8, 1280)
    block(8, 1280)
    for level, inputs in (
        (8, (2560,) * 3),
        (16, (2560, 2560, 1920)),
        (32, (1920, 1280, 960)),
        (64, (960, 640, 640)),
    ):
        for channels in inputs:
            block(level, channels)
        if level < 64:
            convs.append((level * 2, CHANNELS[level], CHANNELS[level], False))
    assert len(convs) == 50, len(convs)
    return convs


def values(*shape: int) -> torch.Tensor:
    return torch.randn(shape, device="cuda").half()


def conv_inputs(level: int, rows: int, channels: int, outputs: int, first: bool) -> dict[str, torch.Tensor]:
    """A conv over rows of a compact region: about as many halo pixels as its border has, tables all over."""
    halo = min(level * level - rows, int(4 * rows**0.5) + 4) if rows < level * level else 1
    inputs = {
        "rows": values(BATCH, rows, channels),
        "base": values(BATCH, level * level, channels),
        "halo": torch.randint(0, level * level, (halo,), device="cuda", dtype=torch.int32),
        "table": torch.randint(0, rows + halo, (rows, 9), device="cuda", dtype=torch.int32),
        "weight": values(9, channels, outputs) * (9 * channels) ** -0.5,
        "bias": values(outputs),
        "scale": values(BATCH, 1, channels),
        "shift": values(BATCH, 1, channels),
    }
    if first:
        inputs["embedding"] = values(BATCH, 1, outputs)
    else:
        inputs["residual"] = values(BATCH, rows, outputs)
    return inputs


def timed(work: Callable[[], None], replays: int = 30) -> float:
    """Median microseconds of a replay of `work` as a graph."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    for _ in range(3):
        graph.replay()
    times = []
    for _ in range(replays):
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        times.append(start.elapsed_time(stop) * 1e3)
    return statistics.median(times)


def rounded(value: Any) -> Any:
    """Microseconds to two digits, everywhere in a document."""
    if isinstance(value, float):
        return round(value, 2)
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


class Bench:
    """Convs and attentions of one edit."""

    def __init__(self, kernels: Kernels, rows: dict[int, int], candidates: int) -> None:
        self.kernels, self.rows, self.candidates = kernels, rows, candidates
        self.device = Device(kernels)
        self.workspace = torch.empty(64 << 20, dtype=torch.uint8, device="cuda")
        self.kept: list[Any] = []  # tensors whose addresses calls hold

    def call(
        self, op: str, inputs: dict[str, torch.Tensor], attributes: dict[str, Any]
    ) -> Callable[[], None]:
        out = torch.empty(shape_of(op, inputs, attributes), dtype=torch.float16, device="cuda")
        args = args_of(op, inputs, attributes, out)
        if op == "conv":
            self.device.prepare(args, self.candidates)
        assert op == "gather" or self.kernels.size(f"sige_{op}_workspace_size", args, CUDA) <= 64 << 20
        self.kept.append((inputs, out))
        return self.device.call(op, args, self.workspace)

    def conv(self, shape: tuple[int, int, int, bool]) -> dict[str, Any]:
        """One conv, and its gather and its product alone."""
        level, channels, outputs, first = shape
        copies = min(16, ROTATION_BYTES // (9 * channels * outputs * 2) + 1)
        calls = []
        inputs = conv_inputs(level, self.rows[level], channels, outputs, first)
        for _ in range(copies):
            inputs = inputs | {"weight": torch.randn_like(inputs["weight"])}
            calls.append(self.call("conv", inputs, {"activation_in": "silu"}))
        gathers = [self.call("gather", inputs, {"activation": "silu"})] * copies
        gathered = values(BATCH * self.rows[level], 9 * channels)
        weights = [kept[0]["weight"].flatten(0, 1) for kept in self.kept[-copies - 1 : -1]]

        def products() -> None:
            for weight in weights:
                torch.mm(gathered, weight)

        def every(work: list[Callable[[], None]]) -> Callable[[], None]:
            return lambda: [call() for call in work] and None

        result = {
            "level": level,
            "rows": BATCH * self.rows[level],
            "inputs": channels,
            "outputs": outputs,
            "conv_us": timed(every(calls)) / copies,
            "gather_us": timed(every(gathers)) / copies,
            "torch_mm_us": timed(products) / copies,
            "weight_mb": 9 * channels * outputs * 2 / 1e6,
        }
        self.kept.clear()
        return result

    def all_convs(self, convs: list[tuple[int, int, int, bool]]) -> float:
        """All 50 in a row, each with its own weights."""
        calls = []
        for level, channels, outputs, first in convs:
            inputs = conv_inputs(level, self.rows[level], channels, outputs, first)
            calls.append(self.call("conv", inputs, {"activation_in": "silu"}))
        result = timed(lambda: [call() for call in calls] and None)
        self.kept.clear()
        return result

    def chain(
        self, batch: int, taps: int, rows: int, channels: int, outputs: int, around: str
    ) -> dict[str, Any]:
        """A chain of one conv, each with a weight of its own, and the chain of what PyTorch would run for it:
        our gather or its LayerNorm, `torch.mm`, a gate by GELU."""
        halo = 4 * int(rows**0.5) + 4
        columns = 2 * outputs if "gate" in around else outputs
        inputs = {"rows": values(batch, rows, channels), "bias": values(columns)}
        if taps > 1:
            inputs |= {
                "base": values(batch, 8 * halo, channels),
                "halo": torch.randint(0, 8 * halo, (halo,), device="cuda", dtype=torch.int32),
                "table": torch.randint(-1, rows + halo, (rows, taps), device="cuda", dtype=torch.int32),
            }
        if around == "affine":
            inputs |= {"scale": values(1, 1, channels), "shift": values(1, 1, channels)}
        attributes: dict[str, Any] = {"activation_in": "silu"} if around == "affine" else {}
        attributes |= {"norm_epsilon": 1e-5} if "norm" in around else {}
        attributes |= {"gate": "gelu"} if "gate" in around else {}
        weights = [values(taps, channels, columns) * (taps * channels) ** -0.5 for _ in range(CHAIN)]
        convs = [self.call("conv", inputs | {"weight": w}, attributes) for w in weights]
        kept = {name: value for name, value in inputs.items() if name != "bias"}
        before = {"activation": attributes.get("activation_in", "identity")}
        gather = self.call("gather", kept, before) if taps > 1 or around == "affine" else None
        gathered = values(batch * rows, taps * channels)

        def theirs() -> None:
            for weight in weights:
                left = gathered
                if gather is not None:
                    gather()
                if "norm" in around:
                    left = functional.layer_norm(left, left.shape[1:])
                product = torch.mm(left, weight.flatten(0, 1))
                if "gate" in around:
                    _ = product[:, :outputs] * functional.gelu(product[:, outputs:])

        result = {
            "batch": batch,
            "taps": taps,
            "rows": batch * rows,
            "inputs": channels,
            "outputs": outputs,
            "around": around,
            "conv_us": timed(lambda: [conv() for conv in convs] and None) / CHAIN,
            "torch_us": timed(theirs) / CHAIN,
            "weight_mb": taps * channels * columns * 2 / 1e6,
        }
        self.kept.clear()
        return result

    def attention(
        self, level: int, rows: int, channels: int, batch: int = BATCH, heads: int = HEADS
    ) -> dict[str, Any]:
        """Self-attention of one block, against scatter and PyTorch's fused attention."""
        pixels = level * level
        active = torch.randperm(pixels, device="cuda")[:rows].sort().values
        inputs = {name: values(batch, rows, channels) for name in ("q", "k", "v")}
        inputs |= {name: values(batch, pixels, channels) for name in ("k_base", "v_base")}
        inputs["active"] = active.int()
        call = self.call("attention", inputs, {"heads": heads})

        def split(x: torch.Tensor) -> torch.Tensor:
            return x.unflatten(2, (heads, -1)).transpose(1, 2)

        def theirs() -> None:
            keys = inputs["k_base"].index_copy(1, active, inputs["k"])
            overlaid = inputs["v_base"].index_copy(1, active, inputs["v"])
            functional.scaled_dot_product_attention(split(inputs["q"]), split(keys), split(overlaid))

        def repeated(work: Callable[[], None]) -> float:
            return timed(lambda: [work() for _ in range(REPEATS)] and None) / REPEATS

        result = {
            "level": level,
            "rows": batch * rows,
            "dk": channels // heads,
            "attention_us": repeated(call),
            "torch_us": repeated(theirs),
        }
        self.kept.clear()
        return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    kernels = Kernels(options.library.resolve())
    convs = unet_convs()
    counts = Counter(convs)
    runs = []
    for share, rows in SHARES.items():
        for candidates in options.candidates:
            bench = Bench(kernels, rows, candidates)
            results = [bench.conv(shape) | {"count": counts[shape]} for shape in counts]
            sums = {
                key: sum(r[key] * r["count"] for r in results)
                for key in ("conv_us", "gather_us", "torch_mm_us")
            }
            whole = [bench.all_convs(convs) for _ in range(2)]
            attentions = [bench.attention(level, rows[level], CHANNELS[level]) for level in LEVELS]
            attentions += [bench.attention(16, wide, 512, batch=1, heads=1) for wide in WIDE_ROWS]
            bench.device.close()
            runs.append(
                {
                    "edit": share,
                    "candidates": candidates,
                    "all_convs_us": whole,
                    "sums": sums,
                    "convs": results,
                    "attentions": attentions,
                }
            )
            times = " and ".join(f"{value:.0f}" for value in whole)
            print(f"edit {share}, {candidates} candidates: 50 convs in one graph {times} us")
            print("  sums of single convs: " + ", ".join(f"{key} {value:.0f}" for key, value in sums.items()))
            for r in results:
                print(
                    f"  {r['level']:3} rows {r['rows']:4} {r['inputs']:5} -> {r['outputs']:5} x{r['count']}: "
                    f"{r['conv_us']:6.1f} us, gather {r['gather_us']:5.1f}, torch.mm {r['torch_mm_us']:6.1f}"
                )
            for a in attentions:
                print(
                    f"  attention {a['level']:3} rows {a['rows']:4} dk {a['dk']:3}: "
                    f"{a['attention_us']:6.1f} us, index_copy and PyTorch's {a['torch_us']:6.1f}"
                )
    bench = Bench(kernels, {}, 1)
    chains = [bench.chain(*shape) for shape in CHAINS]
    bench.device.close()
    for r in chains:
        print(
            f"  {r['taps']} taps, rows {r['rows']:4} {r['inputs']:5} -> {r['outputs']:5} {r['around']:9}: "
            f"{r['conv_us']:6.2f} us, PyTorch {r['torch_us']:6.2f}, weight {r['weight_mb'] / 4.3:5.1f}"
        )
    if options.out:
        document = {
            "date": time.strftime("%Y-%m-%d"),
            "gpu": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "dtype": "float16",
            "batch": BATCH,
            "runs": runs,
            "chains": chains,
        }
        options.out.write_text(json.dumps(rounded(document), indent=1) + "\n")


if __name__ == "__main__":
    main()
