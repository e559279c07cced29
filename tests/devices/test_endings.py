"""Sessions that nobody closes: what goes first when the collector finds them."""

from __future__ import annotations

import gc
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
    assert driver.calls["cudaStreamDestroy"] == 1
