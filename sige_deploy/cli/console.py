"""What goes to the terminal: tables on stdout; progress and errors on stderr."""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120  # columns when the output is not a terminal

Progress = Callable[[str, int, int], None]


def stdout() -> Console:
    return _console(error=False)


def stderr() -> Console:
    return _console(error=True)


def say(text: str) -> None:
    """Print to stdout; long lines are left whole."""
    stdout().print(text, soft_wrap=True, highlight=False, markup=False)


def note(text: str) -> None:
    """A remark on stderr, so that stdout stays what was asked for."""
    stderr().print(text, style="dim", soft_wrap=True, highlight=False, markup=False)


def fail(sentence: str) -> None:
    """An error, on one line of stderr."""
    from rich.text import Text

    line = Text("error: ", style="bold red").append(" ".join(sentence.split()), style="default")
    stderr().print(line, soft_wrap=True, highlight=False)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; columns whose name starts with ">" are set flush right."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        show_header=any(name.lstrip(">") for name in columns),
    )
    for name in columns:
        right = name.startswith(">")
        table.add_column(
            name.lstrip(">"), justify="right" if right else "left", overflow="fold", no_wrap=right
        )
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    stdout().print(table, "")


def show_json(value: Any) -> None:
    """Print JSON; infinite values become null, which JSON has."""
    sys.stdout.write(json.dumps(finite(value), indent=2) + "\n")


def finite(value: Any) -> Any:
    """A copy whose infinite numbers are None."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextmanager
def busy(what: str) -> Iterator[None]:
    """A spinner while one call runs that cannot say how far it is; nothing where stderr is no terminal."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar fed by calls (what, done, total); nothing where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    console = stderr()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("start", total=None)

        def report(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total)

        yield report


def size(count: int) -> str:
    """Bytes as text, in powers of 1000."""
    value, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.3g} {units[0]}"


def amount(count: int) -> str:
    """A count as text: 281 G, 93.1 M."""
    value, units = float(count), ["", " k", " M", " G", " T"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:.3g}{units[0]}"


def launched(launches: dict[str, int]) -> str:
    """What an edit launches, as text: 94 launches (74 sige.Conv, 18 Concat, 2 Add)."""
    kinds = ", ".join(f"{count} {name}" for name, count in launches.items())
    return f"{sum(launches.values())} launches ({kinds})"


def share(fraction: float) -> str:
    """A fraction as a percentage of three digits at most: 100 %, 12.3 %, 0.12 %."""
    return f"{100 * fraction:.3g} %" if fraction < 0.9995 else "100 %"


def ms(milliseconds: float) -> str:
    return f"{milliseconds:.3g}" if milliseconds < 100 else f"{milliseconds:.0f}"


def decibel(value: float | None) -> str:
    """ "-" where there are no pixels, "exact" where nothing differs."""
    if value is None:
        return "-"
    return "exact" if math.isinf(value) and value > 0 else f"{value:.1f} dB"


def _console(error: bool) -> Console:
    from rich.console import Console

    stream = sys.stderr if error else sys.stdout
    width = None if stream.isatty() else max(PIPE_WIDTH, shutil.get_terminal_size((PIPE_WIDTH, 24)).columns)
    return Console(file=stream, width=width)
