"""sige-deploy export --diffusers: a pipeline folder into a folder of bundles."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from sige_deploy.cli.console import amount, launched, progress, say

if TYPE_CHECKING:
    from sige_deploy.config import SparseConfig


def export_pipeline(
    folder: Path,
    out: Path,
    settings: SparseConfig,
    height: int | None,
    width: int | None,
    batch: int,
    loras: Sequence[str],
    controlnet: Path | None,
) -> None:
    """Export the folder and say what came of each bundle."""
    scales: dict[str | PathLike[str], float] = dict(map(_lora, loras))
    from sige_deploy.exporters.diffusers import export_diffusers

    with progress() as report:
        pipeline = export_diffusers(
            folder, out, settings, height=height, width=width, batch=batch, loras=scales,
            controlnet=controlnet, progress=report,
        )  # fmt: skip
    manifest = pipeline.manifest
    say(
        f"{out}: {manifest.name}, {manifest.family}{' for inpainting' if manifest.inpainting else ''}, "
        f"{manifest.height} x {manifest.width} pixels, batch {manifest.batch}, {manifest.precision}."
    )
    for name, bundle in pipeline.bundles.items():
        its = bundle.manifest
        say(
            f"  {name}: {amount(its.macs)} MACs, {amount(its.parameters)} parameters, "
            f"{len(its.islands)} dense islands; an edit makes {launched(its.launches)}"
        )


def _lora(text: str) -> tuple[str, float]:
    """("a.safetensors", 0.8) of "a.safetensors=0.8"; 1 without a scale."""
    name, equals, scale = text.rpartition("=")
    if not equals:
        return text, 1.0
    try:
        return name, float(scale)
    except ValueError:
        raise typer.BadParameter(f"'{text}' is not FILE or FILE=SCALE", param_hint="--lora") from None
