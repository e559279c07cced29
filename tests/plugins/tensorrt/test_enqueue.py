"""Nodes of plugins, driven as TensorRT drives them: their building anywhere, their runs on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from .enqueue import ROOT, HostError, compile_host
from .packages import library


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return compile_host(tmp_path_factory.mktemp("host") / "libhost.so")
    except HostError as missing:
        pytest.skip(str(missing))


def run(module: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", f"plugins.tensorrt.{module}", *words]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_nodes_say_their_outputs_and_a_workspace_for_all_edits(host: Path) -> None:
    done = run("enqueue_nodes", library(), host)
    assert done.stdout == "all as expected\n"
    assert "weight has shape [1, 8, 8], expected [1, 16, any]." in done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and torch with CUDA")
def test_runs_equal_the_reference(host: Path) -> None:
    done = run("enqueue_check", "--library", library(), "--host", host, "--cases", "5")
    assert "all passed" in done.stdout
