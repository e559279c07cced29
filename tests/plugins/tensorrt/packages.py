"""TensorRT's pip packages, each in a folder of its own under build/tensorrt (`make build/tensorrt/ready`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "build" / "tensorrt"
#: TensorRT for RTX has the builder and the parser, the others the runtime only.
BUILDER = "rtx-1.7.1.116"
REGISTRIES = {
    BUILDER: "tensorrt_rtx_bindings",
    "lean-10.16.1.11": "tensorrt_lean_bindings",
    "lean-11.4.0.106": "tensorrt_lean_bindings",
}


def library() -> Path:
    """The plugin library: of SIGE_TENSORRT_LIBRARY, or of `make check-cuda`."""
    path = Path(
        os.environ.get("SIGE_TENSORRT_LIBRARY", ROOT / "build" / "check_cuda" / "libsige_tensorrt.so")
    )
    if not path.is_file():
        pytest.skip("needs libsige_tensorrt.so: run make check-cuda, or set SIGE_TENSORRT_LIBRARY")
    return path


def prepare_builds(patch: pytest.MonkeyPatch) -> Path:
    """Have `sige-deploy build` find TensorRT for RTX and the plugin library; returns the package's folder.
    Skips where they are missing."""
    pytest.importorskip("polygraphy")
    folder = FOLDER / BUILDER
    if not (folder / REGISTRIES[BUILDER]).is_dir():
        pytest.skip(f"needs the packages of TensorRT {BUILDER}: run make build/tensorrt/ready")
    patch.setenv("SIGE_NATIVE_LIBRARY", str(library()))
    patch.syspath_prepend(str(folder))
    return folder


def run(script: str, package: str, scratch: Path, **arguments: Any) -> Any:
    """What `script` of this folder returns for the arguments, in a process that has that package."""
    folder = FOLDER / package
    if not (folder / REGISTRIES[package]).is_dir():
        pytest.skip(f"needs the packages of TensorRT {package}: run make build/tensorrt/ready")
    # The parser looks for the library by the name without a version, which the package lacks.
    for versioned in folder.glob("*_libs/libtensorrt_rtx.so.1"):
        link = scratch / "libtensorrt_rtx.so"
        if not link.exists():
            link.symlink_to(versioned)
    arguments |= {"package": str(folder), "module": REGISTRIES[package], "library": str(library())}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), json.dumps(arguments)],
        env={**os.environ, "LD_LIBRARY_PATH": str(scratch)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])
