"""Builds the pure part of the Swift package on Linux, and talks to the driver of tests/runtimes/swift."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "runtimes" / "swift"
Arrays = Mapping[str, np.ndarray]


def compiler() -> Path:
    """swiftc of SWIFT_TOOLCHAIN, of build/swift or of the system; skips the test where there is none."""
    folders = [Path(os.environ.get("SWIFT_TOOLCHAIN", ROOT / "build" / "swift")), ROOT / "build" / "swift"]
    for folder in folders:
        if (folder / "bin" / "swiftc").is_file():
            return folder / "bin" / "swiftc"
    found = shutil.which("swiftc")
    if found is None:
        pytest.skip("needs Swift: runtimes/swift/fetch_toolchain build/swift")
    return Path(found)


def swiftc(*arguments: str | Path) -> None:
    """Compile; what the compiler says of the code, warnings too, fails the test."""
    done = subprocess.run(
        [compiler(), *map(str, arguments)], capture_output=True, text=True, check=False, timeout=400
    )
    said = [line for line in done.stderr.splitlines() if "SDKSettings.json" not in line]
    assert done.returncode == 0 and not said, "\n".join(said[:60])


def sources(target: str) -> list[Path]:
    return sorted((PACKAGE / "Sources" / target).rglob("*.swift"))


def module(name: str, files: Sequence[Path], folder: Path, mode: str = "6", *arguments: str) -> None:
    """Type-check a module and put its interface into `folder`; mode: the language's version."""
    swiftc(
        "-swift-version", mode, "-emit-module", "-parse-as-library", "-module-name", name, "-I", folder,
        *arguments, *files, "-o", folder / f"{name}.swiftmodule",
    )  # fmt: skip


def driver(folder: Path) -> list[str]:
    """The command that runs the driver, built in `folder`."""
    swiftc(
        "-swift-version", "6", "-Onone", "-parse-as-library", "-emit-library", "-static", "-emit-module",
        "-module-name", "SIGECore", *sources("SIGECore"),
        "-emit-module-path", folder / "SIGECore.swiftmodule", "-o", folder / "libSIGECore.a",
    )  # fmt: skip
    swiftc(
        "-swift-version", "5", "-I", folder, "-L", folder, "-lSIGECore",
        ROOT / "tests" / "runtimes" / "swift" / "driver.swift", "-o", folder / "driver",
    )  # fmt: skip
    return [*runner(), str(folder / "driver")]


@dataclass
class Script:
    """Commands for the driver, and files for them in `folder`."""

    command: list[str]
    folder: Path
    lines: list[str] = field(default_factory=list)

    def add(self, *words: object) -> None:
        self.lines.append("\t".join(map(str, words)))

    def file(self, **arrays: np.ndarray) -> Path:
        """A new file of tensors."""
        path = self.folder / f"{len(list(self.folder.iterdir()))}.safetensors"
        save_file({name: np.array(array, order="C") for name, array in arrays.items()}, path)
        return path

    def result(self) -> Path:
        """Where an answer's arrays are to be written."""
        return self.folder / f"result-{len(self.lines)}.safetensors"

    def run(self) -> list[str]:
        """The answers to all commands so far."""
        done = subprocess.run(
            self.command,
            input="\n".join(self.lines) + "\n",
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        answers = done.stdout.splitlines()
        assert len(answers) == len(self.lines), done.stdout[-2000:] + done.stderr[-4000:]
        return answers


def read(path: Path) -> dict[str, np.ndarray]:
    return load_file(path)


def typecheck(folder: Path, mode: str) -> None:
    """The whole package in one version of the language, against stubs of Apple's frameworks."""
    stubs = ROOT / "tests" / "plugins" / "metal" / "stubs"
    own = ROOT / "tests" / "runtimes" / "swift_stubs"
    module("Metal", [stubs / "Metal.swift"], folder, "5")
    module("CoreML", [stubs / "CoreML.swift", own / "Models.swift"], folder, "5")
    module("SwiftUI", [own / "SwiftUI.swift"], folder, "5")
    module("SIGECore", sources("SIGECore"), folder, mode)
    module("SIGELayers", sorted((ROOT / "plugins" / "coreml").glob("*.swift")), folder, mode)
    module("SIGEKit", [*sources("SIGEKit"), own / "Module.swift"], folder, mode)
    module("SIGEBundle", [*sources("SIGEBundle"), own / "Module.swift"], folder, mode)
    check = ["-swift-version", mode, "-typecheck", "-I", folder, "-module-name"]
    swiftc(*check, "SIGESelfTest", *sources("SIGESelfTest"))
    paint = sorted((PACKAGE / "Examples" / "Paint").glob("*.swift"))
    swiftc(*check, "Paint", "-parse-as-library", *paint)


def session_driver(folder: Path) -> list[str]:
    """The command that runs sessions, built in `folder`, over stubs of Core ML that run."""
    stubs = ROOT / "tests" / "plugins" / "metal" / "stubs"
    own = ROOT / "tests" / "runtimes" / "swift_stubs"
    layers = sorted((ROOT / "plugins" / "coreml").glob("*.swift"))
    parts: list[tuple[str, list[Path], str]] = [
        ("Metal", [stubs / "Metal.swift"], "5"),
        ("CoreML", [stubs / "CoreML.swift", own / "Models.swift"], "5"),
        ("SIGECore", sources("SIGECore"), "6"),
        ("SIGELayers", layers, "6"),
        ("SIGEKit", [*sources("SIGEKit"), own / "Module.swift"], "6"),
    ]
    for name, files, mode in parts:
        swiftc(
            "-swift-version", mode, "-Onone", "-parse-as-library", "-emit-library", "-static", "-emit-module",
            "-module-name", name, "-I", folder, *files, "-emit-module-path", folder / f"{name}.swiftmodule",
            "-o", folder / f"lib{name}.a",
        )  # fmt: skip
    main = folder / "main.swift"
    shutil.copyfile(ROOT / "tests" / "runtimes" / "swift" / "session.swift", main)
    libraries = [f"-l{name}" for name, _, _ in reversed(parts)]
    swiftc("-swift-version", "5", "-I", folder, "-L", folder, main, *libraries, "-o", folder / "session")
    return [*runner(), str(folder / "session")]


def runner() -> list[str]:
    """What runs programs of the compiler: a fetched toolchain brings its own C library."""
    loader = compiler().parent / "run"
    return [str(loader)] if loader.is_file() else []
