"""sige-deploy package: a bundle with all that an application needs to run it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sige_deploy.cli.arguments import BundleArgument
from sige_deploy.cli.console import busy, say, size


def package(
    bundle: BundleArgument,
    target: Annotated[
        str,
        typer.Option(
            help="cpp: C++17 applications on Linux; swift: apps for macOS and iOS.", show_default=False
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder to write, new or empty.", show_default=False)
    ],
    libraries: Annotated[
        Path | None,
        typer.Option(
            metavar="PREFIX",
            help="Where the C++ library was installed to; by default, what 'make cpp' built in the checkout.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Put a bundle, the libraries that run it and an example into one folder that can be handed on."""
    from sige_deploy.packaging import package as write_package

    with busy("package"):
        made = write_package(bundle, out, target, libraries)
    say(f"wrote {made.files} files, {size(made.bytes)}, to {made.folder}; its README.md says how to build")
