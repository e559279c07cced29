"""sige-deploy bench: edits of given sizes, sparse against dense."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sige_deploy.cli.arguments import BundleArgument, Threads
from sige_deploy.cli.console import finite, ms, progress, say, share, show, size
from sige_deploy.errors import InputError

if TYPE_CHECKING:
    from sige_deploy.bench import Result


class Shape(str, Enum):
    """Of the edits."""

    square = "square"
    blobs = "blobs"
    both = "both"


def bench(
    bundle: BundleArgument,
    edits: Annotated[
        str, typer.Option(metavar="AREA,...", help="Edited areas, per cent of the image.")
    ] = "1.2,5,15,30,60,100",
    shape: Annotated[Shape, typer.Option(help="One square, scattered blobs, or both.")] = Shape.square,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each way.")] = 5,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Of the random inputs.")] = 0,
    json: Annotated[Path | None, typer.Option(help="File for the result.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Picture of latency against area.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Store in the bundle when its edits run dense.")
    ] = False,
) -> None:
    """Time edits against the dense network: interleaved runs on random inputs, medians."""
    from sige_deploy import bench as measuring
    from sige_deploy.bundle import open_bundle

    areas = _areas(edits)
    shapes = measuring.SHAPES if shape is Shape.both else (shape.value,)
    if plot is not None:
        measuring.require_plots()
    opened = open_bundle(bundle)
    with progress() as report:
        result = measuring.bench(opened, areas, shapes, repeats, threads, seed, report)
    _show(result)
    if calibrate:
        opened.update_planner(result.dense_above)
        say(f"edits of more than {share(result.dense_above)} of the work now run dense")
    if json is not None:
        _write(json, result)
    if plot is not None:
        measuring.plot(result, plot)
        say(f"wrote {plot}")


def _show(result: Result) -> None:
    say(
        f"{result.bundle}  {result.runtime}, {result.threads} threads, {result.machine['processor']}\n"
        f"dense {ms(result.dense_ms)} ms, record {ms(result.record_ms)} ms "
        f"({result.record_ms / result.dense_ms:.2f}x), caches {size(result.cache_bytes)}; "
        f"medians of {result.repeats}\n"
    )
    columns = ">area shape >work >dense_ms >sparse_ms >ratio >planned_ms path >pays_after"
    show(
        "Edits",
        [column.replace("_", " ") for column in columns.split()],
        [
            [
                share(c.share),
                c.shape,
                share(c.active_fraction),
                ms(c.dense_ms),
                ms(c.sparse_ms),
                f"{c.ratio:.2f}x",
                ms(c.planned_ms),
                c.planned_path,
                "never" if c.pays_after is None else str(c.pays_after),
            ]
            for c in result.edits
        ],
    )
    if result.crossing is None:
        say("sparse is faster than dense at every size measured")
    else:
        say(f"sparse takes as long as dense at {share(result.crossing)} of the work")


def _areas(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not a list such as 1.2,5,15", param_hint="--edits") from None


def _write(path: Path, result: Result) -> None:
    import json

    try:
        path.write_text(json.dumps(finite(result.to_json()), indent=2) + "\n")
    except OSError as error:
        raise InputError(
            f"cannot write '{path}' ({error.strerror}); choose a place that you can write to."
        ) from error
    say(f"wrote {path}")
