from __future__ import annotations

import shutil

import pytest

from .kernels import MetalKernels


@pytest.fixture(scope="session", params=["images", "buffers"])
def metal(request: pytest.FixtureRequest) -> MetalKernels:
    """The Metal kernels on the CPU: rows in textures, and rows in buffers."""
    if not shutil.which("g++"):
        pytest.skip("needs g++ 12 to compile plugins/kernels/metal as C++")
    return MetalKernels(images=request.param == "images")
