"""Opening a bundle on a GPU that cannot be used: one sentence says what is missing, nothing runs instead."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import tiny

import sige_deploy as sige
from sige_deploy import native
from sige_deploy.errors import InputError, RuntimeFailure


@pytest.fixture
def provided(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if this were onnxruntime-gpu."""
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])


def refused(path: Path, device: str = "cuda:0") -> str:
    with pytest.raises(RuntimeFailure) as caught:
        sige.open(path, device)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400 and "device='cpu'" in message
    return message


def test_wrong_arguments(tiny_path: Path) -> None:
    for device in ("cuda:", "cuda:one", "cudas"):
        with pytest.raises(InputError, match="there is no device"):
            sige.open(tiny_path, device)
    with pytest.raises(InputError, match="count of CPU threads"):
        sige.open(tiny_path, "cuda:0", threads=0)


def test_onnxruntime_without_cuda(tiny_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "onnxruntime-gpu" in refused(tiny_path)


def test_onnxruntime_too_old(tiny_path: Path, provided: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "__version__", "1.26.1")
    assert "needs ONNX Runtime 1.27 or later, and this is 1.26.1" in refused(tiny_path)


def test_no_native_library(tiny_path: Path, provided: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_find", lambda: None)
    assert "needs the native library with CUDA kernels, and there is none" in refused(tiny_path)


def test_a_native_library_without_cuda(
    tiny_path: Path, provided: None, library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.VARIABLE, str(library))
    assert "was built without CUDA" in refused(tiny_path)


def test_types_that_the_kernels_do_not_know(provided: None, tmp_path: Path) -> None:
    tiny.write_tiny(tmp_path / "double", schema={"precision": "float64"})
    assert "holds float32, float64" in refused(tmp_path / "double")
