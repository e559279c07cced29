"""Edits of given sizes, sparse against dense, interleaved in one run on one machine.

Dense is the original network (dense.onnx) with all optimisations of the same engine and as many threads. A
sparse time is that of the whole `Session.edit`: checks, difference mask, tables, run, writing of the outputs.
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from sige_deploy.bundle import Bundle
from sige_deploy.errors import InputError, RuntimeFailure
from sige_deploy.manifest import PlannerSpec
from sige_deploy.runtimes.base import Runtime, create
from sige_deploy.session import Session
from sige_deploy.workload import SHAPES, Arrays, Shape, make_edit, make_inputs

Progress = Callable[[str, int, int], None]
Run = Callable[[], Mapping[str, np.ndarray]]

EDITS = (1.2, 5.0, 15.0, 30.0, 60.0, 100.0)  # per cent of the first spatial input's area
MARGIN = 0.05  # calibration stays this much below the measured crossing
SETTLE = 0.01  # seconds before each run, in which the threads of the one before go to sleep
NEVER = 2.0  # a dense_above that no active fraction exceeds


@dataclass(frozen=True)
class Case:
    """One edit; times are medians in ms.

    share: edited part of the first spatial input's area. active_fraction: part of the dense multiply-adds.
    rows: active pixels by level id. stages: parts of the sparse time. planned_ms, planned_path: what a user
    gets, with the bundle's planner in force. ratio: dense / sparse. pays_after: how many such edits it takes
    until recording, instead of running dense once, has saved time; None: it never does.
    """

    share: float
    shape: Shape
    active_fraction: float
    rows: dict[str, int]
    dense_ms: float
    sparse_ms: float
    stages: dict[str, float]
    planned_ms: float
    planned_path: str
    ratio: float
    pays_after: int | None


@dataclass(frozen=True)
class Result:
    """What `bench` measured.

    crossing: the active fraction where sparse takes as long as dense, None when it never does; dense_above:
    the planner's threshold that follows.
    """

    bundle: str
    bundle_id: str
    runtime: str
    threads: int
    repeats: int
    seed: int
    dense_ms: float
    record_ms: float
    cache_bytes: int
    edits: list[Case]
    crossing: float | None
    dense_above: float
    date: str = field(default_factory=lambda: date.today().isoformat())
    machine: dict[str, Any] = field(default_factory=lambda: machine())
    versions: dict[str, str] = field(default_factory=lambda: versions())
    benchmark: str = "edit"

    def to_json(self) -> dict[str, Any]:
        """A plain dict that json can write."""
        return asdict(self)


def bench(
    bundle: Bundle,
    edits: Sequence[float] = EDITS,
    shapes: Sequence[Shape] = ("square",),
    repeats: int = 5,
    threads: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Time edits of a bundle on the CPU against its dense network, on random inputs.

    edits: edited areas in per cent of the first spatial input. shapes: "square", "blobs". repeats: timed runs
    of each way. threads: CPU threads of every run, None for all. seed: of the inputs. progress: called as
    progress(what, done, total).

    Ten milliseconds of pause precede every run, and every array that a run returned is filled with NaN before
    the next, so that stale memory cannot pass for a result. Raises InputError, RuntimeFailure.
    """
    _check(edits, shapes, repeats)
    report = progress or (lambda what, done, total: None)
    cases = [(area / 100, shape) for shape in shapes for area in edits]
    total = len(cases) + 1
    runtime = create(None, bundle, "cpu", threads)
    with Session(bundle, runtime) as session:
        subject = _Subject(bundle, session, runtime)
        inputs = make_inputs(bundle.manifest, seed)
        report("record", 0, total)
        record_ms, dense_ms = subject.time_record(inputs, min(repeats, 3))
        results = []
        for done, (share, shape) in enumerate(cases, start=1):
            report(f"{share:.1%} {shape}", done, total)
            edited, _ = make_edit(bundle.manifest, inputs, share, shape, seed + 1)
            results.append(subject.time_edit(edited, share, shape, record_ms - dense_ms, repeats))
        report("done", total, total)
        crossing, dense_above = calibrated(results)
        return Result(
            bundle=bundle.manifest.name,
            bundle_id=bundle.id,
            runtime=runtime.name,
            threads=threads or cores(),
            repeats=repeats,
            seed=seed,
            dense_ms=dense_ms,
            record_ms=record_ms,
            cache_bytes=session.report.cache_bytes,
            edits=results,
            crossing=crossing,
            dense_above=dense_above,
        )


