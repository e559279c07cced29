"""sige-deploy edit: the outputs of an edited input, at a cost in proportion to the edit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sige_deploy.cli.arguments import (
    BundleArgument,
    Device,
    Inputs,
    Mask,
    Range,
    Threads,
    opened,
    read_inputs,
    read_mask,
    recorded,
    value_range,
)
from sige_deploy.cli.console import busy, ms, say, share, show
from sige_deploy.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from sige_deploy.bundle import Bundle
    from sige_deploy.compare import Comparison
    from sige_deploy.session import Report

Arrays = dict[str, "np.ndarray"]


def edit(
    bundle: BundleArgument,
    load: Annotated[Path, typer.Option(help="Recorded state that record saved.", show_default=False)],
    inputs: Inputs,
    out: Annotated[Path, typer.Option(help="Folder for the outputs, .npy and .png.", show_default=False)],
    mask: Mask = None,
    range_: Range = "-1,1",
    report: Annotated[
        Path | None,
        typer.Option(help="Picture of the edit beside the dense result, which is computed for it."),
    ] = None,
    commit: Annotated[
        bool, typer.Option("--commit", help="Make the edit part of the recorded state.")
    ] = False,
    save: Annotated[Path | None, typer.Option(help="File for the state after --commit.")] = None,
    device: Device = "cpu",
    threads: Threads = None,
) -> None:
    """Edit a recorded image. Inputs that are left out are as recorded."""
    from sige_deploy.compare import compare
    from sige_deploy.images import write_outputs

    if commit != (save is not None):
        raise typer.BadParameter("--commit and --save go together", param_hint="--commit")
    scale = value_range(range_)
    with opened(bundle, device, threads) as (checked, session, runtime):
        with busy("load"):
            session.load(load)
        original, pictured = recorded(load, checked)
        arrays = read_inputs(checked.manifest.inputs, inputs, scale, original)
        edited = read_mask(checked, mask)
        comparison = None
        with busy("edit"):
            if report is None:
                outputs = session.edit(**arrays, mask=edited)
            else:
                comparison = compare(session, runtime, original, arrays, edited)
                outputs = comparison.result
        show_report(session.report)
        for path in write_outputs(out, outputs, scale):
            say(f"wrote {path}")
        if report is not None and comparison is not None:
            _picture(report, checked, pictured, arrays, comparison, scale)
            say(f"wrote {report}")
        if save is not None:
            with busy("commit"):
                session.commit()
                session.save(save)
            say(f"committed to {save}")


def show_report(report: Report) -> None:
    """How an edit ran, as a table."""
    lines = [["path", report.path], ["active share of the work", share(report.active_fraction)]]
    lines += [[f"rows at {level}", str(count)] for level, count in report.rows.items()]
    lines += [[f"{stage} / ms", ms(time)] for stage, time in report.stages.items()]
    lines += [["in all / ms", ms(report.milliseconds)], ["runtime", report.runtime]]
    show("Edit", ["", ">"], lines)


def _picture(
    path: Path,
    bundle: Bundle,
    original: Arrays,
    inputs: Arrays,
    comparison: Comparison,
    scale: tuple[float, float],
) -> None:
    """Draw the first output that is a picture."""
    from sige_deploy.images import to_picture
    from sige_deploy.picture import write_report

    spec = next((o for o in bundle.manifest.outputs if to_picture(original[o.name], scale) is not None), None)
    if spec is None:
        raise InputError("no output of this network is a picture of 1, 3 or 4 channels; leave out --report.")
    first = bundle.manifest.spatial()[0]
    before, result, dense = (
        to_picture(arrays[spec.name], scale) for arrays in (original, comparison.result, comparison.dense)
    )
    assert before is not None and result is not None and dense is not None
    write_report(
        path,
        original=before,
        edited_input=to_picture(inputs[first.name], scale),
        result=result,
        dense=dense,
        active=comparison.active[spec.level or first.level or ""],
        mask=comparison.edited[0],
        caption=f"{bundle.manifest.name} | {share(comparison.report.active_fraction)} of the work, "
        f"{comparison.report.path} in {ms(comparison.report.milliseconds)} ms",
    )
