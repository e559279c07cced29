from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sige_deploy import kernels as edits

from .library import Kernels

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """The library that SIGE_KERNELS_LIBRARY names, or else build/native, brought up to date."""
    named = os.environ.get("SIGE_KERNELS_LIBRARY")
    if named:
        return Kernels(Path(named))
    if not shutil.which("cmake"):
        pytest.skip("needs cmake to build plugins/, or SIGE_KERNELS_LIBRARY")
    build = ROOT / "build" / "native"
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:  # test processes may run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        subprocess.run(
            ["cmake", "-S", ROOT / "plugins", "-B", build, "-DSIGE_CUDA=OFF"], check=True, capture_output=True
        )
        subprocess.run(["cmake", "--build", build], check=True, capture_output=True)
    return Kernels(build / "libsige_kernels.so")


@pytest.fixture(scope="session")
def edit_kernels(kernels: Kernels) -> edits.Kernels:
    """The same library, as sessions use it."""
    return edits.Kernels(kernels.library._name)
