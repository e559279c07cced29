"""sige-deploy demo: the street network, recorded once and edited three times."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sige_deploy.cli.arguments import Threads
from sige_deploy.cli.console import decibel, ms, progress, say, share, show, size


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the bundle and the picture.", show_default=False)],
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each way.")] = 5,
    threads: Threads = None,
) -> None:
    """Export the demo network, record a street and edit it: a picture and a table of what it cost."""
    from sige_deploy.demo import run

    with progress() as report:
        result = run(out, repeats, threads, report)
    say(
        f"record {ms(result.record_ms)} ms, {size(result.cache_bytes)} of caches; {result.threads} threads, "
        f"{result.processor}; medians of {repeats} interleaved runs\n"
    )
    columns = ["edit", ">area", ">work", ">edit ms", ">dense ms", ">ratio", "path", ">inside", ">outside"]
    rows = [
        [
            e.name,
            share(e.area),
            share(e.active_fraction),
            ms(e.edit_ms),
            ms(e.dense_ms),
            f"{e.dense_ms / e.edit_ms:.1f}x",
            e.path,
            decibel(e.psnr_inside),
            decibel(e.psnr_outside),
        ]
        for e in result.edits
    ]
    show("Edits of the street", columns, rows)
    say("inside, outside: PSNR to dense in the recomputed pixels, and in all others\n")
    say(f"picture: {result.picture}\nbundle:  {result.bundle}")
