"""The command as a whole: help, version, start-up, and how errors leave."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import sige_deploy as sige
from sige_deploy.cli.app import VERBS, app

from .conftest import Sige

HEAVY = ("torch", "onnx", "onnx_ir", "onnxruntime", "matplotlib", "numpy", "PIL", "pydantic")


def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    import os

    command = [sys.executable, "-c", "from sige_deploy.cli import main; main()", *words]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_version(cli: Sige) -> None:
    done = cli("--version")
    assert (done.code, done.out.strip()) == (0, f"sige-deploy {sige.__version__}")


def test_help_lists_every_verb(cli: Sige) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(verb in done.out for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(cli: Sige, verb: str) -> None:
    done = cli(verb, "--help")
    assert done.code == 0 and "--help" in done.out


def commands(command: Any, *words: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command below one, and the words that call it."""
    below = getattr(command, "commands", None)
    if below is None:
        yield words, command
    for word, one in (below or {}).items():
        yield from commands(one, *words, word)


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_option_is_in_the_manual(words: tuple[str, ...]) -> None:
    """In the verb's section, or in one for several verbs."""
    text = (Path(__file__).parents[2] / "docs" / "cli.md").read_text()
    sections = {title: body for title, _, body in (part.partition("\n") for part in text.split("\n## "))}
    places = sections[words[0]] + sections["Inputs"] + sections["Options of several verbs"]
    named = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", places))
    options = {name for option in COMMANDS[words].params for name in (*option.opts, *option.secondary_opts)}
    assert {name for name in options if name.startswith("-")} <= named


def test_start_loads_nothing_heavy() -> None:
    code = f"import sys, sige_deploy.cli.app; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_error_is_one_sentence_and_exits_with_1(tmp_path: Path) -> None:
    done = run("inspect", str(tmp_path / "absent"))
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: there is no bundle") and done.stderr.count("\n") == 1


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = run("inspect", str(tmp_path / "absent"), SIGE_DEBUG="1")
    assert done.returncode == 1 and "Traceback" in done.stderr and "BundleError" in done.stderr


def test_an_unexpected_error_is_one_sentence(cli: Sige, three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("sige_deploy.bundle.open_bundle", broken)
    assert "unexpected RuntimeError (two lines); set SIGE_DEBUG=1" in cli("inspect", three).sentence()


@pytest.mark.parametrize(
    "words",
    [
        ("nonsense",),
        ("inspect",),
        ("record", "x", "--input", "image", "--save", "y"),
        ("record", "x", "--input", "a=1", "--input", "a=2", "--save", "y"),
        ("record", "x", "--input", "a=1", "--save", "y", "--range", "1"),
        ("record", "x", "--input", "a=1", "--save", "y", "--range", "1,0"),
        ("edit", "x", "--load", "y", "-i", "a=1", "--out", "z", "--commit"),
        ("edit", "x", "--load", "y", "-i", "a=1", "--out", "z", "--save", "s"),
        ("export", "x.onnx", "out"),
        ("export", "x.onnx", "out", "--spatial", "image", "--input", "image=3by4"),
        ("export", "x.onnx", "out", "--spatial", "image", "--checkpoint", "y"),
        ("export", "x.onnx", "out", "--spatial", "image", "--granularity", "a=b"),
        ("export", "gaugan", "out", "--input", "label=1x2x3x4:float32"),
        ("compare", "x", "--load", "a", "--original", "b=1"),
        ("compare", "x", "--area", "101"),
        ("bench", "x", "--edits", "one"),
        ("bench", "x", "--shape", "star"),
        ("bench", "x", "--repeats", "0"),
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_with_2(cli: Sige, words: tuple[str, ...]) -> None:
    done = cli(*words)
    assert done.code == 2, done.err
    assert "Usage" in done.err and "Traceback" not in done.err
