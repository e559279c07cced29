"""What a long call says after every step, and how it is cancelled."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from sige_deploy.errors import Cancelled


@dataclass(frozen=True)
class Step:
    """A step that is done.

    what: "record", "warm-up" or "edit". index, total: it is the index-th of so many, from 0. timestep: of the
    scheduler. path: how the network ran, as in `Report`. milliseconds: of the network. latents: float32
    [C, h, w] after the step, not to be written to.
    """

    what: str
    index: int
    total: int
    timestep: float
    path: str
    milliseconds: float
    latents: np.ndarray


#: Called after every step; returning False cancels what is left.
OnStep = Callable[[Step], object]


def report(on_step: OnStep | None, step: Step) -> None:
    """Tell of a step; raises Cancelled if that is the answer."""
    if on_step is not None and on_step(step) is False:
        raise Cancelled(
            f"cancelled after step {step.index + 1} of {step.total} ({step.what}); what was recorded before "
            "is as it was."
        )


@contextlib.contextmanager
def bar() -> Iterator[OnStep]:
    """A progress bar on stderr, for `on_step`; nothing is drawn where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("start", total=None)
        yield lambda step: bars.update(
            task, description=step.what, completed=step.index + 1, total=step.total
        )
