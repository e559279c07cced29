"""sige-deploy build: a bundle into engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sige_deploy.cli.arguments import BundleArgument
from sige_deploy.cli.console import progress, say, show, size

TARGETS = ("tensorrt", "tensorrt-rtx", "coreml")


def build(
    bundle: BundleArgument,
    target: Annotated[
        str | None,
        typer.Option(
            help="tensorrt, for this machine's GPU, tensorrt-rtx, ahead of time, or coreml, for Apple's "
            "devices; by default the first where TensorRT and a GPU are there, else the second.",
            show_default=False,
        ),
    ] = None,
    targets: Annotated[
        str | None,
        typer.Option(
            metavar="SM,SM,...",
            help="GPU architectures; by default this machine's, or sm86,sm89,sm120 without a GPU.",
            show_default=False,
        ),
    ] = None,
    workspace: Annotated[
        int | None,
        typer.Option(
            metavar="MIB",
            min=1,
            help="Scratch memory that one layer may use; by default, TensorRT's own limit.",
            show_default=False,
        ),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="Folder of engines and timings of former builds; by default, one in the user's caches.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Build engines of a bundle for the GPUs that they will run on, or its Core ML models."""
    if target is not None and target not in TARGETS:
        raise typer.BadParameter(f"'{target}' is none of {', '.join(TARGETS)}", param_hint="--target")
    if target == "coreml":
        given = {"--targets": targets, "--workspace": workspace, "--cache": cache}
        for name, value in given.items():
            if value is not None:
                raise typer.BadParameter(
                    "is for TensorRT; --target coreml has no such choice", param_hint=name
                )
        _coreml(bundle)
        return
    architectures = None if targets is None else [name.strip() for name in targets.split(",")]
    _tensorrt(bundle, target, architectures, workspace, cache)


def _tensorrt(
    bundle: Path, flavour: str | None, targets: list[str] | None, workspace: int | None, cache: Path | None
) -> None:
    from sige_deploy.exporters.tensorrt import build as build_engines

    with progress() as report:
        built = build_engines(
            bundle,
            flavour,  # type: ignore[arg-type]
            targets,
            workspace=None if workspace is None else workspace << 20,
            cache=cache,
            progress=report,
        )
    manifest = built.manifest
    rows = [
        [
            name,
            size(file.bytes),
            str(manifest.contents[name].layers),
            str(len(manifest.contents[name].plugins)),
            "from the cache" if name.removesuffix(".engine") in built.reused else "built",
        ]
        for name, file in manifest.files.items()
    ]
    show("Engines", ["file", ">size", ">layers", ">of them plugins", ""], rows)
    say(f"{built.folder}: {manifest}, {manifest.precision}, {len(manifest.profiles)} profiles of row counts.")


def _coreml(bundle: Path) -> None:
    from sige_deploy.exporters.coreml import build as build_models

    with progress() as report:
        built = build_models(bundle, progress=report)
    manifest = built.manifest
    rows = [[name, size(file.bytes)] for name, file in manifest.files.items()]
    show("Core ML models", ["file", ">size"], rows)
    said = f"{built.folder}: {len(manifest.buckets)} edit models of {len(manifest.layers)} custom layers"
    say(f"{said}, the largest for {max(manifest.buckets[-1].values())} rows.")
    if manifest.record_refused is not None:
        say(f"There is no record model: {manifest.record_refused}.")
