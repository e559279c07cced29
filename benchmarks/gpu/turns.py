"""Several measurements on one machine: all prepare at once, then each has the machine to itself.

Each is a task in a process of its own. It prepares, calls the turn it was given, which comes back when nobody
else works, and measures; its turn ends with its process. The first turn begins when every task is ready or
has ended, or when time is up: then those that are ready begin, and later ones follow as they come.
"""

from __future__ import annotations

import contextlib
import fcntl
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PAUSE = 0.05  # seconds between two looks; a task that waits sleeps in the kernel
COMPILE_THREADS = 4


class Turn:
    """What a task is given; made without arguments, that of a program which runs alone."""

    def __init__(self, pipe: Any = None, tuning: Path | None = None) -> None:
        self._pipe, self._tuning = pipe, tuning

    def __call__(self) -> list[str]:
        """Wait until nobody else measures. Returns the names of those that prepare nevertheless, because
        their time was up."""
        if self._pipe is None:
            return []
        try:
            self._pipe.send("ready")
            preparing: list[str] = self._pipe.recv()
        except (EOFError, OSError):
            raise SystemExit("there are no turns any more: the program that gave them has ended") from None
        return preparing

    @contextlib.contextmanager
    def tuning(self) -> Iterator[None]:
        """For what chooses among kernels by their times while it prepares: one task at a time does."""
        if self._tuning is None:
            yield
            return
        with self._tuning.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


Task = Callable[[Turn], None]


def in_turns(tasks: Mapping[str, Task], limit_s: float) -> list[str]:
    """Run tasks, which must be picklable, by name; turns are given in their order. Returns the names of those
    that failed. limit_s: seconds from now after which the first turn begins at the latest."""
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {text}", flush=True)

    if len(tasks) > 1:
        _share_cores(len(tasks))
    with tempfile.TemporaryDirectory() as folder:
        everyone = [_Participant(name, task, Path(folder) / "tuning") for name, task in tasks.items()]
        _give_turns(everyone, limit_s, say)
    return [one.name for one in everyone if one.process.exitcode]


def _give_turns(everyone: Sequence[_Participant], limit_s: float, say: Callable[[str], None]) -> None:
    start, begun = time.monotonic(), False

    def look() -> list[_Participant]:
        """Those that are ready, after saying what is new."""
        for one in everyone:
            if one.changed():
                say(f"{one.name}: {one.state}")
        return [one for one in everyone if one.state == "ready"]

    def preparing() -> list[str]:
        return [one.name for one in everyone if one.state == "preparing"]

    while (ready := look()) or preparing():
        late = preparing()
        if not begun and (not late or time.monotonic() - start >= limit_s):
            begun = True
            if late:
                say(f"the others begin without {', '.join(late)}")
        if begun and ready:
            say(f"{ready[0].name}: its turn")
            ready[0].measure(late)
        else:
            time.sleep(PAUSE)


def _share_cores(count: int) -> None:
    """Let as many new processes as that use this machine's cores together."""
    threads = max((os.cpu_count() or 1) // count, 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(COMPILE_THREADS))


class _Participant:
    """A task in its process. state: "preparing", "ready", or how it ended."""

    def __init__(self, name: str, task: Task, tuning: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.name, self.state = name, "preparing"
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_run, args=(task, theirs, tuning), name=name)
        self.process.start()
        theirs.close()

    def changed(self) -> bool:
        """Bring `state` up to date; whether it is another one."""
        before, ended = self.state, not self.process.is_alive()
        if ended and before in ("preparing", "ready"):
            self.state = f"failed ({self.process.exitcode})" if self.process.exitcode else "done"
        elif before == "preparing" and self._pipe.poll():
            try:
                self._pipe.recv()
                self.state = "ready"
            except (EOFError, OSError):  # it is ending
                pass
        return self.state != before

    def measure(self, preparing: list[str]) -> None:
        """Give it the turn and wait for its end."""
        with contextlib.suppress(OSError):  # it may have just ended
            self._pipe.send(preparing)
        self.process.join()


def _run(task: Task, pipe: Any, tuning: Path) -> None:
    task(Turn(pipe, tuning))
