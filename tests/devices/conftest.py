from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from plugins.onnxruntime.conftest import library

from sige_deploy import native
from sige_deploy.bundle import Bundle
from sige_deploy.devices.memory import HostMemory
from sige_deploy.kernels import Kernels
from sige_deploy.runtimes.onnxruntime_buffers import OnnxRuntimeOnBuffers

__all__ = ["library"]


@pytest.fixture
def on_buffers(library: Path) -> Callable[[Bundle], OnnxRuntimeOnBuffers]:
    """Makes the runtime of a GPU on host memory: the kernels' CPU backend, ONNX Runtime's CPU provider."""
    kernels = Kernels(library.with_name(native.KERNELS))

    def make(bundle: Bundle) -> OnnxRuntimeOnBuffers:
        return OnnxRuntimeOnBuffers(bundle, HostMemory(), kernels, library, 1)

    return make
