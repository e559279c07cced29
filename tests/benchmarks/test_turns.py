"""benchmarks/gpu/turns.py: who prepares with whom, and that one measures at a time."""

from __future__ import annotations

import fcntl
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

LIMIT = 60.0  # seconds; nothing below comes near


@pytest.fixture
def in_turns(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))
    for name in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # is put back afterwards
    yield __import__("turns").in_turns
    sys.modules.pop("turns")


def log(folder: Path, *what: object) -> None:
    with (folder / "log").open("a") as file:
        file.write(" ".join(map(str, what)) + "\n")


def logged(folder: Path) -> list[str]:
    return (folder / "log").read_text().splitlines()


@contextmanager
def only_one(file: Path) -> Iterator[None]:
    """Fails where another process is inside."""
    with file.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(0.2)
        yield


def task(folder: Path, name: str, seconds: float, turn: Any) -> None:
    """Prepares so long, then measures alone."""
    with turn.tuning(), only_one(folder / "tuning"):
        pass
    time.sleep(seconds)
    log(folder, name, "ready")
    preparing = turn()
    with only_one(folder / "measuring"):
        log(folder, name, "begins", *preparing)
        log(folder, name, "ends")


def failing(turn: Any) -> None:
    raise ValueError("on purpose")


def killed(turn: Any) -> None:
    turn.tuning().__enter__()
    os.kill(os.getpid(), signal.SIGKILL)


def killed_in_turn(turn: Any) -> None:
    turn()
    os.kill(os.getpid(), signal.SIGKILL)


def late(folder: Path, turn: Any) -> None:
    """Is ready only when another has measured."""
    while not (folder / "log").exists() or "good ends" not in logged(folder):
        time.sleep(0.05)
    task(folder, "late", 0.0, turn)


def without_turn(folder: Path, turn: Any) -> None:
    log(folder, "nothing to measure")


def test_all_prepare_before_any_measures(
    in_turns: Callable[..., list[str]], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tasks = {name: partial(task, tmp_path, name, wait) for name, wait in (("slow", 1.0), ("quick", 0.0))}
    assert in_turns(tasks, LIMIT) == []
    assert logged(tmp_path) == [
        "quick ready", "slow ready", "slow begins", "slow ends", "quick begins", "quick ends",
    ]  # fmt: skip
    assert "slow: its turn" in capfd.readouterr().out


def test_those_that_end_early_hold_nobody_up(in_turns: Callable[..., list[str]], tmp_path: Path) -> None:
    tasks = {
        "failing": failing,
        "killed": killed,
        "killed in turn": killed_in_turn,
        "without turn": partial(without_turn, tmp_path),
        "good": partial(task, tmp_path, "good", 0.0),
    }
    assert in_turns(tasks, LIMIT) == ["failing", "killed", "killed in turn"]
    assert set(logged(tmp_path)) == {"nothing to measure", "good ready", "good begins", "good ends"}


def test_after_the_limit_those_that_are_ready_begin(
    in_turns: Callable[..., list[str]], tmp_path: Path
) -> None:
    tasks = {"late": partial(late, tmp_path), "good": partial(task, tmp_path, "good", 0.0)}
    assert in_turns(tasks, 3.0) == []
    assert logged(tmp_path) == [
        "good ready", "good begins late", "good ends", "late ready", "late begins", "late ends",
    ]  # fmt: skip


def test_cores_are_shared(in_turns: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
        monkeypatch.delenv(name)
    monkeypatch.setattr(os, "cpu_count", lambda: 9)
    assert in_turns({name: killed for name in "ab"}, LIMIT) == ["a", "b"]
    assert (os.environ["OMP_NUM_THREADS"], os.environ["TORCHINDUCTOR_COMPILE_THREADS"]) == ("4", "4")
