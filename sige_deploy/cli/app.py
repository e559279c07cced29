"""The application: its verbs, and errors as one sentence."""

from __future__ import annotations

import importlib
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from sige_deploy.cli import run
from sige_deploy.cli.console import fail
from sige_deploy.errors import SigeError

VERBS = ("export", "inspect", "record", "edit", "compare", "build", "package", "bench", "demo")
DEBUG = "SIGE_DEBUG"  # set to 1 for tracebacks


class _Group(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except SigeError as error:
            if os.environ.get(DEBUG) == "1":
                raise
            fail(str(error))
            raise typer.Exit(1) from None
        except (
            MemoryError,
            OSError,
            ValueError,
            TypeError,
            LookupError,
            ArithmeticError,
            RuntimeError,
        ) as error:
            if os.environ.get(DEBUG) == "1" or isinstance(error, BrokenPipeError):
                raise
            if type(error).__module__.startswith(("click", "typer")):  # how they leave with an exit code
                raise
            text = " ".join(str(error).split())[:300]
            fail(f"unexpected {type(error).__name__} ({text}); set {DEBUG}=1 to see where, and report it.")
            raise typer.Exit(1) from None


def _print_version(wanted: bool) -> None:
    if wanted:
        from sige_deploy import __version__

        typer.echo(f"sige-deploy {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="sige-deploy",
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Export image-generation networks so that an edit recomputes only what it changed."""


for _verb in VERBS:
    _module = importlib.import_module(f"sige_deploy.cli.{_verb}")
    app.command(_verb)(getattr(_module, _verb))
app.add_typer(run.group, name="run")