def always_sparse(bundle: Bundle) -> Bundle:
    """The bundle with a planner that never chooses dense; the files stay as they are."""
    planner = PlannerSpec(dense_above=NEVER, gpu_dense_above=NEVER)
    return Bundle(bundle.root, bundle.manifest.model_copy(update={"planner": planner}))


class _Subject:
    """A recorded session with its engine, timed."""

    def __init__(self, bundle: Bundle, session: Session, runtime: Runtime) -> None:
        self.session, self.runtime = session, runtime
        self._planned, self._sparse = bundle, always_sparse(bundle)

    def time_record(self, inputs: Arrays, repeats: int) -> tuple[float, float]:
        """(record, dense) in ms, warm."""
        ways: dict[str, Run] = {
            "dense": lambda: self.runtime.dense(inputs),
            "record": lambda: self.session.record(**inputs),
        }
        for run in ways.values():
            _check_finite(run(), "the network")
        times = interleaved(ways, repeats)
        return median(times["record"]), median(times["dense"])

    def time_edit(self, edited: Arrays, share: float, shape: Shape, overhead_ms: float, repeats: int) -> Case:
        """overhead_ms: by how much a record is slower than a dense run."""
        stages: list[dict[str, float]] = []

        def sparse() -> Arrays:
            with self._bundle(self._sparse):
                outputs = self.session.edit(**edited)
            stages.append(self.session.report.stages)
            return outputs

        def planned() -> Arrays:
            return self.session.edit(**edited)

        _check_finite(planned(), "the planned edit")
        planned_path = self.session.report.path
        _check_finite(sparse(), "the sparse edit")
        report = self.session.report
        stages.clear()
        ways: dict[str, Run] = {
            "dense": lambda: self.runtime.dense(edited),
            "sparse": sparse,
            "planned": planned,
        }
        ms = {way: median(times) for way, times in interleaved(ways, repeats).items()}
        return Case(
            share=share,
            shape=shape,
            active_fraction=report.active_fraction,
            rows=report.rows,
            dense_ms=ms["dense"],
            sparse_ms=ms["sparse"],
            stages={name: median(lap[name] for lap in stages) for name in stages[0]},
            planned_ms=ms["planned"],
            planned_path=planned_path,
            ratio=ms["dense"] / ms["sparse"],
            pays_after=pays_after(overhead_ms, ms["sparse"], ms["dense"]),
        )

    @contextlib.contextmanager
    def _bundle(self, bundle: Bundle) -> Iterator[None]:
        """Another planner for a while: the session asks its bundle at every edit."""
        self.session.bundle = bundle
        try:
            yield
        finally:
            self.session.bundle = self._planned


