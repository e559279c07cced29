"""sige-deploy compare: an edit against the dense network on the same edited input."""

from __future__ import annotations

from dataclasses import asdict
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from sige_deploy.cli.arguments import (
    BundleArgument,
    Json,
    Mask,
    Range,
    Threads,
    checked_names,
    opened,
    read_inputs,
    read_mask,
    recorded,
    value_range,
)
from sige_deploy.cli.console import busy, decibel, ms, say, share, show, show_json
from sige_deploy.errors import RuntimeFailure


class Shape(str, Enum):
    """Of a random edit."""

    square = "square"
    blobs = "blobs"


def compare(
    bundle: BundleArgument,
    load: Annotated[Path | None, typer.Option(help="Recorded state that record saved.")] = None,
    original: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="An input to record, in place of --load. Once per input.",
            callback=checked_names,
        ),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=VALUE",
            help="An edited input; those left out are as recorded.",
            callback=checked_names,
        ),
    ] = None,
    mask: Mask = None,
    area: Annotated[
        float, typer.Option(min=0, max=100, help="Per cent of the image that a random edit changes.")
    ] = 5.0,
    shape: Annotated[Shape, typer.Option(help="Of a random edit.")] = Shape.square,
    against: Annotated[str, typer.Option(help="Engine of the dense network.")] = "onnxruntime",
    range_: Range = "-1,1",
    threads: Threads = None,
    json: Json = False,
) -> None:
    """Compare an edit, always run sparse, with the dense network on the same input.

    Without --load and --original, inputs and edit are random.
    """
    from sige_deploy import compare as compared
    from sige_deploy.workload import make_edit, make_inputs

    if against != "onnxruntime":
        raise RuntimeFailure(
            f"there is no dense engine '{against}' to compare with; use --against onnxruntime."
        )
    if load is not None and original:
        raise typer.BadParameter("give --load or --original, not both", param_hint="--load")
    scale = value_range(range_)
    with opened(bundle, threads=threads, sparse=True) as (checked, session, runtime):
        manifest = checked.manifest
        if load is not None:
            with busy("load"):
                session.load(load)
            before, _ = recorded(load, checked)
        else:
            before = read_inputs(manifest.inputs, original or [], scale)
            before = before if original else make_inputs(manifest)
            with busy("record"):
                session.record(**before)
        if inputs:
            after = read_inputs(manifest.inputs, inputs, scale, before)
        else:
            after, _ = make_edit(manifest, before, area / 100, shape.value)
        with busy("edit and dense"):
            result = compared.compare(session, runtime, before, after, read_mask(checked, mask))
    report = result.report
    if json:
        show_json({"report": asdict(report), "outputs": [asdict(d) for d in result.differences]})
        return
    rows = [
        [
            d.output,
            f"{d.max_error:.3g}",
            f"{d.mean_error:.3g}",
            decibel(d.psnr),
            decibel(d.psnr_inside),
            decibel(d.psnr_outside),
        ]
        for d in result.differences
    ]
    columns = ["output", ">max error", ">mean error", ">PSNR", ">PSNR inside", ">PSNR outside"]
    show("Edit against dense", columns, rows)
    say(f"{report.path} edit, {share(report.active_fraction)} of the work, {ms(report.milliseconds)} ms")
