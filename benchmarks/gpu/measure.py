"""Times, kernels and memory of work on a GPU."""

from __future__ import annotations

import gc
import os
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], list[Tensor]]

COPY_BYTES = 2 << 30
MATRIX = 8192
HOLD_CYCLES = 2_000_000  # about 1 ms in which work is enqueued before the GPU reaches it
UNTIMED = 2  # the first step with a mask is still an edit
LAUNCH_US = 1.0  # an empty kernel inside a CUDA graph


def interleaved(ways: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each way, run in turn, from an idle GPU to an idle GPU. Each timed run follows untimed
    ones of its own way, as one of several edits or denoising steps does; what a run returned is poisoned
    before the next."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, run in ways.items():
                for _ in range(UNTIMED):
                    poison(run())
                    torch.cuda.synchronize()
                start = time.perf_counter()
                outputs = run()
                torch.cuda.synchronize()
                times[name].append((time.perf_counter() - start) * 1e3)
                poison(outputs)
    finally:
        gc.enable()
    return times


def poison(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors, so that stale memory cannot pass for a result."""
    for tensor in tensors:
        tensor.fill_(float("nan") if tensor.is_floating_point() else 1)


def on_stream(work: Callable[[], Any], stream: int, repeats: int) -> float:
    """Median milliseconds of work on a CUDA stream (cudaStream_t), by events; the GPU is held up until all of
    it is enqueued."""
    times = []
    with torch.cuda.stream(torch.cuda.ExternalStream(stream)):
        for _ in range(repeats):
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda._sleep(HOLD_CYCLES)
            start.record()
            work()
            stop.record()
            stop.synchronize()
            times.append(start.elapsed_time(stop))
    return statistics.median(times)


def kernels(run: Callable[[], Any]) -> list[dict[str, Any]]:
    """What a run starts on the GPU, copies and fills included: {name, count, us}, most time first."""
    from torch.profiler import ProfilerActivity, profile

    os.environ["TEARDOWN_CUPTI"] = "0"  # torch's profiler and CUDA graphs do not go together otherwise
    os.environ["DISABLE_CUPTI_LAZY_REINIT"] = "1"
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        run()
        torch.cuda.synchronize()
    counts: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for event in profiler.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            counts[event.name] += 1
            times[event.name] += event.time_range.elapsed_us()
    return [
        {"name": name[:100], "count": counts[name], "us": round(us, 2)} for name, us in times.most_common()
    ]


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large copy on the device."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / _seconds(lambda: target.copy_(source))


def matmul_rate() -> float:
    """Floating-point operations per second of a large float16 matrix product on random data."""
    a, b = (torch.randn(MATRIX, MATRIX, device="cuda").half() for _ in range(2))
    return 2 * MATRIX**3 / _seconds(lambda: a @ b)


def _seconds(work: Callable[[], Any], repeats: int = 10) -> float:
    for _ in range(3):
        work()
    return on_stream(work, torch.cuda.current_stream().cuda_stream, repeats) / 1e3


class Memory:
    """The most device memory that the card had in use inside the block, in bytes, as the driver counts it."""

    peak = 0

    def __enter__(self) -> Memory:
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            done = self._done.wait(0.0005)
            free, total = torch.cuda.mem_get_info()
            self.peak = max(self.peak, total - free)
            if done:
                return
