"""Compiles plugins/kernels/metal as C++ over shim/ into one shared library."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
KERNELS = ROOT / "plugins" / "kernels" / "metal"
HERE = Path(__file__).parent
COMPILE = ["g++", "-std=c++17", "-O2", "-g1", "-fPIC", "-shared", "-fno-strict-aliasing", "-Wno-attributes"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def to_cpp(source: str) -> str:
    """Metal without its attributes: what is left is C++ over the shim."""
    return re.sub(r"\[\[[^\]]*\]\]", "", source)


def build(sanitize: bool = False) -> Path:
    """The library in build/metal or build/metal_sanitize, brought up to date."""
    folder = ROOT / "build" / ("metal_sanitize" if sanitize else "metal")
    folder.mkdir(parents=True, exist_ok=True)
    library = folder / "libsige_metal.so"
    with (folder / "lock").open("w") as lock:  # test processes may run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        sources = [
            path for path in (*KERNELS.iterdir(), *HERE.glob("shim/*"), *HERE.glob("*.cpp"), Path(__file__))
        ]
        if library.exists() and library.stat().st_mtime > max(path.stat().st_mtime for path in sources):
            return library
        for path in KERNELS.glob("*"):
            name = f"{path.name}.h" if path.suffix == ".metal" else path.name
            (folder / name).write_text(to_cpp(path.read_text()))
        partial = folder / "partial.so"
        flags = [*COMPILE, *(SANITIZE if sanitize else []), "-I", str(folder), "-I", str(HERE / "shim")]
        files = [str(HERE / "host.cpp"), str(HERE / "shim" / "threads.cpp")]
        subprocess.run([*flags, *files, "-o", str(partial)], check=True)
        os.replace(partial, library)
    return library
