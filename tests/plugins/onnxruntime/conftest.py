from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from sige_deploy import native

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def library() -> Path:
    """The library that SIGE_NATIVE_LIBRARY names, or else one built for these tests alone: in build/native
    other tests would find it or not, by their order."""
    named = os.environ.get(native.VARIABLE)
    if named:
        return Path(named)
    if not shutil.which("cmake"):
        pytest.skip(f"needs cmake to build plugins/, or {native.VARIABLE}")
    plugins, build = ROOT / "plugins", ROOT / "build" / "native_tests"
    build.mkdir(parents=True, exist_ok=True)
    with (build / "lock").open("w") as lock:  # test processes may run side by side
        fcntl.flock(lock, fcntl.LOCK_EX)
        for command in (
            [plugins / "onnxruntime" / "fetch_headers", build],
            ["cmake", "-S", plugins, "-B", build, "-DSIGE_CUDA=OFF"],
            ["cmake", "--build", build],
        ):
            subprocess.run(command, check=True, capture_output=True)
    path = build / native.NAME
    if not path.exists():
        pytest.skip("needs ONNX Runtime's headers to build plugins/onnxruntime; set ONNXRUNTIME_ROOT")
    return path


@pytest.fixture
def chosen(library: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The library, as the one that sessions take."""
    monkeypatch.setenv(native.VARIABLE, str(library))
    return library
