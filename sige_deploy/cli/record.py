"""sige-deploy record: run the whole network once and keep what edits need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sige_deploy.cli.arguments import (
    BundleArgument,
    Device,
    Inputs,
    Range,
    Threads,
    opened,
    read_inputs,
    value_range,
)
from sige_deploy.cli.console import busy, ms, say, size


def record(
    bundle: BundleArgument,
    inputs: Inputs,
    save: Annotated[
        Path, typer.Option(help="File for the recorded state (safetensors).", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Folder for the outputs, .npy and .png.")] = None,
    range_: Range = "-1,1",
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Record an image: run the network whole and save what later edits need."""
    scale = value_range(range_)
    with opened(bundle, device, threads) as (checked, session, _):
        arrays = read_inputs(checked.manifest.inputs, inputs, scale)
        with busy("record"):
            outputs = session.record(**arrays)
        with busy("save"):
            session.save(save)
        report = session.report
        say(
            f"recorded in {ms(report.milliseconds)} ms; {size(report.cache_bytes)} of caches, saved to {save}"
        )
        if out is not None:
            from sige_deploy.images import write_outputs

            for path in write_outputs(out, outputs, scale):
                say(f"wrote {path}")
