"""The demo: a street scene, recorded once and edited three times, beside what dense runs give and take."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from sige_deploy import picture
from sige_deploy.bench import Run, cores, interleaved, machine
from sige_deploy.compare import compare
from sige_deploy.config import SparseConfig
from sige_deploy.errors import ExportError
from sige_deploy.images import to_picture
from sige_deploy.runtimes.base import Arrays, Runtime, create
from sige_deploy.session import Session

if TYPE_CHECKING:
    from sige_deploy.models.gaugan import GauGAN

Progress = Callable[[str, int, int], None]
DILATE = 2  # pixels of context recomputed around an edit: about 10 dB closer to dense than 1
COLUMNS = ["label map", "edit", "dense", "recomputed", f"difference x {picture.GAIN}"]


@dataclass(frozen=True)
class DemoEdit:
    """One edit of the street.

    area: changed part of the label map. active_fraction: part of the work. edit_ms, dense_ms: medians.
    psnr_*: dB against dense, inside and outside the recomputed pixels.
    """

    name: str
    area: float
    active_fraction: float
    path: str
    edit_ms: float
    dense_ms: float
    psnr_inside: float | None
    psnr_outside: float | None


@dataclass(frozen=True)
class Demo:
    """What the demo made and measured."""

    bundle: Path
    picture: Path
    edits: list[DemoEdit]
    record_ms: float
    cache_bytes: int
    threads: int
    processor: str


def run(
    out: str | os.PathLike[str],
    repeats: int = 5,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Demo:
    """Export the street network to `out`/street.sige, record the scene, edit it, draw `out`/demo.png.

    repeats: timed runs of each edit, sparse and dense in turn. threads: CPU threads, None for all. progress:
    called as progress(what, done, total). Raises ExportError where the network or torch is missing, and what
    exporting and running raise.
    """
    from sige_deploy.exporters.export import export

    report = progress or (lambda what, done, total: None)
    scene = _street("demo_scene")
    folder = Path(out)
    label, edits = scene.demo_scene()
    total = len(edits) + 3
    report("load the network", 0, total)
    network = load_street()
    original = {"label": scene.one_hot(label)}
    report("export it", 1, total)
    config = SparseConfig(dilate=DILATE)
    bundle = export(network, original, folder / "street.sige", ["label"], config, name="street")
    runtime = create(None, bundle, "cpu", threads)
    with Session(bundle, runtime) as session:
        report("record the scene", 2, total)
        recorded = _first(session.record(**original))
        times = interleaved({"record": lambda: session.record(**original)}, min(repeats, 3))
        record_ms, cache_bytes = median(times["record"]), session.report.cache_bytes
        about = (
            f"The street is recorded once: {record_ms:.0f} ms, {cache_bytes / 1e6:.0f} MB of caches.\n"
            "An edit then recomputes the orange pixels only; all others are as recorded.\n"
            "On the right: how far that is from running the whole network."
        )
        rows = [picture.Row("street", [scene.palette[label], recorded, about, None, None])]
        done_edits = []
        for done, (name, changed) in enumerate(edits, start=3):
            report(name, done, total)
            edited = {"label": scene.one_hot(changed)}
            edit, cells = _edit(session, runtime, original, edited, name, repeats)
            outline = picture.outlined(scene.palette[changed], label != changed)
            done_edits.append(edit)
            rows.append(picture.Row(_caption(edit), [outline, *cells]))
    drawn = folder / "demo.png"
    picture.write_panel(drawn, COLUMNS, rows)
    report("done", total, total)
    return Demo(
        bundle=bundle.root,
        picture=drawn,
        edits=done_edits,
        record_ms=record_ms,
        cache_bytes=cache_bytes,
        threads=threads or cores(),
        processor=machine()["processor"],
    )


def load_street(checkpoint: str | os.PathLike[str] | None = None) -> GauGAN:
    """The demo network, trained, in eval mode; `checkpoint` replaces its own weights. Raises ExportError."""
    network = _street("network")
    return network.load_street_generator(*([] if checkpoint is None else [checkpoint]))


def _edit(
    session: Session, runtime: Runtime, original: Arrays, edited: Arrays, name: str, repeats: int
) -> tuple[DemoEdit, list[np.ndarray]]:
    """(what the edit cost and how close it is, its cells after the label map)."""
    ways: dict[str, Run] = {
        "dense": lambda: runtime.dense(edited),
        "edit": lambda: session.edit(**edited),
    }
    seen = compare(session, runtime, original, edited)
    times = interleaved(ways, repeats)
    result, dense, output = _first(seen.result), _first(seen.dense), seen.differences[0]
    edit = DemoEdit(
        name=name,
        area=float(seen.edited[0].mean()),
        active_fraction=seen.report.active_fraction,
        path=seen.report.path,
        edit_ms=median(times["edit"]),
        dense_ms=median(times["dense"]),
        psnr_inside=output.psnr_inside,
        psnr_outside=output.psnr_outside,
    )
    level = session.bundle.manifest.outputs[0].level
    active = picture.active_map(result, seen.active[level or ""])
    return edit, [result, dense, active, picture.difference(result, dense)]


def _caption(edit: DemoEdit) -> str:
    near = [
        f"{psnr:.0f} dB {where}"
        for psnr, where in ((edit.psnr_inside, "inside"), (edit.psnr_outside, "outside"))
        if psnr is not None
    ]
    return (
        f"{edit.name} | {100 * edit.area:.1f} % of the picture, {100 * edit.active_fraction:.1f} % of the "
        f"work: {edit.edit_ms:.0f} ms instead of {edit.dense_ms:.0f} ms, "
        f"{edit.dense_ms / edit.edit_ms:.1f} times as fast; PSNR to dense {', '.join(near)}"
    )


def _first(outputs: Arrays) -> np.ndarray:
    """The only output as a picture, uint8 [H, W, 3]."""
    shown = to_picture(next(iter(outputs.values())))
    assert shown is not None
    return shown


def _street(module: str) -> Any:
    """A module of the demo network's package, which is examples/street of a checkout."""
    try:
        return importlib.import_module(f"sige_deploy.street.{module}")
    except ModuleNotFoundError as error:
        if error.name == "torch":
            raise ExportError("the demo needs torch; run pip install 'sige-deploy[export]'.") from error
        raise ExportError(
            "this installation lacks the demo network; install sige-deploy anew, or from a checkout."
        ) from error
