"""Checks the plugins on a device against float64, driven as TensorRT does it.

    PYTHONPATH=.:tests python -m plugins.tensorrt.enqueue_check --library build/native/libsige_tensorrt.so

Needs a GPU, torch and a library built with SIGE_CUDA, but no TensorRT. Every case draws new sizes, bounds
of the sizes that vary, tables and values. Its node is made twice, as a build makes it and again from what
an engine stores; each goes through the case's rows, some of them, one and none: shapes set, a plain run,
and two launches of a captured graph with new values, each with outputs poisoned by NaN and the workspace
that the build asked for. Exit status 1 if anything misses the tolerance of docs/ops.md.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch

from .. import cuda_reference
from ..cuda import shape_of
from ..cuda_cases import Case, Draw
from ..cuda_check import GUARD, TOLERANCE, describe, error_of, poisoned, renew
from .enqueue import Host, HostError, Inputs, Node, compile_host, sizes

DRAWS = {
    "gather": "Gather",
    "gather_own_rows": "Gather",
    "gather_two": "Gather",
    "conv": "Conv",
    "conv_own_rows": "Conv",
    "conv_two": "Conv",
    "conv_norm": "Conv",
    "conv_gated": "Conv",
    "scatter": "Scatter",
    "attention": "Attention",
    "attention_wide_inputs": "Attention",
}


def bounds(draw: Draw, op: str, inputs: Inputs) -> dict[str, int]:
    """Largest sizes of an optimisation profile in which the case lies."""
    return {
        symbol: draw.pick(size, size + draw.random.randint(1, 200), max(8, 3 * size))
        for symbol, size in sizes(op, inputs).items()
    }


def fewer(inputs: Inputs, rows: int, targets: int, phases: int) -> dict[str, torch.Tensor | None]:
    """The same node's inputs for an edit of at most that many rows and targets."""
    targets = targets if "table" in inputs else rows
    cut = {"active": (0, rows), "rows": (1, rows), "rows_2": (1, rows), "table": (0, targets)}
    cut |= {"residual": (1, targets), "multiplier": (1, targets)} | dict.fromkeys("qkv", (1, rows))
    result = dict(inputs)
    for name, (axis, most) in cut.items():
        value = inputs.get(name)
        if value is not None:
            result[name] = value.narrow(axis, 0, min(most, value.shape[axis])).clone()
    if "table" in result:  # of a source that has lost rows
        last = (result["rows"].shape[1] + result["halo"].shape[0]) * phases - 1
        result["table"].clamp_(max=last)
    return result


def edits(draw: Draw, case: Case) -> Iterator[Inputs]:
    """All rows of the case, some, one, none and all again."""
    inputs, phases = case[0], case[1].get("phases", 1)
    some = draw.random.randint(2, 64), draw.random.randint(2, 64)
    yield inputs
    for rows, targets in (some, (1, 1), (0, 0)):
        yield fewer(inputs, rows, targets, phases)
    yield inputs


def run(node: Node, inputs: Inputs, attributes: dict, exact: bool) -> float:
    """Largest error of a plain run and two of a captured graph, over the tolerance."""
    kernel = node.op.lower()
    shape = shape_of(kernel, inputs, attributes)
    given = node.shapes(inputs)
    if given != list(shape):
        raise HostError(f"the output's shape is {given}, not {list(shape)}")
    dtype = next(value.dtype for value in inputs.values() if value is not None and value.is_floating_point())
    count = math.prod(shape)
    memory = poisoned(count, dtype)
    out = memory[:count].view(shape)
    guard = torch.full((GUARD,), 0xFF, dtype=torch.uint8, device="cuda")
    workspace = torch.full((node.workspace + GUARD,), 0xFF, dtype=torch.uint8, device="cuda")

    def enqueue() -> None:
        stream = torch.cuda.current_stream().cuda_stream
        node.enqueue(inputs, memory.data_ptr(), workspace.data_ptr(), stream)

    enqueue()
    errors = [error_of(out, cuda_reference.run(kernel, inputs, attributes), exact)]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        enqueue()
        torch.empty(1, device="cuda").zero_()  # an op may have nothing to do, a graph may not be empty
    for _ in range(2):
        renew(kernel, inputs)
        expected = cuda_reference.run(kernel, inputs, attributes)
        memory.fill_(float("nan"))
        graph.replay()
        errors.append(error_of(out, expected, exact))
    if not memory[count:].isnan().all() or not torch.equal(workspace[node.workspace :], guard):
        errors.append(math.inf)
    return max(errors) / TOLERANCE[dtype]


def check(host: Host, draw: Draw, op: str, case: Case) -> tuple[int, float]:
    """How often the case's nodes ran, and the largest error over the tolerance."""
    inputs, attributes = case
    plain = op == "Gather" and not {"scale", "shift"} & set(inputs) and attributes["activation"] == "identity"
    most, runs, worst = bounds(draw, op, inputs), 0, 0.0
    nodes = [Node(host, op, inputs, attributes, most, stored) for stored in (False, True)]
    for edited in edits(draw, case):
        for node in nodes:  # in turn, so that neither may rely on being alone
            worst = max(worst, run(node, edited, attributes, exact=plain or op == "Scatter"))
            runs += 3
    torch.cuda.synchronize()
    for node in nodes:
        node.close()
    return runs, worst


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True, help="libsige_tensorrt.so")
    parser.add_argument("--host", type=Path, help="enqueue.cpp as a library; built where it is left out")
    parser.add_argument("--cases", type=int, default=30, help="per draw and dtype")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="small sizes, for compute-sanitizer")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = options.host.resolve() if options.host else compile_host(Path(scratch, "libhost.so"))
        host = Host(path, options.library.resolve())
    failures = 0
    for name, op in DRAWS.items():
        for dtype in TOLERANCE:
            worst, failed, runs = 0.0, 0, 0
            for index in range(options.cases):
                draw = Draw(options.seed * 100003 + index, options.small)
                case = getattr(draw, name)(dtype)
                try:
                    done, ratio = check(host, draw, op, case)
                except HostError as error:
                    done, ratio = 0, math.inf
                    print(f"  {name}: {error}")
                runs, worst = runs + done, max(worst, ratio)
                if not ratio <= 1:
                    failed += 1
                    if failed <= 4:
                        print(f"  case {index}, {ratio:.2f} tolerances: {describe(case)}")
            failures += failed
            outcome = (
                f"{options.cases} cases, {runs} runs, {failed} failed, worst {worst:.3f} of the tolerance"
            )
            print(f"{name:15} {str(dtype).removeprefix('torch.'):8} {outcome}", flush=True)
    print(f"{torch.cuda.get_device_name()}: {'FAILED' if failures else 'all passed'}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
