"""Builds plugins/ for tests: in build/native sessions would find it or not, by the order of the tests."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "build" / "native_tests"


def fetch_headers(*scripts: Path) -> None:
    """Run scripts that fetch headers to FOLDER; test processes may run side by side."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for script in scripts:
            subprocess.run([script, FOLDER], check=True, capture_output=True)


@cache
def built() -> Path:
    """FOLDER with the libraries of the kernels and, where its headers can be had, of ONNX Runtime's ops."""
    if not shutil.which("cmake"):
        pytest.skip("needs cmake to build plugins/")
    fetch_headers(ROOT / "plugins" / "onnxruntime" / "fetch_headers")
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            ["cmake", "-S", ROOT / "plugins", "-B", FOLDER, "-DSIGE_CUDA=OFF"],
            ["cmake", "--build", FOLDER, "--parallel", "2"],  # who else would compute waits for the lock
        ):
            subprocess.run(command, check=True, capture_output=True)
    return FOLDER
