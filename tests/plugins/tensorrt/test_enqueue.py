"""Nodes of plugins, driven as TensorRT drives them: their building anywhere, their runs on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ..cuda import shape_of
from ..cuda_cases import Draw
from .enqueue import ROOT, Host, HostError, Node, compile_host, sizes
from .enqueue_check import DRAWS, bounds, edits
from .packages import library

CASES = 12


@pytest.fixture(scope="module")
def host_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        return compile_host(tmp_path_factory.mktemp("host") / "libhost.so")
    except HostError as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="module")
def host(host_library: Path) -> Host:
    return Host(host_library, library())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=["float32", "float16"])
@pytest.mark.parametrize("draws", DRAWS)
def test_a_node_says_its_output_and_a_workspace_for_all_edits(
    host: Host, draws: str, dtype: torch.dtype
) -> None:
    op = DRAWS[draws]
    for seed in range(CASES):
        draw = Draw(seed, small=True, device="cpu")
        inputs, attributes = getattr(draw, draws)(dtype)
        node = Node(host, op, inputs, attributes, bounds(draw, op, inputs))
        for edit in edits(draw, (inputs, attributes)):
            stored = Node(host, op, edit, attributes, node.most, stored=True)
            exact = Node(host, op, edit, attributes, sizes(op, edit))
            expected = list(shape_of(op.lower(), edit, attributes))
            assert exact.largest == expected
            assert stored.largest == node.largest and stored.workspace == node.workspace
            assert exact.workspace <= node.workspace
            if op != "Conv":  # which prepares products on a device
                assert node.shapes(edit) == stored.shapes(edit) == expected
            stored.close()
            exact.close()
        node.close()


def test_a_node_that_cannot_be_is_refused(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    inputs = {"rows": torch.zeros(1, 4, 16), "weight": torch.zeros(1, 8, 8)}
    with pytest.raises(HostError, match="configurePlugin failed"):
        Node(host, "Conv", inputs, {}, {"P": 4})
    assert "weight has shape [1, 8, 8], expected [1, 16, any]." in capfd.readouterr().err
    with pytest.raises(HostError, match="createPlugin failed"):
        Node(host, "Conv", inputs, {"activation_in": "mish"}, {"P": 4})
    whole = {"rows": torch.zeros(1, 4, 16, dtype=torch.int32)}
    with pytest.raises(HostError, match="supportsFormatCombination refuses tensor 0"):
        Node(host, "Gather", whole, {}, {"P": 4})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU and torch with CUDA")
def test_runs_equal_the_reference(host_library: Path) -> None:
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    command = [sys.executable, "-m", "plugins.tensorrt.enqueue_check"]
    command += ["--library", str(library()), "--host", str(host_library), "--cases", "5"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
