"""Compiles plugins/coreml on Linux, over stubs of Core ML and Metal that run, with run_layers.swift."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

from .build import HERE, ROOT

LAYERS = ROOT / "plugins" / "coreml"
QUIET = "SDKSettings"


def toolchain() -> Path | None:
    """The folder bin of a Swift toolchain, as runtimes/swift/fetch_toolchain makes it, or of the PATH."""
    named = os.environ.get("SWIFT_TOOLCHAIN")
    for folder in (Path(named) / "bin" if named else None, ROOT / "build" / "swift" / "bin"):
        if folder and (folder / "swiftc").exists():
            return folder
    found = shutil.which("swiftc")
    return Path(found).parent if found else None


def compile_swift(swiftc: Path, *arguments: str | Path) -> str:
    """What the compiler says. Raises CalledProcessError where it fails."""
    run = subprocess.run(
        [swiftc, *arguments], check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    said = "\n".join(line for line in run.stdout.splitlines() if QUIET not in line)
    assert run.returncode == 0, said
    return said


def build_stubs(swiftc: Path, folder: Path, kernels: Path) -> None:
    """Modules Metal and CoreML in a folder; Metal dispatches into the library `kernels`."""
    module = ("-emit-module", "-emit-library", "-parse-as-library")
    linked = ("-L", kernels.parent, "-lsige_metal", *_rpath(kernels.parent))
    for name, given in (("Metal", linked), ("CoreML", ("-L", folder, "-lMetal", *_rpath(folder)))):
        compile_swift(
            swiftc, *module, "-module-name", name, HERE / "stubs" / f"{name}.swift", "-I", folder, *given,
            "-o", folder / f"lib{name}.so", "-emit-module-path", folder / f"{name}.swiftmodule",
        )  # fmt: skip


def build_program(swiftc: Path, folder: Path, kernels: Path) -> Path:
    """The program, brought up to date."""
    folder.mkdir(parents=True, exist_ok=True)
    program, main = folder / "run_layers", folder / "main.swift"
    sources = [*sorted(LAYERS.glob("*.swift")), HERE / "run_layers.swift"]
    watched = [*sources, *HERE.glob("stubs/*"), kernels, Path(__file__)]
    with (folder / "lock").open("w") as lock:  # test processes may run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        if program.exists() and program.stat().st_mtime > max(path.stat().st_mtime for path in watched):
            return program
        build_stubs(swiftc, folder, kernels)
        shutil.copyfile(sources[-1], main)
        compile_swift(
            swiftc, "-swift-version", "5", "-module-name", "run_layers", *sources[:-1], main, "-I", folder,
            "-L", folder, "-lCoreML", "-lMetal", *_rpath(folder), *_rpath(kernels.parent), "-o", program,
        )  # fmt: skip
    return program


def run_program(swiftc: Path, program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs what the toolchain made, on the C library that came with it, if any."""
    runner = swiftc.parent / "run"
    command = [*([runner] if runner.exists() else []), program, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _rpath(folder: Path) -> tuple[str, ...]:
    return ("-Xlinker", "-rpath", "-Xlinker", str(folder))
