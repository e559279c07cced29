"""Builds the C++ library, and talks to the driver of tests/runtimes/cpp."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
Arrays = dict[str, np.ndarray]


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def build(source: Path, folder: Path, *settings: str) -> None:
    run("cmake", "-S", source, "-B", folder, *settings)
    run("cmake", "--build", folder)


def installed(needs: list[str], folder: Path, *settings: str, driver: Sequence[str] = ()) -> Path:
    """The prefix that libsige was installed to, beside the driver. settings: of the library; driver: of the
    driver."""
    prefix = folder / "prefix"
    build(
        ROOT / "runtimes" / "cpp", folder / "library", *needs, f"-DCMAKE_INSTALL_PREFIX={prefix}", *settings
    )
    run("cmake", "--install", folder / "library")
    build(ROOT / "tests" / "runtimes" / "cpp", folder / "driver", f"-DCMAKE_PREFIX_PATH={prefix}", *driver)
    return prefix


def driver_of(prefix: Path) -> Path:
    return prefix.parent / "driver" / "driver"


@dataclass
class Script:
    """Commands for the driver, and files for them in `folder`."""

    folder: Path
    lines: list[str] = field(default_factory=list)

    def set(self, **inputs: np.ndarray) -> Script:
        for name, array in inputs.items():
            file = self.folder / f"{len(self.lines)}.raw"
            file.write_bytes(np.ascontiguousarray(array).tobytes())
            self.lines.append(f"set {name} {array.dtype} {file} {' '.join(map(str, array.shape))}")
        return self

    def mask(self, mask: np.ndarray) -> Script:
        file = self.folder / f"{len(self.lines)}.raw"
        file.write_bytes(mask.tobytes())
        return self.add(f"mask {file} {mask.shape[0]} {mask.shape[1]}")

    def add(self, *lines: str) -> Script:
        self.lines += lines
        return self

    def call(self, what: str) -> Script:
        """A record or an edit whose outputs go to a folder of that name."""
        out = self.folder / f"{what}{len(self.lines)}"
        out.mkdir()
        return self.add(f"{what} {out}")

    def run(self, driver: Path, **environment: str) -> list[str]:
        """The answers to all commands but `set`, `mask` and the like."""
        answers = self.all_answers(driver, **environment)
        quiet = ("open", "set", "unset", "mask", "nomask")
        shown = zip(self.lines, answers)
        return [a for line, a in shown if line.split()[0] not in quiet or not a.startswith("ok")]

    def all_answers(self, driver: Path, **environment: str) -> list[str]:
        env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"} | environment
        answers = run(driver, input="\n".join(self.lines) + "\n", env=env).splitlines()
        assert len(answers) == len(self.lines)
        return answers

    def outputs(self, spec: list[Any]) -> list[Arrays]:
        """What the calls wrote, in their order."""
        folders = [Path(line.split()[1]) for line in self.lines if line.split()[0] in ("record", "edit")]
        return [
            {o.name: np.frombuffer((f / o.name).read_bytes(), o.dtype).reshape(o.shape) for o in spec}
            for f in folders
        ]
