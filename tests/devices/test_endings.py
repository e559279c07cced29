"""Sessions that nobody closes: when the collector finds them, and at the interpreter's end."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from sige_deploy.bundle import open_bundle
from sige_deploy.devices import cuda
from sige_deploy.runtimes import onnxruntime_buffers
from sige_deploy.session import Session

from .fake_cuda import Runtime
from .fake_gpu import FakeGpu


def test_a_session_in_a_cycle_settles_before_its_memory_goes(
    tiny_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Runtime()
    monkeypatch.setattr(cuda, "_bindings", lambda device: driver)
    bundle, inputs = open_bundle(tiny_path), tiny.inputs()
    session = Session(bundle, FakeGpu(bundle, library, driver))
    session.record(**inputs)
    session.edit(**tiny.edited(inputs, slice(2, 6), slice(3, 9)))
    gone: list[int] = []
    settle = onnxruntime_buffers._settle

    def settling(*of: Any) -> None:
        gone.append(driver.calls["cudaStreamDestroy"])
        settle(*of)

    monkeypatch.setattr(onnxruntime_buffers, "_settle", settling)
    session.itself = session  # type: ignore[attr-defined]
    del session
    gc.collect()
    assert gone == [0]
    gc.collect()
    assert driver.calls["cudaStreamDestroy"] == driver.streams == 2


SCRIPT = """
import gc, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import tiny
from sige_deploy import native
from sige_deploy.bundle import open_bundle
from sige_deploy.devices.memory import HostMemory
from sige_deploy.kernels import Kernels
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers
from sige_deploy.session import Session

def use(path, library):
    bundle, kernels = open_bundle(path), Kernels(library.with_name(native.KERNELS))
    session = Session(bundle, OnnxRuntimeOnBuffers(bundle, HostMemory(), kernels, library, 1))
    session.record(**tiny.inputs())
    session.edit(**tiny.edited(tiny.inputs(), slice(2, 6), slice(3, 9)))
    session.itself = session

gc.disable()
use(Path(sys.argv[2]), Path(sys.argv[3]))
"""


def test_a_session_in_a_cycle_lives_until_the_interpreter_ends(tiny_path: Path, library: Path) -> None:
    arguments = [str(Path(tiny.__file__).parent), str(tiny_path), str(library)]
    ended = subprocess.run([sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")
