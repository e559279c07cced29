"""Compiles plugins/kernels/metal as C++ over shim/ into one shared library."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
KERNELS = ROOT / "plugins" / "kernels" / "metal"
HERE = Path(__file__).parent
COMPILE = ["g++", "-std=c++17", "-O2", "-g1", "-fPIC", "-shared", "-fno-strict-aliasing", "-Wno-attributes"]
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]


def to_cpp(source: str) -> str:
    """Metal without its attributes: what is left is C++ over the shim."""
    return re.sub(r"\[\[[^\]]*\]\]", "", source)


def kernels_of(source: str) -> list[str]:
    """Names of the kernels in a Metal source."""
    return re.findall(r"^kernel void (\w+)\(", source, re.MULTILINE)


def dispatcher(name: str, preprocessed: str) -> str:
    """A C++ function that calls a kernel with what is bound to the indices in its attributes."""
    signature = re.search(rf"void {name}\((.*?)\)\s*\{{", preprocessed, re.DOTALL)
    assert signature, name
    arguments = [_argument(argument) for argument in signature[1].split(",")]
    return f"void run_{name}(const Call& call) {{ {name}({', '.join(arguments)}); }}\n"


def _argument(declaration: str) -> str:
    found = re.fullmatch(r"\s*(.*?)\w+\s*\[\[(\w*)(?:\((\d+)\))?\]\]\s*", declaration, re.DOTALL)
    assert found, declaration
    kind, attribute, index = found[1].strip(), found[2], found[3]
    if attribute == "buffer":
        return (
            f"*({kind[:-1]}*)call.buffers[{index}]"
            if kind.endswith("&")
            else f"({kind})call.buffers[{index}]"
        )
    return {
        "texture": f"*call.textures[{index}]",
        "": f"({kind})call.memory",  # [[threadgroup(0)]], whose name the shim defines as nothing
        "thread_position_in_grid": "call.position",
        "threadgroup_position_in_grid": "call.group",
        "thread_index_in_threadgroup": "call.index",
        "simdgroup_index_in_threadgroup": "call.index / threads::LANES",
        "thread_index_in_simdgroup": "call.index % threads::LANES",
    }[attribute]


def _write_dispatchers(folder: Path, include: list[str]) -> None:
    names, text = [], ""
    for path in sorted(KERNELS.glob("*.metal")):
        command = ["g++", "-E", "-P", "-x", "c++", *include, str(path)]
        preprocessed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        for name in kernels_of(path.read_text()):
            text += dispatcher(name, preprocessed)
            names.append(name)
    table = ", ".join(f'{{"{name}", run_{name}}}' for name in names)
    text += f"const struct {{ const char* name; void (*run)(const Call&); }} KERNELS[] = {{{table}}};\n"
    (folder / "dispatch.inc").write_text(text)


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
        include = ["-I", str(folder), "-I", str(HERE / "shim")]
        _write_dispatchers(folder, include)
        flags = [*COMPILE, *(SANITIZE if sanitize else []), *include]
        files = [str(HERE / "host.cpp"), str(HERE / "shim" / "threads.cpp")]
        subprocess.run([*flags, *files, "-o", str(partial)], check=True)
        os.replace(partial, library)
    return library


if __name__ == "__main__":
    print(build("--sanitize" in sys.argv))
