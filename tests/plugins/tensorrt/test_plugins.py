"""Plugins as objects: created, cloned, asked what TensorRT asks while it builds, stored and made again."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from .packages import ROOT, library


def test_plugins_answer_as_tensorrt_expects(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if not compiler:
        pytest.skip("needs a C++ compiler")
    program = tmp_path / "host"
    source, include = Path(__file__).with_name("host.cpp"), ROOT / "plugins" / "tensorrt"
    build = [compiler, "-std=c++17", "-Wall", "-Wextra", "-I", include, source, "-o", program, "-ldl"]
    subprocess.run(build, check=True)
    done = subprocess.run([program, library()], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sige::Conv: weight has shape [8, 8, 32], expected [9, 8, any]." in done.stderr
    assert "sige::Attention: heads is 0, expected 1 or more." in done.stderr