def interleaved(ways: Mapping[str, Run], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each way, run in turn `repeats` times, without garbage collection; what a run returns
    is poisoned afterwards."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(repeats):
            for name, run in ways.items():
                time.sleep(SETTLE)
                start = time.perf_counter()
                outputs = run()
                times[name].append((time.perf_counter() - start) * 1e3)
                poison(outputs.values())
    finally:
        if collecting:
            gc.enable()
    return times


def poison(arrays: Iterable[np.ndarray]) -> None:
    """Overwrite arrays: floats with NaN, others with their largest value."""
    for array in arrays:
        if array.flags.writeable:
            kind = array.dtype.kind
            array.fill(np.nan if kind == "f" else kind == "b" or np.iinfo(array.dtype).max)


def calibrated(cases: Sequence[Case]) -> tuple[float | None, float]:
    """(crossing, dense_above): the smallest active fraction where sparse / dense reaches 1, linear between
    the cases of one shape, and 5 % less. Without a crossing, the largest fraction that was measured."""
    lines = [[(c.active_fraction, 1 / c.ratio) for c in cases if c.shape == shape] for shape in SHAPES]
    crossing = min((x for x in map(_crossing, lines) if x is not None), default=None)
    largest = max(c.active_fraction for c in cases)
    return crossing, largest if crossing is None else (1 - MARGIN) * crossing


def pays_after(overhead_ms: float, sparse_ms: float, dense_ms: float) -> int | None:
    """Edits until what a record costs more than a dense run is saved; None if that never happens."""
    saved = dense_ms - sparse_ms
    return max(math.ceil(overhead_ms / saved), 1) if saved > 0 else None


def plot(result: Result, path: str | os.PathLike[str]) -> None:
    """Draw latency against edited area, both logarithmic, as .png, .svg or .pdf. Raises InputError without
    matplotlib, or when the file cannot be written."""
    require_plots()
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for shape, marker, line in (("square", "s", "-"), ("blobs", "o", "--")):
        cases = sorted((c for c in result.edits if c.shape == shape), key=lambda c: c.share)
        x = [100 * c.share for c in cases]
        look: dict[str, Any] = {"marker": marker, "linestyle": line}
        if cases:
            axes.plot(x, [c.sparse_ms for c in cases], color="#1f6fb4", label=f"sparse, {shape}", **look)
            axes.plot(x, [c.planned_ms for c in cases], color="#e08214", label=f"planned, {shape}", **look)
    axes.axhline(result.dense_ms, color="#555555", linewidth=1.2, label="dense")
    axes.set(xscale="log", yscale="log", title=result.bundle)
    axes.set(xlabel="edited area / %", ylabel="latency / ms")
    ticks = sorted({100 * c.share for c in result.edits})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("{x:g}")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its ending names no type"
        raise InputError(f"cannot write plot '{path}' ({reason}); name a .png, .svg or .pdf file.") from error


def require_plots() -> None:
    """Raise InputError where matplotlib is missing."""
    try:
        import matplotlib.figure
    except ImportError as error:
        raise InputError("plots need matplotlib; run pip install 'sige-deploy[plots]'.") from error
    del matplotlib


def machine() -> dict[str, Any]:
    """Processor, usable cores and system of this machine."""
    return {"processor": _processor(), "cores": cores(), "system": platform.platform(terse=True)}


def versions() -> dict[str, str]:
    """Versions that a time may depend on."""
    found = {"python": platform.python_version()}
    for package in ("sige-deploy", "onnxruntime", "numpy"):
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _check(edits: Sequence[float], shapes: Sequence[Shape], repeats: int) -> None:
    if not edits or not all(0 < area <= 100 for area in edits):
        raise InputError(f"edits are areas in per cent, above 0 and up to 100, not {list(edits)}.")
    if not shapes or any(shape not in SHAPES for shape in shapes):
        raise InputError(f"shapes of edits are {' and '.join(SHAPES)}, not {list(shapes)}.")
    if repeats < 1:
        raise InputError(f"repeats is a count of timed runs, 1 or more, not {repeats}.")


def _check_finite(outputs: Mapping[str, np.ndarray], who: str) -> None:
    for name, array in outputs.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise RuntimeFailure(
                f"{who} gives NaN or infinity in output '{name}' on random inputs, so its time means nothing;"
                " check the network's weights."
            )
    poison(outputs.values())


def _crossing(points: list[tuple[float, float]]) -> float | None:
    """Smallest x where y reaches 1, linear between points (x, y); 0 if the first one is there already."""
    x0, y0 = 0.0, math.inf
    for x, y in sorted(points):
        if y >= 1:
            return x0 + (x - x0) * (1 - y0) / (y - y0) if y0 < 1 else 0.0
        x0, y0 = x, y
    return None


def _processor() -> str:
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return platform.processor() or platform.machine()
